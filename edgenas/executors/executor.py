"""The seam *by whom*: what runs the independent tasks of a build, such as training a finalist. One file a kind of executor.

A task is a function of a module, called with what all tasks of a batch share, with an item of its own, and with a function that it may
tell how far it is. It has to give the same result wherever and however often it runs: one whose process dies is run again, from
whatever it left on disk.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from edgenas.errors import InputError

ItemT = TypeVar("ItemT")
SharedT = TypeVar("SharedT")
ResultT = TypeVar("ResultT")
Report = Callable[[float], None]
LOCAL = "local"


class Executor(Protocol):
    def map(
        self,
        function: Callable[[SharedT, ItemT, Report], ResultT],
        items: Sequence[ItemT],
        shared: SharedT,
        on_report: Callable[[int, float], None] = lambda index, done: None,
    ) -> Iterator[ResultT]:
        """The results of all items, in their order, each as soon as it and those before it are there. Raises what a task raises.
        Elsewhere than in this process `shared` is a copy, and `on_report` (an item's index, what its task said) may hear nothing."""
        ...

    def close(self) -> None: ...


class Opener(Protocol):
    """What a module of this package that is named like a kind of executor provides."""

    def open_executor(self, address: str, threads: int | None) -> Executor:
        """`address`: what was named behind the colon. `threads` of each task; None: what is usual there."""
        ...


@contextmanager
def opened_executor(name: str, threads: int | None = None) -> Iterator[Executor]:
    """`local`, or `ray[:ADDRESS]`. How many threads a task has decides the last bits of what it trains: two executors give the same
    results for the same number. Raises InputError for what there is not."""
    kind, _, address = name.partition(":")
    found = kind.isidentifier() and Path(__file__).with_name(f"{kind}.py").is_file()
    module: Any = importlib.import_module(f"edgenas.executors.{kind}") if found else None
    if not hasattr(module, "open_executor"):
        raise InputError(f"no executor is called {name!r}", "Executors: local, ray and ray:HOST:PORT.")
    opener: Opener = module
    executor = opener.open_executor(address, threads)
    try:
        yield executor
    finally:
        executor.close()
