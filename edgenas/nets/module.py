"""A Network as a torch module. One interpreter runs exact networks and subnets of larger, shared weights alike.

`Layers` holds one weight set per Conv or Gemm node name, at least as large as any network that is run through it; each node uses
the leading channels and the centre of the kernel, changed by a learned transform (Once-for-All, Cai et al., ICLR 2020). Where the
sizes are equal that is the whole weight, and `NetworkModule` is an ordinary module of one network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas.errors import EdgenasError
from edgenas.network.graph import WEIGHTED, Network, Node, Shape

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.1
FULL_GAIN_INPUTS = 128  # of a Linear


class ConvBN(nn.Module):
    """Convolution without bias + BatchNorm, at the largest shape (out, in / groups, k, k) that a node asks for.

    `transforms`: for each smaller odd side k from 3 on, a matrix D (k * k, k * k). A node of that size has the centre c of the
    kernel, flattened, as c + c D: another scale needs other weights than the middle of a larger one. Kept as what is added to the
    identity, so that weight decay pulls towards the plain centre.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, shape: Shape, *, transforms: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        self.gamma = nn.Parameter(torch.ones(shape[0]))
        self.beta = nn.Parameter(torch.zeros(shape[0]))
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("var", torch.ones(shape[0]))
        self.momentum = BN_MOMENTUM
        sides = range(3, shape[2], 2) if transforms and shape[2] == shape[3] and shape[2] % 2 else ()
        self.transforms = nn.ParameterDict({str(k): nn.Parameter(torch.zeros(k * k, k * k)) for k in sides})

    def sliced(self, shape: Shape) -> Tensor:
        """The leading channels and the centre of the kernel, transformed."""
        weight = self.weight
        out, inner, height, width = shape
        top, left = (weight.shape[2] - height) // 2, (weight.shape[3] - width) // 2
        centre = weight[:out, :inner, top : top + height, left : left + width]
        if height != width or str(height) not in self.transforms:
            return centre
        return centre + (centre.flatten(2) @ self.transforms[str(height)]).view_as(centre)

    def forward(self, x: Tensor, node: Node, shape: Shape) -> Tensor:
        x, pads = _padded(x, node.attribute("pads"))
        strides, dilations, groups = (node.attribute(name) for name in ("strides", "dilations", "group"))
        weight = self.sliced(shape)
        if groups > 1:
            # torch's bfloat16 kernels of these are slower than its float32 ones, with a stride of 2 eleven times
            with torch.autocast(x.device.type, enabled=False):
                y = F.conv2d(x.float(), weight.float(), None, strides, pads, dilations, groups).to(x.dtype)
        else:
            y = F.conv2d(x, weight, None, strides, pads, dilations, groups)
        out = shape[0]
        whole = out == len(self.gamma)  # a shared layer's statistics mean nothing for a slice: the batch's own are used
        mean, var = (self.mean, self.var) if whole else (None, None)
        return F.batch_norm(
            y, mean, var, self.gamma[:out], self.beta[:out], self.training or not whole, self.momentum, BN_EPSILON
        )

    def per_channel(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.gamma, self.beta, self.mean, self.var

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """(weight, bias) float32 with the BatchNorm folded in."""
        factor = self.gamma / torch.sqrt(self.var + BN_EPSILON)
        weight = self.weight * factor.reshape(-1, 1, 1, 1)
        bias = self.beta - self.mean * factor
        return weight.detach().numpy().copy(), bias.detach().numpy().copy()


class Linear(nn.Module):
    """y = gain * x W^T + b; of a wider input or output the leading part is used.

    The gain (1 up to FULL_GAIN_INPUTS, then falling with their square root) keeps the step that a learning rate makes independent of
    the number of inputs: without it a flatten head of some thousand inputs diverges at a rate that suits all the rest.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.normal_(self.weight, std=0.01)
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.gain = min(1.0, math.sqrt(FULL_GAIN_INPUTS / shape[1]))

    def effective(self, shape: Shape) -> Tensor:
        """The weight that a node of this shape multiplies with."""
        return self.weight[: shape[0], : shape[1]] * self.gain

    def forward(self, x: Tensor, node: Node, shape: Shape) -> Tensor:
        return F.linear(x, self.effective(shape), self.bias[: shape[0]])

    def set_effective(self, weight: Tensor) -> None:
        self.weight.copy_(weight / self.gain)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        weight = self.effective((len(self.bias), self.weight.shape[1]))
        return weight.detach().numpy().copy(), self.bias.detach().numpy().copy()


class Layers(nn.Module):
    """The weights of every node name in `shapes` (name -> largest weight shape), and the interpreter that uses them. With
    `transforms` smaller kernels are more than the centre of the larger ones."""

    def __init__(self, shapes: Mapping[str, Shape], *, transforms: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {n: ConvBN(s, transforms=transforms) if len(s) == 4 else Linear(s) for n, s in shapes.items()}
        )

    def conv(self, name: str) -> ConvBN:
        layer = self.layers[name]
        assert isinstance(layer, ConvBN)
        return layer

    def linear(self, name: str) -> Linear:
        layer = self.layers[name]
        assert isinstance(layer, Linear)
        return layer

    def run(self, network: Network, x: Tensor) -> Tensor:
        """Logits (N, classes) of images x (N, C, H, W)."""
        return self.tensors(network, x)[network.output_name]

    def tensors(self, network: Network, x: Tensor, others: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Every tensor of the network by name; `others` are its inputs besides the images."""
        values = {network.input_name: x, **(others or {})}
        for node in network.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.name in self.layers:
                layer: nn.Module = self.conv(node.name) if node.op == "Conv" else self.linear(node.name)
                values[node.name] = layer(inputs[0], node, network.weight_shape(node))
            else:
                values[node.name] = _apply(node, inputs)
        return values


class NetworkModule(Layers):
    """One network with weights of its own."""

    def __init__(self, network: Network) -> None:
        super().__init__({node.name: network.weight_shape(node) for node in network.weighted()})
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.network, x)

    def bn_layers(self) -> Iterator[ConvBN]:
        return (layer for layer in self.layers.values() if isinstance(layer, ConvBN))

    def folded_weights(self) -> dict[str, np.ndarray]:
        """ "<node>.weight" and "<node>.bias" for the ONNX writers, BatchNorm folded."""
        weights: dict[str, np.ndarray] = {}
        for node in self.network.weighted():
            layer = self.conv(node.name) if node.op == "Conv" else self.linear(node.name)
            weights[f"{node.name}.weight"], weights[f"{node.name}.bias"] = layer.folded()
        return weights


def extract(shared: Layers, network: Network) -> NetworkModule:
    """A module of its own with the weights that `network` uses of `shared`; its BatchNorm statistics still need recalibration."""
    module = NetworkModule(network)
    with torch.no_grad():
        for node in network.weighted():
            shape = network.weight_shape(node)
            if node.op == "Conv":
                source, target = shared.conv(node.name), module.conv(node.name)
                target.weight.copy_(source.sliced(shape))
                for mine, theirs in zip(target.per_channel(), source.per_channel(), strict=True):
                    mine.copy_(theirs[: shape[0]])
            else:
                head, narrower = shared.linear(node.name), module.linear(node.name)
                narrower.set_effective(head.effective(shape))
                narrower.bias.copy_(head.bias[: shape[0]])
    return module


# What `_apply` computes, besides the weighted; an operand that is a constant of a file is known by its shape alone
OPERATORS = (
    *("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Swish", "Add", "Mul", "Concat"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "Flatten"),
)


def can_compute(node: Node) -> bool:
    """Whether the interpreter can: an operator that it has, on tensors that are computed, over the channels of an image."""
    fields = dict(node.attributes)
    if node.op in WEIGHTED:
        return True
    if node.op == "Clip" and not {"min", "max"} <= fields.keys():
        return False
    if node.op == "AveragePool":
        is_even = fields["pads"][:2] == fields["pads"][2:] or fields.get("count_include_pad")
        return bool(is_even) and {"ceil_mode", "dilations"}.isdisjoint(fields)
    return node.op in OPERATORS and "constants" not in fields and fields.get("axis", 1) == 1


def _apply(node: Node, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    if node.op == "Relu":
        return F.relu(x)
    if node.op == "Clip":
        return x.clamp(node.attribute("min"), node.attribute("max"))
    if node.op == "HardSwish":
        return F.hardswish(x)
    if node.op == "HardSigmoid":
        slope = {"alpha": 0.2, "beta": 0.5} | dict(node.attributes)  # ONNX's defaults
        return (slope["alpha"] * x + slope["beta"]).clamp(0, 1)
    if node.op == "Sigmoid":
        return torch.sigmoid(x)
    if node.op == "Swish":
        return F.silu(x)
    if node.op == "Add":
        return x + inputs[1]
    if node.op == "Mul" and len(inputs) == 2:
        return x * inputs[1]
    if node.op == "Concat":
        return torch.cat(inputs, node.attribute("axis"))
    if node.op in ("MaxPool", "AveragePool"):
        return _pool(node, x)
    if node.op == "GlobalAveragePool":
        return x.mean((2, 3), keepdim=True)
    if node.op == "Flatten":
        return x.flatten(1)
    raise EdgenasError(f"node {node.name!r}: the operator {node.op} can't be built in torch yet")


def _pool(node: Node, x: Tensor) -> Tensor:
    """What is padded doesn't count in the maximum, and in the mean only where the node says so."""
    fields = dict(node.attributes)
    window, strides = fields["kernel_shape"], fields["strides"]
    if node.op == "MaxPool":
        x, pads = _padded(x, fields["pads"], -math.inf)
        rounds_up, dilations = bool(fields.get("ceil_mode", 0)), fields.get("dilations", (1, 1))
        return F.max_pool2d(x, window, strides, pads, dilations, rounds_up)
    counts = bool(fields.get("count_include_pad", 0))
    x, pads = _padded(x, node.attribute("pads"), 0.0 if counts else None)
    return F.avg_pool2d(x, window, strides, pads, count_include_pad=counts)


def _padded(x: Tensor, pads: Shape, filler: float | None = 0.0) -> tuple[Tensor, Shape]:
    """The tensor, and the (height, width) padding that torch still has to do: none where top and bottom, left and right differ,
    which torch doesn't know. Without a `filler` that can't be done beforehand."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    if filler is None:
        raise EdgenasError(f"a pool with pads {pads} that don't count in its mean can't be built in torch yet")
    return F.pad(x, (left, right, top, bottom), value=filler), (0, 0)
