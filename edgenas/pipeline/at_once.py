"""Work on several devices at once, as long as they are different machines.

What is measured on this machine is measured alone, before anything else: the files that are made for other devices meanwhile would keep
it busy. Devices behind one address take turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

ResultT = TypeVar("ResultT")
HERE = "here"


def machine_of(address: str) -> str:
    """What tells machines apart in a target's address: not the user, and a port does, since forwarded ones lead to different boards.
    Two names of one machine can't be told to be that."""
    kind, _, rest = address.partition(":")
    if kind in ("local", "emulated"):
        return HERE
    if kind == "ssh":
        parts = urlsplit(address)
        return f"ssh:{(parts.hostname or rest).lower()}:{parts.port or 22}"
    return f"{kind}:{rest}"


def at_once(jobs: Sequence[tuple[str, Callable[[], ResultT]]]) -> list[ResultT | Exception]:
    """(address, job) each -> the result of each, or the exception that ended it: one that fails stops no other."""
    results: dict[int, ResultT | Exception] = {}
    groups: dict[str, list[int]] = {}
    for number, (address, _) in enumerate(jobs):
        groups.setdefault(machine_of(address), []).append(number)

    def run(numbers: Sequence[int]) -> None:
        for number in numbers:
            try:
                results[number] = jobs[number][1]()
            except Exception as error:
                results[number] = error

    run(groups.pop(HERE, []))
    # daemons: Ctrl-C ends the process, and each device goes on from where it was when the command is run again
    threads = [threading.Thread(target=run, args=(numbers,), daemon=True) for numbers in groups.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(jobs))]
