"""What a quarter of the epochs show bench_headline of the hand-designed networks: learning rates, and which are worth the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgenas.store import write_text

FAR_UNDER = 0.02  # of accuracy below the others' front
RATES = (0.1, 0.2)
FILE = "screening.json"


@dataclass(frozen=True)
class Screening:
    """The better learning rate of each family, and validation accuracies, with one seed."""

    rates: dict[str, float]
    accuracy: dict[str, float]
    seed: int

    @staticmethod
    def read(folder: Path, seed: int) -> Screening:
        """What lies in `folder`, whatever seed it is of; else an empty one of `seed`."""
        path = folder / FILE
        return Screening(**json.loads(path.read_text())) if path.exists() else Screening({}, {}, seed)

    def write(self, folder: Path) -> None:
        write_text(folder / FILE, json.dumps(asdict(self)))

    def rates_for(self, name: str) -> Sequence[float]:
        """Those to try for the first of a family, after that its own."""
        family = name.split()[0]
        return [self.rates[family]] if family in self.rates else RATES

    def with_result(self, name: str, tried: Mapping[float, float]) -> Screening:
        """With `name`'s validation accuracy at each learning rate that was tried."""
        rates = {name.split()[0]: max(tried, key=lambda rate: tried[rate])} | self.rates
        return Screening(rates, self.accuracy | {name: max(tried.values())}, self.seed)

    def far_under(self, ms: Mapping[str, float]) -> dict[str, str]:
        """What is far less accurate than something no slower, and how far."""
        found = {}
        for name, own in self.accuracy.items():
            best = max(other for as_fast, other in self.accuracy.items() if ms[as_fast] <= ms[name])
            if best - own > FAR_UNDER:
                found[name] = f"{100 * own:.1f} % after a quarter of the epochs, {100 * best:.1f} % is as fast"
        return found
