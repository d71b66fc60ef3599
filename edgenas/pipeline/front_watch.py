"""What the terminal shows of a search while it runs: the front so far, what was evaluated, and the hypervolume."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgenas.network import costs
from edgenas.pareto import hypervolume, non_dominated
from edgenas.progress import Progress
from edgenas.search.evaluations import Candidate
from edgenas.spaces.space import SearchSpace

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 12  # of the front, the most accurate first; a terminal has few lines
NOTES = 4  # lines where there is no terminal


class FrontWatch:
    """Told of each evaluation. Its hypervolume is a share: 1 would be no errors in no time, 0 nothing within the budget."""

    def __init__(
        self,
        progress: Progress,
        space: SearchSpace,
        budget_ms: float,
        total: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress, self.space, self.budget_ms, self.total, self.now = progress, space, budget_ms, total, now
        self.front: tuple[Candidate, ...] = ()
        self._found_s: dict[str, float] = {}
        self._macs: dict[str, int] = {}
        self.hypervolume = 0.0

    def __call__(self, count: int, candidate: Candidate) -> None:
        if count == 1:
            self.progress.watch(self)
        if candidate.rung > max((c.rung for c in self.front), default=0):
            self.front = ()  # scores after a longer training can't be compared with those before
        both = (*self.front, candidate)
        points = np.array([(c.latency_ms, 1 - c.score) for c in both])
        front = tuple(both[i] for i in non_dominated(points))
        if candidate in front:
            self._found_s[candidate.subnet.id] = self.now()
            self._macs[candidate.subnet.id] = costs.macs(self.space.network(candidate.subnet))
            self.hypervolume = hypervolume(points, (self.budget_ms * (1 + 1e-6), 1.0)) / self.budget_ms
            self.front = front  # last: another thread draws it
        self.progress.update(count, self.total, f"hypervolume {self.hypervolume:.3f}")
        if count * NOTES // self.total > (count - 1) * NOTES // self.total and count <= self.total:
            best = self.front[-1]
            self.progress.note(
                f"{count} of {self.total} evaluated; {len(self.front)} on the front, the best {best.score:.1%} at "
                f"{best.latency_ms:.3g} ms; hypervolume {self.hypervolume:.3f}"
            )

    def __rich__(self) -> Table:
        from rich.table import Table

        front = self.front[::-1]
        left = len(front) - ROWS
        table = Table(box=None, padding=(0, 2), caption=f"and {left} faster ones" if left > 0 else None)
        for name in ("ms, predicted", "accuracy", "M MACs", "found"):
            table.add_column(name, justify="right", header_style="dim")
        for c in front[:ROWS]:
            ago = _ago(self.now() - self._found_s[c.subnet.id])
            table.add_row(f"{c.latency_ms:.3g}", f"{c.score:.1%}", f"{self._macs[c.subnet.id] / 1e6:.2f}", ago)
        return table


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 100 else f"{seconds / 60:.0f} min ago"
