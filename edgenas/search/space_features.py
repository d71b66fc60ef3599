"""The features of many subnets of one space as a matrix for a model of accuracy, each network looked at once.

Beside what its network says stand a subnet's genes, in a group of their own: what a choice does where it is made, the network's
features may not tell. Columns that don't vary are left out, and of those that are the same but for scale and offset one is kept: in a
space of cells most say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from edgenas.search.network_features import GROUPS, network_features
from edgenas.spaces.space import Genome, SearchSpace, Subnet

CHOICE = "choice"  # the group of the genes, each option an indicator
SPACES = 4  # whose features are kept for the life of the process
_ALIKE_DIGITS = 5


@dataclass(frozen=True)
class Table:
    """`values` (N, C) of mean 0 and standard deviation 1; `groups` are the columns of each group that has some."""

    values: np.ndarray
    groups: tuple[np.ndarray, ...]


class SpaceFeatures:
    """Of the subnets of one space."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], int] = {}  # group and name
        self._rows: dict[Genome, tuple[np.ndarray, np.ndarray]] = {}  # columns and values

    def values(self, space: SearchSpace, subnets: Sequence[Subnet]) -> np.ndarray:
        """(N, columns so far)."""
        rows = [self._row(space, subnet) for subnet in subnets]
        found = np.zeros((len(rows), len(self._columns)))
        for row, (columns, values) in zip(found, rows, strict=True):
            row[columns] = values
        return found

    def log_size(self, space: SearchSpace, subnets: Sequence[Subnet], of: Literal["MACs", "values"]) -> np.ndarray:
        """(N,) of what is live."""
        return np.asarray(self.values(space, subnets)[:, self._columns["size", of]])

    def table(self, space: SearchSpace, subnets: Sequence[Subnet], ms: np.ndarray) -> Table:
        """`ms` (N,) are their latencies, which are a matter of size too."""
        seen = self.values(space, subnets)
        # not as they came: which of two alike is kept must not depend on what this process looked at before
        keys = sorted(self._columns, key=_place)
        values = np.column_stack([np.log(ms), seen[:, [self._columns[key] for key in keys]]])
        groups = ["size", *(group for group, _ in keys)]
        kept = _telling(values)
        values = values[:, kept]
        names = np.array(groups)[kept]
        members = tuple(np.flatnonzero(names == group) for group in dict.fromkeys(names.tolist()))
        return Table((values - values.mean(axis=0)) / values.std(axis=0), members)

    def _row(self, space: SearchSpace, subnet: Subnet) -> tuple[np.ndarray, np.ndarray]:
        if subnet.genome not in self._rows:
            features = network_features(space.network(subnet))
            named = {(group, name): value for group, each in features.items() for name, value in each.items()}
            named |= {(CHOICE, f"{gene} is {option}"): 1.0 for gene, option in enumerate(subnet.genome)}
            columns = [self._columns.setdefault(key, len(self._columns)) for key in named]
            self._rows[subnet.genome] = np.array(columns, np.int32), np.array(list(named.values()))
        return self._rows[subnet.genome]


def features_of(space: SearchSpace) -> SpaceFeatures:
    """What is known of it so far, in this process: a subnet's network is always the same."""
    return _of(space.id)


@lru_cache(maxsize=SPACES)
def _of(space_id: str) -> SpaceFeatures:
    return SpaceFeatures()


def _place(column: tuple[str, str]) -> tuple[int, str]:
    group, name = column
    return (*GROUPS, CHOICE).index(group), name


def _telling(values: np.ndarray) -> list[int]:
    """The columns that vary, each once."""
    mean, std = values.mean(axis=0), values.std(axis=0)
    kept: list[int] = []
    known: set[bytes] = set()
    for i in range(values.shape[1]):
        if std[i] <= 1e-9 * max(1.0, abs(mean[i])):
            continue
        scaled = np.round((values[:, i] - mean[i]) / std[i], _ALIKE_DIGITS)
        sign = np.sign(scaled[np.flatnonzero(scaled)[0]])
        key = (scaled * sign + 0.0).tobytes()
        if key not in known:
            known.add(key)
            kept.append(i)
    return kept
