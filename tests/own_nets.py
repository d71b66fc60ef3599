"""Models such as a user might bring, in plain torch; each function is what `--model` takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)]


class BasicBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(c_in, c_out, 3, stride), nn.ReLU(), *conv_bn(c_out, c_out, 3))
        self.skip = nn.Sequential(*(conv_bn(c_in, c_out, 1, stride) if stride > 1 or c_in != c_out else ()))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, width, 3, 2), nn.ReLU())
        self.stage1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.stage2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width))
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 8, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expand: int, excite: bool) -> None:
        super().__init__()
        inner = c_in * expand
        middle: list[nn.Module] = [SqueezeExcite(inner)] if excite else []
        self.layers = nn.Sequential(
            *(*conv_bn(c_in, inner, 1), nn.ReLU6(), *conv_bn(inner, inner, 3, stride, inner), nn.ReLU6()),
            *(*middle, *conv_bn(inner, c_out, 1)),
        )
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class MobileNet(nn.Module):
    def __init__(self, channels: int, classes: int, excite: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(*conv_bn(channels, 16, 3, 2), nn.ReLU6(), InvertedResidual(16, 24, 2, 3, excite)),
            *(InvertedResidual(24, 24, 1, 2, excite), nn.Conv2d(24, 48, 1), nn.ReLU()),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(48, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


class Odd(nn.Module):
    """Joined branches, a grouped and a dilated convolution, pools of all kinds, and a flatten head."""

    def __init__(self, channels: int, classes: int, px: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        self.wide, self.narrow = nn.Conv2d(16, 16, 3, padding=2, dilation=2), nn.Conv2d(16, 8, 1)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=3)
        self.last = nn.Conv2d(24, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32 * (px // 4 + 1) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(torch.cat([F.hardswish(self.wide(x)), self.narrow(x)], 1), 3, 1, 1)
        return self.head(torch.flatten(F.relu(self.last(F.relu(self.grouped(x)))), 1))


def with_statistics(module: nn.Module, channels: int = 3, px: int = 28) -> nn.Module:
    """As if trained: BatchNorms with factors, shifts and statistics of their own."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    with torch.no_grad():
        for _ in range(20):
            module.train()(torch.randn(16, channels, px, px))
    return module.eval()


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(ResNet(3, 2))


def mobilenet() -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(MobileNet(3, 2))


def mobilenet_without_excitation() -> tuple[nn.Module, list[float], list[float]]:
    torch.manual_seed(0)
    return with_statistics(MobileNet(3, 2, excite=False)), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def odd() -> nn.Module:
    torch.manual_seed(0)
    return Odd(3, 2, 28).eval()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = -x
        return self.conv(x).mean((2, 3))


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).real


class Then(nn.Module):
    """A convolution, and something after it."""

    def __init__(self, after: nn.Module, channels: int = 16, classes: int = 2) -> None:
        super().__init__()
        self.conv, self.after, self.head = nn.Conv2d(3, channels, 3), after, nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.conv(x)).mean((2, 3)))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


branching = Branching
wrong_size = lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 2))  # noqa: E731
wrong_classes = lambda: Then(nn.ReLU(), classes=5)  # noqa: E731
fourier = lambda: Then(Fourier())  # noqa: E731
elu = lambda: Then(nn.Sequential(nn.ReLU(), nn.ELU()))  # noqa: E731
probabilities = lambda: nn.Sequential(Then(nn.ReLU()), nn.Softmax(1))  # noqa: E731
noisy = lambda: Then(Noise())  # noqa: E731
two_outputs = Twice
narrow = lambda: Then(nn.ReLU(), channels=8)  # noqa: E731
bad_statistics = lambda: (Then(nn.ReLU()), [0.5], [0.2])  # noqa: E731
a_dictionary = dict


def raises() -> nn.Module:
    raise RuntimeError("the weights are gone")
