"""Progressive shrinking: which subnets are trained grows from the largest one to all of them (Once-for-All, Cai et al., ICLR 2020).

There, kernel size is freed first, then depth, then width. Which genes these are differs from space to space, and a tree has none of
them; multiply-accumulates every subnet has, and each of those steps makes fewer. So here the subnets with the most MACs come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from edgenas.network.costs import macs
from edgenas.spaces.space import SearchSpace, Subnet

PROBED = 1000  # random subnets, of which the top share is drawn from
ALONE_SHARE = 0.15  # of the epochs: the largest subnet alone
GROWING_SHARE = 0.5  # of the epochs: from then on every subnet


def share_at(epoch: int, epochs: int) -> float:
    """Which share of the space, the largest first, is trained in an epoch of so many; 0 is the largest alone. 1 in the last one."""
    alone, all_from = round(ALONE_SHARE * epochs), int(GROWING_SHARE * epochs)
    if epoch < alone:
        return 0.0
    return min(1.0, (epoch - alone + 1) / (all_from - alone + 1))


def is_released(epoch: int, epochs: int) -> bool:
    """Whether `epoch` is the first in which the largest isn't alone any more."""
    return epoch > 0 and share_at(epoch - 1, epochs) == 0 < share_at(epoch, epochs)


@dataclass(frozen=True)
class LargestFirst:
    """What is drawn when. `probed`: random subnets, those with the most MACs first."""

    sample: Callable[[np.random.Generator], Subnet]
    probed: tuple[Subnet, ...]

    def draw(self, rng: np.random.Generator, count: int, share: float) -> list[Subnet]:
        """`count` of this share of the space; none where the largest is trained alone."""
        if share == 0:
            return []
        if share == 1:
            return [self.sample(rng) for _ in range(count)]
        top = ceil(share * len(self.probed))
        return [self.probed[row] for row in rng.integers(top, size=count)]


def largest_first(space: SearchSpace, sample: Callable[[np.random.Generator], Subnet], seed: int) -> LargestFirst:
    rng = np.random.default_rng(seed)
    probed = [sample(rng) for _ in range(PROBED)]
    return LargestFirst(sample, tuple(sorted(probed, key=lambda subnet: -macs(space.network(subnet)))))
