"""What every search space can do, and the Subnet that it deals in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgenas.network.graph import Network, Shape

Genome = tuple[int, ...]  # one small integer per choice: an index into that choice's options


@dataclass(frozen=True, slots=True)
class Subnet:
    """One member of a space: its chosen indices, canonical (two genomes of the same network are the same Subnet)."""

    space: str
    genome: Genome

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps([self.space, self.genome]).encode()).hexdigest()[:12]


def random_genome(radix: tuple[int, ...], rng: np.random.Generator) -> Genome:
    return tuple(int(rng.integers(options)) for options in radix)


def mutated(genome: Genome, radix: tuple[int, ...], rng: np.random.Generator, rate: float) -> Genome:
    """Each gene is drawn anew with probability `rate`."""
    return tuple(
        int(rng.integers(options)) if rng.random() < rate else gene for gene, options in zip(genome, radix, strict=True)
    )


def crossed(one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
    """Uniform: each gene of one parent or the other."""
    return tuple(pair[int(rng.random() < 0.5)] for pair in zip(one, other, strict=True))


class SearchSpace(Protocol):
    """Arithmetic only: nothing here imports torch."""

    @property
    def id(self) -> str:
        """Hash of the settings: the key of everything that was measured or trained for this space."""
        ...

    def radix(self) -> tuple[int, ...]:
        """How many options each gene has; the genome of a Subnet is within it."""
        ...

    def size(self) -> int:
        """How many distinct subnets there are."""
        ...

    def subnet(self, genome: Genome) -> Subnet: ...

    def sample(self, rng: np.random.Generator) -> Subnet: ...

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet: ...

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet: ...

    def smallest(self) -> tuple[Subnet, ...]:
        """The subnets among which the fastest is: one for each way of being small."""
        ...

    def largest(self) -> Subnet: ...

    def network(self, subnet: Subnet) -> Network: ...

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        """One line a stage, for people."""
        ...

    def layer_shapes(self) -> dict[str, Shape]:
        """Node name -> the largest weight shape that any subnet asks of it: the layers of the supernet."""
        ...

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """(N, genes) -> (N, segments) codes: a subnet's kernels are those of its segments, and equal codes are equal segments."""
        ...

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        """For each segment, the names of the network's nodes that lie in it."""
        ...
