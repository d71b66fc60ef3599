"""A module of one network with weights that come with every BatchNorm folded, made trainable again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edgenas.nets.evaluate import BATCH
from edgenas.nets.module import BN_EPSILON, NetworkModule
from edgenas.network.graph import Network


def with_weights(network: Network, weights: Mapping[str, np.ndarray]) -> NetworkModule:
    """`weights`: "<node>.weight" and "<node>.bias" of every weighted node. A BatchNorm that does nothing but add the bias."""
    module = NetworkModule(network)
    with torch.no_grad():
        for node in network.weighted():
            weight, bias = (torch.from_numpy(weights[f"{node.name}.{part}"].copy()) for part in ("weight", "bias"))
            if node.op == "Conv":
                layer = module.conv(node.name)
                layer.weight.copy_(weight)
                layer.beta.copy_(bias)
                layer.var.fill_(1 - BN_EPSILON)
            else:
                head = module.linear(node.name)
                head.set_effective(weight)
                head.bias.copy_(bias)
    return module.eval()


def give_statistics(module: NetworkModule, images: Tensor) -> None:
    """Make the BatchNorms of `with_weights` real, in place: each normalises by the mean and variance that its channels have on
    `images` (N, C, H, W), and its factor and shift undo that. The logits stay what they were.

    A folded BatchNorm can't be told from the weights any more, and a convolution may never have had one; training in batches and
    narrower widths need one each, and this is the one that was folded, up to a factor of the weights, which it makes irrelevant.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = 0
    names = [node.name for node in module.network.nodes if node.op == "Conv"]
    with torch.no_grad():
        for batch in images.split(BATCH):
            tensors = module.tensors(module.network, batch)
            for name in names:
                values = tensors[name].double()
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + values.mean((2, 3)).sum(0), before[1] + values.square().mean((2, 3)).sum(0))
            count += len(batch)
        for name in names:
            mean, square = (total / count for total in sums[name])
            variance = (square - mean.square()).clamp_min(0)
            layer = module.conv(name)
            layer.mean.copy_(mean - layer.beta)  # of the convolution alone
            layer.var.copy_(variance)
            layer.gamma.copy_(torch.sqrt(layer.var + BN_EPSILON))
            layer.beta.copy_(mean)
