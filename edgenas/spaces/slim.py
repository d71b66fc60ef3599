"""The `slim` space: a network that somebody made, with fewer channels and fewer residual blocks.

Its largest subnet is that network itself. Channels that must be kept or dropped together (a group) have one width, and every width is
a prefix of the full one, so that weights whose channels are sorted by importance can be shared (Yu & Huang, Universally Slimmable
Networks, ICCV 2019). A residual block with an identity skip can be left out. Everything else stays: kernel sizes, resolution,
fully connected layers, and channels in no group.

Genome: [a gene a block (0: left out, 1: kept), a gene a group (an index into its widths)].
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil, prod

import numpy as np

from edgenas.errors import InputError
from edgenas.network.channels import with_widths
from edgenas.network.costs import macs, params
from edgenas.network.graph import Network, Shape
from edgenas.network.residual_blocks import STARTS, ResidualBlock, residual_blocks, without_blocks
from edgenas.spaces.space import Genome, Subnet, crossed, mutated

REVISION = 1  # part of the id: raise it when the same settings make other networks
MULTIPLE = 8  # channels in a vector register, or a part of one, of most devices
MOST_WIDTHS = 6
LEAST_SHARE = 0.25  # of a group's channels
KEEP_CHANCE = 0.75  # of each block, in a random subnet: without half of its blocks a network is hardly itself any more


@dataclass(frozen=True)
class Group:
    """Names of the convolutions that have one width, and the widths that it may take, ascending to the full one."""

    convs: tuple[str, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class SlimSpace:
    """`model` is the largest subnet. Make it with `for_model`, which finds the blocks and leaves out what has no choice."""

    model: Network
    groups: tuple[Group, ...]
    blocks: tuple[ResidualBlock, ...]

    @cached_property
    def id(self) -> str:
        settings = [asdict(self.model), [asdict(group) for group in self.groups], [block.end for block in self.blocks]]
        return hashlib.sha256(json.dumps(["slim", REVISION, settings], default=str).encode()).hexdigest()[:12]

    def radix(self) -> tuple[int, ...]:
        return (*(2 for _ in self.blocks), *(len(group.widths) for group in self.groups))

    def size(self) -> int:
        """A block that is left out takes the choices inside it along."""
        inside = [self._innermost(group.convs) for group in self.groups]
        parents = [self._innermost(block.members, but=i) for i, block in enumerate(self.blocks)]

        def of(place: int | None) -> int:
            own = prod(len(group.widths) for group, at in zip(self.groups, inside, strict=True) if at == place)
            return own * prod(1 + of(child) for child, at in enumerate(parents) if at == place)

        return of(None)

    def subnet(self, genome: Genome) -> Subnet:
        """Canonical: what lies inside a block that is left out is 0."""
        genes = [int(gene) for gene in genome]
        count = len(self.blocks)
        for place, outer in enumerate(self._outer):
            if any(not genes[block] for block in outer):
                genes[place] = 0
        for place, holders in enumerate(self._holders):
            if all(any(not genes[block] for block in blocks) for blocks in holders):
                genes[count + place] = 0
        return Subnet("slim", tuple(genes))

    def sample(self, rng: np.random.Generator) -> Subnet:
        kept = (int(rng.random() < KEEP_CHANCE) for _ in self.blocks)
        return self.subnet((*kept, *(int(rng.integers(len(group.widths))) for group in self.groups)))

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet:
        return self.subnet(mutated(subnet.genome, self.radix(), rng, rate))

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet:
        return self.subnet(crossed(one.genome, other.genome, rng))

    def smallest(self) -> tuple[Subnet, ...]:
        return (self.subnet((0,) * len(self.radix())),)

    def largest(self) -> Subnet:
        return self.subnet(tuple(options - 1 for options in self.radix()))

    def network(self, subnet: Subnet) -> Network:
        count = len(self.blocks)
        left_out = [block for block, kept in zip(self.blocks, subnet.genome[:count], strict=True) if not kept]
        chosen = zip(self.groups, subnet.genome[count:], strict=True)
        widths = {name: group.widths[gene] for group, gene in chosen for name in group.convs}
        return with_widths(without_blocks(self.model, left_out), widths)

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        network = self.network(subnet)
        _, channels, px, _ = network.input_shape
        there = network.by_name
        blocks = (f"block {_shared_path(block.members)}: {'kept' if block.end in there else 'left out'}"
                  for block in self.blocks)  # fmt: skip
        groups = (f"{_title(group)}: {_width_of(group, network)}" for group in self.groups)
        size = f"size: {params(network):,} parameters, {macs(network) / 1e6:.1f} M MACs"
        return (f"input: {channels} x {px} x {px}", *blocks, *groups, size)

    def layer_shapes(self) -> dict[str, Shape]:
        return {node.name: self.model.weight_shape(node) for node in self.model.weighted()}

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """Codes of the genes that each segment reads."""
        rows, radix = np.asarray(genomes, np.int64), np.array(self.radix())
        return np.stack([_codes(rows[:, genes], radix[genes]) for genes in self._genes_of_segments], axis=1)

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        """A segment whose blocks are all left out has none: it passes on what it got."""
        members: list[list[str]] = [[] for _ in self._genes_of_segments]
        for node in network.nodes:
            members[self._segment_of[node.name]].append(node.name)
        return tuple(map(tuple, members))

    @cached_property
    def _outer(self) -> list[list[int]]:
        """For each block, those that it lies inside."""
        return [[i for i, other in enumerate(self.blocks) if block.members < other.members] for block in self.blocks]

    @cached_property
    def _holders(self) -> list[list[list[int]]]:
        """For each group and each of its convolutions, the blocks that it lies in."""
        return [
            [[i for i, block in enumerate(self.blocks) if name in block.members] for name in group.convs]
            for group in self.groups
        ]

    def _innermost(self, names: Collection[str], but: int | None = None) -> int | None:
        """The smallest block (other than `but`) that holds them all."""
        holding = [i for i, block in enumerate(self.blocks) if i != but and block.members >= set(names)]
        return min(holding, key=lambda i: len(self.blocks[i].members), default=None)

    @cached_property
    def _segment_of(self) -> dict[str, int]:
        """The model is cut wherever a feature map is all that goes on, and what reads it starts a kernel."""
        place = {node.name: i for i, node in enumerate(self.model.nodes)}
        last_read = {name: max((place[user] for user in users), default=-1)
                     for name, users in self.model.consumers.items()}  # fmt: skip
        found: dict[str, int] = {}
        reach, segment = last_read[self.model.input_name], 0
        for i, node in enumerate(self.model.nodes):
            found[node.name] = segment
            is_map = len(node.shape) == 4 and node.shape[2] > 1
            if reach <= i and is_map and self._ops_reading(node.name) <= set(STARTS):
                segment += 1
            reach = max(reach, last_read[node.name])
        return found

    def _ops_reading(self, tensor: str) -> set[str]:
        return {self.model.by_name[name].op for name in self.model.consumers[tensor]}

    @cached_property
    def _genes_of_segments(self) -> list[list[int]]:
        """The blocks inside, and the groups whose channels are read or made there."""
        gene_of = {name: len(self.blocks) + i for i, group in enumerate(self.groups) for name in group.convs}
        made: dict[str, set[int]] = {self.model.input_name: set()}  # tensor -> the genes that its channels depend on
        genes: list[set[int]] = [set() for _ in range(1 + max(self._segment_of.values()))]
        for node in self.model.nodes:
            read = set[int]().union(*(made[name] for name in node.inputs))
            is_anew = node.op == "Gemm" or (node.op == "Conv" and not node.is_depthwise)
            made[node.name] = ({gene_of[node.name]} if node.name in gene_of else set()) if is_anew else read
            genes[self._segment_of[node.name]] |= read | made[node.name]
        for i, block in enumerate(self.blocks):
            for name in block.members:
                genes[self._segment_of[name]].add(i)
        if any(width % MULTIPLE for group in self.groups for width in group.widths):
            # a convolution that reads an odd width may run in another layout, and what follows then does as well
            genes = list(itertools.accumulate(genes, lambda before, own: before | own))
        return [sorted(each) for each in genes]


def for_model(model: Network, groups: Sequence[tuple[str, ...]], multiple: int = MULTIPLE) -> SlimSpace:
    """The space of a network with these channel groups; `multiple` is of channels that the device runs well.

    Raises InputError where there is nothing to choose: no group is wider than `multiple`, and no block can be left out.
    """
    blocks = residual_blocks(model)
    options = (Group(names, width_options(model.by_name[names[0]].shape[1], multiple)) for names in groups)
    chosen = tuple(group for group in options if len(group.widths) > 1 and _is_settled(group, blocks))
    if not chosen and not blocks:
        raise InputError(
            f"nothing of the model can be made smaller: it has no residual block that can be left out, and no convolution "
            f"of more than {multiple} channels that nothing else ties",
            "Use a wider model, or search another space: --space mobile without --model.",
        )
    return SlimSpace(model, chosen, blocks)


def width_options(full: int, multiple: int) -> tuple[int, ...]:
    """At most six widths: multiples of `multiple` from a quarter of `full` on, evenly spread, and `full` itself."""
    least = max(1, ceil(full * LEAST_SHARE / multiple))
    below = np.arange(least, ceil(full / multiple)) * multiple
    picked = np.unique(np.linspace(0, len(below) - 1, min(len(below), MOST_WIDTHS - 1)).round().astype(int))
    return (*(int(width) for width in below[picked]), full)


def _is_settled(group: Group, blocks: Sequence[ResidualBlock]) -> bool:
    """Not spread over blocks alone that can go one by one: whether it is there would depend on several."""
    holding = [block for block in blocks if block.members >= set(group.convs)]
    inner = min(holding, key=lambda block: len(block.members), default=None)
    smaller = [block for block in blocks if inner is None or block.members < inner.members]
    return any(all(name not in block.members for block in smaller) for name in group.convs)


def _codes(rows: np.ndarray, radix: np.ndarray) -> np.ndarray:
    """(N, genes) -> (N,): mixed radix; where that is too long for 63 bits, a hash."""
    if prod(map(int, radix)) < 2**63:
        places = np.concatenate([[1], np.cumprod(radix[:-1])]).astype(np.int64)[: len(radix)]
        codes: np.ndarray = rows @ places
        return codes
    digests = (hashlib.sha256(row.tobytes()).digest()[:7] for row in rows)
    return np.array([int.from_bytes(digest, "big") for digest in digests], np.int64)


def _title(group: Group) -> str:
    first = group.convs[0].rsplit("/", 1)[0]
    return first if len(group.convs) == 1 else f"{first} and {len(group.convs) - 1} more"


def _width_of(group: Group, network: Network) -> str:
    there = [network.by_name[name].shape[1] for name in group.convs if name in network.by_name]
    return f"{there[0]} of {group.widths[-1]} channels" if there else "left out with its block"


def _shared_path(names: Collection[str]) -> str:
    """The module that the nodes have in common, else the last of them."""
    paths = [name.split("/") for name in names]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    return "/".join(shared) or max(names)
