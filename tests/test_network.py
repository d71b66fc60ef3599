"""Networks: costs worked out by hand, what is refused, other widths, and the kernels that a network falls into."""

from __future__ import annotations

import itertools
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.network.builder import INPUT, Builder
from edgenas.network.channels import channel_groups, with_widths
from edgenas.network.costs import activation_peak_bytes, macs, node_macs, params
from edgenas.network.fuse import FusedKernel, FusionRules, fuse
from edgenas.network.graph import Network, Node
from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.read import read as read_onnx
from edgenas.onnxio.write import to_onnx
from edgenas.spaces.mobile import for_data
from tests.odd_models import ALL as ODD

SPACES = (for_data(28, 1, 10), for_data(32, 3, 10), for_data(96, 3, 10))
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")

WITH_ADD = FusionRules(
    conv_add=("Add",),
    activations_after={"Conv": ("Relu",), "Add": ("Relu",), "Gemm": ("Relu",)},
    activations_after_add=("Relu",),
)
NO_ADD = FusionRules(conv_add=(), activations_after={"Conv": ("Relu", "Clip"), "Add": ("Relu",)})


@st.composite
def networks(draw: st.DrawFn) -> Network:
    space = draw(st.sampled_from(SPACES))
    return space.network(space.subnet(draw(st.tuples(*(st.integers(0, count - 1) for count in space.radix())))))


def separable() -> Network:
    """3x3 convolution with stride 2, depthwise, pointwise, pooling, classifier on a 3 x 8 x 8 image."""
    b = Builder((1, 3, 8, 8))
    x = b.activation("relu", b.conv("conv", INPUT, 4, kernel=3, stride=2))
    x = b.conv("depthwise", x, 4, kernel=3, groups=4)
    x = b.conv("pointwise", x, 8)
    return b.finish(b.linear("linear", b.flatten("flatten", b.global_average_pool("pool", x)), 10))


def residual() -> Network:
    """Two convolutions and the sum of the first's input with the second's output, all of 4 x 4 x 4 = 64 values."""
    b = Builder((1, 2, 4, 4))
    x = b.conv("conv0", INPUT, 4, kernel=3)
    y = b.conv("conv2", b.activation("relu1", b.conv("conv1", x, 4, kernel=3)), 4, kernel=3)
    return b.finish(b.activation("relu2", b.add("add", y, x)))


class TestCosts:
    def test_macs_and_params_of_a_separable_net(self) -> None:
        network = separable()
        by_node = {node.name: node_macs(network, node) for node in network.nodes if node_macs(network, node)}
        assert by_node == {
            "conv": 4 * 3 * 3 * 3 * (4 * 4),
            "depthwise": 4 * 1 * 3 * 3 * (4 * 4),
            "pointwise": 8 * 4 * (4 * 4),
            "linear": 10 * 8,
        }
        assert macs(network) == 2896
        assert params(network) == (108 + 4) + (36 + 4) + (32 + 8) + (80 + 10)

    def test_the_peak_of_a_chain_is_its_largest_pair_of_tensors(self) -> None:
        # input 192 + conv 64; ReLU in place; 64 + 64; 64 + 128; 128 + 8; ...
        assert activation_peak_bytes(separable(), 4) == 4 * (192 + 64)
        assert activation_peak_bytes(separable(), 1) == 192 + 64

    def test_a_skip_keeps_its_tensor_alive(self) -> None:
        # while conv2 runs: what conv0 made waits for the sum, conv1's output is read, conv2's is written
        assert activation_peak_bytes(residual(), 1) == 3 * 64
        b = Builder((1, 2, 4, 4))
        x = b.activation("relu1", b.conv("conv1", b.conv("conv0", INPUT, 4, kernel=3), 4, kernel=3))
        assert activation_peak_bytes(b.finish(b.conv("conv2", x, 4, kernel=3)), 1) == 2 * 64

    def test_an_activation_works_in_place_only_on_what_nobody_else_reads(self) -> None:
        b = Builder((1, 1, 1, 10))
        alone = b.finish(b.activation("relu", INPUT))
        assert activation_peak_bytes(alone, 1) == 10
        b = Builder((1, 1, 1, 10))
        shared = b.finish(b.add("add", b.activation("relu", INPUT), INPUT))
        assert activation_peak_bytes(shared, 1) == 30

    def test_the_input_stays_while_it_is_read_and_the_output_to_the_end(self) -> None:
        b = Builder((1, 4, 4, 4))
        x = b.conv("conv", INPUT, 1)
        late = b.add("add", b.conv("wide", x, 4), INPUT)
        assert activation_peak_bytes(b.finish(late), 1) == 64 + 64 + 64
        nodes = (
            Node("out", "Sigmoid", (INPUT,), (1, 8)),
            Node("a", "Sigmoid", (INPUT,), (1, 8)),
            Node("b", "Sigmoid", ("a",), (1, 8)),
        )
        assert activation_peak_bytes(Network(((INPUT, (1, 8)),), nodes, ("out",)), 1) == 24

    @given(network=networks())
    def test_costs_are_positive_and_scale(self, network: Network) -> None:
        assert macs(network) == sum(node_macs(network, node) for node in network.nodes) > 0
        assert params(network) == sum(weight.size for weight in random_weights(network).values())
        peak = activation_peak_bytes(network, 1)
        assert activation_peak_bytes(network, 4) == 4 * peak
        largest = max(_size(node.shape) for node in network.nodes)
        assert largest < peak <= sum(_size(node.shape) for node in network.nodes) + _size(network.input_shape)

    @pytest.mark.parametrize(
        ("name", "by_hand"),
        [
            # a 3x3 convolution of 3 to 8 channels on 32x32, then each of those values is spread by 3x3 into 4 channels
            ("conv_transpose_output_padding", 8 * 32 * 32 * (3 * 9 + 4 * 9)),
            ("matmul_of_tensors", None),
            ("lstm", None),
        ],
    )
    def test_whatever_multiplies_counts(self, name: str, by_hand: int | None) -> None:
        found = macs(read_onnx(ODD[name]()))
        assert found > 0
        assert by_hand in (None, found)

    def test_a_recurrent_layer_uses_its_weights_once_a_step(self) -> None:
        steps, features, hidden = 5, 3, 4
        weights = (("constants", ((1, 4 * hidden, features), (1, 4 * hidden, hidden), (1, 8 * hidden))),)
        node = Node("y", "LSTM", ("x",), (steps, 1, 1, hidden), weights)
        network = Network((("x", (steps, 1, features)),), (node,), ("y",))
        assert macs(network) == steps * 4 * hidden * (features + hidden)


class TestNetwork:
    SHAPE = (1, 2)

    @pytest.mark.parametrize(
        ("nodes", "output", "expected"),
        [
            ((Node("a", "Relu", ("b",), SHAPE), Node("b", "Relu", ("x",), SHAPE)), "b", r"'a' reads \['b'\]"),
            ((Node("a", "Add", ("x", "y"), SHAPE),), "a", r"'a' reads \['y'\], which no node before it makes"),
            ((Node("a", "Relu", ("x",), SHAPE), Node("a", "Relu", ("a",), SHAPE)), "a", "two tensors are called 'a'"),
            ((Node("x", "Relu", ("x",), SHAPE),), "x", "two tensors are called 'x'"),
            ((Node("a", "Relu", ("x",), SHAPE),), "logits", "the output 'logits' is made by no node"),
        ],
    )
    def test_what_cannot_run_is_refused(self, nodes: tuple[Node, ...], output: str, expected: str) -> None:
        with pytest.raises(ValueError, match=expected):
            Network((("x", self.SHAPE),), nodes, (output,))

    def test_readers_in_order_and_the_sole_one(self) -> None:
        network = residual()
        assert network.consumers["conv0"] == ("conv1", "add")
        assert network.consumers["relu2"] == ()
        assert network.sole_consumer("conv0") is None
        assert network.sole_consumer("conv1") == network.by_name["relu1"]
        assert network.sole_consumer("relu2") is None

    def test_what_is_read_and_returned_has_no_sole_reader(self) -> None:
        nodes = (Node("a", "Relu", ("x",), (1, 2)), Node("b", "Relu", ("a",), (1, 2)))
        assert Network((("x", (1, 2)),), nodes, ("a",)).sole_consumer("a") is None

    def test_weight_shapes(self) -> None:
        network = separable()
        assert [network.weight_shape(node) for node in network.weighted()] == [
            (4, 3, 3, 3),
            (4, 1, 3, 3),
            (8, 4, 1, 1),
            (10, 8),
        ]

    def test_depthwise_is_a_group_for_every_output(self) -> None:
        b = Builder((1, 4, 4, 4))
        for name, groups in (("depthwise", 4), ("grouped", 2), ("dense", 1)):
            b.conv(name, INPUT, 4, 3, groups=groups)
        network = b.finish("dense")
        assert [node.name for node in network.nodes if node.is_depthwise] == ["depthwise"]

    def test_a_missing_attribute_is_named(self) -> None:
        with pytest.raises(KeyError, match="Relu node 'relu' has no attribute 'strides'"):
            separable().by_name["relu"].attribute("strides")

    def test_networks_compare_and_hash_by_value(self) -> None:
        assert residual() == residual()
        assert len({residual(), residual(), separable()}) == 2

    def test_shapes_follow_onnx(self) -> None:
        b = Builder((1, 3, 7, 9))
        assert b.shape(b.conv("same", INPUT, 5, kernel=3, stride=2)) == (1, 5, 4, 5)
        assert b.shape(b.conv("wide", INPUT, 5, kernel=5)) == (1, 5, 7, 9)
        assert b.shape(b.max_pool("pool", INPUT, kernel=2, stride=2)) == (1, 3, 3, 4)
        assert b.shape(b.flatten("flatten", "pool")) == (1, 36)
        with pytest.raises(ValueError, match=r"sum: \(1, 5, 4, 5\) and \(1, 5, 7, 9\) can't be added"):
            b.add("sum", "same", "wide")


class TestWidths:
    def test_an_add_and_a_depthwise_convolution_tie(self) -> None:
        assert channel_groups(residual()) == (("conv1",),), "the other two make the output"
        b = Builder((1, 2, 4, 4))
        y = b.conv("conv2", b.conv("conv1", b.conv("conv0", INPUT, 4, 3), 4, 3), 4, 3)
        inside = b.finish(b.linear("linear", b.flatten("flatten", b.add("add", y, "conv0")), 2))
        assert channel_groups(inside) == (("conv0", "conv2"), ("conv1",))
        assert channel_groups(separable()) == (("conv",), ("pointwise",))

    def test_what_is_added_to_the_image_cannot_change(self) -> None:
        b = Builder((1, 4, 4, 4))
        x = b.add("add1", b.conv("conv1", INPUT, 4, 3), INPUT)
        assert channel_groups(b.finish(b.add("add2", b.conv("conv2", b.conv("free", x, 8), 4), x))) == (("free",),)

    @pytest.mark.parametrize("op", ["Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid"])
    def test_what_works_on_single_values_keeps_the_tie(self, op: str) -> None:
        b = Builder((1, 3, 4, 4))
        x = b.add("add", b.activation("activation", b.conv("conv1", INPUT, 4), op), b.conv("conv2", INPUT, 4))
        assert channel_groups(b.finish(b.linear("linear", b.flatten("flatten", x), 2))) == (("conv1", "conv2"),)

    def test_what_the_network_returns_keeps_its_channels(self) -> None:
        b = Builder((1, 3, 4, 4))
        x = b.conv("classifier", b.conv("conv", INPUT, 4), 10)
        network = b.finish(b.flatten("flatten", b.global_average_pool("pool", x)))
        assert channel_groups(network) == (("conv",),)

    @given(network=networks())
    def test_groups_cover_every_convolution_once(self, network: Network) -> None:
        grouped = list(itertools.chain(*channel_groups(network)))
        free = [node.name for node in network.nodes if node.op == "Conv" and not node.is_depthwise]
        assert sorted(grouped) == sorted(free)
        for group in channel_groups(network):
            assert len({network.by_name[name].shape[1] for name in group}) == 1

    @given(network=networks())
    def test_the_same_widths_give_the_same_network(self, network: Network) -> None:
        widths = {name: network.by_name[name].shape[1] for group in channel_groups(network) for name in group}
        assert with_widths(network, widths) == network == with_widths(network, {})

    @settings(max_examples=40)
    @given(network=networks(), data=st.data())
    def test_a_network_of_odd_widths_is_valid_and_asks_for_less(self, network: Network, data: st.DataObject) -> None:
        widths: dict[str, int] = {}
        for group in channel_groups(network):
            # from 2: a depthwise convolution of one channel is an ordinary one
            width = data.draw(st.integers(2, network.by_name[group[0]].shape[1]))
            widths.update(dict.fromkeys(group, width))
        odd = with_widths(network, widths)
        to_onnx(odd, random_weights(odd))  # checks every shape by ONNX's own rules
        assert odd.shape_of(odd.output_name) == network.shape_of(network.output_name)
        assert {name: odd.by_name[name].shape[1] for name in widths} == widths
        assert [(n.name, n.op, n.inputs) for n in odd.nodes] == [(n.name, n.op, n.inputs) for n in network.nodes]
        assert params(odd) <= params(network)
        assert channel_groups(odd) == channel_groups(network)

    def test_half_of_a_group_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"'add' would add .*give one width to a whole channel group"):
            with_widths(residual(), {"conv2": 3})


class TestFuse:
    @pytest.mark.parametrize("rules", [WITH_ADD, NO_ADD], ids=["with add", "no add"])
    @given(network=networks(), precision=st.sampled_from(PRECISIONS))
    def test_every_node_is_in_one_kernel(self, rules: FusionRules, network: Network, precision: Precision) -> None:
        fused = fuse(network, rules, precision)
        members = list(itertools.chain(*(kernel.members for kernel in fused)))
        assert sorted(members) == sorted(node.name for node in network.nodes)
        for kernel in fused:
            anchor = network.by_name[kernel.members[0]]
            ops = tuple(network.by_name[name].op for name in kernel.members)
            assert (kernel.kernel.op, *kernel.kernel.fused) == ops
            assert kernel.kernel.precision == precision
            assert (1, *kernel.kernel.out_shape) == anchor.shape
            assert (1, *kernel.kernel.in_shape) == network.shape_of(anchor.inputs[0])
            # each reads what the one before it made, and nobody else does
            for before, after in itertools.pairwise(kernel.members):
                assert network.consumers[before] == (after,)

    @given(network=networks())
    def test_kernels_come_in_an_order_in_which_they_can_run(self, network: Network) -> None:
        made = {name for name, _ in network.inputs}
        for kernel in fuse(network, WITH_ADD, "fp32"):
            read = {name for member in kernel.members for name in network.by_name[member].inputs}
            assert read - set(kernel.members) <= made
            made |= set(kernel.members)

    def test_a_convolution_takes_the_sum_and_its_activation(self) -> None:
        assert _members(residual(), WITH_ADD) == [("conv0",), ("conv1", "relu1"), ("conv2", "add", "relu2")]
        assert _members(residual(), NO_ADD) == [("conv0",), ("conv1", "relu1"), ("conv2",), ("add", "relu2")]

    def test_of_two_convolutions_that_feed_a_sum_the_second_operand_takes_it(self) -> None:
        b = Builder((1, 3, 4, 4))
        first, second = b.conv("first", INPUT, 4), b.conv("second", INPUT, 4)
        network = b.finish(b.activation("relu", b.add("add", first, second)))
        assert _members(network, WITH_ADD) == [("first",), ("second", "add", "relu")]

    def test_what_is_read_twice_or_returned_is_written_out(self) -> None:
        b = Builder((1, 4, 4, 4))
        x = b.conv("conv", INPUT, 4)
        network = b.finish(b.add("add", b.activation("relu", x), x))
        assert _members(network, NO_ADD) == [("conv",), ("relu",), ("add",)]
        nodes = network.nodes[:2]
        assert _members(Network(network.inputs, nodes, ("conv",)), NO_ADD) == [("conv",), ("relu",)]

    def test_an_activation_that_the_rules_do_not_name_stays_alone(self) -> None:
        b = Builder((1, 3, 4, 4))
        network = b.finish(b.activation("swish", b.conv("conv", INPUT, 4), "HardSwish"))
        assert _members(network, WITH_ADD) == [("conv",), ("swish",)]

    def test_the_kernel_is_the_nodes_own(self) -> None:
        kernels = [fused.kernel for fused in fuse(separable(), NO_ADD, "int8")]
        window = {"dilation_hw": (1, 1), "precision": "int8"}
        assert kernels == [
            Kernel("Conv", (3, 8, 8), (4, 4, 4), (3, 3), (2, 2), pads=(1,) * 4, fused=("Relu",), **window),
            Kernel("Conv", (4, 4, 4), (4, 4, 4), (3, 3), (1, 1), pads=(1,) * 4, groups=4, **window),
            Kernel("Conv", (4, 4, 4), (8, 4, 4), (1, 1), (1, 1), pads=(0,) * 4, **window),
            Kernel("GlobalAveragePool", (8, 4, 4), (8, 1, 1), precision="int8"),
            Kernel("Flatten", (8, 1, 1), (8,), precision="int8"),
            Kernel("Gemm", (8,), (10,), precision="int8"),
        ]


def _members(network: Network, rules: FusionRules) -> list[tuple[str, ...]]:
    fused: tuple[FusedKernel, ...] = fuse(network, rules, "fp32")
    return [kernel.members for kernel in fused]


def _size(shape: tuple[int, ...]) -> int:
    return prod(shape)
