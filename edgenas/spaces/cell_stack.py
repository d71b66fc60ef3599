"""The `cell` space as it is trained: one small graph, repeated in stages, and how often and how wide each stage has it.

As in NAS-Bench-201 (Dong & Yang, ICLR 2020) each edge carries an operation, a node is the sum of what comes in, and convolutions stand
between a ReLU and a BatchNorm; between stages a residual block halves the resolution. Unlike `cell.CellSpace`, whose networks are as
published, this one writes down what runs: `none` is no node, a skip no node either, one ReLU or pool serves all that read it, and of
all genes that come to the same cell there is one (`cell_forms`). Every edge and operation has weights of its own.

Genome: [resolution, stem, (width, repeats) per stage, a gene an edge].
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from math import prod

import numpy as np

from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.costs import macs
from edgenas.network.graph import Network, Shape
from edgenas.spaces.cell_forms import NONE, SKIP, Edge, alone, canonical_cells, edges_of, refuse_what_makes_no_cell
from edgenas.spaces.offer import ANYTHING, Offer
from edgenas.spaces.operations import OPERATIONS, append_steps, has_weights
from edgenas.spaces.space import Genome, Subnet, crossed, mutated, random_genome

NAS_BENCH_201_OPERATIONS = (NONE, SKIP, "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
MULTIPLE = (
    16  # of all widths: whole blocks of channels in every runtime's layout, so that a stage's kernels are its own
)
STEM_WIDTH = 16  # of its first convolution, doubled from one to the next
GLOBAL_GENES = 2
LEAST_PX, MOST_PX = 6, 16  # a side of the first stage's feature maps


@dataclass(frozen=True)
class CellStack:
    """`stem_halvings`: how many convolutions of stride 2 come first (one of stride 1 where none). `widths[stage]` are channels;
    `repeats[stage]` are numbers of cells, 1 or more."""

    channels: int
    classes: int
    resolutions_px: tuple[int, ...]
    stem_halvings: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    repeats: tuple[tuple[int, ...], ...]
    operations: tuple[str, ...] = NAS_BENCH_201_OPERATIONS
    nodes: int = 4

    def __post_init__(self) -> None:
        for name in ("resolutions_px", "stem_halvings", "widths", "repeats", "operations"):
            options = getattr(self, name)
            if not options or () in options:
                raise InputError(f"the cell space has no options for {name}", "Give each choice at least one option.")
        refuse_what_makes_no_cell(self.nodes, self.operations)
        every = sorted({*itertools.chain(*self.widths)})
        if any(width < 1 or width % MULTIPLE for width in every):
            raise InputError(f"the widths of cells are multiples of {MULTIPLE}, but got {every}")
        if len(self.repeats) != len(self.widths) or min(map(min, self.repeats)) < 1 or min(self.stem_halvings) < 0:
            raise InputError(
                f"repeats needs numbers from 1 on for each of the {len(self.widths)} stages of widths, and stem_halvings numbers from "
                f"0 on, but got repeats={self.repeats}, stem_halvings={self.stem_halvings}"
            )

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(["cell stack", asdict(self)]).encode()).hexdigest()[:12]

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """(target, source) of each of the last genes."""
        return edges_of(self.nodes)

    @cached_property
    def edge_genes(self) -> slice:
        """Where the genes of the edges are."""
        return slice(GLOBAL_GENES + 2 * len(self.widths), None)

    def radix(self) -> tuple[int, ...]:
        return self._radix

    @cached_property
    def _radix(self) -> tuple[int, ...]:
        stages = itertools.chain(*((len(w), len(r)) for w, r in zip(self.widths, self.repeats, strict=True)))
        return (
            len(self.resolutions_px),
            len(self.stem_halvings),
            *stages,
            *(len(self.operations) for _ in self.edges),
        )

    @cached_property
    def cells(self) -> tuple[Genome, ...]:
        """Every distinct cell, as its genes."""
        return tuple(dict.fromkeys(canonical_cells(self.nodes, self.operations).values()))

    def size(self) -> int:
        """Distinct subnets, exactly: how often a cell that only hands on stands in a stage is of no account."""
        plain = sum(self._is_identity(cell) for cell in self.cells)
        choices = prod(self.radix()[:GLOBAL_GENES]) * prod(map(len, self.widths))
        return choices * (plain + (len(self.cells) - plain) * prod(map(len, self.repeats)))

    def subnet(self, genome: Genome) -> Subnet:
        genes = [int(gene) for gene in genome]
        cell = canonical_cells(self.nodes, self.operations)[tuple(genes[self.edge_genes])]
        genes[self.edge_genes] = cell
        if self._is_identity(cell):
            for stage in range(len(self.widths)):
                genes[GLOBAL_GENES + 2 * stage + 1] = 0
        return Subnet("cell", tuple(genes))

    def sample(self, rng: np.random.Generator) -> Subnet:
        return self.subnet(random_genome(self.radix(), rng))

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet:
        return self.subnet(mutated(subnet.genome, self.radix(), rng, rate))

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet:
        """Uniform; a stage's width and repeats travel together."""
        genes = list(crossed(one.genome, other.genome, rng))
        for start in range(GLOBAL_GENES, GLOBAL_GENES + 2 * len(self.widths), 2):
            genes[start : start + 2] = (one if rng.random() < 0.5 else other).genome[start : start + 2]
        return self.subnet(tuple(genes))

    def smallest(self) -> tuple[Subnet, ...]:
        """One cell a stage with one operation alone, once for each, at the least of everything and the stem that costs least."""
        stages = [(w.index(min(w)), r.index(min(r))) for w, r in zip(self.widths, self.repeats, strict=True)]
        found = []
        for operation in self.operations:
            if operation != NONE:
                cell = alone(self.nodes, self.operations, operation)
                found.append(min(self._with_every_stem(min(self.resolutions_px), stages, cell), key=self._macs))
        return tuple(dict.fromkeys(found))

    def largest(self) -> Subnet:
        """The operation with the most MACs on every edge, the most of everything, and the stem after which it costs most."""
        stages = [(w.index(max(w)), r.index(max(r))) for w, r in zip(self.widths, self.repeats, strict=True)]
        cells = [(gene,) * len(self.edges) for gene, name in enumerate(self.operations) if name != NONE]
        choices = (self._with_every_stem(max(self.resolutions_px), stages, cell) for cell in cells)
        return max(itertools.chain(*choices), key=self._macs)

    def _with_every_stem(self, px: int, stages: list[tuple[int, int]], cell: Genome) -> list[Subnet]:
        at = self.resolutions_px.index(px)
        return [self.subnet((at, stem, *itertools.chain(*stages), *cell)) for stem in range(len(self.stem_halvings))]

    def _macs(self, subnet: Subnet) -> int:
        return macs(self.network(subnet))

    def operations_of(self, subnet: Subnet) -> dict[Edge, str]:
        """What the cell has on its edges; those that are dead are left out."""
        chosen = zip(self.edges, subnet.genome[self.edge_genes], strict=True)
        return {edge: self.operations[gene] for edge, gene in chosen if self.operations[gene] != NONE}

    def network(self, subnet: Subnet) -> Network:
        px = self.resolutions_px[subnet.genome[0]]
        b = Activated(Builder((1, self.channels, px, px)))
        cell = self.operations_of(subnet)
        first, _ = self._stage_values(subnet, 0)
        x = append_stem(b, INPUT, self.stem_halvings[subnet.genome[1]], first)
        for stage in range(len(self.widths)):
            width, repeats = self._stage_values(subnet, stage)
            if stage:
                x = append_reduction(b, x, f"stage{stage}/reduction", width)
            for i in range(repeats):
                x = self._cell(b, f"stage{stage}/cell{i}", cell, x, width)
            activated = b.activated(x)  # what comes next reads it; here it belongs to the stage
        x = b.to.global_average_pool("head/pool", activated)
        return b.to.finish(b.to.linear("head/linear", b.to.flatten("head/flatten", x), self.classes))

    def _cell(self, b: Activated, name: str, cell: dict[Edge, str], x: str, width: int) -> str:
        nodes: dict[int, str] = {0: x}
        for target in range(1, self.nodes):
            terms = [
                append_operation(b, nodes[edge[1]], operation_name(name, edge, operation), operation, width)
                for edge, operation in cell.items()
                if edge[0] == target
            ]
            if not terms:
                continue  # a node that nothing arrives at
            total = terms[0]
            for i, other in enumerate(terms[1:], start=1):
                total = b.to.add(f"{name}/node{target}/add{i}", total, other)
            nodes[target] = total
        return nodes[self.nodes - 1]

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        px, halvings = self.resolutions_px[subnet.genome[0]], self.stem_halvings[subnet.genome[1]]
        cell = self.operations_of(subnet)
        lines = [f"input: {self.channels} x {px} x {px}"]
        lines.append(f"stem: {max(halvings, 1)} x conv 3x3, stride {2 if halvings else 1}")
        for stage in range(len(self.widths)):
            width, repeats = self._stage_values(subnet, stage)
            count = "no cell" if self._is_identity(subnet.genome[self.edge_genes]) else f"{repeats} x cell"
            lines.append(f"stage {stage + 1}: {count}, {width} channels")
        for target in range(1, self.nodes):
            made = [f"{cell[target, source]} of {source}" for source in range(target) if (target, source) in cell]
            lines.append(f"cell, node {target}: {' + '.join(made) or 'none'}")
        return (*lines, f"head: pool, {self.classes} classes")

    def layer_shapes(self) -> dict[str, Shape]:
        """Exact: every operation that stands on an edge of some cell, at the stage's greatest width."""
        shapes: dict[str, Shape] = {}

        def hold(found: list[tuple[str, Shape]]) -> None:
            for name, shape in found:
                shapes[name] = tuple(map(max, shape, shapes.get(name, shape)))

        for halvings, width in itertools.product(self.stem_halvings, self.widths[0]):
            hold(_shapes(self.channels, partial(append_stem, halvings=halvings, width=width)))
        used = {
            (edge, self.operations[gene]) for cell in self.cells for edge, gene in zip(self.edges, cell, strict=True)
        }
        for stage, (widths, repeats) in enumerate(zip(self.widths, self.repeats, strict=True)):
            width = max(widths)
            if stage:
                before = max(self.widths[stage - 1])
                hold(_shapes(before, partial(append_reduction, name=f"stage{stage}/reduction", width=width)))
            for i, (edge, operation) in itertools.product(range(max(repeats)), sorted(used)):
                if operation != NONE:
                    name = operation_name(f"stage{stage}/cell{i}", edge, operation)
                    hold(_shapes(width, partial(append_operation, name=name, operation=operation, width=width)))
        shapes["head/linear"] = (self.classes, max(self.widths[-1]))
        return shapes

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """The stem and the first stage; each other stage with the reduction before it; the head. A stage is known by the side of its
        input, its width and the one before it, how often it has the cell, and the cell."""
        radix = np.array(self.radix())
        places = np.array([prod(self.radix()[i + 1 :]) for i in range(len(radix))])
        cell = genomes[:, self.edge_genes] @ places[self.edge_genes]
        side = genomes[:, 0] * radix[1] + genomes[:, 1]
        columns = []
        for stage in range(len(self.widths)):
            at = GLOBAL_GENES + 2 * stage
            code = side
            for gene in (at - 2, at, at + 1) if stage else (at, at + 1):
                code = code * radix[gene] + genomes[:, gene]
            columns.append(code * prod(self.radix()[self.edge_genes]) + cell)
        last = GLOBAL_GENES + 2 * len(self.widths) - 2
        columns.append(side * radix[last] + genomes[:, last])
        return np.stack(columns, axis=1)

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        """A cell that only hands on leaves the stage with its reduction alone."""
        prefixes = [("stem/", "stage0/"), *((f"stage{i}/",) for i in range(1, len(self.widths))), ("head/",)]
        return tuple(tuple(n.name for n in network.nodes if n.name.startswith(p)) for p in prefixes)

    def _is_identity(self, cell: Genome) -> bool:
        return SKIP in self.operations and cell == canonical_cells(self.nodes, self.operations)[self._skip]

    @cached_property
    def _skip(self) -> Genome:
        return alone(self.nodes, self.operations, SKIP)

    def _stage_values(self, subnet: Subnet, stage: int) -> tuple[int, int]:
        width, repeats = subnet.genome[GLOBAL_GENES + 2 * stage :][:2]
        return self.widths[stage][width], self.repeats[stage][repeats]


class Activated:
    """A Builder with one ReLU for each tensor, made when it is first asked for and called after what made the tensor; and one pool of
    a kind for each tensor."""

    def __init__(self, to: Builder) -> None:
        self.to = to
        self._activated: dict[str, str] = {}
        self._pooled: dict[tuple[str, str], str] = {}

    def activated(self, x: str) -> str:
        if x not in self._activated:
            self._activated[x] = self.to.activation(f"{x}/relu", x)
        return self._activated[x]

    def pooled(self, x: str, operation: str, make: Callable[[], str]) -> str:
        if (x, operation) not in self._pooled:
            self._pooled[x, operation] = make()
        return self._pooled[x, operation]


def for_data(resolution_px: int, channels: int, classes: int, offer: Offer = ANYTHING) -> CellStack:
    """The space that suits images of this side: three stages, the first on maps of at most MOST_PX, after either of two stems."""
    smaller = resolution_px * 3 // 4 // 4 * 4
    resolutions = (smaller, resolution_px) if smaller >= 48 else (resolution_px,)
    halvings = 0
    while -(-resolution_px // 2**halvings) > MOST_PX:
        halvings += 1
    stems = (halvings, halvings + 1) if -(-resolution_px // 2 ** (halvings + 1)) >= LEAST_PX else (halvings,)
    widths = ((16, 32), (32, 48), (48, 64)) if resolution_px < 64 else ((16, 32), (32, 64), (64, 96))
    options = tuple(map(offer.widths, widths))
    return CellStack(channels, classes, resolutions, stems, options, ((1, 2),) * len(widths))


def append_stem(b: Activated, x: str, halvings: int, width: int) -> str:
    """As many convolutions of stride 2 as `halvings`, or one of stride 1; the last one makes `width` channels."""
    for i in range(max(halvings, 1)):
        is_last = i + 1 >= halvings
        channels = width if is_last else min(width, STEM_WIDTH * 2**i)
        x = b.to.conv(f"stem/conv{i}", b.activated(x) if i else x, channels, 3, 2 if halvings else 1)
    return x


def append_reduction(b: Activated, x: str, name: str, width: int) -> str:
    """NAS-Bench-201's: two 3x3 convolutions, each after a ReLU; average pool and 1x1 convolution beside them. The pool is 3x3, so that
    odd sides come out alike."""
    y = b.to.conv(f"{name}/conv1", b.activated(x), width, 3, 2)
    y = b.to.conv(f"{name}/conv2", b.activated(y), width, 3)
    beside = b.to.conv(f"{name}/project", b.to.average_pool(f"{name}/pool", x, 3, 2, 1), width)
    return b.to.add(f"{name}/add", y, beside)


def operation_name(cell: str, edge: Edge, operation: str) -> str:
    target, source = edge
    return f"{cell}/edge{target}{source}/{operation}"


def append_operation(b: Activated, x: str, name: str, operation: str, width: int) -> str:
    """Returns what the operation makes of `x`: for a skip that is `x` itself."""
    if operation == SKIP:
        return x
    steps = OPERATIONS[operation]
    after_relu = steps[0].kind == "relu"
    if has_weights(operation):
        return append_steps(b.to, name, steps[after_relu:], b.activated(x) if after_relu else x, width)
    return b.pooled(x, operation, lambda: append_steps(b.to, name, steps, x, width))


def _shapes(channels: int, append: Callable[[Activated, str], str]) -> list[tuple[str, Shape]]:
    """(name, weight shape) of what `append` makes of a tensor with so many channels."""
    b = Activated(Builder((1, channels, 8, 8)))
    network = b.to.finish(append(b, INPUT))
    return [(node.name, network.weight_shape(node)) for node in network.weighted()]
