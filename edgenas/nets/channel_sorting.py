"""Sorting shared weights so that a narrower subnet, which uses the leading channels, has the most important ones.

As Once-for-All does when it frees widths (Cai et al., ICLR 2020): by the L1 norm of the weights that read a channel. Only channels
inside a block can be sorted on their own; those that pass from block to block are tied to all that may come before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgenas.nets.module import Layers
from edgenas.network.channels import channel_groups
from edgenas.network.graph import Network


@dataclass(frozen=True)
class HiddenChannels:
    """The output channels of the convolution `made_by`: `followers` are depthwise convolutions that keep them apart, `readers` the
    convolutions that mix them."""

    made_by: str
    followers: frozenset[str]
    readers: frozenset[str]


def hidden_channels(networks: Iterable[Network]) -> tuple[HiddenChannels, ...]:
    """Those that, in every one of these networks, nothing else is tied to and nothing but the same layers reads."""
    found: dict[str, HiddenChannels] = {}
    refused: set[str] = set()
    read_from: dict[str, set[str]] = {}  # layer -> convolutions that made what it reads
    for network in networks:
        makers = _makers(network)
        free = {names[0] for names in channel_groups(network) if len(names) == 1}
        members: dict[str, tuple[set[str], set[str]]] = {name: (set(), set()) for name in free}
        for node in network.weighted():
            maker = makers[node.inputs[0]]
            read_from.setdefault(node.name, set()).add(maker)
            if maker in members:
                members[maker][0 if node.is_depthwise else 1].add(node.name)
                if node.op != "Conv":
                    refused.add(maker)  # a Gemm reads positions of channels
        refused |= {node.name for node in network.weighted() if node.name not in free}
        for name, (followers, readers) in members.items():
            hidden = HiddenChannels(name, frozenset(followers), frozenset(readers))
            if found.setdefault(name, hidden) != hidden:
                refused.add(name)
    return tuple(
        hidden
        for name, hidden in sorted(found.items())
        if name not in refused and all(read_from[layer] == {name} for layer in hidden.followers | hidden.readers)
    )


def _makers(network: Network) -> dict[str, str]:
    """Tensor -> the last convolution before it that isn't depthwise, by the first of what each node reads."""
    makers = {name: name for name, _ in network.inputs}
    for node in network.nodes:
        mixes = node.op == "Gemm" or (node.op == "Conv" and not node.is_depthwise)
        makers[node.name] = node.name if mixes else makers[node.inputs[0]]
    return makers


def importance_order(layers: Layers, hidden: HiddenChannels) -> Tensor | None:
    """Indices of the channels, the most important first; None where the layers don't agree on how many there are."""
    read = [layers.conv(name).weight.detach().abs().sum((0, 2, 3)) for name in sorted(hidden.readers)]
    made = [len(layers.conv(name).gamma) for name in (hidden.made_by, *hidden.followers)]
    if {len(norms) for norms in read} != set(made) or len(set(made)) > 1:
        return None
    total = torch.stack([norms / norms.mean().clamp_min(1e-12) for norms in read]).sum(0)
    return torch.argsort(total, descending=True, stable=True)


def sort_channels(tensors: Mapping[str, Tensor], hidden: HiddenChannels, order: Tensor) -> None:
    """Put the channels into `order`, in place, in `tensors` named like the state of a `Layers`: weights, their averages, or their
    momenta (of which BatchNorm's statistics have none)."""
    makers = {f"layers.{name}" for name in (hidden.made_by, *hidden.followers)}
    readers = {f"layers.{name}.weight" for name in hidden.readers}
    for name, tensor in tensors.items():
        if name.rpartition(".")[0] in makers:
            tensor.copy_(tensor[order])
        elif name in readers:
            tensor.copy_(tensor[:, order])
