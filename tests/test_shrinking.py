"""Progressive shrinking: what is drawn grows to everything, and channels are sorted without changing what whole blocks compute."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgenas.nets.channel_sorting import hidden_channels, importance_order, sort_channels
from edgenas.nets.module import Layers, NetworkModule
from edgenas.network.costs import macs
from edgenas.network.graph import Network
from edgenas.spaces.mobile import for_data
from edgenas.supernet.shrinking import PROBED, LargestFirst, is_released, largest_first, share_at
from edgenas.supernet.train import new_supernet
from tests.test_spaces import SMALL_TREES
from tests.tiny_space import SPACE

SPACES = {"mobile": SPACE, "tree": SMALL_TREES}


@given(st.integers(1, 200))
def test_the_share_grows_from_the_largest_alone_to_everything(epochs: int) -> None:
    shares = [share_at(epoch, epochs) for epoch in range(epochs)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(share == 1 for share in shares[epochs // 2 :])
    assert (shares[0] == 0) == (epochs >= 4)
    assert [is_released(epoch, epochs) for epoch in range(epochs)].count(True) == (epochs >= 4)


@pytest.fixture(scope="module")
def growing() -> LargestFirst:
    return largest_first(SPACE, SPACE.sample, 3)


@given(share=st.floats(0.001, 0.999), seed=st.integers(0, 9))
def test_what_is_drawn_is_of_the_largest_share(growing: LargestFirst, share: float, seed: int) -> None:
    sizes = [macs(SPACE.network(subnet)) for subnet in growing.probed[::50]]
    assert sizes == sorted(sizes, reverse=True)
    top = growing.probed[: ceil(share * PROBED)]
    assert set(growing.draw(np.random.default_rng(seed), 5, share)) <= set(top)


def test_alone_nothing_is_drawn_and_at_the_end_what_the_space_draws(growing: LargestFirst) -> None:
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    assert growing.draw(one, 4, 0.0) == []
    assert growing.draw(one, 4, 1.0) == [SPACE.sample(other) for _ in range(4)]


def networks_of(name: str) -> list[Network]:
    space, rng = SPACES[name], np.random.default_rng(0)
    return [space.network(s) for s in (space.largest(), *(space.sample(rng) for _ in range(100)))]


@pytest.mark.parametrize("name", SPACES)
def test_sorting_hidden_channels_changes_no_network_that_has_all_of_them(name: str) -> None:
    networks = networks_of(name)
    supernet = new_supernet(SPACES[name], 0).train()
    with torch.no_grad():
        for parameter in supernet.parameters():  # no two channels alike
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    found = hidden_channels(networks)
    assert found
    widths = {hidden.made_by: len(supernet.conv(hidden.made_by).gamma) for hidden in found}
    whole = [n for n in networks if all(n.by_name[k].shape[1] == w for k, w in widths.items() if k in n.by_name)]
    images = torch.randn(4, *SPACES[name].network(SPACES[name].largest()).input_shape[1:])
    before = [supernet.run(network, images) for network in whole]
    moved = 0
    for hidden in found:
        order = importance_order(supernet, hidden)
        assert order is not None
        assert sorted(order.tolist()) == list(range(widths[hidden.made_by]))
        moved += order.tolist() != sorted(order.tolist())
        sort_channels(supernet.state_dict(), hidden, order)
        again = importance_order(supernet, hidden)
        assert again is not None
        assert again.tolist() == sorted(order.tolist()), "sorted once and for all"
    assert moved
    assert len(whole) > 1
    for network, logits in zip(whole, before, strict=True):
        assert torch.allclose(supernet.run(network, images), logits, atol=1e-4 * logits.abs().max().item())


def test_channels_that_something_else_is_tied_to_are_not_hidden() -> None:
    """In the mobile space: the outputs of blocks, and the inside of an inverted residual of ratio 1, which is the block's input."""
    space, rng = for_data(28, 1, 10), np.random.default_rng(0)
    found = hidden_channels([space.network(space.sample(rng)) for _ in range(100)])
    assert {"/".join(hidden.made_by.split("/")[2:]) for hidden in found} == {
        "residual/conv1",
        "fused/expand",
        "mbconv/expand",
    }
    assert len(found) == 3 * sum(max(stage.depths) for stage in space.stages)


def test_a_narrow_network_has_the_channels_that_matter() -> None:
    """Of a residual block whose second convolution reads only the last half of the first one's channels."""
    networks = networks_of("mobile")
    supernet = Layers(SPACE.layer_shapes())
    (hidden,) = (h for h in hidden_channels(networks) if h.made_by == "stage1/block0/residual/conv1")
    reader = supernet.conv("stage1/block0/residual/conv2")
    width = reader.weight.shape[1]
    with torch.no_grad():
        reader.weight[:, : width // 2] = 0
    order = importance_order(supernet, hidden)
    assert order is not None
    assert set(order[: width - width // 2].tolist()) == set(range(width // 2, width))


def test_layers_that_disagree_on_the_width_are_left_alone() -> None:
    network = networks_of("mobile")[0]
    (hidden, *_) = hidden_channels([network])
    module = NetworkModule(network)
    reader = module.conv(next(iter(hidden.readers)))
    reader.weight = torch.nn.Parameter(reader.weight[:, :-1].detach())
    assert importance_order(module, hidden) is None
