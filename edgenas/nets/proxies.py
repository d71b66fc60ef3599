"""Zero-cost proxies: what an untrained network and a few images say about how accurate it may get. Each is higher for better.

How well they rank differs from space to space, and none beats the number of parameters or MACs everywhere (Abdelfattah et al., ICLR
2021; NAS-Bench-Suite-Zero, Krishnakumar et al., NeurIPS 2022): nothing here is believed before it was compared with accuracies.

All of them run with the statistics of the batch in BatchNorm and leave the module as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.nets.feed import Preprocessing
from edgenas.nets.module import BN_EPSILON, ConvBN, Linear, NetworkModule
from edgenas.nets.proxy_names import NAMES
from edgenas.network import costs
from edgenas.network.bypass import bypassed
from edgenas.network.graph import Network, Node
from edgenas.network.readings import depends_on_input, live

RECTIFIERS = ("Relu", "Clip", "HardSwish", "Swish")  # units that are on or off, by the sign of what goes in
GATES = ("Sigmoid", "HardSigmoid")
ZICO_PARTS = 2  # of a batch: as few as show a spread
NOTHING = -math.inf  # of a network that the proxy sees nothing in


@dataclass(frozen=True, eq=False)
class Batch:
    """Training images, uint8 (N, H, W, C), with their labels (N,); `seed` of the networks' random weights."""

    images: np.ndarray
    labels: np.ndarray
    preprocessing: Preprocessing
    seed: int


def measured(batch: Batch, network: Network, report: Callable[[float], None] = lambda done: None) -> dict[str, float]:
    """Every proxy, by name, of what is alive of `network`, with random weights. `NOTHING` where the input never reaches the output."""
    alive = live(network)
    size = {"params": float(costs.params(alive)), "macs": float(costs.macs(alive))}
    if not depends_on_input(network):
        return dict.fromkeys(NAMES, NOTHING) | size
    module = untrained(alive, batch.seed)
    images = batch.preprocessing(batch.images, network.input_shape[2])
    labels = torch.from_numpy(batch.labels)
    return {
        "naswot": naswot(module, images),
        "synflow": synflow(module),
        "zico": zico(module, images, labels),
        "gradnorm": gradnorm(module, images, labels),
        **size,
    }


def untrained(network: Network, seed: int) -> NetworkModule:
    """With random weights. The same seed gives the same ones, and torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NetworkModule(bypassed(network, lambda node: node.op == "Identity"))


def naswot(module: NetworkModule, images: Tensor) -> float:
    """log |det K|, K[i, j] being the number of rectifiers that are both on or both off for images i and j: the better a network tells
    images (N, C, H, W) apart, the higher. NOTHING where two images are the same to all of them.

    Neural Architecture Search without Training, Mellor et al., ICML 2021.
    """
    twin = _twin(module)
    with torch.no_grad():
        tensors = twin.tensors(twin.network, images)
    alike = torch.zeros((len(images), len(images)), dtype=torch.float64)
    for node in twin.network.nodes:
        if node.op in RECTIFIERS:
            on = (tensors[node.inputs[0]] > 0).flatten(1).float()
            alike += (on @ on.T + (1 - on) @ (1 - on).T).double()  # whole numbers, exact up to 2**24
    sign, log_determinant = torch.linalg.slogdet(alike)
    return float(log_determinant) if sign > 0 else NOTHING


def synflow(module: NetworkModule) -> float:
    """log of the sum of |w * dR/dw| over all weights w, R being the sum of the outputs of the linear network that is left when every
    weight is replaced by its absolute value, every rectifier by the identity, every gate by 1, BatchNorm and biases by nothing, and
    the input by ones.

    Pruning neural networks without any data by iteratively conserving synaptic flow, Tanaka et al., NeurIPS 2020; without BatchNorm as
    in Abdelfattah et al., ICLR 2021. In double precision, since the product of many layers leaves the range of single.
    """
    linear = _twin(module, bypassed(module.network, _is_not_linear)).double().eval()
    with torch.no_grad():
        for layer in linear.layers.values():
            _weight(layer).abs_()
            if isinstance(layer, ConvBN):
                layer.gamma.fill_(math.sqrt(1 + BN_EPSILON))  # of a variance of 1: together they change nothing
                for tensor in (layer.beta, layer.mean):
                    tensor.zero_()
                layer.var.fill_(1)
            elif isinstance(layer, Linear):
                layer.bias.zero_()
    if not _weights(linear):
        return NOTHING
    _, *shape = linear.network.input_shape
    flow = linear(torch.ones((1, *shape), dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, _weights(linear))
    total = sum(float((w.detach() * g).abs().sum()) for w, g in zip(_weights(linear), gradients, strict=True))
    return math.log(total) if total > 0 else NOTHING


def gradnorm(module: NetworkModule, images: Tensor, labels: Tensor) -> float:
    """The sum over the layers of the Euclidean norm of the loss's gradient in their weights, of one batch.

    Zero-Cost Proxies for Lightweight NAS, Abdelfattah et al., ICLR 2021.
    """
    return sum(float(gradient.norm()) for gradient in _gradients(_twin(module), images, labels))


def zico(module: NetworkModule, images: Tensor, labels: Tensor) -> float:
    """The sum over the layers of log sum_w E|g_w| / std(g_w), the mean and the spread of each weight's gradient being those over
    `ZICO_PARTS` parts of the batch.

    ZiCo: Zero-shot NAS via inverse coefficient of variation on gradients, Li et al., ICLR 2023.
    """
    twin = _twin(module)
    parts = [_gradients(twin, x, y) for x, y in zip(images.chunk(ZICO_PARTS), labels.chunk(ZICO_PARTS), strict=True)]
    score = 0.0
    for of_layer in zip(*parts, strict=True):
        gradients = torch.stack(of_layer).double()
        mean, spread = gradients.abs().mean(0), gradients.std(0, correction=0)
        moving = spread > 0
        total = float((mean[moving] / spread[moving]).sum())
        if total > 0:
            score += math.log(total)
    return score if parts[0] else NOTHING


def _gradients(module: NetworkModule, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Of the cross entropy, in the weights of each layer."""
    if not _weights(module):
        return []
    loss = F.cross_entropy(module(images), labels)
    return list(torch.autograd.grad(loss, _weights(module)))


def _twin(module: NetworkModule, network: Network | None = None) -> NetworkModule:
    """With the same weights, as far as `network` has them, in training mode."""
    with torch.random.fork_rng(devices=[]):  # the weights that it starts with are drawn
        twin = NetworkModule(network or module.network)
    twin.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if name in twin.state_dict()})
    return twin.train()


def _weight(layer: torch.nn.Module) -> torch.nn.Parameter:
    assert isinstance(layer, ConvBN | Linear)
    return layer.weight


def _weights(module: NetworkModule) -> list[torch.nn.Parameter]:
    return [_weight(layer) for layer in module.layers.values()]


def _is_not_linear(node: Node) -> bool:
    """Besides rectifiers, the product with a gate, which takes the gate's own branch along."""
    return node.op in (*RECTIFIERS, *GATES) or (node.op == "Mul" and len(node.inputs) == 2)
