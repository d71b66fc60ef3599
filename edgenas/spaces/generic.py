"""Random networks of the common families, for profiling what any model may be made of: no search space, but what surrounds all of them.

Families as published: plain (VGG, AlexNet with its response normalisation), residual and bottleneck (ResNet, ResNeXt), inverted
residual with squeeze-excite (MobileNet, EfficientNet), fire (SqueezeNet), branches (Inception), dense (DenseNet), shuffle
(ShuffleNet v1 and v2), encoder-decoder (U-Net) and pyramid (single-shot detectors).
Everything in them is drawn: resolution, widths, depths, kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network

SIDES_PX = (32, 48, 64, 96, 112, 128, 160, 192, 224)
CLASSES = (10, 100, 1000)
RELUS = ("Relu", "Relu", "Clip", "HardSwish", "Swish")


def random_network(rng: np.random.Generator, family: str | None = None, max_px: int = 224) -> Network:
    """One network; `family` is one of FAMILIES, or drawn. The longer the side, the fewer and the narrower the layers."""
    name = family or str(rng.choice(list(FAMILIES)))
    sides = [side for side in SIDES_PX if side <= max_px]
    draw = _Draw(rng, Builder((1, 3, *(int(rng.choice(sides)),) * 2)), str(rng.choice(RELUS)))
    return draw.b.finish(*FAMILIES[name](draw))


@dataclass
class _Draw:
    """A network being drawn: every method appends a piece and returns the name of what it makes."""

    rng: np.random.Generator
    b: Builder
    activation: str
    count: int = field(default=0)

    def name(self, what: str) -> str:
        self.count += 1
        return f"n{self.count}.{what}"

    def one_of(self, *options: int) -> int:
        return int(self.rng.choice(options))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def width(self, low: int, high: int, multiple: int = 8) -> int:
        """Log-uniform; mostly in multiples of 8, now and then of 4."""
        step = multiple if self.chance(0.85) else max(multiple // 2, 2)
        drawn = np.exp(self.rng.uniform(np.log(low), np.log(high)))
        return max(step, round(drawn / step) * step)

    def side(self, x: str) -> int:
        return self.b.shape(x)[2]

    def channels(self, x: str) -> int:
        return self.b.shape(x)[1]

    def conv(self, x: str, width: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str | None = "") -> str:
        made = self.b.conv(self.name("conv"), x, width, kernel, stride, groups)
        return self.act(made, act)

    def act(self, x: str, act: str | None = "") -> str:
        if act is None:
            return x
        op = act or self.activation
        bounds = (("max", 6.0), ("min", 0.0)) if op == "Clip" else ()
        return self.b.node(self.name("act"), op, (x,), self.b.shape(x), bounds)

    def unary(self, op: str, x: str, **attributes: object) -> str:
        return self.b.node(self.name(op.lower()), op, (x,), self.b.shape(x), tuple(sorted(attributes.items())))

    def max_pool(self, x: str, kernel: int, stride: int) -> str:
        return self.pool("MaxPool", x, kernel, stride)

    def pool(self, op: str, x: str, kernel: int, stride: int) -> str:
        pad = kernel // 2 if kernel % 2 else 0
        _, channels, height, width = self.b.shape(x)
        sides = tuple((side + 2 * pad - kernel) // stride + 1 for side in (height, width))
        attributes = (("kernel_shape", (kernel,) * 2), ("pads", (pad,) * 4), ("strides", (stride,) * 2))
        return self.b.node(self.name("pool"), op, (x,), (1, channels, *sides), attributes)

    def concat(self, *tensors: str) -> str:
        _, _, *sides = self.b.shape(tensors[0])
        channels = sum(self.channels(x) for x in tensors)
        return self.b.node(self.name("concat"), "Concat", tensors, (1, channels, *sides), (("axis", 1),))

    def reshape(self, x: str, *shape: int) -> str:
        return self.b.node(self.name("reshape"), "Reshape", (x,), shape)

    def transpose(self, x: str, *perm: int) -> str:
        shape = self.b.shape(x)
        return self.b.node(self.name("transpose"), "Transpose", (x,), tuple(shape[i] for i in perm), (("perm", perm),))

    def resize(self, x: str, factor: int) -> str:
        batch, channels, *sides = self.b.shape(x)
        shape = (batch, channels, *(side * factor for side in sides))
        return self.b.node(self.name("resize"), "Resize", (x,), shape, (("mode", "nearest"),))

    def shuffle(self, x: str, groups: int) -> str:
        _, channels, height, width = self.b.shape(x)
        apart = self.reshape(x, 1, groups, channels // groups, height, width)
        return self.reshape(self.transpose(apart, 0, 2, 1, 3, 4), 1, channels, height, width)

    def halves(self, x: str) -> tuple[str, str]:
        _, channels, height, width = self.b.shape(x)
        shape = (1, channels // 2, height, width)
        first = self.b.node(self.name("split"), "Split", (x,), shape, (("axis", 1),))
        return first, self.b.node(self.name("part"), "Part", (first,), shape)

    def squeeze_excite(self, x: str, gate: str) -> str:
        channels = self.channels(x)
        small = self.conv(
            self.b.global_average_pool(self.name("pool"), x), max(4, channels // self.one_of(4, 16, 24)), act="Relu"
        )
        scale = self.conv(small, channels, act=gate)
        return self.b.node(self.name("scale"), "Mul", (x, scale), self.b.shape(x))

    def residual(self, x: str, width: int, stride: int) -> str:
        kernel, groups = self.one_of(3, 3, 3, 5), 1
        if self.chance(0.5):
            y = self.conv(self.conv(x, width, kernel, stride), width, kernel, act=None)
        else:
            inner = max(16, width // self.one_of(2, 4) // 16 * 16)
            groups = self.one_of(1, 1, 1, 2, 4)
            groups = groups if inner % (groups * 8) == 0 else 1
            y = self.conv(self.conv(self.conv(x, inner), inner, 3, stride, groups), width, act=None)
        if stride > 1 or self.channels(x) != width:
            x = self.conv(x, width, 1, stride, act=None)
        return self.act(self.b.add(self.name("add"), y, x))

    def inverted(self, x: str, width: int, stride: int) -> str:
        before, inner = x, max(8, int(self.channels(x) * self.one_of(1, 2, 3, 4, 6)) // 8 * 8)
        y = self.conv(x, inner) if inner != self.channels(x) or self.chance(0.7) else x
        y = self.conv(y, inner := self.channels(y), self.one_of(3, 3, 5, 7), stride, inner)
        if self.chance(0.5):
            y = self.squeeze_excite(y, str(self.rng.choice(["HardSigmoid", "Sigmoid"])))
        y = self.conv(y, width, act=None)
        same = self.b.shape(before) == self.b.shape(y)
        return self.b.add(self.name("add"), y, before) if same else y

    def stem(self, stride: int | None = None) -> str:
        kernel = self.one_of(3, 3, 5, 7)
        x = self.conv(INPUT, self.width(16, 64), kernel, stride or self.one_of(1, 2, 2))
        return self.max_pool(x, self.one_of(2, 3), 2) if self.side(x) > 100 and self.chance(0.6) else x

    def old_classifier(self, x: str) -> tuple[str, ...]:
        """Fully connected layers on what is flattened, as before global pooling was usual."""
        x = self.b.flatten(self.name("flatten"), x)
        for _ in range(1 + int(self.chance(0.5))):
            x = self.act(self.b.linear(self.name("hidden"), x, self.one_of(512, 1024, 2048, 4096)), "Relu")
        return (self.unary("Softmax", self.b.linear(self.name("linear"), x, self.one_of(*CLASSES)), axis=1),)

    def classifier(self, x: str) -> tuple[str, ...]:
        if self.side(x) > 1 and (self.side(x) > 8 or self.chance(0.8)):
            if self.chance(0.3):
                x = self.conv(x, self.width(128, 1280))
            x = self.b.global_average_pool(self.name("pool"), x)
        x = self.b.flatten(self.name("flatten"), x)
        if self.chance(0.3):
            x = self.act(self.b.linear(self.name("hidden"), x, self.one_of(256, 1024, 4096)), "Relu")
        x = self.b.linear(self.name("linear"), x, self.one_of(*CLASSES))
        return (self.unary("Softmax", x, axis=1) if self.chance(0.4) else x,)


def _stages(d: _Draw, x: str, block: Callable[[str, int, int], str], high: int, depth: int) -> str:
    width = d.channels(x)
    while d.side(x) > 7:
        width = min(max(width, d.width(width, min(3 * width, high))), high)
        for i in range(1 + int(d.rng.integers(depth))):
            x = block(x, width, 2 if i == 0 else 1)
    return x


def _plain(d: _Draw) -> tuple[str, ...]:
    x = d.conv(INPUT, d.width(24, 96), d.one_of(3, 7, 11), d.one_of(2, 4) if d.side(INPUT) > 64 else 1, act="Relu")
    respond = d.chance(0.5)
    while d.side(x) > 7:
        if respond and d.chance(0.6):
            x = d.unary("LRN", x, size=5)
        x = d.max_pool(x, d.one_of(2, 3), 2)
        for _ in range(1 + int(d.rng.integers(3))):
            groups = d.one_of(1, 1, 1, 2)
            width = d.width(64, 384, 32)
            groups = groups if d.channels(x) % groups == 0 and width % groups == 0 else 1
            x = d.conv(x, width, d.one_of(3, 3, 5), groups=groups, act="Relu")
    return d.old_classifier(x) if d.chance(0.6) else d.classifier(x)


def _residual(d: _Draw) -> tuple[str, ...]:
    return d.classifier(_stages(d, d.stem(), d.residual, 384, 3))


def _inverted(d: _Draw) -> tuple[str, ...]:
    return d.classifier(_stages(d, d.stem(2), d.inverted, 240, 4))


def _fire(d: _Draw) -> tuple[str, ...]:
    d.activation = "Relu"
    x = d.stem(2)
    while d.side(x) > 7:
        for _ in range(1 + int(d.rng.integers(3))):
            squeezed = d.conv(x, d.width(16, 64))
            wide = d.width(32, 256, 16)
            x = d.concat(d.conv(squeezed, wide), d.conv(squeezed, wide, 3))
        x = d.max_pool(x, 3, 2)
    return d.classifier(x)


def _branches(d: _Draw) -> tuple[str, ...]:
    d.activation = "Relu"
    x = d.stem(2)
    while d.side(x) > 7:
        for _ in range(1 + int(d.rng.integers(2))):
            pool = d.pool(str(d.rng.choice(["MaxPool", "AveragePool"])), x, 3, 1)
            x = d.concat(
                d.conv(x, d.width(32, 192, 16)),
                d.conv(d.conv(x, d.width(32, 128, 16)), d.width(48, 256, 16), 3),
                d.conv(d.conv(x, d.width(16, 48, 16)), d.width(32, 128, 16), 5),
                d.conv(pool, d.width(32, 128, 16)),
            )
        x = d.max_pool(x, 3, 2)
    return d.classifier(x)


def _dense(d: _Draw) -> tuple[str, ...]:
    d.activation = "Relu"
    x, growth = d.stem(2), d.one_of(16, 24, 32)
    while d.side(x) > 7:
        for _ in range(2 + int(d.rng.integers(4))):
            y = d.conv(d.act(d.unary("BatchNormalization", x)), 4 * growth)
            x = d.concat(x, d.conv(y, growth, 3, act=None))
        x = d.pool("AveragePool", d.conv(d.act(d.unary("BatchNormalization", x)), d.channels(x) // 16 * 8), 2, 2)
    return d.classifier(x)


def _shuffle(d: _Draw) -> tuple[str, ...]:
    d.activation = "Relu"
    x, split = d.stem(2), d.chance(0.5)
    groups = d.one_of(2, 3, 4)
    while d.side(x) > 7:
        width = max(d.channels(x), d.width(48, 384, 24)) // (2 * groups) * 2 * groups
        x = d.conv(x, width, 3, 2)
        for _ in range(1 + int(d.rng.integers(3))):
            if split:
                kept, y = d.halves(x)
                half = width // 2
                y = d.conv(d.conv(d.conv(y, half), half, 3, 1, half, act=None), half)
                x = d.shuffle(d.concat(kept, y), 2)
            else:
                inner = max(groups, width // 4 // groups * groups)
                y = d.shuffle(d.conv(x, inner, 1, 1, groups), groups)
                y = d.conv(d.conv(y, inner, 3, 1, inner, act=None), width, 1, 1, groups, act=None)
                x = d.act(d.b.add(d.name("add"), y, x))
    return d.classifier(x)


def _encoder_decoder(d: _Draw) -> tuple[str, ...]:
    d.activation = "Relu"
    width = d.one_of(8, 16, 24)
    skips: list[str] = []
    x = d.conv(d.conv(INPUT, width, 3), width, 3)
    while d.side(x) % 2 == 0 and d.side(x) > 14 and len(skips) < 4:
        skips.append(x)
        width = min(2 * width, 160)
        x = d.conv(d.conv(d.max_pool(x, 2, 2), width, 3), width, 3)
    for skip in reversed(skips):
        width = d.channels(skip)
        if d.chance(0.5):
            _, _, height, breadth = d.b.shape(x)
            window = (
                ("dilations", (1, 1)),
                ("group", 1),
                ("kernel_shape", (2, 2)),
                ("pads", (0,) * 4),
                ("strides", (2, 2)),
            )
            up = d.b.node(d.name("up"), "ConvTranspose", (x,), (1, width, 2 * height, 2 * breadth), window)
        else:
            up = d.conv(d.resize(x, 2), width)
        x = d.conv(d.conv(d.concat(up, skip), width, 3), width, 3)
    return (d.unary("Sigmoid", d.conv(x, d.one_of(1, 2, 21), act=None)),)


def _pyramid(d: _Draw) -> tuple[str, ...]:
    x, levels = d.stem(2), []
    while d.side(x) > 7:
        x = _stage(d, x)
        levels.append(x)
    width = d.width(32, 128, 16)
    outputs, above = [], ""
    for level in reversed(levels[-3:]):
        lateral = d.conv(level, width, act=None)
        if above and d.side(lateral) == 2 * d.side(above):
            lateral = d.b.add(d.name("add"), lateral, d.resize(above, 2))
        above = d.conv(lateral, width, 3)
        for each in (4, d.one_of(2, 20, 80)):
            head = d.conv(above, 3 * each, 3, act=None)
            positions = d.side(head) ** 2
            outputs.append(d.reshape(d.transpose(head, 0, 2, 3, 1), 1, 3 * positions, each))
    return (*outputs[::2], *(d.unary("Sigmoid", output) for output in outputs[1::2]))


def _stage(d: _Draw, x: str) -> str:
    width = min(d.width(d.channels(x), 2 * d.channels(x)), 256)
    x = d.inverted(x, width, 2)
    return d.inverted(x, width, 1) if d.chance(0.6) else x


FAMILIES: dict[str, Callable[[_Draw], tuple[str, ...]]] = {
    "plain": _plain,
    "residual": _residual,
    "inverted residual": _inverted,
    "fire": _fire,
    "branches": _branches,
    "dense": _dense,
    "shuffle": _shuffle,
    "encoder-decoder": _encoder_decoder,
    "pyramid": _pyramid,
}
