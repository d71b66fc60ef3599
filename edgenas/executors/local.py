"""In this process, one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgenas.errors import InputError
from edgenas.executors.executor import ItemT, Report, ResultT, SharedT


def open_executor(address: str, threads: int | None) -> LocalExecutor:
    if address:
        raise InputError(
            f"--executor local takes no address, but {address!r} arrived", "Tasks elsewhere: ray:HOST:PORT."
        )
    return LocalExecutor(threads)


class LocalExecutor:
    """`threads` None: as many as torch uses for everything else."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def map(
        self,
        function: Callable[[SharedT, ItemT, Report], ResultT],
        items: Sequence[ItemT],
        shared: SharedT,
        on_report: Callable[[int, float], None] = lambda index, done: None,
    ) -> Iterator[ResultT]:
        for index, item in enumerate(items):

            def report(done: float, index: int = index) -> None:
                on_report(index, done)

            with torch_threads(self._threads):
                result = function(shared, item, report)
            yield result

    def close(self) -> None:
        pass


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """torch computes with so many threads meanwhile."""
    if count is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
