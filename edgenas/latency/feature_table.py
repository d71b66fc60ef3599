"""Features of many networks as one matrix, and which of its columns a fit can tell apart.

In a space of cells most columns say the same: kernels, MACs and bytes of a family all go up with one count. Of those that are the same
but for scale and offset one is kept; how the others hang on it is noted, and a network where they don't is not of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.latency.graph_features import GraphFeatures
from edgenas.latency.graph_process import Split

SHAPE = "at "  # how the names of the columns begin that count the kernels of one shape
MOVED = " values moved"
LEAST_SHARED = 3  # networks that have a kernel of this shape, for its column to be a feature
RANGE_MARGIN = 0.5  # of the range of a column, beyond either end
_ALIKE_DIGITS = 5
_CLOSE = 1e-4


@dataclass(frozen=True)
class FeatureTable:
    """`values` (N, work + structure)."""

    work: tuple[str, ...]
    structure: tuple[str, ...]
    values: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        return self.work + self.structure

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, which: np.ndarray | Sequence[int]) -> FeatureTable:
        return FeatureTable(self.work, self.structure, self.values[which])

    def column(self, name: str) -> np.ndarray:
        """(N,); zeros for a name that none of the networks has."""
        at = {n: i for i, n in enumerate(self.names)}.get(name)
        return np.zeros(len(self)) if at is None else self.values[:, at]


def tabulate(features: Sequence[GraphFeatures]) -> FeatureTable:
    work = tuple(sorted({name for each in features for name in each.work}))
    structure = tuple(sorted({name for each in features for name in each.structure}))
    values = np.zeros((len(features), len(work) + len(structure)))
    place = {name: i for i, name in enumerate(work + structure)}
    for row, each in zip(values, features, strict=True):
        for group in (each.work, each.structure):
            for name, value in group.items():
                row[place[name]] = value
    return FeatureTable(work, structure, values)


@dataclass(frozen=True)
class Tie:
    """A column that is `slope * to + offset` in every network."""

    to: str
    slope: float
    offset: float


@dataclass(frozen=True)
class Columns:
    """The columns of a fit with their mean and standard deviation; `low` and `high` bound them. `constants`, `ties` and
    `rare` (shapes that few networks have) are the others."""

    work: tuple[str, ...]
    structure: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    constants: Mapping[str, float]
    ties: Mapping[str, Tie]
    rare: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.work + self.structure

    @property
    def families(self) -> list[str]:
        """Of the kernels that the fitted networks have, in alphabetical order."""
        every = (*self.names, *self.constants, *self.ties)
        return sorted(name.removesuffix(MOVED) for name in every if name.endswith(MOVED))

    def values(self, table: FeatureTable) -> np.ndarray:
        """(N, columns), as they are."""
        place = {name: i for i, name in enumerate(table.names)}
        found = np.zeros((len(table), len(self.names)))
        for i, name in enumerate(self.names):
            if name in place:
                found[:, i] = table.values[:, place[name]]
        return found

    def standardised(self, values: np.ndarray) -> Split:
        scaled = (values - np.array(self.mean)) / np.array(self.std)
        return Split(scaled[:, : len(self.work)], scaled[:, len(self.work) :])


def columns_of(table: FeatureTable) -> Columns:
    """Those that vary, each once, work before structure."""
    kept: list[int] = []
    first: dict[bytes, int] = {}
    constants: dict[str, float] = {}
    ties: dict[str, Tie] = {}
    rare: list[str] = []
    mean, std = table.values.mean(axis=0), table.values.std(axis=0)
    for i, name in enumerate(table.names):
        column = table.values[:, i]
        if std[i] <= 1e-9 * max(1.0, float(np.abs(column).max())):
            constants[name] = float(column[0])
            continue
        scaled = np.round((column - mean[i]) / std[i], _ALIKE_DIGITS)
        sign = np.sign(scaled[np.flatnonzero(scaled)[0]])
        key = (scaled * sign + 0.0).tobytes()
        if key in first:
            to = first[key]
            slope = sign * np.sign(_first_nonzero(table.values[:, to] - mean[to])) * std[i] / std[to]
            ties[name] = Tie(table.names[to], float(slope), float(mean[i] - slope * mean[to]))
        elif not name.startswith(SHAPE) or LEAST_SHARED <= np.count_nonzero(column) <= len(column) - LEAST_SHARED:
            first[key] = i
            kept.append(i)
        else:
            rare.append(name)
    work = len([i for i in kept if i < len(table.work)])
    names = [table.names[i] for i in kept]
    low, high = table.values[:, kept].min(axis=0), table.values[:, kept].max(axis=0)
    return Columns(
        work=tuple(names[:work]),
        structure=tuple(names[work:]),
        mean=_floats(mean[kept]),
        std=_floats(std[kept]),
        low=_floats(low),
        high=_floats(high),
        constants=constants,
        ties=ties,
        rare=tuple(rare),
    )


@dataclass(frozen=True)
class Novelty:
    """What of one network no fitted network had. `share` (0 to 1): of the values that it moves, those of unknown families."""

    families: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    proportions: bool = False
    share: float = 0.0

    @property
    def is_none(self) -> bool:
        return not (self.families or self.shapes or self.beyond or self.proportions)

    def notes(self) -> tuple[str, ...]:
        found = []
        if self.families:
            found.append(f"never measured: {', '.join(self.families)}; guessed from the values that they move")
        if self.shapes:
            rest = f" and {len(self.shapes) - 3} more" if len(self.shapes) > 3 else ""
            found.append(f"sizes never measured: {'; '.join(self.shapes[:3])}{rest}")
        if self.beyond:
            found.append(f"more or less of it than in any measured network: {', '.join(self.beyond[:3])}")
        if self.proportions and not self.families and not self.shapes:
            found.append("kernels in proportions that no measured network had")
        return tuple(found)


def novelty(columns: Columns, table: FeatureTable) -> list[Novelty]:
    """Of each network of the table."""
    known = {*columns.names, *columns.constants, *columns.ties, *columns.rare}
    values = columns.values(table)
    low, high = np.array(columns.low), np.array(columns.high)
    margin = RANGE_MARGIN * (high - low)
    work = len(columns.work)
    beyond = ((values < low - margin) | (values > high + margin))[:, :work]
    proportions = _out_of_proportion(columns, table)
    new = [(i, name) for i, name in enumerate(table.names) if name not in known]
    moved = {name.removesuffix(MOVED): i for i, name in enumerate(table.work) if name.endswith(MOVED)}
    total = table.values[:, list(moved.values())].sum(axis=1)
    found = []
    for row in range(len(table)):
        here = [name for i, name in new if table.values[row, i] > 0]
        families = tuple(name.removesuffix(MOVED) for name in here if name.endswith(MOVED))
        shapes = [name.removeprefix(SHAPE) for name in here if name.startswith(SHAPE)]
        unknown = sum(float(table.values[row, moved[name]]) for name in families)
        found.append(
            Novelty(
                families,
                tuple(name for name in shapes if not name.startswith(families)),
                tuple(columns.names[i] for i in np.flatnonzero(beyond[row])),
                bool(proportions[row]),
                unknown / max(float(total[row]), 1.0),
            )
        )
    return found


def _out_of_proportion(columns: Columns, table: FeatureTable) -> np.ndarray:
    """(N,) whether a count of kernels that was the same in all networks, or hung on another one, is another here."""
    wrong = np.zeros(len(table), bool)
    place = {name: i for i, name in enumerate(table.names)}

    def column(name: str) -> np.ndarray:
        return table.values[:, place[name]] if name in place else np.zeros(len(table))

    for name, value in columns.constants.items():
        if name.startswith(SHAPE):
            wrong |= np.abs(column(name) - value) > _CLOSE * max(1.0, abs(value))
    for name, tie in columns.ties.items():
        if name.startswith(SHAPE):
            expected = tie.slope * column(tie.to) + tie.offset
            wrong |= np.abs(column(name) - expected) > 0.01 * np.maximum(1.0, np.abs(expected))
    return wrong


def _floats(x: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in x)


def _first_nonzero(x: np.ndarray) -> float:
    return float(x[np.flatnonzero(np.abs(x) > 1e-12)[0]])
