"""Cell spaces: one small graph, repeated. Each edge carries an operation; a node is the sum of what comes in (NAS-Bench-201).

Operations and topology are data: an instance of CellSpace is the space. Unlike in the mobile space a Subnet is a network as written,
dead branches and all, because published latencies and accuracies of such spaces are of those; `network.readings` says what runs.
The space that a build trains is in `cell_stack`.

Genome: one gene an edge, edges by target and then by source, as in the architecture strings.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np

from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.costs import macs
from edgenas.network.graph import Network, Shape
from edgenas.spaces.operations import OPERATIONS, append
from edgenas.spaces.space import Genome, Subnet, crossed, mutated, random_genome

_EDGE = re.compile(r"([a-z0-9_]+)~(\d+)")


@dataclass(frozen=True)
class CellSpace:
    """`nodes` counts a cell's tensors, its input (node 0) and its output (the last) among them; every pair is an edge with one of
    `operations`. `repeats` cells a stage, of `widths[stage]` channels; between stages a residual block halves the resolution."""

    name: str
    nodes: int
    operations: tuple[str, ...]
    channels: int
    side_px: int
    classes: int
    widths: tuple[int, ...]
    repeats: int

    def __post_init__(self) -> None:
        unknown = set(self.operations) - set(OPERATIONS)
        if unknown or not self.operations:
            raise InputError(
                f"the cell space {self.name} knows no operation {sorted(unknown)}", f"Known: {', '.join(OPERATIONS)}."
            )
        if self.nodes < 2 or self.repeats < 1 or not self.widths:
            raise InputError(f"the cell space {self.name} needs at least 2 nodes, 1 repeat and 1 stage")

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(["cell", asdict(self)]).encode()).hexdigest()[:12]

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(target, source) of each gene."""
        return tuple((target, source) for target in range(1, self.nodes) for source in range(target))

    def radix(self) -> tuple[int, ...]:
        return (len(self.operations),) * len(self.edges)

    def size(self) -> int:
        """Architectures as written; many compute the same."""
        return prod(self.radix())

    def subnet(self, genome: Genome) -> Subnet:
        return Subnet(self.name, tuple(int(gene) for gene in genome))

    def sample(self, rng: np.random.Generator) -> Subnet:
        return self.subnet(random_genome(self.radix(), rng))

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet:
        return self.subnet(mutated(subnet.genome, self.radix(), rng, rate))

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet:
        return self.subnet(crossed(one.genome, other.genome, rng))

    def smallest(self) -> tuple[Subnet, ...]:
        """Every edge the operation with the fewest MACs: one for each operation that has none."""
        found = [self.subnet((i,) * len(self.edges)) for i in range(len(self.operations))]
        sizes = [macs(self.network(subnet)) for subnet in found]
        return tuple(subnet for subnet, size in zip(found, sizes, strict=True) if size == min(sizes))

    def largest(self) -> Subnet:
        """Every edge the operation with the most MACs."""
        found = [self.subnet((i,) * len(self.edges)) for i in range(len(self.operations))]
        return max(found, key=lambda subnet: macs(self.network(subnet)))

    def text(self, subnet: Subnet) -> str:
        """`|op~source|+|op~source|op~source|`: nodes joined with +, in each of them its edges."""
        groups: dict[int, list[str]] = {}
        for (target, source), gene in zip(self.edges, subnet.genome, strict=True):
            groups.setdefault(target, []).append(f"{self.operations[gene]}~{source}")
        return "+".join("|" + "|".join(group) + "|" for group in groups.values())

    def parse(self, text: str) -> Subnet:
        """The inverse of `text`. Raises InputError saying what is wrong with it."""
        genes = []
        groups = text.strip().split("+")
        for target, group in enumerate(groups, start=1):
            if not (group.startswith("|") and group.endswith("|")) or len(group) < 2:
                raise self._refusal(text, f"the part {group!r} doesn't stand between bars")
            for source, edge in enumerate(group[1:-1].split("|")):
                found = _EDGE.fullmatch(edge)
                if found is None or int(found[2]) != source or source >= target:
                    raise self._refusal(text, f"{edge!r} was found where an operation on node {source} was expected")
                if found[1] not in self.operations:
                    raise self._refusal(text, f"there is no operation {found[1]!r}")
                genes.append(self.operations.index(found[1]))
            if len(genes) != target * (target + 1) // 2:
                raise self._refusal(text, f"node {target} has too few edges")
        if len(genes) != len(self.edges):
            raise self._refusal(text, f"it has {len(groups)} nodes besides the input; {self.nodes - 1} were expected")
        return self.subnet(tuple(genes))

    def network(self, subnet: Subnet) -> Network:
        """As written: `none` is a node that makes zeros, `skip_connect` an Identity."""
        b = Builder((1, self.channels, self.side_px, self.side_px))
        x = b.conv("stem/conv", INPUT, self.widths[0], 3)
        for stage, width in enumerate(self.widths):
            if stage:
                x = self._reduction(b, f"reduction{stage}", x, width)
            for i in range(self.repeats):
                x = self._cell(b, f"stage{stage}/cell{i}", x, width, subnet.genome)
        x = b.global_average_pool("head/pool", b.activation("head/relu", x))
        return b.finish(b.linear("head/linear", b.flatten("head/flatten", x), self.classes))

    def _cell(self, b: Builder, name: str, x: str, width: int, genome: Genome) -> str:
        nodes = [x]
        genes = iter(genome)
        for target in range(1, self.nodes):
            made = [
                append(b, f"{name}/edge{target}{source}", self.operations[next(genes)], nodes[source], width)
                for source in range(target)
            ]
            total = made[0]
            for i, other in enumerate(made[1:], start=1):
                total = b.add(f"{name}/node{target}/add{i}", total, other)
            nodes.append(total)
        return nodes[-1]

    def _reduction(self, b: Builder, name: str, x: str, width: int) -> str:
        """NAS-Bench-201's: two 3x3 convolutions, each after a ReLU; average pool and 1x1 convolution beside them."""
        y = b.conv(f"{name}/conv1", b.activation(f"{name}/relu1", x), width, 3, 2)
        y = b.conv(f"{name}/conv2", b.activation(f"{name}/relu2", y), width, 3)
        beside = b.conv(f"{name}/project", b.average_pool(f"{name}/pool", x, 2, 2), width)
        return b.add(f"{name}/add", y, beside)

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        """One line a node."""
        groups = self.text(subnet).split("+")
        return tuple(f"node {i}: {group.strip('|').replace('|', ', ')}" for i, group in enumerate(groups, start=1))

    def layer_shapes(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for i in range(len(self.operations)):
            network = self.network(self.subnet((i,) * len(self.edges)))
            for node in network.weighted():
                shape = network.weight_shape(node)
                shapes[node.name] = tuple(map(max, shape, shapes.get(node.name, shape)))
        return shapes

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """The body, known by all genes, and the head, which is the same for all."""
        weights = np.array([prod(self.radix()[i + 1 :]) for i in range(len(self.edges))])
        body = genomes @ weights
        return np.stack([body, np.zeros_like(body)], axis=1)

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        names = [node.name for node in network.nodes]
        at = next(i for i, (_, after) in enumerate(pairwise(names), start=1) if after == "head/pool")
        return tuple(names[:at]), tuple(names[at:])

    def _refusal(self, text: str, problem: str) -> InputError:
        example = self.text(self.largest())
        return InputError(f"{text!r} is no architecture of {self.name}: {problem}", f"One looks like {example}.")


NAS_BENCH_201 = CellSpace(
    name="nas-bench-201",
    nodes=4,
    operations=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
    channels=3,
    side_px=32,
    classes=10,
    widths=(16, 32, 64),
    repeats=5,
)
"""15,625 cells (Dong & Yang, 2020), for CIFAR-10."""
