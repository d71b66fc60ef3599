"""The `mobile` space: per stage plain, residual, fused MBConv, MBConv or separable blocks, and the device's table decides which.

A subnet chooses the input resolution, the stem's width (and, of small images, whether it is one convolution or two), where to
down-sample, per stage the block type, depth, kernel size, expand ratio and width, and a pooled or a flatten head; where the device does
them well also the activation and squeeze-excite. On a CPU with fast INT8 3x3 convolutions the plain types win; on others the depthwise
ones do. Blocks: ResNet (He et al. 2016), MobileNet (Howard et al. 2017), MobileNetV2 (Sandler et al. 2018), MobileNetV3 (Howard et al.
2019), EfficientNetV2 (Tan & Le 2021).

Genome: [resolution, stem, down-sampling, (type, depth, kernel, expand, width, activation, squeeze-excite) per stage, head], the
activation and squeeze-excite only where there are several options.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from math import prod

import numpy as np

from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.network.costs import macs
from edgenas.network.graph import Network, Shape
from edgenas.spaces.blocks import ACTIVATIONS, BLOCKS, block_expand, block_kernel, block_squeeze_excite, block_width
from edgenas.spaces.offer import ANYTHING, Offer
from edgenas.spaces.space import Genome, Subnet, mutated, random_genome

OWN_GENES = 5  # of a stage; those of the space's activations and squeeze-excite come after them
HEADS = ("pool", "flatten")
LATER = ("activations", "squeeze_excite", "double_stem_widths")  # than the first version's settings
UNIFORM_SHARE = 0.5  # of the samples
STEM_LAYERS = ("", "2")


@dataclass(frozen=True)
class Stage:
    """The options of one stage. `kernels` are sides in pixels; `widths` are output channels, of separable blocks half of them."""

    types: tuple[str, ...] = ("plain", "residual", "fused", "mbconv", "separable")
    depths: tuple[int, ...] = (1, 2)
    kernels: tuple[int, ...] = (3, 5)
    expands: tuple[int, ...] = (1, 2, 4)
    widths: tuple[int, ...] = (16, 32)


@dataclass(frozen=True)
class MobileSpace:
    channels: int
    classes: int
    resolutions_px: tuple[int, ...]
    stem_widths: tuple[int, ...]
    downsampling: tuple[tuple[int, ...], ...]  # strides of the stem and of each stage
    stages: tuple[Stage, ...]
    heads: tuple[str, ...] = HEADS
    activations: tuple[str, ...] = ("relu",)  # of the blocks; the stem's is ReLU
    squeeze_excite: tuple[bool, ...] = (False,)  # in MBConv blocks
    double_stem_widths: tuple[int, ...] = ()  # of stems of two convolutions; the second strides never

    def __post_init__(self) -> None:
        for name, options in [(f.name, getattr(s, f.name)) for s in self.stages for f in fields(s)] + [
            (f.name, getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("channels", "classes", "double_stem_widths")
        ]:
            if not options:
                raise InputError(f"the mobile space has no options for {name}", "Give each choice at least one option.")
        unknown = {t for stage in self.stages for t in stage.types} - set(BLOCKS)
        if unknown:
            raise InputError(f"the mobile space knows no block type {sorted(unknown)}", f"Known: {', '.join(BLOCKS)}.")
        if unknown := set(self.activations) - set(ACTIVATIONS):
            raise InputError(
                f"the mobile space knows no activation {sorted(unknown)}", f"Known: {', '.join(ACTIVATIONS)}."
            )

    @cached_property
    def id(self) -> str:
        settings = asdict(self)
        # what came later and isn't used leaves the id of what was measured and trained before
        for field in fields(self):
            if field.name in LATER and settings[field.name] == field.default:
                del settings[field.name]
        return hashlib.sha256(json.dumps(["mobile", settings]).encode()).hexdigest()[:12]

    @cached_property
    def stems(self) -> tuple[tuple[int, ...], ...]:
        """Output channels of the convolutions of each."""
        return (*((width,) for width in self.stem_widths), *((width, width) for width in self.double_stem_widths))

    def radix(self) -> tuple[int, ...]:
        return self._radix

    @cached_property
    def _radix(self) -> tuple[int, ...]:
        per_stage = [len(options) for stage in self.stages for options in self._ranges(stage)]
        return (
            len(self.resolutions_px),
            len(self.stems),
            len(self.downsampling),
            *per_stage,
            len(self.heads),
        )

    def size(self) -> int:
        """Distinct subnets (inactive genes don't count)."""
        stages = [len(set(canonical.values())) for canonical in self._canonical]
        return prod(stages) * prod(self.radix()[:3]) * len(self.heads)

    def subnet(self, genome: Genome) -> Subnet:
        """The canonical Subnet of `genome`: genes that the chosen block types don't read are 0."""
        genes = [int(g) for g in genome]
        for i, canonical in enumerate(self._canonical):
            start, stop = self._stage_span(i)
            genes[start:stop] = canonical[tuple(genes[start:stop])]
        return Subnet("mobile", tuple(genes))

    @cached_property
    def _canonical(self) -> tuple[dict[Genome, Genome], ...]:
        """For each stage: its genes -> those of the first subnet that comes to the same. Searches ask a hundred thousand times."""
        return tuple(
            {genes: self._canonical_stage(stage, genes) for genes in itertools.product(*self._ranges(stage))}
            for stage in self.stages
        )

    def sample(self, rng: np.random.Generator) -> Subnet:
        """Every other one has blocks of one type, as those that people design, where there is a type that all stages have: drawn stage
        by stage, one of twenty-five or fewer would."""
        genes = list(random_genome(self.radix(), rng))
        if self._common_types and rng.random() < UNIFORM_SHARE:
            kind = self._common_types[rng.integers(len(self._common_types))]
            for i, stage in enumerate(self.stages):
                genes[self._stage_span(i)[0]] = stage.types.index(kind)
        return self.subnet(tuple(genes))

    @cached_property
    def _common_types(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.stages[0].types if all(kind in stage.types for stage in self.stages))

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> Subnet:
        return self.subnet(mutated(subnet.genome, self.radix(), rng, rate))

    def crossover(self, one: Subnet, other: Subnet, rng: np.random.Generator) -> Subnet:
        """Uniform, but a stage's genes travel together: they only mean something with their block type."""
        genes = list(one.genome)
        for start, stop in self._groups():
            if rng.random() < 0.5:
                genes[start:stop] = other.genome[start:stop]
        return self.subnet(tuple(genes))

    def smallest(self) -> tuple[Subnet, ...]:
        """The least of everything with the earliest down-sampling, once for each block type."""
        found = []
        for name in BLOCKS:
            genes = [0] * len(self.radix())
            genes[2] = self._downsampling_by_area()[0]
            for i, stage in enumerate(self.stages):
                at, _ = self._stage_span(i)
                genes[at] = stage.types.index(name) if name in stage.types else 0
                self._choose(genes, i, "relu" if "relu" in self.activations else self.activations[0], False)
            found.append(self.subnet(tuple(genes)))
        return tuple(dict.fromkeys(found))

    def largest(self) -> Subnet:
        """The most of everything with the latest down-sampling, and a pooled head. From the first stage on each has the block type that
        makes the most MACs of what is chosen so far: another combination may have a tenth more."""
        genes = self._top()
        genes[2] = self._downsampling_by_area()[-1]
        for i, stage in enumerate(self.stages):
            self._choose(genes, i, self.activations[-1], True)
            choices = [genes[:] for _ in stage.types]
            for t, choice in enumerate(choices):
                choice[self._stage_span(i)[0]] = t
            genes = max(choices, key=lambda choice: macs(self.network(self.subnet(tuple(choice)))))
        genes[-1] = 0
        subnets = [self.subnet((genes[0], stem, *genes[2:])) for stem in range(len(self.stems))]
        return max(subnets, key=lambda subnet: macs(self.network(subnet)))

    def network(self, subnet: Subnet) -> Network:
        px = self.resolutions_px[subnet.genome[0]]
        strides = self.downsampling[subnet.genome[2]]
        b = Builder((1, self.channels, px, px))
        x = INPUT
        for name, width, stride in zip(STEM_LAYERS, self.stems[subnet.genome[1]], (strides[0], 1), strict=False):
            x = b.activation(f"stem/relu{name}", b.conv(f"stem/conv{name}", x, width, 3, stride))
        for i in range(len(self.stages)):
            kind, depth, kernel, expand, width = self._stage_values(subnet, i)
            activation, excite = self._gates(subnet, i)
            for j in range(depth):
                name, stride = f"stage{i}/block{j}/{kind}", strides[i + 1] if j == 0 else 1
                x = BLOCKS[kind](b, name, x, width, kernel, expand, stride, activation, excite)
        if self.heads[subnet.genome[-1]] == "pool":
            return b.finish(
                b.linear("head/pooled", b.flatten("head/flatten", b.global_average_pool("head/pool", x)), self.classes)
            )
        side = b.shape(x)[2]
        return b.finish(b.linear(f"head/flat{side}px", b.flatten("head/flatten", x), self.classes))

    def describe(self, subnet: Subnet) -> tuple[str, ...]:
        strides = self.downsampling[subnet.genome[2]]
        px = self.resolutions_px[subnet.genome[0]]
        lines = [f"input: {self.channels} x {px} x {px}"]
        stem = self.stems[subnet.genome[1]]
        count = f"{len(stem)} x " if len(stem) > 1 else ""
        lines.append(f"stem: {count}conv 3x3, {stem[0]} channels, stride {strides[0]}")
        for i in range(len(self.stages)):
            kind, depth, kernel, expand, width = self._stage_values(subnet, i)
            used = [f"kernel {block_kernel(kind, kernel)}"]
            if block_expand(kind, 2) > 1:
                used.append(f"expand {expand}")
            activation, excite = self._gates(subnet, i)
            used += [activation] if len(self.activations) > 1 else []
            used += ["squeeze-excite"] if excite else []
            lines.append(
                f"stage {i + 1}: {depth} x {kind}, {', '.join(used)}, {width} channels, stride {strides[i + 1]}"
            )
        return (*lines, f"head: {self.heads[subnet.genome[-1]]}, {self.classes} classes")

    def layer_shapes(self) -> dict[str, Shape]:
        """Found by building, per stage and type, the widest subnets: every shape is monotone in width, kernel and expand ratio."""
        shapes: dict[str, Shape] = {}
        top = self._top()
        kinds = max(len(stage.types) for stage in self.stages)
        for pattern, t, head in itertools.product(range(len(self.downsampling)), range(kinds), range(len(self.heads))):
            genes = [*top[:2], pattern, *top[3:-1], head]
            for i, stage in enumerate(self.stages):
                genes[self._stage_span(i)[0]] = min(t, len(stage.types) - 1)
                self._choose(genes, i, self.activations[-1], True)
            for resolution in range(len(self.resolutions_px)):
                genes[0] = resolution
                for name, shape in _weight_shapes(self.network(self.subnet(tuple(genes)))):
                    shapes[name] = tuple(map(max, shape, shapes.get(name, shape)))
        # some layers exist only where shapes differ, or without an expansion: ask for the narrow widths and all ratios too
        for name, shape in self._narrow_shapes():
            shapes[name] = tuple(map(max, shape, shapes.get(name, shape)))
        return shapes

    def _narrow_shapes(self) -> list[tuple[str, Shape]]:
        found = []
        top = self._top()
        for i, stage in enumerate(self.stages):
            options = [range(len(o)) for o in (stage.types, stage.expands, stage.widths)]
            for (t, expand, width), before in itertools.product(itertools.product(*options), self._widths_before(i)):
                genes = top[:]
                at, _ = self._stage_span(i)
                genes[at], genes[at + 3], genes[at + 4] = t, expand, width
                for gene, option in before:
                    genes[gene] = option
                found.extend(_weight_shapes(self.network(self.subnet(tuple(genes)))))
        return found

    def _widths_before(self, i: int) -> list[tuple[tuple[int, int], ...]]:
        """All that may be the channels that stage i gets, as (gene, option) pairs, those of one block type for each width that types
        make of an option."""
        if i == 0:
            return [((1, option),) for option in range(len(self.stems))]
        (at, _), stage = self._stage_span(i - 1), self.stages[i - 1]
        found: dict[int, tuple[tuple[int, int], ...]] = {}
        for t, kind in enumerate(stage.types):
            for option, width in enumerate(stage.widths):
                found[block_width(kind, width)] = ((at, t), (at + 4, option))
        return list(found.values())

    def segments(self, genomes: np.ndarray) -> np.ndarray:
        """Stem, stages, head. A stage is known by its genes, the width before it, the resolution and the down-sampling."""
        radix = np.array(self.radix())
        place = genomes[:, 0] * radix[2] + genomes[:, 2]
        columns = [place * radix[1] + genomes[:, 1]]
        before, before_radix = genomes[:, 1], radix[1]
        for i in range(len(self.stages)):
            start, stop = self._stage_span(i)
            code = place * before_radix + before
            for gene in range(start, stop):
                code = code * radix[gene] + genomes[:, gene]
            columns.append(code)
            before = genomes[:, start] * radix[start + 4] + genomes[:, start + 4]  # the type says what a width means
            before_radix = radix[start] * radix[start + 4]
        columns.append((place * before_radix + before) * radix[-1] + genomes[:, -1])
        return np.stack(columns, axis=1)

    def segment_members(self, network: Network) -> tuple[tuple[str, ...], ...]:
        prefixes = ["stem/", *(f"stage{i}/" for i in range(len(self.stages))), "head/"]
        return tuple(tuple(n.name for n in network.nodes if n.name.startswith(p)) for p in prefixes)

    def _top(self) -> list[int]:
        """The last option of every gene, and the widest stem of one convolution."""
        genes = [count - 1 for count in self.radix()]
        genes[1] = len(self.stem_widths) - 1
        return genes

    def _groups(self) -> list[tuple[int, int]]:
        stages = [self._stage_span(i) for i in range(len(self.stages))]
        return [(0, 1), (1, 2), (2, 3), *stages, (len(self.radix()) - 1, len(self.radix()))]

    def _downsampling_by_area(self) -> list[int]:
        """Indices into `downsampling`, least work first: the sum of relative areas that the stages see."""

        def area(strides: tuple[int, ...]) -> float:
            return sum(1 / prod(strides[: i + 1]) ** 2 for i in range(len(strides)))

        return sorted(range(len(self.downsampling)), key=lambda i: area(self.downsampling[i]))

    def _stage_values(self, subnet: Subnet, i: int) -> tuple[str, int, int, int, int]:
        (at, _), stage = self._stage_span(i), self.stages[i]
        t, depth, kernel, expand, width = subnet.genome[at : at + OWN_GENES]
        kind = stage.types[t]
        return (
            kind,
            stage.depths[depth],
            stage.kernels[kernel],
            block_expand(kind, stage.expands[expand]),
            block_width(kind, stage.widths[width]),
        )

    def _gates(self, subnet: Subnet, i: int) -> tuple[str, bool]:
        """The stage's activation, and whether its blocks have squeeze-excite."""
        start, stop = self._stage_span(i)
        chosen = iter(subnet.genome[start + OWN_GENES : stop])
        activation = self.activations[next(chosen) if len(self.activations) > 1 else 0]
        excite = self.squeeze_excite[next(chosen) if len(self.squeeze_excite) > 1 else 0]
        return activation, block_squeeze_excite(self.stages[i].types[subnet.genome[start]], excite)

    def _choose(self, genes: list[int], i: int, activation: str, squeeze_excite: bool) -> None:
        """Sets the stage's genes for these, as far as there are options."""
        at = self._stage_span(i)[0] + OWN_GENES
        if len(self.activations) > 1:
            genes[at], at = self.activations.index(activation), at + 1
        if len(self.squeeze_excite) > 1:
            genes[at] = self.squeeze_excite.index(squeeze_excite)

    def _stage_span(self, i: int) -> tuple[int, int]:
        """Where the genes of stage i are."""
        count = OWN_GENES + (len(self.activations) > 1) + (len(self.squeeze_excite) > 1)
        return 3 + i * count, 3 + (i + 1) * count

    def _ranges(self, stage: Stage) -> list[range]:
        own = [range(len(o)) for o in (stage.types, stage.depths, stage.kernels, stage.expands, stage.widths)]
        return own + [range(len(o)) for o in (self.activations, self.squeeze_excite) if len(o) > 1]

    def _canonical_stage(self, stage: Stage, genes: tuple[int, ...]) -> tuple[int, ...]:
        t, depth, kernel, expand, width, *gates = genes
        kind = stage.types[t]
        # the first option that comes to the same block stands for all that do
        kernel = next(
            i for i, k in enumerate(stage.kernels) if block_kernel(kind, k) == block_kernel(kind, stage.kernels[kernel])
        )
        expand = next(
            i for i, e in enumerate(stage.expands) if block_expand(kind, e) == block_expand(kind, stage.expands[expand])
        )
        if len(self.squeeze_excite) > 1 and not block_squeeze_excite(kind, True):
            gates[-1] = 0
        return (t, depth, kernel, expand, width, *gates)


def for_data(resolution_px: int, channels: int, classes: int, offer: Offer = ANYTHING) -> MobileSpace:
    """The space that suits images of this side: three stages under 64 px, four from there on.

    Below 64 px the stem may be two narrow convolutions before the first block: where it doesn't stride, both at full resolution.
    Where there is room (three quarters of the side is still 24 px) a smaller input resolution is a choice as well. Kernels of 7 px
    (from 64 px on), HardSwish and squeeze-excite are choices where the devices do them well, and widths are in their multiples.
    """
    smaller = resolution_px * 3 // 4 // 4 * 4
    resolutions = (smaller, resolution_px) if smaller >= 24 else (resolution_px,)
    if resolution_px < 64:
        stages: tuple[Stage, ...] = (
            Stage(widths=(16, 32)),
            Stage(widths=(16, 32, 48)),
            Stage(widths=(32, 48, 64)),
        )
        patterns = _downsampling(len(stages), reductions=(2, 3), early=((2, 1),))
    else:
        stages = (
            Stage(widths=(16, 32)),
            Stage(widths=(32, 48)),
            Stage(widths=(48, 64, 96)),
            Stage(widths=(64, 96, 128)),
        )
        patterns = _downsampling(len(stages), reductions=(4,) if resolution_px < 160 else (5,), early=((2, 2), (3, 3)))
    kernels = (3, 5, 7) if offer.depthwise_7x7 and resolution_px >= 64 else (3, 5)
    return MobileSpace(
        channels,
        classes,
        resolutions,
        offer.widths((16, 32)),
        patterns,
        tuple(replace(stage, kernels=kernels, widths=offer.widths(stage.widths)) for stage in stages),
        activations=("relu", "hard_swish") if "hard_swish" in offer.activations else ("relu",),
        squeeze_excite=(False, True) if offer.squeeze_excite else (False,),
        # tried by hand on Fashion-MNIST (INT8, validation, 7 epochs, one training each): 93.1 % in 0.068 ms with two convolutions of 16
        # channels before the first stride, 92.8 in 0.059 with one; the catalog's plain network took 0.088 ms for 93.3
        double_stem_widths=offer.widths((16,)) if resolution_px < 64 else (),
    )


def _downsampling(
    stage_count: int, reductions: tuple[int, ...], early: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], ...]:
    """Strides (stem, stage 1, ...) that halve `reductions` times in all and, for each (n, times) of `early`, at least `times`
    within the first n: blocks at a high resolution are the slowest a net can have."""
    patterns = itertools.product((1, 2), repeat=stage_count + 1)
    return tuple(p for p in patterns if p.count(2) in reductions and all(p[:n].count(2) >= times for n, times in early))


def _weight_shapes(network: Network) -> list[tuple[str, Shape]]:
    return [(node.name, network.weight_shape(node)) for node in network.weighted()]
