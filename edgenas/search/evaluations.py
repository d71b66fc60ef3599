"""The log of a search: every subnet whose accuracy was evaluated, one JSON line each. It is also the search's checkpoint:
started again with the same seed, a search takes the same path and finds these answers instead of working them out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgenas.spaces.space import Subnet


@dataclass(frozen=True)
class Candidate:
    """`score` is validation top-1 (or balanced) accuracy from the supernet, `latency_ms` the predictor's."""

    subnet: Subnet
    score: float
    latency_ms: float


class Evaluations:
    """subnet -> score, computed once and kept in `path`."""

    def __init__(self, path: Path, score: Callable[[Subnet], float]) -> None:
        self._score = score
        self._path = path
        self.known: dict[str, float] = {}
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):  # a line cut short by a killed process
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            for line in whole.splitlines():
                entry = json.loads(line)
                self.known[entry["id"]] = entry["score"]

    def score(self, subnet: Subnet) -> float:
        if subnet.id not in self.known:
            self.known[subnet.id] = self._score(subnet)
            with self._path.open("a") as file:
                entry = {"id": subnet.id, "genome": subnet.genome, "score": self.known[subnet.id]}
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return self.known[subnet.id]
