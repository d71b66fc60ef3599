"""The spaces that a build can search, by the name that `--space` takes: one module each, which gives `for_data`. Or by the file of its
settings."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

from edgenas.errors import InputError
from edgenas.spaces.offer import ANYTHING, Offer
from edgenas.spaces.space import SearchSpace
from edgenas.spaces.space_file import is_file, read_space_file, space_from_file

_MODULES = {"mobile": "mobile", "cell": "cell_stack", "tree": "tree", "catalog": "catalog"}
NAMES = tuple(_MODULES)
DEFAULT = "mobile"
OF_A_MODEL = "slim"  # made of a user's own model: `slim.for_model`


def refuse_unknown(name: str) -> None:
    """Raises InputError for a name that there is none of, and for a file that can't be read: what is wrong whatever the images are."""
    if is_file(name):
        read_space_file(Path(name))
    elif name not in NAMES:
        close = difflib.get_close_matches(name.lower(), NAMES, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"no space that can be built is called {name!r}",
            f"{guess}Spaces: {', '.join(NAMES)}; {OF_A_MODEL} for a --model of build; or a file of settings, FILE.yaml.",
        )


def space_for(name: str, resolution_px: int, channels: int, classes: int, offer: Offer = ANYTHING) -> SearchSpace:
    """The space of that name, made for such images and for the devices that make this offer. Raises InputError for a name that there is
    none of."""
    refuse_unknown(name)
    if is_file(name):
        return space_from_file(Path(name), resolution_px, channels, classes, offer)
    module: Any = importlib.import_module(f"edgenas.spaces.{_MODULES[name]}")
    space: SearchSpace = module.for_data(resolution_px, channels, classes, offer)
    return space
