"""What every search space promises, held by one class for all of them; then what is particular to one."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.errors import InputError
from edgenas.nets.module import Layers, NetworkModule, extract
from edgenas.network.builder import INPUT, Builder
from edgenas.network.channels import channel_groups
from edgenas.network.costs import macs
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network, Shape
from edgenas.onnxio.qdq import to_qdq
from edgenas.onnxio.random_weights import random_ranges
from edgenas.onnxio.write import to_onnx
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces import catalog, cell_stack, slim, tree
from edgenas.spaces.blocks import BLOCKS
from edgenas.spaces.cell_stack import CellStack
from edgenas.spaces.mobile import MobileSpace, Stage, for_data
from edgenas.spaces.offer import Offer
from edgenas.spaces.operations import OPERATIONS
from edgenas.spaces.slim import SlimSpace
from edgenas.spaces.space import Genome, SearchSpace, Subnet
from edgenas.spaces.tree import TreeSpace
from edgenas.spaces.tree_grammar import Grammar

RUNTIME = load_runtime("onnxruntime")
ISA = ("avx2", "avx512f")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True)
class Member:
    """A space and what it was made for."""

    space: SearchSpace
    channels: int
    side_px: int
    classes: int

    @cached_property
    def layer_shapes(self) -> dict[str, Shape]:
        return self.space.layer_shapes()

    @cached_property
    def extremes(self) -> tuple[Subnet, ...]:
        """The largest first."""
        return (self.space.largest(), *self.space.smallest())


def tiny(**changes: object) -> MobileSpace:
    """A space that can be gone through whole."""
    stage = Stage(depths=(1, 2), kernels=(3, 5), expands=(1, 2, 4), widths=(4, 8))
    return replace(MobileSpace(1, 3, (8,), (4, 8), ((1, 2), (2, 1)), (stage,)), **changes)  # type: ignore[arg-type]


SMALL_TREES = TreeSpace(1, 3, (12,), (8, 16), ((1, 2, 1), (2, 1, 2)), ((8, 16), (16, 32)))


def tiny_trees(grammar: Grammar, **changes: object) -> TreeSpace:
    space = TreeSpace(1, 3, (8,), (4, 8), ((1, 2), (2, 1)), ((4, 8),), grammar=grammar)
    return replace(space, **changes)  # type: ignore[arg-type]


def tiny_cells(operations: tuple[str, ...], **changes: object) -> CellStack:
    widths = changes.get("widths", ((16, 32), (32,)))
    assert isinstance(widths, tuple)
    return replace(CellStack(1, 3, (8,), (1, 0), widths, ((1, 2),) * len(widths), operations), **changes)  # type: ignore[arg-type]


def slimmed(px: int, channels: int, classes: int, *blocks: tuple[str, int, int], multiple: int = 8) -> SlimSpace:
    """Of a network of these blocks (type, width, stride)."""
    b = Builder((1, channels, px, px))
    x = BLOCKS["plain"](b, "stem", INPUT, 24, 3, 1, 2)
    for i, (kind, width, stride) in enumerate(blocks):
        x = BLOCKS[kind](b, f"block{i}", x, width, 3, 2, stride)
    network = b.finish(b.linear("fc", b.flatten("flat", b.global_average_pool("pool", x)), classes))
    return slim.for_model(network, channel_groups(network), multiple)


DEEP = (("residual", 24, 1), ("residual", 64, 2), ("residual", 64, 1), ("residual", 64, 1), ("mbconv", 96, 2))

SEPARABLE_FIRST = ("separable", "residual", "mbconv")  # the type that makes the most of a width isn't the last
EVERYTHING = Offer(("relu", "relu6", "hard_swish"), squeeze_excite=True, depthwise_7x7=True, width_multiple=32)

EVERY: dict[str, Member] = {
    "mobile, 28 px, grey": Member(for_data(28, 1, 10), 1, 28, 10),
    "mobile, 32 px, colour": Member(for_data(32, 3, 100), 3, 32, 100),
    "mobile, separable first": Member(
        replace(
            for_data(28, 3, 10), stages=tuple(replace(s, types=SEPARABLE_FIRST) for s in for_data(28, 3, 10).stages)
        ),
        3,
        28,
        10,
    ),
    "mobile, 96 px, colour": Member(for_data(96, 3, 2), 3, 96, 2),
    "mobile, all that a device may do well": Member(for_data(64, 3, 2, EVERYTHING), 3, 64, 2),
    "tree, 28 px, grey": Member(tree.for_data(28, 1, 10), 1, 28, 10),
    "tree, 96 px, colour": Member(tree.for_data(96, 3, 2), 3, 96, 2),
    "tree, three branches": Member(
        replace(SMALL_TREES, grammar=Grammar(("conv3", "maxpool"), arity=3), widths=((12,), (20, 32))), 1, 12, 3
    ),
    "cell, 28 px, grey": Member(cell_stack.for_data(28, 1, 10), 1, 28, 10),
    "cell, 96 px, colour": Member(cell_stack.for_data(96, 3, 2), 3, 96, 2),
    "cell, operations of all papers": Member(
        CellStack(3, 3, (20,), (0, 2), ((16, 32), (48,)), ((1,), (2, 1)), tuple(OPERATIONS), nodes=3), 3, 20, 3
    ),
    "catalog, 28 px, grey": Member(catalog.for_data(28, 1, 10), 1, 28, 10),
    "catalog, 64 px, colour": Member(catalog.for_data(64, 3, 2, Offer(("relu", "hard_swish"), True)), 3, 64, 2),
    "slim, residual": Member(slimmed(32, 3, 10, *DEEP), 3, 32, 10),
    "slim, inverted residuals": Member(
        slimmed(48, 3, 2, ("mbconv", 24, 1), ("mbconv", 40, 2), ("mbconv", 40, 1), ("fused", 40, 1)), 3, 48, 2
    ),
    "slim, odd widths": Member(
        slimmed(28, 1, 10, ("residual", 30, 1), ("plain", 50, 2), ("residual", 50, 1), ("mbconv", 50, 1)), 1, 28, 10
    ),
}
TINY: dict[str, SearchSpace] = {
    "slim": slimmed(16, 1, 3, ("residual", 16, 1), ("residual", 16, 1), ("mbconv", 16, 1), multiple=16),
    "slim, odd widths": slimmed(16, 1, 3, ("residual", 20, 1), ("residual", 20, 1)),
    "mobile": tiny(),
    "mobile, two stages": tiny(
        stages=(Stage(("residual", "mbconv"), (1,), (3, 5), (1, 2), (4, 8)), Stage(("plain", "fused"), widths=(8,))),
        downsampling=((1, 1, 2),),
    ),
    "mobile, separable first": tiny(
        stages=(
            Stage(("separable", "plain"), (1,), (3,), (1,), (4, 8)),
            Stage(("residual", "fused", "mbconv"), (1,), (3,), (1, 2), (4, 8)),
        ),
        downsampling=((1, 1, 2),),
    ),
    "mobile, gates": tiny(
        stages=(Stage(("plain", "mbconv"), (1,), (3,), (1, 2), (4, 8)), Stage(("mbconv",), (1,), (3,), (2,), (8,))),
        downsampling=((1, 1, 2),),
        activations=("relu", "hard_swish"),
        squeeze_excite=(False, True),
    ),
    "mobile, double stems": tiny(
        stages=(Stage(("plain", "mbconv", "separable"), (1,), (3,), (1, 2), (4, 8)),), double_stem_widths=(4, 16)
    ),
    "catalog": catalog.for_data(32, 3, 10),
    "cell": tiny_cells(("none", "skip_connect", "nor_conv_3x3", "avg_pool_3x3"), nodes=3),
    "cell, four nodes": tiny_cells(("skip_connect", "none", "nor_conv_1x1"), stem_halvings=(0,), widths=((16,),)),
    "cell, nothing to leave out": tiny_cells(("max_pool_3x3", "nor_conv_1x1"), stem_halvings=(1,), nodes=3),
    "cell, without a skip": tiny_cells(("none", "conv1x1-bn-relu"), nodes=3),
    "tree": tiny_trees(Grammar(("conv3", "maxpool"), depth=2)),
    "tree, two stages": tiny_trees(
        Grammar(("sep3",), ("seq", "cat"), depth=2),
        widths=((8,), (8, 16)),
        downsampling=((1, 1, 2),),
        entries=("pool",),
    ),
    "tree, three branches": tiny_trees(Grammar(("conv1",), depth=2, arity=3), entries=("conv3",)),
    "tree, sums without a residual": tiny_trees(Grammar(("avgpool",), ("add", "cat"), depth=2), entries=("sep3",)),
    "tree, leaves alone": tiny_trees(Grammar(("mbconv3",), depth=1)),
}


@pytest.fixture(scope="module", params=EVERY.values(), ids=EVERY.keys())
def member(request: pytest.FixtureRequest) -> Member:
    return request.param


@pytest.fixture(scope="module", params=TINY.values(), ids=TINY.keys())
def whole(request: pytest.FixtureRequest) -> tuple[SearchSpace, frozenset[Subnet]]:
    """A small space and all its subnets."""
    space = request.param
    return space, frozenset(space.subnet(genome) for genome in itertools.product(*map(range, space.radix())))


def genomes(space: SearchSpace) -> st.SearchStrategy[Genome]:
    """Half of them of random genes, half as the space draws them, which makes deeper trees."""
    genes = st.tuples(*(st.integers(0, count - 1) for count in space.radix()))
    return genes | st.integers(0, 2**32).map(lambda seed: space.sample(np.random.default_rng(seed)).genome)


def sampled(space: SearchSpace, count: int, seed: int = 0) -> list[Subnet]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def is_member(space: SearchSpace, subnet: Subnet) -> bool:
    radix = space.radix()
    within = len(subnet.genome) == len(radix) and all(0 <= g < n for g, n in zip(subnet.genome, radix, strict=True))
    return within and space.subnet(subnet.genome) == subnet


class TestEverySpace:
    @given(seed=st.integers(0, 2**32), rate=st.floats(0, 1))
    def test_what_it_draws_changes_and_crosses_is_canonical(self, member: Member, seed: int, rate: float) -> None:
        space, rng = member.space, np.random.default_rng(seed)
        one, other = space.sample(rng), space.sample(rng)
        drawn = [one, other, space.mutate(one, rng, rate), space.crossover(one, other, rng)]
        assert all(is_member(space, subnet) for subnet in [*drawn, *member.extremes])

    @given(data=st.data())
    def test_the_canonical_form_is_final(self, member: Member, data: st.DataObject) -> None:
        subnet = member.space.subnet(data.draw(genomes(member.space)))
        assert is_member(member.space, subnet)

    def test_the_same_seed_draws_the_same(self, member: Member) -> None:
        assert sampled(member.space, 5, seed=3) == sampled(member.space, 5, seed=3)

    def test_nothing_is_mutated_at_rate_0_and_equal_parents_have_equal_children(self, member: Member) -> None:
        rng = np.random.default_rng(0)
        for subnet in sampled(member.space, 20):
            assert member.space.mutate(subnet, rng, 0.0) == subnet
            assert member.space.crossover(subnet, subnet, rng) == subnet

    def test_mutation_and_crossover_reach_new_subnets(self, member: Member) -> None:
        rng = np.random.default_rng(0)
        one, other = sampled(member.space, 2)
        assert len({member.space.mutate(one, rng, 0.3) for _ in range(20)}) > 5
        differing = sum(a != b for a, b in zip(one.genome, other.genome, strict=True))
        possible = 2**differing - 2  # without the parents
        assert possible > 0
        children = {member.space.crossover(one, other, rng) for _ in range(20)} - {one, other}
        assert len(children) > min(5, possible // 2)

    @given(data=st.data())
    def test_a_network_leads_from_the_image_to_the_logits(self, member: Member, data: st.DataObject) -> None:
        network = member.space.network(member.space.subnet(data.draw(genomes(member.space))))
        batch, channels, height, width = network.input_shape
        assert (batch, channels, height) == (1, member.channels, width)
        assert height <= member.side_px
        assert network.shape_of(network.output_name) == (1, member.classes)
        assert network.nodes[-1].name == network.output_name
        unread = [name for name, readers in network.consumers.items() if not readers]
        assert unread == [network.output_name]

    def test_smallest_and_largest_bound_the_samples(self, member: Member) -> None:
        space = member.space
        sizes = [macs(space.network(subnet)) for subnet in sampled(space, 200)]
        assert min(macs(space.network(subnet)) for subnet in space.smallest()) <= min(sizes)
        assert macs(space.network(space.largest())) >= max(sizes)

    @given(data=st.data())
    def test_layer_shapes_hold_every_subnet(self, member: Member, data: st.DataObject) -> None:
        network = member.space.network(member.space.subnet(data.draw(genomes(member.space))))
        for node in network.weighted():
            wanted, held = network.weight_shape(node), member.layer_shapes[node.name]
            assert len(wanted) == len(held)
            assert all(w <= h for w, h in zip(wanted, held, strict=True)), f"{node.name}: {wanted} in {held}"

    def test_layer_shapes_are_the_least_that_hold_them(self, whole: tuple[SearchSpace, frozenset[Subnet]]) -> None:
        space, subnets = whole
        least: dict[str, Shape] = {}
        for network in map(space.network, subnets):
            for node in network.weighted():
                shape = network.weight_shape(node)
                least[node.name] = tuple(map(max, shape, least.get(node.name, shape)))
        assert space.layer_shapes() == least

    def test_size_counts_the_subnets_and_each_is_another_network(
        self, whole: tuple[SearchSpace, frozenset[Subnet]]
    ) -> None:
        space, subnets = whole
        assert space.size() == len(subnets)
        assert len({space.network(subnet) for subnet in subnets}) == len(subnets)
        assert len({subnet.id for subnet in subnets}) == len(subnets)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_equal_segment_codes_have_equal_kernels(self, member: Member, precision: Precision) -> None:
        # children of few parents share many segments
        parents, rng = sampled(member.space, 6), np.random.default_rng(1)
        pairs = [rng.choice(len(parents), 2, replace=False) for _ in range(60)]
        subnets = [member.space.crossover(parents[one], parents[other], rng) for one, other in pairs]
        codes = member.space.segments(np.array([subnet.genome for subnet in subnets]))
        known: dict[tuple[int, int], tuple[Kernel, ...]] = {}
        repeated = 0
        for subnet, row in zip(subnets, codes, strict=True):
            for place, kernels in enumerate(_kernels_by_segment(member.space, subnet, precision)):
                repeated += (place, int(row[place])) in known
                assert known.setdefault((place, int(row[place])), kernels) == kernels
        assert repeated > 20, "the samples shared too few segments to show anything"

    @given(data=st.data())
    def test_segments_part_the_network(self, member: Member, data: st.DataObject) -> None:
        subnet = member.space.subnet(data.draw(genomes(member.space)))
        network = member.space.network(subnet)
        segments = member.space.segment_members(network)
        assert sorted(itertools.chain(*segments)) == sorted(node.name for node in network.nodes)
        assert member.space.segments(np.array([subnet.genome])).shape == (1, len(segments))

    @pytest.mark.parametrize("seed", [1, 2])
    def test_torch_and_the_exported_files_compute_the_same(self, member: Member, seed: int) -> None:
        network = member.space.network(sampled(member.space, 1, seed)[0])
        torch.manual_seed(seed)
        module = NetworkModule(network).eval()
        images = torch.randn(network.input_shape)
        with torch.no_grad():
            expected = module(images).numpy()
        weights = module.folded_weights()
        found = computed(to_onnx(network, weights), images.numpy())
        np.testing.assert_allclose(found, expected, atol=1e-3 * float(np.abs(expected).max()))
        in_int8 = computed(to_qdq(network, weights, random_ranges(network)), images.numpy())
        assert in_int8.shape == expected.shape
        assert np.isfinite(in_int8).all()

    @pytest.mark.parametrize("which", ["sampled", "smallest", "largest"])
    def test_a_subnet_cut_out_of_shared_weights_computes_what_it_does_inside(self, member: Member, which: str) -> None:
        space = member.space
        subnet = {"sampled": sampled(space, 1, 5)[0], "smallest": space.smallest()[-1], "largest": space.largest()}[
            which
        ]
        network = space.network(subnet)
        torch.manual_seed(0)
        shared = Layers({node.name: member.layer_shapes[node.name] for node in network.weighted()}).train()
        images = torch.randn(2, *network.input_shape[1:])
        with torch.no_grad():
            inside, outside = shared.run(network, images), extract(shared, network).train()(images)
        assert inside.shape == (2, member.classes)
        torch.testing.assert_close(inside, outside)

    @given(data=st.data())
    def test_a_subnet_is_found_again_by_its_genome(self, member: Member, data: st.DataObject) -> None:
        subnet = member.space.subnet(data.draw(genomes(member.space)))
        kept = json.loads(json.dumps({"space": subnet.space, "genome": subnet.genome}))
        again = member.space.subnet(tuple(kept["genome"]))
        assert (again, again.id, again.space) == (subnet, subnet.id, kept["space"])

    def test_codes_do_not_depend_on_the_batch(self, member: Member) -> None:
        batch = np.array([subnet.genome for subnet in sampled(member.space, 30)])
        one_by_one = [member.space.segments(batch[i : i + 1])[0] for i in range(len(batch))]
        assert np.array_equal(member.space.segments(batch), np.stack(one_by_one))

    def test_ids_differ_between_spaces(self) -> None:
        spaces = [*(m.space for m in EVERY.values()), *TINY.values()]
        assert len({space.id for space in spaces}) == len(spaces)

    @given(data=st.data())
    def test_the_description_has_as_many_lines_for_every_subnet(self, member: Member, data: st.DataObject) -> None:
        lines = member.space.describe(member.space.subnet(data.draw(genomes(member.space))))
        assert len(lines) == len(member.space.describe(member.extremes[0]))
        assert all(line and line == line.strip() and "\n" not in line for line in lines)


def computed(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def _kernels_by_segment(space: SearchSpace, subnet: Subnet, precision: Precision) -> list[tuple[Kernel, ...]]:
    network = space.network(subnet)
    segments = space.segment_members(network)
    owner = {name: place for place, names in enumerate(segments) for name in names}
    found: list[list[Kernel]] = [[] for _ in segments]
    place = len(segments) - 1
    for fused in reversed(fuse(network, RUNTIME.fusion(precision, ISA), precision)):
        if fused.members:  # a move belongs to what reads it, the kernel after it
            assert len({owner[name] for name in fused.members}) == 1, f"{fused.members} lie in more than one segment"
            place = owner[fused.members[0]]
        found[place].append(fused.kernel)
    return [tuple(kernels) for kernels in found]


class TestMobile:
    def test_ids_stay_as_they_are(self) -> None:
        # what was measured and trained is found by them, in other processes and later versions
        types = ("plain", "residual", "fused", "mbconv")
        stage = Stage(types, depths=(1, 2), kernels=(3, 5), expands=(1, 2, 4), widths=(4, 8))
        assert tiny(stages=(stage,)).id == "a45c4b0bc172"
        assert tiny().subnet((0, 1, 0, 3, 1, 1, 2, 0, 1)).id == "c8401c90307d"

    @pytest.mark.parametrize("field", ["resolutions_px", "stem_widths", "downsampling", "stages", "heads"])
    def test_a_choice_without_options_is_refused(self, field: str) -> None:
        with pytest.raises(InputError, match=f"no options for {field}"):
            tiny(**{field: ()})

    @pytest.mark.parametrize("field", ["types", "depths", "kernels", "expands", "widths"])
    def test_a_stage_without_options_is_refused(self, field: str) -> None:
        with pytest.raises(InputError, match="has no options for"):
            tiny(stages=(Stage(), replace(Stage(), **{field: ()})))

    def test_an_unknown_block_type_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(
            InputError, match=r"no block type \['shuffle'\]\n.*plain, residual, fused, mbconv, separable"
        ):
            tiny(stages=(Stage(types=("plain", "shuffle")),))

    @given(side=st.integers(4, 260), seed=st.integers(0, 1000))
    def test_there_is_a_space_for_images_of_any_side(self, side: int, seed: int) -> None:
        space = for_data(side, 3, 5)
        assert space.network(space.largest()).input_shape == (1, 3, side, side)
        network = space.network(sampled(space, 1, seed)[0])
        assert network.shape_of(network.output_name) == (1, 5)

    @pytest.mark.parametrize("side", [28, 64, 96])
    def test_no_single_choice_makes_the_largest_larger_or_the_smallest_smaller(self, side: int) -> None:
        space = for_data(side, 3, 10)
        smallest = min(space.smallest(), key=lambda subnet: macs(space.network(subnet)))
        for gene, count in enumerate(space.radix()[:-1]):  # the last is the head, which the largest has pooled
            for option in range(count):
                assert macs(_with(space, space.largest(), gene, option)) <= macs(space.network(space.largest()))
                assert macs(_with(space, smallest, gene, option)) >= macs(space.network(smallest))

    def test_a_double_stem_is_two_convolutions_of_which_the_first_may_stride(self) -> None:
        space = tiny(double_stem_widths=(16,), downsampling=((2, 1),))
        assert space.stems == ((4,), (8,), (16, 16))
        layers = {node.name: node.shape for node in space.network(_stem_of(space, 2)).nodes if node.op == "Conv"}
        assert layers["stem/conv"] == layers["stem/conv2"] == (1, 16, 4, 4)
        assert "stem/conv2" not in _layers(space, _stem_of(space, 1))
        assert space.describe(_stem_of(space, 2))[1] == "stem: 2 x conv 3x3, 16 channels, stride 2"

    def test_images_under_64_px_may_have_a_double_stem(self) -> None:
        assert [for_data(side, 3, 5).double_stem_widths for side in (28, 63, 64)] == [(16,), (16,), ()]

    def test_smallest_has_one_for_each_block_type(self) -> None:
        space = for_data(28, 1, 10)
        kinds = [
            {name.split("/")[2] for name in _layers(space, subnet) if "block" in name} for subnet in space.smallest()
        ]
        assert sorted(kinds, key=str) == sorted(({kind} for kind in BLOCKS), key=str)

    def test_genes_that_a_block_type_does_not_read_are_canonical(self) -> None:
        space = tiny()
        names = ("plain", "residual", "fused", "mbconv", "separable")
        stage = {
            name: {space.subnet((0, 0, 0, i, 0, k, e, 0, 0)) for k in (0, 1) for e in (0, 1, 2)}
            for i, name in enumerate(names)
        }
        assert [len(stage[name]) for name in names] == [1, 1, 2, 6, 2]

    @pytest.mark.parametrize("kernels", [(3, 5), (5,), (5, 3)])
    @pytest.mark.parametrize("expands", [(1, 2, 4), (4, 2, 1), (2, 4), (4,)])
    def test_options_may_stand_in_any_order(self, kernels: tuple[int, ...], expands: tuple[int, ...]) -> None:
        space = tiny(stages=(Stage(kernels=kernels, expands=expands),), stem_widths=(4,))
        subnets = {space.subnet(genome) for genome in itertools.product(*map(range, space.radix()))}
        assert space.size() == len(subnets) == len({space.network(subnet) for subnet in subnets})

    def test_half_of_the_samples_have_blocks_of_one_type_and_every_type_has_its_share(self) -> None:
        space, rng = for_data(28, 1, 10), np.random.default_rng(0)
        kinds = []
        for _ in range(2000):
            genome = space.sample(rng).genome
            kinds.append({genome[3 + 5 * stage] for stage in range(3)})
        alone = [next(iter(kind)) for kind in kinds if len(kind) == 1]
        assert 0.45 < len(alone) / len(kinds) < 0.6  # 1 in 2, and 1 in 25 of the others
        assert min(alone.count(t) for t in range(len(BLOCKS))) > 0.15 * len(alone)

    def test_only_what_all_stages_have_is_sampled_more_often(self) -> None:
        types = ("plain", "residual", "fused")
        for first, expected in ((("plain", "mbconv"), 2 / 3), (("separable", "mbconv"), 1 / 3)):
            space = tiny(stages=(Stage(first), Stage(types)), downsampling=((1, 1, 2),))
            rng = np.random.default_rng(0)
            plain = np.mean([space.sample(rng).genome[3 + 5] == 0 for _ in range(2000)])
            assert plain == pytest.approx(expected, abs=0.04)

    def test_the_description_says_what_is_built(self) -> None:
        stages = (Stage(widths=(16, 32)), Stage(widths=(24,)), Stage(depths=(3,), widths=(64,)))
        space = tiny(channels=3, resolutions_px=(24, 32), downsampling=((1, 2, 2, 1),), stages=stages)
        subnet = space.subnet((1, 0, 0, *(3, 1, 1, 2, 0), *(0, 0, 1, 1, 0), *(2, 0, 1, 2, 0), 1))
        assert space.describe(subnet) == (
            "input: 3 x 32 x 32",
            "stem: conv 3x3, 4 channels, stride 1",
            "stage 1: 2 x mbconv, kernel 5, expand 4, 16 channels, stride 2",
            "stage 2: 1 x plain, kernel 3, 24 channels, stride 2",
            "stage 3: 3 x fused, kernel 3, expand 2, 64 channels, stride 1",
            "head: flatten, 3 classes",
        )


def _stem_of(space: MobileSpace, stem: int) -> Subnet:
    return space.subnet((0, stem, *space.sample(np.random.default_rng(0)).genome[2:]))


def _with(space: SearchSpace, subnet: Subnet, gene: int, option: int) -> Network:
    genome = (*subnet.genome[:gene], option, *subnet.genome[gene + 1 :])
    return space.network(space.subnet(genome))


def _layers(space: SearchSpace, subnet: Subnet) -> list[str]:
    return [node.name for node in space.network(subnet).nodes]
