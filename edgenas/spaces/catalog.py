"""The `catalog` space: networks that people designed, at several widths and input resolutions, fitted to the data.

A starting point and a yardstick for searched networks: what a device runs well among the well-known ones. The families and their
papers are in `families`. A subnet is a network as a whole, so it has one segment and one code; weights could be shared between the
widths of a family, but each network is made to be trained alone.

Genome: [family, width, resolution].
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod

import numpy as np

from edgenas.errors import InputError
from edgenas.network.builder import Builder
from edgenas.network.costs import macs, params
from edgenas.network.graph import Network, Shape
from edgenas.spaces.blocks import ACTIVATIONS
from edgenas.spaces.families import FAMILIES, WIDTHS, Sketch, deep_halvings
from edgenas.spaces.offer import ANYTHING, Offer
from edgenas.spaces.space import Genome, Subnet, crossed, mutated, random_genome

REVISION = 1  # part of the id: raise it when a family becomes another network
LEAST_RESOLUTION_PX = 24
LEAST_REDUCED_PX = 3


@dataclass(frozen=True)
class CatalogSpace:
    """Down-samplings are fitted to the largest of `resolutions_px`. `activations` are those that may be used, of ACTIVATIONS; what a
    family has besides becomes ReLU. Without `squeeze_excite` the families that have it are built without."""

    channels: int
    classes: int
    resolutions_px: tuple[int, ...]
    activations: tuple[str, ...] = ("relu", "relu6")
    squeeze_excite: bool = False
    families: tuple[str, ...] = tuple(FAMILIES)

    def __post_init__(self) -> None:
        for name in ("resolutions_px", "families"):
            if not getattr(self, name):
                raise InputError(f"the catalog has no options for {name}", "Give each choice at least one option.")
        if unknown := set(self.families) - set(FAMILIES):
            raise InputError(f"the catalog knows no family {sorted(unknown)}", f"Known: {', '.join(FAMILIES)}.")
        if unknown := set(self.activations) - set(ACTIVATIONS):
            raise InputError(f"the catalog knows no activation {sorted(unknown)}", f"Known: {', '.join(ACTIVATIONS)}.")
        if "relu" not in self.activations:
            raise InputError(
                f"the catalog needs relu, but the activations are {list(self.activations)}",
                "Add relu: most families have no other.",
            )

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(["catalog", REVISION, asdict(self)]).encode()).hexdigest()[:12]

    def radix(self) -> tuple[int, ...]:
        return (len(self.families), WIDTHS, len(self.resolutions_px))

    def size(self) -> int:
        return prod(self.radix())

    def subnet(self, genome: Genome) -> Subnet:
        """Every genome is another network, so it is canonical as it stands."""
        return Subnet("catalog", tuple(int(gene) for gene in genome))

    def sample(self, rng: np.random.Generator) -> Subnet:
        return self.subnet(random_genome(self.radix(), rng))

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet:
        return self.subnet(mutated(subnet.genome, self.radix(), rng, rate))

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet:
        """Uniform: a width's index means the same, narrow or wide, in every family."""
        return self.subnet(crossed(one.genome, other.genome, rng))

    def smallest(self) -> tuple[Subnet, ...]:
        """Each family at its least width, at the lowest resolution."""
        lowest = self.resolutions_px.index(min(self.resolutions_px))
        return tuple(self.subnet((family, 0, lowest)) for family in range(len(self.families)))

    def largest(self) -> Subnet:
        """The family with the most MACs at its greatest width, at the highest resolution."""
        highest = self.resolutions_px.index(max(self.resolutions_px))
        widest = [self.subnet((family, WIDTHS - 1, highest)) for family in range(len(self.families))]
        return max(widest, key=lambda subnet: macs(self.network(subnet)))

    def network(self, subnet: Subnet) -> Network:
        family, width, resolution = subnet.genome
        name, px = self.families[family], self.resolutions_px[resolution]
        sketch = Sketch(
            b=Builder((1, self.channels, px, px)),
            name=name,
            width=FAMILIES[name].widths[width],
            design_px=max(self.resolutions_px),
            classes=self.classes,
            activations=self.activations,
            squeeze_excite=self.squeeze_excite,
        )
        return sketch.b.finish(FAMILIES[name].build(sketch))

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        network = self.network(subnet)
        family = FAMILIES[self.families[subnet.genome[0]]]
        _, channels, px, _ = network.input_shape
        last = [node.shape for node in network.nodes if node.op == "Conv" and node.shape[2] > 1][-1:]
        maps = f"{last[0][1]} x {last[0][2]} x {last[0][3]}" if last else "1 px"
        return (
            f"input: {channels} x {px} x {px}",
            f"network: {family.title}, width {family.widths[subnet.genome[1]]:g}",
            f"last feature map: {maps}",
            f"size: {params(network):,} parameters, {macs(network) / 1e6:.1f} M MACs",
        )

    def layer_shapes(self) -> dict[str, Shape]:
        """Of each family its widest layers: names start with the family's, so no two families share one."""
        shapes: dict[str, Shape] = {}
        for genome in itertools.product(*map(range, self.radix())):
            network = self.network(self.subnet(genome))
            for node in network.weighted():
                shape = network.weight_shape(node)
                shapes[node.name] = tuple(map(max, shape, shapes.get(node.name, shape)))
        return shapes

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """(N, 1): one segment, the whole network, known by all genes."""
        _, widths, resolutions = self.radix()
        return ((genomes[:, 0] * widths + genomes[:, 1]) * resolutions + genomes[:, 2])[:, None]

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        return (tuple(node.name for node in network.nodes),)


def for_data(resolution_px: int, channels: int, classes: int, offer: Offer = ANYTHING) -> CatalogSpace:
    """The catalog for images of this side. Widths are the published ones, whatever the offer says of them.

    Half and three quarters of it are resolutions as well, where that is 24 px and leaves the deep families a feature map of 3 px.
    """
    times = 2 ** deep_halvings(resolution_px)
    smaller = [resolution_px * quarters // 4 // 4 * 4 for quarters in (2, 3)]
    usable = [px for px in smaller if px >= LEAST_RESOLUTION_PX and -(-px // times) >= LEAST_REDUCED_PX]
    return CatalogSpace(channels, classes, (*usable, resolution_px), offer.activations, offer.squeeze_excite)
