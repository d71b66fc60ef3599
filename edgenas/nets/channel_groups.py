"""The channel groups of a user's own module, and how important each channel is, from torch-pruning's dependency graph
(Fang et al., DepGraph, CVPR 2023)."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgenas.errors import InputError
from edgenas.network.graph import Shape
from edgenas.user_code import said

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModuleGroup:
    """Names of the convolutions in the module whose output channels are kept or dropped together, and a score for each channel:
    the mean over all that reads or makes it (weights, BatchNorm's factors) of its squared norm, relative to the layer's mean."""

    convs: frozenset[str]
    importance: tuple[float, ...]


def module_groups(module: nn.Module, input_shape: Shape, source: str) -> tuple[ModuleGroup, ...]:
    """Those of which channel i is the same channel in every member. Depthwise convolutions follow others and are not named;
    grouped ones are not either. Raises InputError, calling the module `source`, where torch-pruning can't follow it."""
    import torch
    import torch_pruning
    from torch import nn

    scorer = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    found: dict[frozenset[str], ModuleGroup] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters outside of layers: they take no part in groups
        try:
            twin = copy.deepcopy(module).eval().requires_grad_(True)  # it follows gradients
            graph = torch_pruning.DependencyGraph().build_dependency(twin, torch.randn(input_shape), verbose=False)
            names = {each: name for name, each in twin.named_modules()}
            for name, conv in twin.named_modules():
                if isinstance(conv, nn.Conv2d) and conv.groups == 1 and not any(name in convs for convs in found):
                    group = graph.get_pruning_group(
                        conv, torch_pruning.prune_conv_out_channels, list(range(conv.out_channels))
                    )
                    convs = _convs(graph, group, names)
                    if convs is not None:
                        found[convs] = ModuleGroup(convs, tuple(scorer(group).tolist()))
        except Exception as error:  # it wasn't made for every model
            raise InputError(
                f"{source}: torch-pruning can't tell which channels belong together: {said(error)}"
            ) from error
    return tuple(found.values())


def _convs(graph: Any, group: Any, names: dict[nn.Module, str]) -> frozenset[str] | None:
    """The group's full convolutions; None where channels are shifted against each other, as behind a Concat."""
    from torch import nn

    members = set()
    for dependency, indices in group:
        layer = dependency.target.module
        if isinstance(layer, nn.Conv2d) and graph.is_out_channel_pruning_fn(dependency.handler):
            if list(indices) != list(range(layer.out_channels)):
                return None
            if layer.groups == 1:
                members.add(names[layer])
            elif layer.groups != layer.out_channels or layer.groups != layer.in_channels:
                return None
    return frozenset(members)
