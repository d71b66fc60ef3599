"""The log of a search: every subnet whose accuracy was evaluated, one JSON line each. It is also the search's checkpoint:
started again with the same seed, a search takes the same path and finds these answers instead of working them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenas.spaces.space import Subnet
from edgenas.store import LineLog


@dataclass(frozen=True)
class Candidate:
    """`score` is validation top-1 (or balanced) accuracy, `latency_ms` the predictor's. At `rung` 0 the score is from the supernet,
    at rung r after the r-th length of training of its own."""

    subnet: Subnet
    score: float
    latency_ms: float
    rung: int = 0


ScoreMany = Callable[[Sequence[Subnet]], Iterable[float]]  # in the order of the subnets, each as soon as it is known


class Evaluations:
    """subnet -> score, computed once and kept in `path`. `many`, where there is a quicker way than one after the other."""

    def __init__(self, path: Path, score: Callable[[Subnet], float], *, many: ScoreMany | None = None) -> None:
        self._many: ScoreMany = many or (lambda subnets: map(score, subnets))
        self._log = LineLog(path)
        self.known: dict[str, float] = {entry["id"]: entry["score"] for entry in self._log.entries}

    def score(self, subnet: Subnet) -> float:
        return next(self.scores([subnet]))

    def scores(self, subnets: Sequence[Subnet]) -> Iterator[float]:
        """Those that aren't known yet are evaluated together; each is in the log before it is given."""
        unknown = list({subnet.id: subnet for subnet in subnets if subnet.id not in self.known}.values())
        found = iter(self._many(unknown)) if unknown else iter(())
        for subnet in subnets:
            if subnet.id not in self.known:
                self._keep(subnet, next(found))
            yield self.known[subnet.id]

    def _keep(self, subnet: Subnet, score: float) -> None:
        self.known[subnet.id] = score
        self._log.add({"id": subnet.id, "genome": subnet.genome, "score": score})
