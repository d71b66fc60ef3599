"""Families of hand-designed networks, each at any width and fitted to the side of the images that it is for.

A family is one function of a Sketch. At the input size of its paper and width 1 it is the published network. What makes it fit other
images is the number of down-samplings: those of the first layers are left out first, because an image of 28 px halved five times
is one value a channel. Activations and squeeze-excite are used where the caller allows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgenas.network.builder import INPUT, Builder
from edgenas.spaces.blocks import activate, gated

DEEPEST = 5  # 224 px to 7, in every network for ImageNet
LEAST_PX = 4  # a deep network's last feature map is no smaller
MOST_PX = 12  # a shallow network's is no larger


def make_divisible(channels: float, multiple: int = 8) -> int:
    """The nearest multiple, at least one and never less than 90 % of `channels`.

    The rule of MobileNetV2's reference code (Sandler et al., CVPR 2018; `slim/nets/mobilenet` in github.com/tensorflow/models).
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded


def deep_halvings(side_px: int) -> int:
    """How often a deep network halves images of this side: at most DEEPEST times, and LEAST_PX are left (rounding up, as padded
    convolutions do)."""
    count = 0
    while count < DEEPEST and -(-side_px // 2 ** (count + 1)) >= LEAST_PX:
        count += 1
    return count


@dataclass
class Sketch:
    """A network being written down: each method appends a piece and returns the name of what it makes.

    `design_px` is the side of the images that the down-samplings are fitted to; the input may be smaller.
    """

    b: Builder
    name: str
    width: float
    design_px: int
    classes: int
    activations: tuple[str, ...]
    squeeze_excite: bool

    @property
    def shallow_halvings(self) -> int:
        """As few as come to MOST_PX a side."""
        count, side = 0, self.design_px
        while side > MOST_PX:
            count, side = count + 1, -(-side // 2)
        return count

    def strides(self, published: Sequence[int]) -> list[int]:
        """The published strides, of which the first ones are 1 as long as there are more of 2 than the images have room for."""
        room = deep_halvings(self.design_px)
        after = [sum(stride == 2 for stride in published[i + 1 :]) for i in range(len(published))]
        return [stride if later < room else 1 for stride, later in zip(published, after, strict=True)]

    def scaled(self, channels: int) -> int:
        return make_divisible(channels * self.width)

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "relu",
        pad: int | None = None,
    ) -> str:
        y = self.b.conv(f"{self.name}/{name}", x, channels, kernel, stride, groups, pad=pad)
        return y if act is None else self.act(f"{name}/{act}", y, act)

    def depthwise(self, name: str, x: str, kernel: int, stride: int, act: str = "relu") -> str:
        channels = self.b.shape(x)[1]
        return self.conv(name, x, channels, kernel, stride, channels, act)

    def act(self, name: str, x: str, act: str) -> str:
        """The activation if it is among those allowed, else ReLU."""
        return activate(self.b, f"{self.name}/{name}", x, act if act in self.activations else "relu")

    def max_pool(self, name: str, x: str, pad: int = 1) -> str:
        """3x3 with stride 2."""
        return self.b.max_pool(f"{self.name}/{name}", x, 3, 2, pad)

    def gate(self, name: str, x: str, squeezed: int) -> str:
        """Squeeze-excite; the input itself where it isn't allowed."""
        return gated(self.b, f"{self.name}/{name}", x, squeezed) if self.squeeze_excite else x

    def inverted(
        self, name: str, x: str, kernel: int, inner: int, channels: int, stride: int, act: str, squeezed: int = 0
    ) -> str:
        """MobileNetV2's inverted residual; no expansion where `inner` is what comes in. `squeezed`: the gate's channels, 0 for none."""
        y = x if inner == self.b.shape(x)[1] else self.conv(f"{name}/expand", x, inner, act=act)
        y = self.depthwise(f"{name}/depthwise", y, kernel, stride, act)
        if squeezed:
            y = self.gate(f"{name}/gate", y, squeezed)
        y = self.conv(f"{name}/project", y, channels, act=None)
        return self.b.add(f"{self.name}/{name}/add", y, x) if self.b.shape(x) == self.b.shape(y) else y

    def inverted_stages(self, x: str, table: Sequence[tuple[int, int, int, int]], strides: Sequence[int]) -> str:
        """Rows of (kernel, expand ratio, channels, repeats); the first of each stage has its stride."""
        for i, ((kernel, expand, channels, repeats), stride) in enumerate(zip(table, strides, strict=True)):
            for j in range(repeats):
                inner, step = self.b.shape(x)[1] * expand, stride if j == 0 else 1
                x = self.inverted(f"stage{i}/block{j}", x, kernel, inner, self.scaled(channels), step, "relu6")
        return x

    def pooled(self, x: str) -> str:
        return self.b.flatten(f"{self.name}/head/flatten", self.b.global_average_pool(f"{self.name}/head/pool", x))

    def linear(self, name: str, x: str, features: int) -> str:
        return self.b.linear(f"{self.name}/{name}", x, features)


def _mobilenet_v2(s: Sketch) -> str:
    """Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, table 2.

    Its last convolution keeps 1280 channels at widths below 1 (section 5).
    """
    table = ((3, 1, 16, 1), (3, 6, 24, 2), (3, 6, 32, 3), (3, 6, 64, 4), (3, 6, 96, 3), (3, 6, 160, 3), (3, 6, 320, 1))
    stem, *strides = s.strides((2, 1, 2, 2, 2, 1, 2, 1))
    x = s.conv("stem/conv", INPUT, s.scaled(32), 3, stem, act="relu6")
    x = s.inverted_stages(x, table, strides)
    x = s.conv("head/conv", x, make_divisible(1280 * max(1.0, s.width)), act="relu6")
    return s.linear("head/linear", s.pooled(x), s.classes)


def _mobilenet_v3_small(s: Sketch) -> str:
    """Howard et al., Searching for MobileNetV3, ICCV 2019, table 2; squeezed to a quarter in multiples of 8, as in torchvision."""
    table = (
        (3, 16, 16, True, "relu", 2),  # kernel, inner, channels, squeeze-excite, activation, stride
        (3, 72, 24, False, "relu", 2),
        (3, 88, 24, False, "relu", 1),
        (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 240, 40, True, "hard_swish", 1),
        (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1),
        (5, 288, 96, True, "hard_swish", 2),
        (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    )
    stem, *strides = s.strides((2, *(stride for *_, stride in table)))
    x = s.conv("stem/conv", INPUT, s.scaled(16), 3, stem, act="hard_swish")
    for i, ((kernel, inner, channels, squeeze, act, _), stride) in enumerate(zip(table, strides, strict=True)):
        wide = s.scaled(inner)
        squeezed = make_divisible(wide // 4) if squeeze else 0
        x = s.inverted(f"block{i}", x, kernel, wide, s.scaled(channels), stride, act, squeezed)
    x = s.conv("head/conv", x, 6 * s.b.shape(x)[1], act="hard_swish")
    x = s.act("head/hidden/hard_swish", s.linear("head/hidden", s.pooled(x), s.scaled(1024)), "hard_swish")
    return s.linear("head/linear", x, s.classes)


def _efficientnet_lite0(s: Sketch) -> str:
    """EfficientNet-B0 (Tan and Le, ICML 2019, table 1) with ReLU6 and without squeeze-excite, the last convolution of 1280 channels at
    every width: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (2020)."""
    table = (
        (3, 1, 16, 1),
        (3, 6, 24, 2),
        (5, 6, 40, 2),
        (3, 6, 80, 3),
        (5, 6, 112, 3),
        (5, 6, 192, 4),
        (3, 6, 320, 1),
    )
    stem, *strides = s.strides((2, 1, 2, 2, 2, 1, 2, 1))
    x = s.conv("stem/conv", INPUT, s.scaled(32), 3, stem, act="relu6")
    x = s.inverted_stages(x, table, strides)
    x = s.conv("head/conv", x, 1280, act="relu6")
    return s.linear("head/linear", s.pooled(x), s.classes)


def _mcunet(s: Sketch) -> str:
    """In the manner of Lin et al., MCUNet: Tiny Deep Learning on IoT Devices, NeurIPS 2020.

    Inverted residuals with large kernels, few channels while the resolution is high, and no convolution before the classifier. The
    paper's networks were searched and differ from layer to layer; this is none of them.
    """
    table = ((3, 1, 8, 1), (7, 3, 16, 2), (5, 4, 24, 3), (5, 5, 40, 3), (5, 5, 48, 2), (7, 5, 96, 3), (5, 6, 160, 1))
    stem, *strides = s.strides((2, 1, 2, 2, 2, 1, 2, 1))
    x = s.conv("stem/conv", INPUT, s.scaled(16), 3, stem, act="relu6")
    return s.linear("head/linear", s.pooled(s.inverted_stages(x, table, strides)), s.classes)


def _resnet8(s: Sketch) -> str:
    """The image classifier of MLPerf Tiny (Banbury et al., NeurIPS Datasets and Benchmarks 2021): three stages of one basic block."""
    return _resnet(s, 1)


def _resnet14(s: Sketch) -> str:
    """The networks for CIFAR-10 of He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: 6n + 2 layers, here
    n = 2."""
    return _resnet(s, 2)


def _resnet(s: Sketch, blocks: int) -> str:
    """Skips are projected where shapes differ. Larger images are halved by the stem, then by a pool after it as in He et al.'s table 1,
    then in the first stage."""
    halvings = s.shallow_halvings
    x = s.conv("stem/conv", INPUT, s.scaled(16), 3, 2 if halvings > 2 else 1)
    if halvings > 3:
        x = s.max_pool("stem/pool", x)
    for i, (channels, halved_from) in enumerate(((16, 5), (32, 2), (64, 1))):
        width = s.scaled(channels)
        for j in range(blocks):
            name, stride = f"stage{i}/block{j}", 2 if j == 0 and halvings >= halved_from else 1
            y = s.conv(f"{name}/conv1", x, width, 3, stride)
            y = s.conv(f"{name}/conv2", y, width, 3, act=None)
            skip = x if s.b.shape(x) == s.b.shape(y) else s.conv(f"{name}/skip", x, width, 1, stride, act=None)
            x = s.act(f"{name}/relu", s.b.add(f"{s.name}/{name}/add", y, skip), "relu")
    return s.linear("head/linear", s.pooled(x), s.classes)


def _ds_cnn(s: Sketch) -> str:
    """Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, arXiv:1711.07128 (2017).

    A convolution and four depthwise separable ones of equal width. Its 10x4 window on a spectrogram is 5x5 here, for images.
    """
    halvings = s.shallow_halvings
    x = s.conv("stem/conv", INPUT, s.scaled(64), 5, 2 if halvings > 0 else 1)
    for i in range(4):
        x = s.depthwise(f"block{i}/depthwise", x, 3, 2 if halvings > i + 1 else 1)
        x = s.conv(f"block{i}/pointwise", x, s.scaled(64))
    return s.linear("head/linear", s.pooled(x), s.classes)


def _squeezenet(s: Sketch) -> str:
    """SqueezeNet 1.1: Iandola et al., arXiv:1602.07360 (2016), as revised in https://github.com/forresti/SqueezeNet.

    Unpadded as published, except on small images, of which that would leave nothing.
    """
    pad = 0 if s.b.shape(INPUT)[2] >= 96 else 1
    stem, *pools = s.strides((2, 2, 2, 2))
    stages = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
    x = s.conv("stem/conv", INPUT, s.scaled(64), 3, stem, pad=pad)
    for i, (stage, stride) in enumerate(zip(stages, pools, strict=True)):
        x = s.max_pool(f"stage{i}/pool", x, pad) if stride == 2 else x
        for j, (squeezed, wide) in enumerate(stage):
            name = f"stage{i}/fire{j}"
            y = s.conv(f"{name}/squeeze", x, s.scaled(squeezed))
            one = s.conv(f"{name}/expand1", y, s.scaled(wide))
            three = s.conv(f"{name}/expand3", y, s.scaled(wide), 3)
            x = s.b.concat(f"{s.name}/{name}/concat", one, three)
    return s.pooled(s.conv("head/conv", x, s.classes))


def _plain(s: Sketch) -> str:
    """3x3 convolutions that down-sample by their stride (Springenberg et al., Striving for Simplicity, ICLR 2015 workshop), then a
    classifier on the flattened feature map (LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998)."""
    x = INPUT
    for i, (channels, halved_from) in enumerate(((16, 3), (24, 4), (32, 1), (32, 5), (64, 2), (64, 6))):
        x = s.conv(f"conv{i}", x, s.scaled(channels), 3, 2 if s.shallow_halvings >= halved_from else 1)
    return s.linear(f"head/flat{s.b.shape(x)[2]}px", s.b.flatten(f"{s.name}/head/flatten", x), s.classes)


@dataclass(frozen=True)
class Family:
    """`widths` are multipliers, rising; every family has as many, and no two of them come to the same network."""

    build: Callable[[Sketch], str]
    title: str
    widths: tuple[float, ...]


FAMILIES: dict[str, Family] = {
    "mobilenet-v2": Family(_mobilenet_v2, "MobileNetV2", (0.25, 0.35, 0.5, 0.75, 1.0, 1.4)),
    "mobilenet-v3-small": Family(_mobilenet_v3_small, "MobileNetV3-Small", (0.25, 0.35, 0.5, 0.75, 1.0, 1.25)),
    "efficientnet-lite0": Family(_efficientnet_lite0, "EfficientNet-Lite0", (0.25, 0.35, 0.5, 0.75, 1.0, 1.25)),
    "mcunet": Family(_mcunet, "like MCUNet", (0.35, 0.5, 0.75, 1.0, 1.4, 2.0)),
    "resnet8": Family(_resnet8, "ResNet-8", (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "resnet14": Family(_resnet14, "ResNet-14", (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
    "ds-cnn": Family(_ds_cnn, "DS-CNN", (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)),
    "squeezenet": Family(_squeezenet, "SqueezeNet 1.1", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)),
    "plain": Family(_plain, "plain, flatten head", (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
}
WIDTHS = len(FAMILIES["mobilenet-v2"].widths)
