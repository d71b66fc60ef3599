"""Well-known networks at 224 px with random weights, as ONNX files that a user might bring.

    python tools/known_networks.py OUT_DIR

A latency predictor is judged on networks it was not made for. The architectures follow the papers, and where a paper leaves
something open, torchvision's definition (https://github.com/pytorch/vision, `torchvision/models`); the number of parameters
agrees to the last one. What latency does not depend on, the weights, is random: drawn so that activations stay
near unit variance, with BatchNorm statistics taken from a forward pass, since infinities and denormals change how long a kernel takes.

`export` writes one of them, `light_models` lists those that come with the onnx package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch
    from torch import nn

PX = 224
OPSET = 17
UNFOLDED = ("mobilenet_v2", "resnet18")
"""The networks that the command line also writes with their BatchNormalization nodes."""


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
def main(out_dir: Path) -> None:
    import onnx

    out_dir.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        million_macs = macs(name) / 1e6
        for unfolded in (False, True) if name in UNFOLDED else (False,):
            path = export(name, out_dir, unfolded)
            nodes = len(onnx.load(path).graph.node)
            click.echo(f"{path.name:32}{path.stat().st_size / 1e6:>7.1f} MB{nodes:>6} nodes{million_macs:>8.0f} M MACs")


def export(name: str, folder: Path, unfolded: bool = False) -> Path:
    """Write the network `name` (a key of `NETWORKS`) into `folder`, its input `input` float32 (1, 3, 224, 224).

    With `unfolded`, BatchNorm stays a node of its own instead of being folded into the convolution before it, as in files that
    were exported without optimisation.
    """
    import torch

    path = folder / f"{name}{'-unfolded' if unfolded else ''}.onnx"
    mode = torch.onnx.TrainingMode.PRESERVE if unfolded else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing is deprecated and says so at length
        torch.onnx.export(
            NETWORKS[name](),
            (example(),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            training=mode,
            do_constant_folding=not unfolded,
            input_names=["input"],
            output_names=["boxes", "scores"] if name == "detector" else ["output"],
        )
    return path


def example() -> torch.Tensor:
    """A random image, (1, 3, 224, 224) in -1..1."""
    import torch

    return torch.rand(1, 3, PX, PX, generator=torch.Generator().manual_seed(1)) * 2 - 1


def macs(name: str) -> int:
    """Multiply-accumulates of convolutions and matrix products, as PyTorch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    net = NETWORKS[name]()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(example())
    return int(counter.get_total_flops()) // 2


def light_models() -> dict[str, Path]:
    """The networks among onnx's backend tests: AlexNet, DenseNet-121, Inception v1 and v2, ResNet-50, ShuffleNet v1,
    SqueezeNet 1.0, VGG-19 and ZFNet-512, keyed by name without `light_`.

    All of them are opset 9 of IR version 3 with one input (1, 3, 224, 224) float32 called `data_0` or `gpu_0/data_0`. The
    files are small since `ConstantOfShape` nodes make the large weights, each filled with one value: folding constants gives
    the network's full graph, and every class the same score. In IR version 3 initializers are listed among the inputs too.
    Source: `onnx/backend/test/data/light` in https://github.com/onnx/onnx.
    """
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return {path.stem.removeprefix("light_"): path for path in sorted(folder.glob("light_*.onnx"))}


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 1.0: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, table 2."""
    from torch import nn

    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    blocks: list[nn.Module] = []
    given = 32
    for expand, channels, repeats, stride in table:
        for i in range(repeats):
            blocks.append(_bottleneck(given, given * expand, channels, 3, stride if i == 0 else 1, nn.ReLU6))
            given = channels
    return _random(
        nn.Sequential(
            _conv_bn(3, 32, 3, 2, act=nn.ReLU6),
            *blocks,
            _conv_bn(320, 1280, act=nn.ReLU6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1280, 1000),
        )
    )


def mobilenet_v3_small() -> nn.Module:
    """MobileNetV3-Small 1.0: Howard et al., Searching for MobileNetV3, ICCV 2019, table 2, with torchvision's squeeze widths."""
    from torch import nn

    relu, swish = nn.ReLU, nn.Hardswish
    table: tuple[tuple[int, int, int, bool, type[nn.Module], int], ...] = (
        (3, 16, 16, True, relu, 2),  # kernel, wide, out, squeeze-and-excite, activation, stride
        (3, 72, 24, False, relu, 2),
        (3, 88, 24, False, relu, 1),
        (5, 96, 40, True, swish, 2),
        (5, 240, 40, True, swish, 1),
        (5, 240, 40, True, swish, 1),
        (5, 120, 48, True, swish, 1),
        (5, 144, 48, True, swish, 1),
        (5, 288, 96, True, swish, 2),
        (5, 576, 96, True, swish, 1),
        (5, 576, 96, True, swish, 1),
    )
    blocks: list[nn.Module] = []
    given = 16
    for kernel, wide, channels, squeeze, act, stride in table:
        blocks.append(_bottleneck(given, wide, channels, kernel, stride, act, squeeze=squeeze))
        given = channels
    return _random(
        nn.Sequential(
            _conv_bn(3, 16, 3, 2, act=swish),
            *blocks,
            _conv_bn(96, 576, act=swish),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(576, 1024),
            swish(),
            nn.Dropout(0.2),
            nn.Linear(1024, 1000),
        ),
        bn_eps=1e-3,
    )


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (2020).

    EfficientNet-B0 (Tan and Le, ICML 2019, table 1) with ReLU6 in place of Swish and without squeeze-and-excite. TensorFlow's
    SAME padding is asymmetric before a stride of 2, which PyTorch's ports express, and so does this, by a Pad node.
    """
    from torch import nn

    table = (
        (3, 1, 16, 1, 1),  # kernel, expand, out, repeats, stride
        (3, 6, 24, 2, 2),
        (5, 6, 40, 2, 2),
        (3, 6, 80, 3, 2),
        (5, 6, 112, 3, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    )
    blocks: list[nn.Module] = []
    given = 32
    for kernel, expand, channels, repeats, stride in table:
        for i in range(repeats):
            wide, step = given * expand, stride if i == 0 else 1
            blocks.append(_bottleneck(given, wide, channels, kernel, step, nn.ReLU6, same=True))
            given = channels
    return _random(
        nn.Sequential(
            _conv_bn(3, 32, 3, 2, act=nn.ReLU6, same=True),
            *blocks,
            _conv_bn(320, 1280, act=nn.ReLU6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(1280, 1000),
        ),
        bn_eps=1e-3,
    )


def resnet18() -> nn.Module:
    """ResNet-18: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1."""
    from torch import nn

    class Basic(nn.Module):
        def __init__(self, given: int, channels: int, stride: int) -> None:
            super().__init__()
            first = _conv_bn(given, channels, 3, stride, act=nn.ReLU)
            self.body = nn.Sequential(first, _conv_bn(channels, channels, 3))
            self.skip = nn.Identity() if given == channels else _conv_bn(given, channels, 1, stride)
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.act(self.body(x) + self.skip(x))
            return y

    blocks: list[nn.Module] = []
    given = 64
    for channels in (64, 128, 256, 512):
        blocks += [Basic(given, channels, 1 if channels == given else 2), Basic(channels, channels, 1)]
        given = channels
    return _random(
        nn.Sequential(
            _conv_bn(3, 64, 7, 2, act=nn.ReLU),
            nn.MaxPool2d(3, 2, 1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, 1000),
        )
    )


def squeezenet1_1() -> nn.Module:
    """SqueezeNet 1.1: Iandola et al., arXiv:1602.07360 (2016), as revised in https://github.com/forresti/SqueezeNet.

    No BatchNorm, and poolings that round up.
    """
    import torch
    from torch import nn

    class Fire(nn.Module):
        def __init__(self, given: int, squeeze: int, expand: int) -> None:
            super().__init__()
            self.squeeze = nn.Sequential(nn.Conv2d(given, squeeze, 1), nn.ReLU())
            self.expand1 = nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU())
            self.expand3 = nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.squeeze(x)
            return torch.cat([self.expand1(x), self.expand3(x)], 1)

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return _random(
        nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool()),
            *(Fire(64, 16, 64), Fire(128, 16, 64), pool()),
            *(Fire(128, 32, 128), Fire(256, 32, 128), pool()),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
            *(nn.Dropout(0.5), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
    )


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 1.0x: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018, table 5."""
    import torch
    from torch import nn

    class Unit(nn.Module):
        def __init__(self, given: int, channels: int, stride: int) -> None:
            super().__init__()
            half = channels // 2
            self.downsamples = stride > 1
            self.left = (
                nn.Sequential(_conv_bn(given, given, 3, stride, given), _conv_bn(given, half, act=nn.ReLU))
                if self.downsamples
                else nn.Identity()
            )
            self.right = nn.Sequential(
                _conv_bn(given if self.downsamples else half, half, act=nn.ReLU),
                _conv_bn(half, half, 3, stride, half),
                _conv_bn(half, half, act=nn.ReLU),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = (x, x) if self.downsamples else x.chunk(2, dim=1)
            x = torch.cat([self.left(left), self.right(right)], dim=1)
            batch, channels, height, width = x.shape
            shuffled = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
            return shuffled.view(batch, -1, height, width)

    class SpatialMean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean([2, 3])

    blocks: list[nn.Module] = []
    given = 24
    for channels, repeats in ((116, 4), (232, 8), (464, 4)):
        blocks += [Unit(given, channels, 2), *(Unit(channels, channels, 1) for _ in range(repeats - 1))]
        given = channels
    return _random(
        nn.Sequential(
            _conv_bn(3, 24, 3, 2, act=nn.ReLU),
            nn.MaxPool2d(3, 2, 1),
            *blocks,
            _conv_bn(464, 1024, act=nn.ReLU),
            SpatialMean(),
            nn.Linear(1024, 1000),
        )
    )


def unet(width: int = 16) -> nn.Module:
    """A U-Net of four levels, 3 channels to a map of 1: Ronneberger et al., U-Net, MICCAI 2015, figure 1.

    As in most ports its convolutions are padded and have BatchNorm; `width` is 64 in the paper.
    """
    import torch
    from torch import nn

    def double(given: int, channels: int) -> nn.Module:
        first = _conv_bn(given, channels, 3, act=nn.ReLU)
        return nn.Sequential(first, _conv_bn(channels, channels, 3, act=nn.ReLU))

    widths = [width << level for level in range(5)]

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)
            self.down = nn.ModuleList([double(a, b) for a, b in zip([3, *widths], widths, strict=False)])
            self.up = nn.ModuleList([nn.ConvTranspose2d(2 * c, c, 2, 2) for c in reversed(widths[:-1])])
            self.merge = nn.ModuleList([double(2 * c, c) for c in reversed(widths[:-1])])
            self.head = nn.Conv2d(width, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.down[0](x)
            skips = []
            for down in list(self.down)[1:]:
                skips.append(x)
                x = down(self.pool(x))
            for up, merge in zip(self.up, self.merge, strict=True):
                x = merge(torch.cat([skips.pop(), up(x)], 1))
            y: torch.Tensor = self.head(x)
            return y

    return _random(UNet())


def detector(anchors: int = 3, classes: int = 20, width: int = 64) -> nn.Module:
    """A small single-shot detector: boxes (1, anchors of all cells, 4) and scores (1, the same, classes).

    Half of MobileNetV2's width, features of strides 8, 16 and 32 merged from the top down (Lin et al., Feature Pyramid Networks,
    CVPR 2017), and heads of separable convolutions (as SSDLite's, Sandler et al., section 6.2) that all strides share (as
    RetinaNet's, Lin et al., ICCV 2017). Decoding and non-maximum suppression are left to the app.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    def separable(given: int, channels: int) -> nn.Sequential:
        return nn.Sequential(
            _conv_bn(given, given, 3, groups=given, act=nn.ReLU6), _conv_bn(given, channels, act=nn.ReLU6)
        )

    def stage(given: int, *rows: tuple[int, int, int, int]) -> nn.Sequential:
        blocks = []
        for expand, channels, repeats, stride in rows:
            for i in range(repeats):
                blocks.append(_bottleneck(given, given * expand, channels, 3, stride if i == 0 else 1, nn.ReLU6))
                given = channels
        return nn.Sequential(*blocks)

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = _conv_bn(3, 16, 3, 2, act=nn.ReLU6)
            self.stages = nn.ModuleList(
                [
                    stage(16, (1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 3, 2)),
                    stage(16, (6, 32, 4, 2), (6, 48, 3, 1)),
                    stage(48, (6, 80, 3, 2), (6, 160, 1, 1)),
                ]
            )
            self.lateral = nn.ModuleList([nn.Conv2d(channels, width, 1) for channels in (16, 48, 160)])
            self.smooth = nn.ModuleList([separable(width, width) for _ in range(3)])
            self.boxes = separable(width, width).append(nn.Conv2d(width, anchors * 4, 1))
            self.scores = separable(width, width).append(nn.Conv2d(width, anchors * classes, 1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.stem(x)
            laterals = []
            for stage, lateral in zip(self.stages, self.lateral, strict=True):
                x = stage(x)
                laterals.append(lateral(x))
            merged = [laterals.pop()]
            while laterals:
                merged.insert(0, laterals.pop() + functional.interpolate(merged[0], scale_factor=2.0, mode="nearest"))
            features = [smooth(y) for smooth, y in zip(self.smooth, merged, strict=True)]
            return rows(self.boxes, features, 4), rows(self.scores, features, classes).sigmoid()

    def rows(head: nn.Module, features: list[torch.Tensor], values: int) -> torch.Tensor:
        """(N, anchors * values, height, width) of each stride to one (N, anchors of all cells, values)."""
        return torch.cat([head(y).permute(0, 2, 3, 1).reshape(y.shape[0], -1, values) for y in features], 1)

    return _random(Detector())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_small": mobilenet_v3_small,
    "efficientnet_lite0": efficientnet_lite0,
    "resnet18": resnet18,
    "squeezenet1_1": squeezenet1_1,
    "shufflenet_v2": shufflenet_v2,
    "unet": unet,
    "detector": detector,
}
"""Each gives the network in evaluation mode, the same at every call."""


def _conv_bn(
    given: int,
    channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = None,
    same: bool = False,
) -> nn.Sequential:
    """Convolution, BatchNorm, activation. `same` pads as TensorFlow does when the sides divide by the stride, else evenly."""
    from torch import nn

    total = kernel - stride if same else kernel - 1
    even = total % 2 == 0
    before, after = total // 2, total - total // 2
    layers: list[nn.Module] = [] if even else [nn.ZeroPad2d((before, after, before, after))]
    layers.append(nn.Conv2d(given, channels, kernel, stride, before if even else 0, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(channels))
    return nn.Sequential(*layers, *([act()] if act else []))


def _bottleneck(
    given: int,
    wide: int,
    channels: int,
    kernel: int,
    stride: int,
    act: type[nn.Module],
    squeeze: bool = False,
    same: bool = False,
) -> nn.Module:
    """MobileNetV2's and V3's inverted residual: widen, depthwise, squeeze and excite, narrow, and add where shapes allow."""
    from torch import nn

    class Excite(nn.Module):
        def __init__(self, narrow: int) -> None:
            super().__init__()
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(wide, narrow, 1),
                nn.ReLU(),
                nn.Conv2d(narrow, wide, 1),
                nn.Hardsigmoid(),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.gate(x) * x
            return y

    class Residual(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = x + self.body(x)
            return y

    layers: list[nn.Module] = [] if wide == given else [_conv_bn(given, wide, act=act)]
    layers.append(_conv_bn(wide, wide, kernel, stride, wide, act, same))
    if squeeze:
        layers.append(Excite(_multiple_of_8(wide / 4)))
    layers.append(_conv_bn(wide, channels))
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and given == channels else body


def _multiple_of_8(width: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below `width`, as the MobileNets round."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def _random(net: nn.Module, bn_eps: float = 1e-5) -> nn.Module:
    """The network with random weights, each BatchNorm with the statistics of what arrives there, in evaluation mode."""
    import torch
    from torch import nn

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        norms = []
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                module.eps = bn_eps
                norms.append(module)
        _set_momentum(norms, 1.0)
        net.train()(torch.rand(1, 3, PX, PX) * 2 - 1)
        _set_momentum(norms, 0.1)
    return net.eval()


def _set_momentum(norms: Iterable[nn.BatchNorm2d], momentum: float) -> None:
    for norm in norms:
        norm.momentum = momentum


if __name__ == "__main__":
    main()
