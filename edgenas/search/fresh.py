"""Subnets within the budget that were not proposed yet: what every strategy may ask for, and random ones to begin with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import numpy as np

from edgenas.search.strategy import Problem
from edgenas.spaces.space import Subnet

ENUMERABLE = 2**16  # genomes; of a space with no more of them, random ones are drawn until none is left
CHUNK = 256
SAMPLES = 16 * CHUNK  # without a hit: then the budget is so tight that sampling won't do
TIGHTENINGS = 12
PARENTS = 64

NOTHING_MEETS_IT = "nothing in the space is predicted to meet the budget"
NOTHING_NEW = "nothing more was found in the space that meets the budget"


class Fresh:
    """Remembers what it gave: a subnet comes once."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem, self.rng = problem, rng
        self.given: set[Subnet] = set()
        self._drawing: Iterator[Subnet] | None = None

    @property
    def why_none(self) -> str:
        """The reason to give where there is nothing left to propose."""
        return NOTHING_NEW if self.given else NOTHING_MEETS_IT

    def take(self, subnets: Iterable[Subnet], count: int | None = None) -> list[Subnet]:
        """The first `count` of `subnets` that are new and within the budget, each once."""
        found = self.new(subnets)[:count]
        self.given.update(found)
        return found

    def new(self, subnets: Iterable[Subnet]) -> list[Subnet]:
        """Those that `take` would take."""
        unseen = [subnet for subnet in dict.fromkeys(subnets) if subnet not in self.given]
        if not unseen:
            return []
        ms = self.problem.latency(np.array([subnet.genome for subnet in unseen]))
        return [subnet for subnet, predicted in zip(unseen, ms, strict=True) if predicted <= self.problem.budget_ms]

    def draw(self, count: int) -> list[Subnet]:
        """Up to `count` random ones; fewer only where no more are found. In a small space each is as likely as any other; elsewhere
        they come as the space samples or, if hardly any sample meets the budget, as mutants of the fastest."""
        if self._drawing is None:
            self._drawing = self._walk() if prod(self.problem.space.radix()) <= ENUMERABLE else self._samples()
        found: list[Subnet] = []
        while len(found) < count and (subnet := next(self._drawing, None)) is not None:
            if subnet not in self.given:
                self.given.add(subnet)
                found.append(subnet)
        return found

    def _walk(self) -> Iterator[Subnet]:
        space, radix = self.problem.space, self.problem.space.radix()
        codes = self.rng.permutation(prod(radix))
        for at in range(0, len(codes), CHUNK):
            genomes = np.stack(np.unravel_index(codes[at : at + CHUNK], radix), axis=1).tolist()
            subnets = [(space.subnet(tuple(genome)), tuple(genome)) for genome in genomes]
            yield from self.new(subnet for subnet, genome in subnets if subnet.genome == genome)

    def _samples(self) -> Iterator[Subnet]:
        """Ends when SAMPLES in a row, and as many mutants of the fastest, brought nothing new."""
        space, latency = self.problem.space, self.problem.latency
        while True:
            sampled = [space.sample(self.rng) for _ in range(CHUNK)]
            new = self.new(sampled)
            while not new and len(sampled) < SAMPLES:
                more = [space.sample(self.rng) for _ in range(CHUNK)]
                sampled, new = [*sampled, *more], self.new(more)
            for _ in range(TIGHTENINGS):
                if new:
                    break
                sampled = list(dict.fromkeys(sampled))
                fastest = np.argsort(latency(np.array([subnet.genome for subnet in sampled])), kind="stable")[:PARENTS]
                parents = self.rng.choice(fastest, size=CHUNK)
                mutants = [space.mutate(sampled[parent], self.rng, 0.2) for parent in parents]
                sampled, new = [*(sampled[i] for i in fastest), *mutants], self.new(mutants)
            if not new:
                return
            yield from new
