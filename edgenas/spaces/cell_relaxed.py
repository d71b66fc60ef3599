"""The cell space with its choices left open, as one network: every option is there, times its share.

An edge is the sum of its operations (DARTS: Liu et al., ICLR 2019); of a stage's channels each is there as much as the widths that have
it (FBNetV2: Wan et al., CVPR 2020); a stage's output is the sum of those after each number of cells. Resolution and stem change the
side of everything and aren't mixed: there is a network for each of them. With all of one option of each choice, the network computes
what the subnet of these options does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network, Shape
from edgenas.spaces.cell_forms import NONE
from edgenas.spaces.cell_stack import (
    GLOBAL_GENES,
    Activated,
    CellStack,
    append_operation,
    append_reduction,
    append_stem,
    operation_name,
)


@dataclass(frozen=True, eq=False)
class RelaxedNetwork:
    """`network` has, besides the images, inputs of factors (1, channels or 1, 1, 1). `factors[name]` (channels or 1, options), 0 or 1,
    times the shares of all options (options,), gene after gene, is what that input gets."""

    network: Network
    factors: dict[str, np.ndarray]


def relaxed_network(space: CellStack, resolution: int, stem: int) -> RelaxedNetwork:
    """At these options of the first two genes, whose shares it doesn't ask for."""
    px = space.resolutions_px[resolution]
    return _Relaxed(space, _Masked((1, space.channels, px, px))).network(space.stem_halvings[stem])


class _Masked(Builder):
    """Multiplies what every convolution makes with a factor for its channels, of its stage or of its own."""

    def __init__(self, input_shape: Shape) -> None:
        super().__init__(input_shape)
        self.factor_shapes: dict[str, Shape] = {}

    def conv(self, name: str, x: str, channels: int, *rest: int, **more: int) -> str:  # type: ignore[override]
        made = super().conv(name, x, channels, *rest, **more)
        place = name if name.startswith("stem/") else name.split("/")[0]
        return self.times(f"{name}/there", made, f"channels/{place}", channels)

    def times(self, name: str, x: str, factor: str, channels: int = 1) -> str:
        self.factor_shapes[factor] = self._shapes[factor] = (1, channels, 1, 1)
        return self.node(name, "Mul", (x, factor), self.shape(x))

    def finish(self, *outputs: str) -> Network:
        inputs = ((INPUT, self.input_shape), *self.factor_shapes.items())
        return Network(inputs, tuple(self._nodes), outputs)


class _Relaxed:
    def __init__(self, space: CellStack, masked: _Masked) -> None:
        self.space, self.masked, self.b = space, masked, Activated(masked)

    def network(self, halvings: int) -> RelaxedNetwork:
        space = self.space
        x = append_stem(self.b, INPUT, halvings, max(space.widths[0]))
        for stage, repeats in enumerate(space.repeats):
            if stage:
                x = append_reduction(self.b, x, f"stage{stage}/reduction", max(space.widths[stage]))
            after = [x]
            for i in range(max(repeats)):
                after.append(self.cell(f"stage{stage}/cell{i}", after[-1], max(space.widths[stage])))
            parts = [
                self.masked.times(f"stage{stage}/after{count}", after[count], f"repeats/{stage}/{option}")
                for option, count in enumerate(repeats)
            ]
            x = self.sum(f"stage{stage}/out", parts)
        x = self.masked.global_average_pool("head/pool", self.b.activated(x))
        x = self.masked.linear("head/linear", self.masked.flatten("head/flatten", x), space.classes)
        factors = {name: self.factor(name, shape[1]) for name, shape in self.masked.factor_shapes.items()}
        return RelaxedNetwork(self.masked.finish(x), factors)

    def cell(self, name: str, x: str, width: int) -> str:
        nodes = [x]
        for target in range(1, self.space.nodes):
            terms = []
            for number, edge in enumerate(self.space.edges):
                for option, operation in enumerate(self.space.operations):
                    if edge[0] == target and operation != NONE:
                        full = operation_name(name, edge, operation)
                        made = append_operation(self.b, nodes[edge[1]], full, operation, width)
                        terms.append(self.masked.times(f"{full}/share", made, f"edge/{number}/{option}"))
            nodes.append(self.sum(f"{name}/node{target}", terms))
        return nodes[-1]

    def sum(self, name: str, terms: list[str]) -> str:
        total = terms[0]
        for i, other in enumerate(terms[1:], start=1):
            total = self.masked.add(f"{name}/add{i}", total, other)
        return total

    def factor(self, name: str, channels: int) -> np.ndarray:
        """(channels, options): which options each channel is there with."""
        space, radix = self.space, self.space.radix()
        kind, *place = name.split("/")
        found = np.zeros((channels, sum(radix)))
        if kind == "channels":
            stage = 0 if place[0] == "stem" else int(place[0].removeprefix("stage"))
            gene = GLOBAL_GENES + 2 * stage
            for option, width in enumerate(space.widths[stage]):
                found[:width, sum(radix[:gene]) + option] = 1
        else:
            number, option = map(int, place)
            gene = space.edge_genes.start + number if kind == "edge" else GLOBAL_GENES + 2 * number + 1
            found[:, sum(radix[:gene]) + option] = 1
        return found
