"""The `tree` space: every stage a tree of operations, and subtrees are what mutation and crossover exchange.

A stage enters by an operation that brings the tensor to the stage's width and, where the stage halves the resolution, does so. Its
tree keeps both: branches that are joined share the width, and where a branch's channels differ a 1x1 convolution projects. Ideas:
Liu et al., "Hierarchical Representations for Efficient Architecture Search" (ICLR 2018); Koza, "Genetic Programming" (1992).

Genome: [resolution, stem width, down-sampling, (width, entry, tree in heap order) per stage, head].
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod

import numpy as np

from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.costs import macs
from edgenas.network.graph import Network, Shape
from edgenas.spaces.offer import ANYTHING, Offer
from edgenas.spaces.space import Genome, Subnet, mutated, random_genome
from edgenas.spaces.tree_grammar import IDENTITY, Grammar, Tree
from edgenas.spaces.tree_operations import ENTRIES, OPERATIONS, Append, conv, leaf, skip

HEADS = ("pool", "flatten")
GLOBAL_GENES = 3
MULTIPLE = 4  # of all widths: a convolution of such channels runs in the layout that the runtime likes best, whatever is around it
TREES = Grammar(tuple(OPERATIONS))


@dataclass(frozen=True)
class TreeSpace:
    """`widths[stage]` are output channels; `downsampling` has the strides (1 or 2) of the stem and of each stage."""

    channels: int
    classes: int
    resolutions_px: tuple[int, ...]
    stem_widths: tuple[int, ...]
    downsampling: tuple[tuple[int, ...], ...]
    widths: tuple[tuple[int, ...], ...]
    entries: tuple[str, ...] = tuple(ENTRIES)
    grammar: Grammar = TREES
    heads: tuple[str, ...] = HEADS

    def __post_init__(self) -> None:
        for name in ("resolutions_px", "stem_widths", "downsampling", "widths", "entries", "heads"):
            options = getattr(self, name)
            if not options or () in options:
                raise InputError(f"the tree space has no options for {name}", "Give each choice at least one option.")
        unknown = (set(self.grammar.operations) - set(OPERATIONS)) | (set(self.entries) - set(ENTRIES))
        if unknown:
            raise InputError(
                f"the tree space knows no operation {sorted(unknown)}",
                f"Known: {', '.join(OPERATIONS)}; as entries: {', '.join(ENTRIES)}.",
            )
        every = [*self.stem_widths, *itertools.chain(*self.widths)]
        shared = self.grammar.arity ** (self.grammar.depth - 1) if "cat" in self.grammar.combiners else 1
        least = max(shared, MULTIPLE)
        if any(width % MULTIPLE for width in every) or min(map(min, self.widths)) < least:
            raise InputError(f"widths are multiples of {MULTIPLE}, at least {least}, but got {sorted(set(every))}")
        for strides in self.downsampling:
            if len(strides) != len(self.widths) + 1 or not set(strides) <= {1, 2}:
                raise InputError(
                    f"down-sampling needs {len(self.widths) + 1} strides of 1 or 2 (the stem's and each stage's), got {strides}"
                )
        others = max(self.resolutions_px) * 2 * len(self.entries) * max(map(len, self.widths)) ** 2 * len(self.heads)
        if prod(self.grammar.radix) * others >= 2**63:
            raise InputError(
                "a stage's trees are too many for a code of 64 bits", "Take less depth, arity or operations."
            )

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(["tree", asdict(self)]).encode()).hexdigest()[:12]

    @cached_property
    def stage_genes(self) -> int:
        return 2 + len(self.grammar.radix)

    def radix(self) -> tuple[int, ...]:
        stages = [(len(widths), len(self.entries), *self.grammar.radix) for widths in self.widths]
        heads = len(self.heads)
        return (len(self.resolutions_px), len(self.stem_widths), len(self.downsampling), *sum(stages, ()), heads)

    def size(self) -> int:
        """Distinct subnets, exactly: canonical trees, times the other choices."""
        others = prod(len(widths) * len(self.entries) for widths in self.widths)
        return prod(self.radix()[:GLOBAL_GENES]) * len(self.heads) * others * self.grammar.count() ** len(self.widths)

    def subnet(self, genome: Genome) -> Subnet:
        """Its trees in their normal form: two genomes whose trees differ in what does nothing are one Subnet."""
        genes = [int(gene) for gene in genome]
        for start, stop in map(self._tree_span, range(len(self.widths))):
            genes[start:stop] = self.grammar.canonical(tuple(genes[start:stop]))
        return Subnet("tree", tuple(genes))

    def sample(self, rng: np.random.Generator) -> Subnet:
        """Trees grow (Koza's `grow`): of random genes most would be a single leaf."""
        genes = list(random_genome(self.radix(), rng))
        for start, stop in map(self._tree_span, range(len(self.widths))):
            genes[start:stop] = self.grammar.encode(self.grammar.grown(rng, self.grammar.depth))
        return self.subnet(tuple(genes))

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet:
        """Every other gene, and every node of the trees, changes with probability `rate`; a node by its label or as a whole subtree."""
        genes = list(mutated(subnet.genome, self.radix(), rng, rate))
        for i, (start, stop) in enumerate(map(self._tree_span, range(len(self.widths)))):
            tree = self.grammar.mutated(self.tree(subnet, i), rng, rate, self.grammar.depth)
            genes[start:stop] = self.grammar.encode(tree)
        return self.subnet(tuple(genes))

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet:
        """Uniform; a stage's width and entry travel together, and of half of the trees one subtree is the other parent's."""
        genes = list(one.genome)
        singles = [(0, 1), (1, 2), (2, 3), (len(genes) - 1, len(genes))]
        shapes = [(start - 2, start) for start, _ in map(self._tree_span, range(len(self.widths)))]
        for start, stop in singles + shapes:
            if rng.random() < 0.5:
                genes[start:stop] = other.genome[start:stop]
        for start, stop in map(self._tree_span, range(len(self.widths))):
            if rng.random() < 0.5:
                genes[start:stop] = self.grammar.crossed(one.genome[start:stop], other.genome[start:stop], rng)
        return self.subnet(tuple(genes))

    def smallest(self) -> tuple[Subnet, ...]:
        """Nothing but entries, once for each kind, at the least of everything and the down-sampling that costs least."""
        found = []
        for entry in range(len(self.entries)):
            stages = [(_least(widths), entry, *self.grammar.encode(Tree(IDENTITY))) for widths in self.widths]
            choices = self._with_every_downsampling(_least(self.resolutions_px), _least(self.stem_widths), stages)
            found.append(min(choices, key=self._macs))
        return tuple(dict.fromkeys(found))

    def largest(self) -> Subnet:
        """Full trees of the operation with the most MACs, at the most of everything, and a pooled head where there is one."""
        stages = []
        for widths in self.widths:
            width = max(widths)
            entry = max(self.entries, key=lambda name: _macs_of(ENTRIES[name], width))
            tree = max(self._full_trees(), key=lambda tree: self._tree_macs(tree, width))
            stages.append((widths.index(width), self.entries.index(entry), *self.grammar.encode(tree)))
        most = self.resolutions_px.index(max(self.resolutions_px)), self.stem_widths.index(max(self.stem_widths))
        return max(self._with_every_downsampling(*most, stages), key=self._macs)

    def _with_every_downsampling(self, resolution: int, stem: int, stages: list[Genome]) -> list[Subnet]:
        head = self.heads.index("pool") if "pool" in self.heads else 0
        patterns = range(len(self.downsampling))
        return [self.subnet((resolution, stem, pattern, *sum(stages, ()), head)) for pattern in patterns]

    def _full_trees(self) -> Iterator[Tree]:
        for combiner, operation in itertools.product(self.grammar.combiners, self.grammar.operations or (IDENTITY,)):
            tree = Tree(operation)
            for _ in range(self.grammar.depth - 1):
                tree = Tree(combiner, (tree,) * self.grammar.children(combiner))
            yield self.grammar.normal(tree)

    def _macs(self, subnet: Subnet) -> int:
        return macs(self.network(subnet))

    def _tree_macs(self, tree: Tree, width: int) -> int:
        return _macs_of(lambda b, name, x, w, stride: self._append_tree(b, name, tree, 0, x, w), width)

    def tree(self, subnet: Subnet, stage: int) -> Tree:
        start, stop = self._tree_span(stage)
        return self.grammar.decode(subnet.genome[start:stop])

    def network(self, subnet: Subnet) -> Network:
        px = self.resolutions_px[subnet.genome[0]]
        strides = self.downsampling[subnet.genome[2]]
        b = Builder((1, self.channels, px, px))
        x = conv(3)(b, "stem", INPUT, self.stem_widths[subnet.genome[1]], strides[0])
        for i in range(len(self.widths)):
            width, entry = self._stage_values(subnet, i)
            x = ENTRIES[entry](b, f"stage{i}/enter/{entry}", x, width, strides[i + 1])
            x = self._append_tree(b, f"stage{i}/tree", self.tree(subnet, i), 0, x, width)
        side = b.shape(x)[2]
        pooled = self.heads[subnet.genome[-1]] == "pool"
        x = b.flatten("head/flatten", b.global_average_pool("head/pool", x) if pooled else x)
        return b.finish(b.linear("head/pooled" if pooled else f"head/flat{side}px", x, self.classes))

    def _append_tree(self, b: Builder, stage: str, tree: Tree, position: int, x: str, width: int) -> str:
        """The tree at `position`, of whatever channels `x` has, to `width`."""
        name = f"{stage}/{position}/{tree.label}"
        if tree.label not in self.grammar.combiners:
            return leaf(tree.label)(b, name, x, width, 1)
        made = []
        y = x
        for number, child in enumerate(tree.children):
            part = _share(width, len(tree.children), number) if tree.label == "cat" else width
            y = self._append_tree(b, stage, child, self.grammar.child(position, number), y, part)
            made.append(y)
            y = y if tree.label == "seq" else x
        if tree.label == "seq":
            return y
        if tree.label == "cat":
            return b.concat(f"{name}/concat", *made)
        if tree.label == "res":
            made.append(x if b.shape(x)[1] == width else b.conv(f"{name}/skip", x, width))
        total = made[0]
        for i, branch in enumerate(made[1:], start=1):
            total = b.add(f"{name}/add{i}", total, branch)
        return total

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        strides = self.downsampling[subnet.genome[2]]
        px = self.resolutions_px[subnet.genome[0]]
        lines = [f"input: {self.channels} x {px} x {px}"]
        lines.append(f"stem: conv 3x3, {self.stem_widths[subnet.genome[1]]} channels, stride {strides[0]}")
        for i in range(len(self.widths)):
            width, entry = self._stage_values(subnet, i)
            lines.append(
                f"stage {i + 1}: {entry} to {width} channels, stride {strides[i + 1]}, then {self.tree(subnet, i)}"
            )
        return (*lines, f"head: {self.heads[subnet.genome[-1]]}, {self.classes} classes")

    def layer_shapes(self) -> dict[str, Shape]:
        """Exact: every operation that may stand at a place, with every pair of channels that may come and go there."""
        shapes: dict[str, Shape] = {}

        def hold(append: Append, name: str, channels: int, width: int) -> None:
            for layer, shape in _weight_shapes(append, name, channels, width):
                shapes[layer] = tuple(map(max, shape, shapes.get(layer, shape)))

        hold(conv(3), "stem", self.channels, max(self.stem_widths))
        before = self.stem_widths
        for i, widths in enumerate(self.widths):
            for entry, channels, width in itertools.product(self.entries, before, widths):
                hold(ENTRIES[entry], f"stage{i}/enter/{entry}", channels, width)
            for width in widths:
                for position, label, channels, part in self._places(0, "", 0, width, width):
                    append = skip if label == "res" else leaf(label)
                    hold(append, f"stage{i}/tree/{position}/{label}", channels, part)
            before = widths
        for head in self.heads:
            if head == "pool":
                shapes["head/pooled"] = (self.classes, max(before))
            else:
                sides = {int(side) for side in self._sides[:, :, -1].flat}
                shapes |= {f"head/flat{side}px": (self.classes, max(before) * side**2) for side in sorted(sides)}
        return shapes

    def _places(
        self, position: int, parent: str, number: int, channels: int, width: int
    ) -> Iterator[tuple[int, str, int, int]]:
        """(position, label, channels that come, channels that go) of what can have weights in a canonical tree: at `position`, the
        child of this number of `parent`, and below."""
        levels_left = self.grammar.radix[position] > len(self.grammar.leaves)
        for label in self.grammar.operations:
            yield position, label, channels, width
        summed_last = self.grammar.arity - (2 if "res" in self.grammar.combiners else 1)
        if parent == "cat" or (parent == "add" and number < summed_last):
            yield position, IDENTITY, channels, width
        for label in self.grammar.combiners if levels_left else ():
            if label == "res":
                if parent == "res":
                    continue
                yield position, label, channels, width
            count = self.grammar.children(label)
            for i in range(count):
                comes = width if label == "seq" and i else channels
                goes = _share(width, count, i) if label == "cat" else width
                yield from self._places(self.grammar.child(position, i), label, i, comes, goes)

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """Stem and first entry; then each tree with the entry after it, the last with the head. A tree's last tensor may lie in either
        of a runtime's layouts, and what an entry makes in only one: so the kernels of a segment are known by its own genes, the
        strides in it and the side of its input."""
        strides = np.array(self.downsampling)[genomes[:, 2]]
        sides = self._sides[genomes[:, 0], genomes[:, 2]]

        def entry(i: int) -> list[tuple[np.ndarray, int]]:
            at = self._tree_span(i)[0]
            return [(strides[:, i + 1] - 1, 2), *((genomes[:, g], self.radix()[g]) for g in (at - 2, at - 1))]

        first = [(genomes[:, gene], self.radix()[gene]) for gene in (0, 1)]
        columns = [_code([*first, (strides[:, 0] - 1, 2), *entry(0)])]
        for i in range(len(self.widths)):
            start, stop = self._tree_span(i)
            genes = [(genomes[:, g], self.radix()[g]) for g in (start - 2, *range(start, stop))]
            after = entry(i + 1) if i + 1 < len(self.widths) else [(genomes[:, -1], len(self.heads))]
            columns.append(_code([(sides[:, i], int(self._sides.max()) + 1), *genes, *after]))
        return np.stack(columns, axis=1)

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        last = len(self.widths)
        prefixes = [("stem/", "stage0/enter/")]
        prefixes += [(f"stage{i}/tree/", f"stage{i + 1}/enter/" if i + 1 < last else "head/") for i in range(last)]
        return tuple(tuple(n.name for n in network.nodes if n.name.startswith(p)) for p in prefixes)

    @cached_property
    def _sides(self) -> np.ndarray:
        """(resolutions, down-samplings, stages): the side in pixels of each stage's tree."""
        sides = np.empty((len(self.resolutions_px), len(self.downsampling), len(self.widths)), np.int64)
        for (i, px), (j, strides) in itertools.product(enumerate(self.resolutions_px), enumerate(self.downsampling)):
            side = -(-px // strides[0])
            for k, stride in enumerate(strides[1:]):
                side = sides[i, j, k] = -(-side // stride)
        return sides

    def _tree_span(self, stage: int) -> tuple[int, int]:
        """Where the genes of the stage's tree are."""
        start = GLOBAL_GENES + stage * self.stage_genes + 2
        return start, start + len(self.grammar.radix)

    def _stage_values(self, subnet: Subnet, i: int) -> tuple[int, str]:
        width, entry = subnet.genome[self._tree_span(i)[0] - 2 : self._tree_span(i)[0]]
        return self.widths[i][width], self.entries[entry]


def for_data(resolution_px: int, channels: int, classes: int, offer: Offer = ANYTHING) -> TreeSpace:
    """The space that suits images of this side: three stages under 64 px, four from there on, which see a sixteenth or less of it."""
    smaller = resolution_px * 3 // 4 // 4 * 4
    resolutions = (smaller, resolution_px) if smaller >= 24 else (resolution_px,)
    patterns: tuple[tuple[int, ...], ...]
    if resolution_px < 64:
        patterns = ((1, 2, 1, 2), (1, 2, 2, 1), (2, 1, 1, 2), (2, 1, 2, 1), (2, 2, 1, 1))
        widths: tuple[tuple[int, ...], ...] = ((16, 32), (16, 32, 48), (32, 48, 64))
        return TreeSpace(
            channels, classes, resolutions, offer.widths((16, 32)), patterns, tuple(map(offer.widths, widths))
        )
    patterns = ((2, 2, 2, 1, 2), (2, 2, 2, 2, 1)) if resolution_px < 160 else ((2, 2, 2, 2, 2),)
    widths = ((16, 32), (32, 48), (48, 64, 96), (64, 96, 128))
    return TreeSpace(channels, classes, resolutions, offer.widths((16, 32)), patterns, tuple(map(offer.widths, widths)))


def _share(width: int, parts: int, number: int) -> int:
    return width // parts + (number < width % parts)


def _least(options: tuple[int, ...]) -> int:
    return options.index(min(options))


def _code(digits: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """One integer for the digits, each (values, how many there are)."""
    code = np.zeros(len(digits[0][0]), np.int64)
    for values, count in digits:
        code = code * count + values
    return code


def _alone(append: Append, name: str, channels: int, width: int) -> Network:
    b = Builder((1, channels, 8, 8))
    return b.finish(append(b, name, INPUT, width, 1))


def _macs_of(append: Append, width: int) -> int:
    return macs(_alone(append, "it", width, width))


def _weight_shapes(append: Append, name: str, channels: int, width: int) -> list[tuple[str, Shape]]:
    network = _alone(append, name, channels, width)
    return [(node.name, network.weight_shape(node)) for node in network.weighted()]
