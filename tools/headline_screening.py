"""What a quarter of the epochs show bench_headline of the hand-designed networks: learning rates, and which are worth the rest."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgenas.store import write_text

FAR_UNDER = 0.06  # of accuracy below the others' front; after one epoch a ResNet-8 was 0.057 below plain networks
RATES = (0.1, 0.2)
FILE = "screening.json"


@dataclass(frozen=True)
class Screening:
    """Validation accuracies by network and learning rate, with one seed."""

    tried: dict[str, dict[str, float]]  # rates as JSON has them
    seed: int

    @staticmethod
    def read(folder: Path, seed: int) -> Screening:
        """What lies in `folder`, whatever seed it is of; else an empty one of `seed`."""
        path = folder / FILE
        return Screening(**json.loads(path.read_text())) if path.exists() else Screening({}, seed)

    def write(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self)))

    def rate(self, name: str) -> float:
        """That with which the networks of its family are better on average."""
        family = [found for other, found in self.tried.items() if other.split()[0] == name.split()[0]]
        return max(RATES, key=lambda rate: statistics.mean(found[str(rate)] for found in family))

    def rates(self) -> dict[str, float]:
        return {name.split()[0]: self.rate(name) for name in self.tried}

    def with_result(self, name: str, tried: Mapping[float, float]) -> Screening:
        """With `name`'s validation accuracy at each of RATES."""
        return replace(self, tried=self.tried | {name: {str(rate): found for rate, found in tried.items()}})

    def accuracy(self) -> dict[str, float]:
        """At the family's rate."""
        return {name: found[str(self.rate(name))] for name, found in self.tried.items()}

    def far_under(self, ms: Mapping[str, float]) -> dict[str, str]:
        """What is far less accurate than something no slower, and how far."""
        found, accuracy = {}, self.accuracy()
        for name, own in accuracy.items():
            best = max(other for as_fast, other in accuracy.items() if ms[as_fast] <= ms[name])
            if best - own > FAR_UNDER:
                found[name] = f"{100 * own:.1f} % after a quarter of the epochs, {100 * best:.1f} % is as fast"
        return found
