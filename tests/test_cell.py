"""Cell spaces: their strings, and that their Networks are those of the papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.network.costs import macs, params
from edgenas.network.graph import Network
from edgenas.network.readings import live
from edgenas.spaces import cell_stack
from edgenas.spaces.architectures import is_architecture, network_of
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.cell_forms import canonical_cells, form_of
from edgenas.spaces.cell_graphs import DARTS, Genotype, NodeCell
from edgenas.spaces.cell_stack import CellStack
from edgenas.spaces.operations import OPERATIONS
from edgenas.spaces.space import Genome, Subnet

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


OPERATIONS_201 = NAS_BENCH_201.operations
MEANINGS = {  # an operation does the same wherever it stands
    "none": lambda x: 0 * x,
    "skip_connect": lambda x: x,
    "nor_conv_1x1": np.tanh,
    "nor_conv_3x3": lambda x: np.sin(3 * x) + 1,
    "avg_pool_3x3": lambda x: (x + np.roll(x, 1)) / 2,
}


def evaluated(cell: Genome) -> np.ndarray:
    """What the cell makes of some input, operations of nothing being nothing."""
    nodes: list[np.ndarray | None] = [np.linspace(-1, 1, 7)]
    genes = iter(cell)
    for target in range(1, 4):
        terms = []
        for source in range(target):
            operation, value = OPERATIONS_201[next(genes)], nodes[source]
            if operation != "none" and value is not None:
                terms.append(MEANINGS[operation](value))
        nodes.append(np.sum(terms, axis=0) if terms else None)
    last = nodes[-1]
    assert last is not None, "the input does not reach the output"
    return last


class TestForms:
    CELLS = canonical_cells(4, OPERATIONS_201)

    def test_there_are_as_many_as_are_not_alike(self) -> None:
        assert len(self.CELLS) == 15_625
        assert len(set(self.CELLS.values())) == 5_255

    @given(st.tuples(*[st.integers(0, 4)] * 6))
    def test_a_form_computes_what_the_cell_does(self, cell: Genome) -> None:
        form = self.CELLS[cell]
        assert self.CELLS[form] == form
        made = evaluated(form)
        if form_of(4, [OPERATIONS_201[gene] for gene in cell]) is not None:
            np.testing.assert_allclose(made, evaluated(cell), atol=1e-9)

    @given(st.tuples(*[st.integers(0, 4)] * 6))
    def test_no_edge_of_a_form_is_dead(self, cell: Genome) -> None:
        form = self.CELLS[cell]
        alive = [i for i, gene in enumerate(form) if gene]
        for i in alive:
            without = (*form[:i], 0, *form[i + 1 :])
            assert self.CELLS[without] != form or form == (0, 0, 0, 1, 0, 0)  # what a dead cell becomes

    def test_a_cell_that_hands_nothing_on_becomes_the_one_that_hands_its_input_on(self) -> None:
        assert self.CELLS[(0,) * 6] == (0, 0, 0, 1, 0, 0)
        assert self.CELLS[(3, 3, 0, 0, 0, 0)] == (0, 0, 0, 1, 0, 0)
        assert canonical_cells(2, ("nor_conv_1x1", "none"))[(1,)] == (0,)

    def test_what_is_read_twice_is_not_the_same_as_two_alike(self) -> None:
        once = form_of(4, ("nor_conv_1x1", "none", "skip_connect", "none", "skip_connect", "skip_connect"))
        twice = form_of(4, ("nor_conv_1x1", "nor_conv_1x1", "none", "none", "skip_connect", "skip_connect"))
        assert once is not None
        assert twice is not None
        assert once[0] == twice[0] == "nor_conv_1x1(x) + nor_conv_1x1(x)"
        assert (once[1], twice[1]) == (1, 2)


class TestCellStack:
    def test_ids_stay_as_they_are(self) -> None:
        # what was measured and trained is found by them, in other processes and later versions
        space = CellStack(3, 10, (32,), (1,), ((16,), (32,)), ((1,), (1, 2)))
        assert space.id == "d1e494597afe"
        assert space.subnet((0, 0, 0, 0, 0, 1, *[3] * 6)).id == "1e66df0a1cfb"

    @given(side=st.integers(4, 260), seed=st.integers(0, 1000))
    def test_there_is_a_space_for_images_of_any_side(self, side: int, seed: int) -> None:
        space = cell_stack.for_data(side, 3, 5)
        assert space.network(space.largest()).input_shape == (1, 3, side, side)
        network = space.network(space.sample(np.random.default_rng(seed)))
        assert network.shape_of(network.output_name) == (1, 5)

    @pytest.mark.parametrize(
        ("side", "first_px"), [(28, [14, 7]), (32, [16, 8]), (64, [16, 8]), (96, [12, 6]), (224, [14, 7])]
    )
    def test_the_stem_fits_the_images(self, side: int, first_px: list[int]) -> None:
        space = cell_stack.for_data(side, 3, 5)
        assert [-(-side // 2**halvings) for halvings in space.stem_halvings] == first_px

    def test_only_what_runs_is_written_down(self) -> None:
        space = cell_stack.for_data(28, 1, 10)
        rng = np.random.default_rng(0)
        networks = [space.network(space.sample(rng)) for _ in range(50)]
        assert not {"Zero", "Identity"} & {node.op for network in networks for node in network.nodes}
        for network in networks:
            relus = [node.inputs[0] for node in network.nodes if node.op == "Relu"]
            assert len(relus) == len(set(relus)), "one ReLU a tensor"
            assert live(network) == network

    def test_the_description_says_what_is_built(self) -> None:
        space = CellStack(3, 10, (64,), (0, 2), ((16,), (32,)), ((1,), (1, 2)))
        assert space.describe(space.subnet((0, 1, 0, 0, 0, 1, 0, 3, 0, 1, 0, 4))) == (
            "input: 3 x 64 x 64",
            "stem: 2 x conv 3x3, stride 2",
            "stage 1: 1 x cell, 16 channels",
            "stage 2: 2 x cell, 32 channels",
            "cell, node 1: none",
            "cell, node 2: nor_conv_3x3 of 0",
            "cell, node 3: skip_connect of 0 + avg_pool_3x3 of 2",
            "head: pool, 10 classes",
        )

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"widths": ()}, "no options for widths"),
            ({"repeats": ((1,), ())}, "no options for repeats"),
            ({"widths": ((16,), (24,))}, r"multiples of 16, but got \[16, 24\]"),
            ({"repeats": ((1,),)}, "for each of the 2 stages"),
            ({"repeats": ((1,), (0, 1))}, "numbers from 1 on"),
            ({"stem_halvings": (-1,)}, "numbers from 0 on"),
            ({"operations": ("shuffle",)}, "no operation 'shuffle'"),
            ({"operations": ("none",)}, "compute nothing"),
            ({"nodes": 1}, "needs 2 nodes"),
            ({"nodes": 5}, "more than 100,000 ways to choose"),
        ],
    )
    def test_what_makes_no_space_is_refused(self, changes: dict[str, Any], sentence: str) -> None:
        space = CellStack(3, 10, (32,), (1,), ((16,), (32,)), ((1,), (1, 2)))
        with pytest.raises(InputError, match=sentence):
            replace(space, **changes)
