"""What every search space promises, held by one class for all of them; then what is particular to one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.errors import InputError
from edgenas.network.costs import macs
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network, Shape
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.blocks import BLOCKS
from edgenas.spaces.mobile import MobileSpace, Stage, for_data
from edgenas.spaces.space import Genome, SearchSpace, Subnet

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


def tiny(**changes: object) -> MobileSpace:
    """A space that can be gone through whole."""
    stage = Stage(depths=(1, 2), kernels=(3, 5), expands=(1, 2, 4), widths=(4, 8))
    return replace(MobileSpace(1, 3, (8,), (4, 8), ((1, 2), (2, 1)), (stage,)), **changes)  # type: ignore[arg-type]


EVERY: dict[str, Member] = {
    "mobile, 28 px, grey": Member(for_data(28, 1, 10), 1, 28, 10),
    "mobile, 32 px, colour": Member(for_data(32, 3, 100), 3, 32, 100),
    "mobile, 96 px, colour": Member(for_data(96, 3, 2), 3, 96, 2),
}
TINY: dict[str, SearchSpace] = {
    "mobile": tiny(),
    "mobile, two stages": tiny(
        stages=(Stage(("residual", "mbconv"), (1,), (3, 5), (1, 2), (4, 8)), Stage(("plain", "fused"), widths=(8,))),
        downsampling=((1, 1, 2),),
    ),
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
    return st.tuples(*(st.integers(0, count - 1) for count in space.radix()))


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
        assert all(is_member(space, subnet) for subnet in [*drawn, space.largest(), *space.smallest()])

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
        assert len({member.space.crossover(one, other, rng) for _ in range(20)} - {one, other}) > 5

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
        assert len(lines) == len(member.space.describe(member.space.largest()))
        assert all(line and line == line.strip() and "\n" not in line for line in lines)


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
        assert tiny().id == "a45c4b0bc172"
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
        with pytest.raises(InputError, match=r"no block type \['shuffle'\]\n.*plain, residual, fused, mbconv"):
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

    def test_smallest_has_one_for_each_block_type(self) -> None:
        space = for_data(28, 1, 10)
        kinds = [
            {name.split("/")[2] for name in _layers(space, subnet) if "block" in name} for subnet in space.smallest()
        ]
        assert sorted(kinds, key=str) == sorted(({kind} for kind in BLOCKS), key=str)

    def test_genes_that_a_block_type_does_not_read_are_canonical(self) -> None:
        space = tiny()
        names = ("plain", "residual", "fused", "mbconv")
        stage = {
            name: {space.subnet((0, 0, 0, i, 0, k, e, 0, 0)) for k in (0, 1) for e in (0, 1, 2)}
            for i, name in enumerate(names)
        }
        assert [len(stage[name]) for name in names] == [1, 1, 2, 6]

    @pytest.mark.parametrize("kernels", [(3, 5), (5,), (5, 3)])
    @pytest.mark.parametrize("expands", [(1, 2, 4), (4, 2, 1), (2, 4), (4,)])
    def test_options_may_stand_in_any_order(self, kernels: tuple[int, ...], expands: tuple[int, ...]) -> None:
        space = tiny(stages=(Stage(kernels=kernels, expands=expands),), stem_widths=(4,))
        subnets = {space.subnet(genome) for genome in itertools.product(*map(range, space.radix()))}
        assert space.size() == len(subnets) == len({space.network(subnet) for subnet in subnets})

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


def _with(space: SearchSpace, subnet: Subnet, gene: int, option: int) -> Network:
    genome = (*subnet.genome[:gene], option, *subnet.genome[gene + 1 :])
    return space.network(space.subnet(genome))


def _layers(space: SearchSpace, subnet: Subnet) -> list[str]:
    return [node.name for node in space.network(subnet).nodes]
