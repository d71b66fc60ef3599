"""Pruning: removing channels that compute nothing changes nothing, and steps are only taken where the latency has one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.compress.prune import plan_pruning, prune
from edgenas.nets.module import NetworkModule
from edgenas.network.channels import channel_groups
from edgenas.network.costs import macs
from edgenas.network.graph import Network
from edgenas.spaces.mobile import for_data

SPACE = for_data(28, 1, 10)


def trained_like(network: Network, seed: int) -> NetworkModule:
    torch.manual_seed(seed)
    module = NetworkModule(network).eval()
    with torch.no_grad():
        for layer in module.bn_layers():
            layer.gamma.uniform_(0.5, 1.5)
            layer.beta.uniform_(-0.3, 0.3)
            layer.mean.uniform_(-0.3, 0.3)
            layer.var.uniform_(0.5, 2.0)
    return module


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_dropping_dead_channels_changes_no_logit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = SPACE.network(SPACE.sample(rng))
    module = trained_like(network, seed % 1000)
    widths = {}
    with torch.no_grad():
        for group in channel_groups(network):
            full = network.by_name[group[0]].shape[1]
            kept = int(rng.integers(full // 2, full + 1))
            dead = torch.from_numpy(rng.permutation(full)[kept:])
            for name in group:
                layer = module.conv(name)
                layer.weight[dead] = 0
                layer.gamma[dead] = 0
                layer.beta[dead] = 0
            widths.update(dict.fromkeys(group, kept))
        for node in network.nodes:  # a depthwise convolution makes something of nothing: its shift
            if node.is_depthwise:
                layer = module.conv(node.name)
                silent = (
                    module.conv(node.inputs[0].rsplit("/", 1)[0] + "/expand") if "/relu1" in node.inputs[0] else None
                )
                if silent is not None:
                    gone = silent.gamma == 0
                    layer.beta[gone] = 0
                    layer.mean[gone] = 0
                else:
                    layer.beta.zero_()
                    layer.mean.zero_()
        smaller = prune(module, widths).eval()
        images = torch.randn(3, *network.input_shape[1:])
        assert torch.allclose(module(images), smaller(images), atol=1e-4)
    assert macs(smaller.network) <= macs(network)


def test_only_the_edges_of_the_staircase_are_taken() -> None:
    network = SPACE.network(SPACE.largest())
    module = trained_like(network, 0)

    def blocks_of_sixteen(pruned: Network) -> float:
        return float(sum(-(-pruned.by_name[g[0]].shape[1] // 16) for g in channel_groups(pruned)))

    plan = plan_pruning(module, blocks_of_sixteen, importance_limit=0.6)
    assert plan.after_ms < plan.before_ms
    for name, width in plan.widths.items():
        assert width % 16 == 0 or width == network.by_name[name].shape[1], (
            "a width between two steps costs as much as the upper one"
        )


def test_nothing_is_removed_where_nothing_is_saved() -> None:
    module = trained_like(SPACE.network(SPACE.largest()), 0)
    plan = plan_pruning(module, lambda network: 1.0, importance_limit=0.9)
    assert plan.channels_after == plan.channels_before


def test_no_group_loses_more_than_the_limit() -> None:
    network = SPACE.network(SPACE.largest())
    module = trained_like(network, 1)
    plan = plan_pruning(module, lambda pruned: float(macs(pruned)), importance_limit=0.2)
    assert plan.channels_after < plan.channels_before
    for group in channel_groups(network):
        scores = sum(
            (module.conv(name).folded()[0] ** 2).reshape(len(module.conv(name).gamma), -1).sum(1) for name in group
        )
        lost = np.sort(scores)[::-1][plan.widths[group[0]] :].sum() / np.sum(scores)
        assert lost <= 0.2 + 1e-6


@pytest.mark.parametrize("head", [0, 1])
def test_both_heads_follow_their_channels(head: int) -> None:
    genome = (*SPACE.largest().genome[:-1], head)
    network = SPACE.network(SPACE.subnet(genome))
    widths = {name: network.by_name[name].shape[1] - 4 for group in channel_groups(network) for name in group}
    smaller = prune(trained_like(network, 2), widths)
    assert smaller(torch.zeros(1, *network.input_shape[1:])).shape == (1, 10)
