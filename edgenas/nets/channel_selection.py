"""A network with some of its channels, or with all of them in another order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from edgenas.nets.module import NetworkModule
from edgenas.network.channels import with_widths


def with_channels(module: NetworkModule, channels: Mapping[str, torch.Tensor]) -> NetworkModule:
    """`channels`: convolution name -> indices of the output channels to have, in their order; all convolutions of a channel group
    (`network.channels.channel_groups`) must have the same. Weights and BatchNorm statistics are taken over; given all channels, the
    result computes the same logits."""
    network = module.network
    smaller = NetworkModule(with_widths(network, {name: len(indices) for name, indices in channels.items()}))
    alive: dict[str, torch.Tensor] = {network.input_name: torch.arange(network.input_shape[1])}
    with torch.no_grad():
        for node in network.nodes:
            read = max((alive[name] for name in node.inputs), key=len)  # one of a product may be broadcast
            alive[node.name] = read
            if node.op == "Conv":
                made = read if node.is_depthwise else channels.get(node.name, torch.arange(node.shape[1]))
                alive[node.name] = made
                source, target = module.conv(node.name), smaller.conv(node.name)
                rows = source.weight[made]
                reads_all = node.is_depthwise or node.attribute("group") > 1  # a grouped one's input never changes
                target.weight.copy_(rows if reads_all else rows[:, read])
                for mine, theirs in zip(target.per_channel(), source.per_channel(), strict=True):
                    mine.copy_(theirs[made])
            elif node.op == "Concat":
                starts = np.cumsum([0, *(network.shape_of(name)[1] for name in node.inputs[:-1])])
                joined = [alive[name] + int(start) for name, start in zip(node.inputs, starts, strict=True)]
                alive[node.name] = torch.cat(joined)
            elif node.op == "Flatten":
                positions = int(np.prod(network.shape_of(node.inputs[0])[2:]))
                alive[node.name] = (read[:, None] * positions + torch.arange(positions)).reshape(-1)
            elif node.op == "Gemm":
                alive[node.name] = torch.arange(node.shape[1])
                head, narrower = module.linear(node.name), smaller.linear(node.name)
                narrower.set_effective(head.effective(network.weight_shape(node))[:, read])
                narrower.bias.copy_(head.bias)
    return smaller
