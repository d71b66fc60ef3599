"""Cell spaces: their strings, and that their Networks are those of the papers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.network.costs import macs, params
from edgenas.network.graph import Network
from edgenas.spaces.architectures import is_architecture, network_of
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.cell_graphs import DARTS, Genotype, NodeCell
from edgenas.spaces.operations import OPERATIONS
from edgenas.spaces.space import Subnet

FIRST = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
CONVS = ",".join(["conv3x3-bn-relu"] * 3 + ["conv1x1-bn-relu"] * 2)
NODES = f"0100110/0011000/0001000/0000101/0000001/0000001/0000000:{CONVS}"


def genomes(space: CellSpace = NAS_BENCH_201) -> st.SearchStrategy[Subnet]:
    return st.tuples(*(st.integers(0, n - 1) for n in space.radix())).map(space.subnet)


class TestNasBench201:
    def test_it_has_as_many_architectures_as_the_benchmark(self) -> None:
        assert NAS_BENCH_201.size() == 15_625

    @given(subnet=genomes())
    def test_text_there_and_back(self, subnet: Subnet) -> None:
        assert NAS_BENCH_201.parse(NAS_BENCH_201.text(subnet)) == subnet

    def test_a_string_of_the_benchmark_stays_as_it_is(self) -> None:
        assert NAS_BENCH_201.text(NAS_BENCH_201.parse(FIRST)) == FIRST

    def test_macs_are_those_that_the_benchmark_lists(self) -> None:
        assert macs(network_of(FIRST)) == pytest.approx(15.64737e6, rel=1e-5)

    @given(subnet=genomes())
    def test_every_network_leads_from_the_image_to_the_logits(self, subnet: Subnet) -> None:
        network = NAS_BENCH_201.network(subnet)
        assert network.input_shape == (1, 3, 32, 32)
        assert network.shape_of(network.output_name) == (1, 10)

    @given(subnet=genomes())
    def test_a_cell_has_its_operations_five_times_a_stage(self, subnet: Subnet) -> None:
        network = NAS_BENCH_201.network(subnet)
        zeros = sum(node.op == "Zero" for node in network.nodes)
        skips = sum(node.op == "Identity" for node in network.nodes)
        assert (zeros, skips) == (15 * subnet.genome.count(0), 15 * subnet.genome.count(1))
        assert sum(node.op == "Add" for node in network.nodes) == 15 * 3 + 2

    @given(subnet=genomes())
    def test_layer_shapes_hold_every_subnet(self, subnet: Subnet) -> None:
        network, held = NAS_BENCH_201.network(subnet), NAS_BENCH_201.layer_shapes()
        assert all(
            held[node.name] == network.weight_shape(node) for node in network.weighted() if "edge" not in node.name
        )
        assert all(node.name in held for node in network.weighted())

    def test_smallest_and_largest_bound_the_samples(self) -> None:
        rng = np.random.default_rng(0)
        sizes = [macs(NAS_BENCH_201.network(NAS_BENCH_201.sample(rng))) for _ in range(50)]
        assert len(NAS_BENCH_201.smallest()) == 3
        assert {macs(NAS_BENCH_201.network(subnet)) for subnet in NAS_BENCH_201.smallest()} <= set(
            range(min(sizes) + 1)
        )
        assert macs(NAS_BENCH_201.network(NAS_BENCH_201.largest())) >= max(sizes)

    @given(subnet=genomes(), seed=st.integers(0, 1000))
    def test_mutation_at_rate_0_and_equal_parents_change_nothing(self, subnet: Subnet, seed: int) -> None:
        rng = np.random.default_rng(seed)
        assert NAS_BENCH_201.mutate(subnet, rng, 0.0) == subnet
        assert NAS_BENCH_201.crossover(subnet, subnet, rng) == subnet

    @given(subnet=genomes())
    def test_segments_part_the_network(self, subnet: Subnet) -> None:
        network = NAS_BENCH_201.network(subnet)
        body, head = NAS_BENCH_201.segment_members(network)
        assert (*body, *head) == tuple(node.name for node in network.nodes)
        assert head == ("head/pool", "head/flatten", "head/linear")
        assert NAS_BENCH_201.segments(np.array([subnet.genome])).shape == (1, 2)

    def test_the_description_has_a_line_a_node(self) -> None:
        assert NAS_BENCH_201.describe(NAS_BENCH_201.parse(FIRST))[1] == "node 2: nor_conv_1x1~0, skip_connect~1"

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("|none~0|", "it has 1 nodes besides the input; 3 were expected"),
            (FIRST.replace("avg_pool_3x3", "conv_7x7"), "no operation 'conv_7x7'"),
            (
                FIRST.replace("skip_connect~2", "skip_connect~1"),
                "'skip_connect~1' was found where an operation on node 2",
            ),
            (FIRST.replace("|skip_connect~2|", "|"), "node 3 has too few edges"),
            ("none~0", "doesn't stand between bars"),
        ],
    )
    def test_what_is_wrong_with_a_string_is_said(self, text: str, problem: str) -> None:
        with pytest.raises(InputError, match="is no architecture of nas-bench-201") as error:
            NAS_BENCH_201.parse(text)
        assert problem in error.value.message
        assert "|nor_conv_3x3~0|" in error.value.hint

    def test_a_space_of_unknown_operations_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"no operation \['shuffle'\]"):
            replace(NAS_BENCH_201, operations=("none", "shuffle"))

    def test_any_operation_may_stand_on_an_edge(self) -> None:
        space = replace(NAS_BENCH_201, name="all", operations=tuple(OPERATIONS))
        for i in range(len(OPERATIONS)):
            assert isinstance(space.network(space.subnet((i,) * 6)), Network)


class TestNasBench101:
    def test_text_there_and_back(self) -> None:
        assert NodeCell.parse(NODES).text() == NODES

    def test_nodes_that_lead_nowhere_are_pruned(self) -> None:
        cell = NodeCell.parse("01100/00010/00000/00001/00000:conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu")
        assert cell.pruned().text() == "0100/0010/0001/0000:conv3x3-bn-relu,conv1x1-bn-relu"

    def test_a_chain_of_one_convolution_has_its_parameters(self) -> None:
        network = NodeCell.parse("010/001/000:conv3x3-bn-relu").network()
        # per module a 1x1 projection of the input and the 3x3 convolution
        widths = [
            (128, 128),
            (128, 128),
            (128, 128),
            (128, 256),
            (256, 256),
            (256, 256),
            (256, 512),
            (512, 512),
            (512, 512),
        ]
        expected = sum(a * b + b + 9 * b * b + b for a, b in widths) + (27 * 128 + 128) + (512 * 10 + 10)
        assert params(network) == expected

    def test_channels_are_shared_by_what_feeds_the_output(self) -> None:
        cell = NodeCell.parse("01110/00001/00001/00001/00000:conv1x1-bn-relu,conv3x3-bn-relu,maxpool3x3")
        network = cell.network()
        concat = network.by_name["stack0/module0/concat"]
        assert concat.shape[1] == 128
        assert [network.shape_of(name)[1] for name in concat.inputs] == [43, 43, 42]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("01/0:", "needs 2 rows"),
            ("000/001/000:maxpool3x3", "does not reach its output"),
            ("010/011/000:maxpool3x3", "feeds itself"),
            ("010/001/000:nothing", "no operation 'nothing'"),
            ("abc", "rows of 0 and 1"),
        ],
    )
    def test_bad_cells_are_refused(self, text: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            NodeCell.parse(text).network()


class TestDarts:
    def test_text_there_and_back(self) -> None:
        assert Genotype.parse(DARTS.text()) == DARTS

    def test_the_published_cell_has_the_published_parameters(self) -> None:
        # 3.3 M with the weights of BatchNorm, which are folded here
        assert params(DARTS.network()) == pytest.approx(3.35e6, rel=0.02)

    def test_ranges_are_read(self) -> None:
        text = DARTS.text().replace("[2, 3, 4, 5]", "range(2, 6)")
        assert Genotype.parse(text) == DARTS

    def test_sides_halve_twice(self) -> None:
        network = DARTS.network(cells=6)
        assert network.shape_of("cell5/concat") == (1, 4 * 36 * 4, 8, 8)

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("Genotype(normal=[])", "needs normal"),
            ("Genotype(", "no DARTS genotype"),
            (DARTS.text().replace("dil_conv_3x3", "conv_9x9"), "no operation 'conv_9x9'"),
            (DARTS.text().replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 9)"), "reads node 9"),
        ],
    )
    def test_bad_genotypes_are_refused(self, text: str, problem: str) -> None:
        with pytest.raises(InputError) as error:
            Genotype.parse(text)
        assert problem in str(error.value)


@pytest.mark.parametrize("text", [FIRST, NODES, DARTS.text()])
def test_the_kind_of_an_architecture_is_told_from_its_text(text: str) -> None:
    assert is_architecture(text)
    assert network_of(text).outputs


@pytest.mark.parametrize("text", ["nets/a.onnx", "C:/nets/a.onnx", "resnet18"])
def test_a_path_is_no_architecture(text: str) -> None:
    assert not is_architecture(text)
    with pytest.raises(InputError, match="no architecture of a known space"):
        network_of(text)
