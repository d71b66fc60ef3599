"""What a process does that only takes part in training: it waits for the first one to tell it what to train.

`python -m edgenas.supernet.worker RANK SIZE MEETING` is how edgenas.supernet.launch starts one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from edgenas.nets.team import Team, WorkerLost
from edgenas.supernet.launch import READY, joined, member


def serve(team: Team) -> None:
    """Takes part in one training after the other, until the first process says that there are no more."""
    nothing: Callable[[Team], None] | None = None
    while (training := team.told(nothing)) is not None:
        training(team)


def serve_torchrun() -> None:
    """As one of the processes of an outer torchrun. Raises WorkerLost if the first one ends without a word."""
    with joined() as team:
        serve(team)


def _end_with_parent() -> None:
    """Its end of the pipe closes, however it ends."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    rank, size, meeting = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where there are no sessions, Ctrl-C reaches all
    threading.Thread(target=_end_with_parent, daemon=True).start()
    print(READY, flush=True)
    try:
        with member(int(rank), int(size), Path(meeting)) as team:
            serve(team)
    except WorkerLost:
        sys.exit(1)  # the first process says why


if __name__ == "__main__":
    main()
