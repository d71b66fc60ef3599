"""Trees of bounded depth and arity: their genes, their normal form, how many there are, how they grow and change, and their text.

Inner nodes combine, leaves are operations. A tree lies in its genes in heap order: the children of position p are at arity * p + 1 and
the next; a position that no node takes holds 0. Sources: Koza, "Genetic Programming" (1992); Liu et al., "Hierarchical
Representations for Efficient Architecture Search" (ICLR 2018).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import comb
from typing import Any

import numpy as np

from edgenas.errors import InputError
from edgenas.spaces.space import Genome

IDENTITY = "identity"
COMBINERS = ("seq", "res", "add", "cat")  # one after the other, around a skip, summed, joined along the channels
GROWTH = 0.7  # how often a node that grows is one that combines, where it may
MOST_POSITIONS = 255  # of a tree: far more than make sense, and few enough to count
_TOKEN = re.compile(r"[a-z0-9]+|[(),]")


@dataclass(frozen=True, slots=True)
class Tree:
    label: str
    children: tuple[Tree, ...] = ()

    def __str__(self) -> str:
        return self.label + (f"({', '.join(map(str, self.children))})" if self.children else "")


@dataclass(frozen=True)
class Grammar:
    """Which trees there are. `operations` are the leaves besides the identity; a combiner has `arity` children, `res` one. A leaf alone
    has depth 1."""

    operations: tuple[str, ...]
    combiners: tuple[str, ...] = COMBINERS
    depth: int = 3
    arity: int = 2

    def __post_init__(self) -> None:
        unknown = set(self.combiners) - set(COMBINERS)
        if unknown or not self.combiners:
            raise InputError(f"trees know no combiner {sorted(unknown)}", f"Known: {', '.join(COMBINERS)}.")
        if self.depth < 1 or self.arity < 2:
            raise InputError(
                f"trees need a depth of at least 1 and an arity of at least 2, got depth={self.depth}, arity={self.arity}"
            )
        if max(self.depth, self.arity) > MOST_POSITIONS or _positions(self.arity, self.depth) > MOST_POSITIONS:
            raise InputError(
                f"trees of depth {self.depth} and arity {self.arity} have more than {MOST_POSITIONS} nodes",
                "Take less depth or arity.",
            )

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        return (IDENTITY, *self.operations)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """By gene. Where a node can't have children, the genes end with the leaves."""
        return (*self.leaves, *self.combiners)

    @cached_property
    def radix(self) -> tuple[int, ...]:
        inner = _positions(self.arity, self.depth - 1)
        return (len(self.labels),) * inner + (len(self.leaves),) * (_positions(self.arity, self.depth) - inner)

    def child(self, position: int, number: int) -> int:
        return self.arity * position + 1 + number

    def children(self, label: str) -> int:
        """How many a node of this label has."""
        return 0 if label not in self.combiners else 1 if label == "res" else self.arity

    def decode(self, genes: Genome, position: int = 0) -> Tree:
        label = self.labels[genes[position]]
        places = (self.child(position, number) for number in range(self.children(label)))
        return Tree(label, tuple(self.decode(genes, place) for place in places))

    def encode(self, tree: Tree) -> Genome:
        genes = [0] * len(self.radix)
        for position, node in self.nodes(tree).items():
            genes[position] = self.labels.index(node.label)
        return tuple(genes)

    def canonical(self, genes: Genome) -> Genome:
        """The genes of the normal form of the tree that lies in `genes`."""
        return self.encode(self.normal(self.decode(genes)))

    def normal(self, tree: Tree) -> Tree:
        """The tree that stands for all that compute the same for reasons that show at once: identities in a sequence do nothing; a sum
        with the input is a residual, twice around a skip is once; the order of summed or joined branches is of no account."""
        return self._reduced(tree.label, tuple(self.normal(child) for child in tree.children))

    def _reduced(self, label: str, children: tuple[Tree, ...]) -> Tree:
        work = tuple(child for child in children if child.label != IDENTITY)
        if label == "seq":
            if len(work) < 2:
                return work[0] if work else Tree(IDENTITY)
            return Tree(label, work + (Tree(IDENTITY),) * (len(children) - len(work)))
        if label in ("add", "res") and not work:
            return Tree(IDENTITY)
        if label == "add" and len(work) == 1 and "res" in self.combiners:
            return self._reduced("res", work)
        if label == "res" and work[0].label == "res":
            return work[0]
        return Tree(label, tuple(sorted(children, key=self._rank)) if label in ("add", "cat") else children)

    def _rank(self, tree: Tree) -> Any:
        return (self.labels.index(tree.label), *map(self._rank, tree.children))

    def count(self) -> int:
        """How many normal trees there are, exactly."""
        trees, residuals = len(self.leaves), 0  # of one level
        for _ in range(self.depth - 1):
            branched = comb(trees + self.arity - 1, self.arity)  # multisets of children
            sole = trees if "res" in self.combiners else 1  # of them with at most one child that isn't the identity
            more = {
                "seq": sum((trees - 1) ** length for length in range(2, self.arity + 1)),
                "res": trees - 1 - residuals,
                "add": branched - sole,
                "cat": branched,
            }
            residuals = more["res"]
            trees = len(self.leaves) + sum(more[name] for name in self.combiners)
        return trees

    def nodes(self, tree: Tree, position: int = 0) -> dict[int, Tree]:
        """Position -> the subtree that stands there."""
        found = {position: tree}
        for number, child in enumerate(tree.children):
            found |= self.nodes(child, self.child(position, number))
        return found

    def below(self, position: int) -> tuple[int, ...]:
        """The positions of the subtree at `position`, itself among them."""
        if position >= len(self.radix):
            return ()
        lower = (place for number in range(self.arity) for place in self.below(self.child(position, number)))
        return (position, *lower)

    def grown(self, rng: np.random.Generator, levels: int) -> Tree:
        """A random tree of at most `levels` levels (Koza's `grow`)."""
        if levels == 1 or rng.random() >= GROWTH:
            return Tree(self.leaves[rng.integers(len(self.leaves))])
        label = self.combiners[rng.integers(len(self.combiners))]
        return Tree(label, tuple(self.grown(rng, levels - 1) for _ in range(self.children(label))))

    def mutated(self, tree: Tree, rng: np.random.Generator, rate: float, levels: int) -> Tree:
        """Each node changes with probability `rate`: half of the time the whole subtree grows anew, otherwise its label alone is drawn,
        and what children it still has stay."""
        label = tree.label
        if rng.random() < rate:
            if rng.random() < 0.5:
                return self.grown(rng, levels)
            choices = self.labels if levels > 1 else self.leaves
            label = choices[rng.integers(len(choices))]
        kept = tree.children[: self.children(label)]
        new = (self.grown(rng, levels - 1) for _ in range(self.children(label) - len(kept)))
        return Tree(label, (*(self.mutated(child, rng, rate, levels - 1) for child in kept), *new))

    def crossed(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """`one` with the subtree of `other` at a random position that both have."""
        common = sorted(set(self.nodes(self.decode(one))) & set(self.nodes(self.decode(other))))
        taken = set(self.below(common[rng.integers(len(common))]))
        return tuple(b if place in taken else a for place, (a, b) in enumerate(zip(one, other, strict=True)))

    def parse(self, text: str) -> Tree:
        """The inverse of str(tree). Raises InputError saying what is wrong."""
        tokens = _TOKEN.findall(text)
        if "".join(tokens) != "".join(text.split()):
            raise self._refusal(text, "it holds something else than names, brackets and commas")
        tree, rest = self._parsed(text, tokens, self.depth)
        if rest:
            raise self._refusal(text, f"the end was expected where {rest[0]!r} stands")
        return tree

    def _parsed(self, text: str, tokens: list[str], levels: int) -> tuple[Tree, list[str]]:
        label, rest = (tokens[0], tokens[1:]) if tokens else ("", [])
        if label not in self.labels:
            raise self._refusal(text, f"there is no operation or combiner {label!r}")
        if label in self.combiners and levels == 1:
            raise self._refusal(text, f"it is deeper than {self.depth}")
        children: list[Tree] = []
        for i in range(self.children(label)):
            if rest[:1] != ["," if i else "("]:
                raise self._refusal(text, f"{label} needs {self.children(label)} in brackets")
            child, rest = self._parsed(text, rest[1:], levels - 1)
            children.append(child)
        if children:
            if rest[:1] != [")"]:
                raise self._refusal(text, f"{label} needs {self.children(label)} in brackets")
            rest = rest[1:]
        return Tree(label, tuple(children)), rest

    def _refusal(self, text: str, problem: str) -> InputError:
        return InputError(
            f"{text!r} is no tree of this space: {problem}",
            f"Leaves: {', '.join(self.leaves)}. Combiners: {', '.join(self.combiners)}.",
        )


def _positions(arity: int, levels: int) -> int:
    return sum(arity**level for level in range(levels))
