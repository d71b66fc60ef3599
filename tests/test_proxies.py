"""Zero-cost proxies: against what can be worked out by hand, and against the laws that their definitions imply."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgenas.nets import proxies
from edgenas.nets.feed import Preprocessing
from edgenas.nets.module import NetworkModule
from edgenas.nets.proxy_names import NAMES
from edgenas.network import costs
from edgenas.network.builder import INPUT, Builder
from edgenas.network.bypass import bypassed
from edgenas.network.graph import Network
from edgenas.report.explained import describe_explained, describe_warm_start
from edgenas.search.warm_start import warm_start
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.space import Subnet
from edgenas.stats import rank_figures
from tests.tiny_space import SPACE

CELLS = CellSpace("cells", 3, NAS_BENCH_201.operations, channels=1, side_px=8, classes=3, widths=(4, 8), repeats=1)
OF_DATA: tuple[Callable[[NetworkModule, Tensor, Tensor], float], ...] = (
    lambda module, images, labels: proxies.naswot(module, images),
    proxies.zico,
    proxies.gradnorm,
)


def batch(count: int = 8, px: int = 12, channels: int = 1, seed: int = 0) -> proxies.Batch:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, px, px, channels), dtype=np.uint8)
    labels = rng.integers(0, 3, count)
    return proxies.Batch(images, labels, Preprocessing((0.5,) * channels, (0.25,) * channels), seed)


def tensors(count: int = 8, px: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((count, 1, px, px), generator=generator), torch.arange(count) % 3


def some_module(seed: int = 0) -> NetworkModule:
    return proxies.untrained(SPACE.network(SPACE.sample(np.random.default_rng(seed))), seed)


def linear_chain(*widths: int) -> Network:
    b = Builder((1, widths[0], 1, 1))
    x = b.flatten("flatten", INPUT)
    for i, width in enumerate(widths[1:]):
        x = b.linear(f"linear{i}", x, width)
        if i < len(widths) - 2:
            x = b.activation(f"relu{i}", x)
    return b.finish(x)


def rectified(units: int) -> Network:
    b = Builder((1, units, 1, 1))
    return b.finish(b.linear("linear", b.flatten("flatten", b.activation("relu", INPUT)), 2))


class TestNaswot:
    @given(st.integers(2, 7), st.integers(1, 12), st.integers(0, 99))
    def test_it_is_the_log_determinant_of_how_many_units_agree(self, images: int, units: int, seed: int) -> None:
        codes = np.random.default_rng(seed).integers(0, 2, (images, units))
        alike = np.array([[(one == other).sum() for other in codes] for one in codes], float)
        x = torch.tensor(np.where(codes, 0.3, -2.0), dtype=torch.float32)[:, :, None, None]
        found = proxies.naswot(NetworkModule(rectified(units)), x)
        if abs(np.linalg.det(alike)) < 0.5:  # whole numbers have whole determinants
            assert found < math.log(0.5)
        else:
            assert found == pytest.approx(math.log(np.linalg.det(alike)))

    def test_known_value(self) -> None:
        """Three images of four units that pairwise agree in one, two and one: det [[4, 1, 2], [1, 4, 1], [2, 1, 4]] = 44."""
        codes = torch.tensor([[1.0, 1, 1, 1], [1, -1, -1, -1], [1, 1, -1, 1]])
        codes[2] = torch.tensor([-1.0, 1, -1, 1])
        found = proxies.naswot(NetworkModule(rectified(4)), codes[:, :, None, None])
        alike = (codes @ codes.T + 4) / 2
        assert alike.tolist() == [[4, 1, 2], [1, 4, 1], [2, 1, 4]]
        assert found == pytest.approx(math.log(44))

    def test_images_that_are_the_same_to_all_units_are_not_told_apart(self) -> None:
        x, _ = tensors()
        x[1] = x[0]
        assert proxies.naswot(some_module(), x) < proxies.naswot(some_module(), tensors()[0]) - 10

    @given(st.integers(0, 20), st.floats(0.1, 10))
    @settings(max_examples=10)
    def test_scale_and_order_of_the_images_make_no_difference(self, seed: int, scale: float) -> None:
        module, (x, _) = some_module(seed), tensors(seed=seed)
        expected = proxies.naswot(module, x)
        assert proxies.naswot(module, x.flip(0)) == pytest.approx(expected, rel=1e-3)
        assert proxies.naswot(module, x * scale) == pytest.approx(expected, rel=1e-3)


class TestSynflow:
    @given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 99))
    def test_of_a_chain_it_is_as_many_products_of_its_matrices_as_it_has(self, widths: list[int], seed: int) -> None:
        module = proxies.untrained(linear_chain(*widths), seed)
        flow = np.ones(widths[0])
        for layer in module.layers.values():
            flow = np.abs(layer.effective(tuple(layer.weight.shape)).detach().numpy().astype(float)) @ flow
        layers = len(widths) - 1
        assert proxies.synflow(module) == pytest.approx(math.log(layers * flow.sum()))

    @given(st.integers(0, 20), st.floats(0.1, 10))
    @settings(max_examples=10)
    def test_a_layer_that_all_flow_passes_scales_it(self, seed: int, scale: float) -> None:
        module = some_module(seed)
        before = proxies.synflow(module)
        with torch.no_grad():
            module.conv(next(node.name for node in module.network.weighted())).weight.mul_(-scale)
        assert proxies.synflow(module) == pytest.approx(before + math.log(scale))

    def test_batchnorm_and_biases_say_nothing(self) -> None:
        module = some_module()
        before = proxies.synflow(module)
        with torch.no_grad():
            for layer in module.bn_layers():
                for tensor in (layer.gamma, layer.beta, layer.mean, layer.var):
                    tensor.uniform_(0.5, 3)
            module.linear(next(node.name for node in module.network.weighted() if node.op == "Gemm")).bias.fill_(7)
        assert proxies.synflow(module) == before

    def test_a_gate_is_one(self) -> None:
        def network(gated: bool) -> Network:
            b = Builder((1, 2, 4, 4))
            x = b.conv("conv", INPUT, 4, 3)
            if gated:
                gate = b.activation("gate", b.conv("squeeze", b.global_average_pool("pool", x), 4, 1), "HardSigmoid")
                x = b.node("scale", "Mul", (x, gate), b.shape(x))
            return b.finish(b.linear("head", b.flatten("flatten", b.global_average_pool("mean", x)), 3))

        plain, gated = (proxies.untrained(network(is_gated), 0) for is_gated in (False, True))
        for name in ("conv", "head"):
            plain.layers[name].load_state_dict(gated.layers[name].state_dict())
        assert proxies.synflow(plain) == proxies.synflow(gated)

    def test_a_hundred_layers_stay_in_range(self) -> None:
        assert math.isfinite(proxies.synflow(proxies.untrained(linear_chain(*[300] * 100), 0)))


class TestGradients:
    """Of softmax regression: dL/dW = (softmax(Wx + b) - onehot(y)) x^T, the mean over the images."""

    @staticmethod
    def by_hand(weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        scores = np.exp(x @ weight.T)
        errors = scores / scores.sum(1, keepdims=True) - np.eye(len(weight))[y]
        return np.asarray(errors.T @ x / len(x))

    @pytest.fixture
    def regression(self) -> tuple[NetworkModule, Tensor, Tensor]:
        module = proxies.untrained(linear_chain(5, 3), 0)
        with torch.no_grad():
            module.linear("linear0").weight.copy_(torch.randn((3, 5), generator=torch.Generator().manual_seed(1)))
        x = torch.randn((8, 5, 1, 1), generator=torch.Generator().manual_seed(2))
        return module, x, torch.arange(8) % 3

    def test_gradnorm(self, regression: tuple[NetworkModule, Tensor, Tensor]) -> None:
        module, x, y = regression
        gradient = self.by_hand(module.linear("linear0").weight.detach().numpy(), x.flatten(1).numpy(), y.numpy())
        assert proxies.gradnorm(module, x, y) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)

    def test_zico(self, regression: tuple[NetworkModule, Tensor, Tensor]) -> None:
        module, x, y = regression
        weight = module.linear("linear0").weight.detach().numpy()
        halves = [self.by_hand(weight, x[s].flatten(1).numpy(), y[s].numpy()) for s in (slice(4), slice(4, 8))]
        ratio = np.abs(halves).mean(0) / np.std(halves, axis=0)
        assert proxies.zico(module, x, y) == pytest.approx(math.log(ratio.sum()), rel=1e-4)

    @given(st.integers(0, 20), st.floats(0.2, 5))
    @settings(max_examples=10)
    def test_behind_batchnorm_weights_that_grow_get_gradients_that_shrink(self, seed: int, scale: float) -> None:
        module, (x, y) = some_module(seed), tensors(seed=seed)
        conv = module.conv(next(node.name for node in module.network.weighted()))
        with torch.no_grad():
            conv.weight.mul_(30)  # so that BatchNorm's epsilon is nothing beside the variance
        twin = proxies._gradients(module.train(), x, y)[0].norm()
        with torch.no_grad():
            conv.weight.mul_(scale)
        assert float(proxies._gradients(module.train(), x, y)[0].norm() * scale) == pytest.approx(float(twin), rel=0.02)

    def test_every_layer_counts(self) -> None:
        module, (x, y) = some_module(), tensors()
        by_layer = [float(g.norm()) for g in proxies._gradients(module.train(), x, y)]
        assert len(by_layer) == len(list(module.network.weighted()))
        assert proxies.gradnorm(module.eval(), x, y) == pytest.approx(sum(by_layer))


@pytest.mark.parametrize("proxy", OF_DATA)
def test_a_module_and_torchs_generator_are_left_as_they_were(
    proxy: Callable[[NetworkModule, Tensor, Tensor], float],
) -> None:
    module, (x, y) = some_module().eval(), tensors()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    generator = torch.get_rng_state()
    assert proxy(module, x, y) == proxy(module, x, y)
    proxies.synflow(module)
    proxies.measured(batch(), module.network)
    assert not module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


class TestMeasured:
    def test_the_seed_decides(self) -> None:
        network = SPACE.network(SPACE.largest())
        one = proxies.measured(batch(), network)
        assert tuple(sorted(one)) == tuple(sorted(NAMES))
        assert one == proxies.measured(batch(), network)
        assert one["synflow"] != proxies.measured(batch(seed=1), network)["synflow"]
        assert (one["params"], one["macs"]) == (costs.params(network), costs.macs(network))
        assert all(math.isfinite(value) for value in one.values())

    @given(st.integers(0, 200))
    @settings(max_examples=15)
    def test_what_is_dead_in_a_cell_makes_no_difference(self, seed: int) -> None:
        """A node that none of whose results is used: its incoming edge may be anything."""
        rng = np.random.default_rng(seed)
        genome = list(CELLS.sample(rng).genome)  # edges (1, 0), (2, 0), (2, 1)
        genome[2] = CELLS.operations.index("none")
        of_all = []
        for gene in range(len(CELLS.operations)):
            genome[0] = gene
            of_all.append(proxies.measured(batch(4, 8), CELLS.network(CELLS.subnet(tuple(genome)))))
        assert all(each == of_all[0] for each in of_all)

    def test_what_never_sees_the_image_is_worth_nothing(self) -> None:
        dead = CELLS.network(CELLS.subnet((0, 0, 0)))
        found = proxies.measured(batch(4, 8), dead)
        names = ("naswot", "synflow", "zico", "gradnorm")
        assert [found[name] for name in names] == [proxies.NOTHING] * len(names)


def test_what_is_bypassed_is_as_if_it_were_not_there() -> None:
    b = Builder((1, 2, 4, 4))
    x = b.identity("same2", b.activation("relu", b.identity("same", b.conv("conv", INPUT, 3, 3))))
    network = bypassed(b.finish(b.identity("end", b.add("add", x, x))), lambda node: node.op == "Identity")
    assert [(node.name, node.inputs) for node in network.nodes] == [
        ("conv", (INPUT,)),
        ("relu", ("conv",)),
        ("add", ("relu", "relu")),
    ]
    assert network.outputs == ("add",)
    everything = bypassed(network, lambda node: node.op != "Conv")
    assert [node.name for node in everything.nodes] == ["conv"]


def latency(genomes: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 + genomes.sum(axis=1))


@given(st.integers(1, 40), st.floats(3, 30), st.integers(0, 20))
@settings(max_examples=15)
def test_a_warm_start_is_half_random_and_half_the_best_of_many(count: int, budget_ms: float, seed: int) -> None:
    ranked_of: list[float] = []

    def ranking(subnets: Sequence[Subnet]) -> list[float]:
        ranked_of[:] = [float(sum(g * (i + 1) for i, g in enumerate(subnet.genome)) % 17) for subnet in subnets]
        return ranked_of

    found = warm_start(SPACE, latency, budget_ms, count, seed, ranking)
    both = (*found.random, *found.ranked)
    assert len({subnet.id for subnet, _ in both}) == len(both) <= count
    assert all(ms <= budget_ms and ms == latency(np.array([subnet.genome]))[0] for subnet, ms in both)
    assert len(found.ranked) == min(count // 2, len(ranked_of))
    values = [float(sum(g * (i + 1) for i, g in enumerate(subnet.genome)) % 17) for subnet, _ in found.ranked]
    assert values == sorted(ranked_of, reverse=True)[: len(values)]
    assert found == warm_start(SPACE, latency, budget_ms, count, seed, ranking)


def test_the_table_ranks_what_can_be_ranked_and_says_what_helped() -> None:
    rng = np.random.default_rng(0)
    accuracies = rng.random(20)
    rows = [
        {"proxy": name, "phase": "explore"} | rank_figures(values, list(accuracies))
        for name, values in (("macs", [1.0] * 20), ("params", rng.random(20)), ("zico", accuracies))
    ]
    lines = describe_explained(rows).splitlines()
    assert "the 20 explored" in lines[0]
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.strip()] == [
        *("proxy", "zico", "params", "macs")
    ]
    assert "1.00" in next(line for line in lines if "zico" in line)
    assert next(line for line in lines if "macs" in line).split() == ["macs", "-", "undefined", "-", "undefined"]
    found = {"proxy": "zico", "n_ranked": 8, "n_random": 9, "difference": 0.02}
    for low, high, verdict in ((0.01, 0.03, "It helped."), (-0.01, 0.05, "from chance."), (-0.03, -0.01, "did harm.")):
        assert describe_warm_start(found | {"low": low, "high": high}).endswith(verdict)
