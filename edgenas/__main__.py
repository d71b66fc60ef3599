"""`python -m edgenas`, which is also how torchrun starts the command."""

from edgenas.cli import main

if __name__ == "__main__":
    main()
