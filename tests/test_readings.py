"""What a runtime leaves of a graph: three readings, each within the one before it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.network.readings import (
    READINGS,
    ZERO,
    Reading,
    as_written,
    depends_on_input,
    live,
    reachable,
    read,
    zero_tensors,
)
from edgenas.spaces.cell import NAS_BENCH_201
from edgenas.spaces.cell_graphs import DARTS

CELLS = st.tuples(*(st.integers(0, 4) for _ in range(6))).map(lambda g: NAS_BENCH_201.network(NAS_BENCH_201.subnet(g)))


@st.composite
def graphs(draw: st.DrawFn) -> Network:
    """Random graphs of one shape, with zeros, dead branches and up to three outputs."""
    b = Builder((1, 4, 8, 8))
    tensors = [INPUT]
    for i in range(draw(st.integers(1, 15))):
        x = draw(st.sampled_from(tensors))
        made = {
            "conv": lambda i=i, x=x: b.conv(f"conv{i}", x, 4, 3),
            "relu": lambda i=i, x=x: b.activation(f"relu{i}", x),
            "pool": lambda i=i, x=x: b.average_pool(f"pool{i}", x, 3, 1, 1),
            "skip": lambda i=i, x=x: b.identity(f"skip{i}", x),
            "zero": lambda i=i, x=x: b.zero(f"zero{i}", x),
            "add": lambda i=i, x=x: b.add(f"add{i}", x, draw(st.sampled_from(tensors))),
        }
        tensors.append(made[draw(st.sampled_from(sorted(made)))]())
    outputs = draw(st.lists(st.sampled_from(tensors[1:]), min_size=1, max_size=3, unique=True))
    return b.finish(*outputs)


EVERY = st.one_of(graphs(), CELLS)


def names(network: Network) -> set[str]:
    return {node.name for node in network.nodes}


@given(network=EVERY)
@pytest.mark.parametrize("reading", READINGS)
def test_reading_twice_is_reading_once(network: Network, reading: Reading) -> None:
    once = read(network, reading)
    assert read(once, reading) == once


def sum_of_zeros() -> Network:
    """The sum is a constant to `live`; to `reachable` it is the convolution, which it can't know to be zero."""
    b = Builder((1, 4, 8, 8))
    zero = b.zero("zero", INPUT)
    return b.finish(b.add("sum", zero, b.conv("conv", zero, 4, 3)))


@given(network=EVERY)
@example(network=sum_of_zeros())
def test_each_reading_is_within_the_one_before(network: Network) -> None:
    """Of what runs: a constant may stand for another node of the reading before."""
    runs, might_run, written = ({n.name for n in read(network, r).nodes if n.op != ZERO} for r in READINGS)
    assert runs <= might_run <= written


@given(network=EVERY)
@pytest.mark.parametrize("reading", READINGS)
def test_outputs_and_inputs_keep_their_shapes(network: Network, reading: Reading) -> None:
    found = read(network, reading)
    assert found.inputs == network.inputs
    assert [found.shape_of(x) for x in found.outputs] == [network.shape_of(x) for x in network.outputs]


@given(network=EVERY)
def test_every_node_that_is_left_is_needed(network: Network) -> None:
    for found in (live(network), reachable(network)):
        read_somewhere = {x for node in found.nodes for x in node.inputs} | set(found.outputs)
        assert names(found) <= read_somewhere


@given(network=EVERY)
def test_what_is_live_computes_no_zeros(network: Network) -> None:
    found = live(network)
    zeros = zero_tensors(found)
    assert all(node.op == "Zero" for node in found.nodes if node.name in zeros)


@given(network=EVERY)
def test_a_network_without_zeros_or_dead_branches_stays_as_it_is(network: Network) -> None:
    once = live(network)
    if all(node.op != "Zero" for node in once.nodes):
        assert reachable(once) == live(once) == once


def test_adds_of_zeros_go_and_operations_on_zeros_run_when_only_reachable() -> None:
    b = Builder((1, 4, 8, 8))
    zero = b.zero("zero", INPUT)
    fed = b.conv("fed", b.activation("relu", zero), 4, 3)
    network = b.finish(b.add("out", b.add("both", b.conv("conv", INPUT, 4, 3), fed), b.zero("zero2", INPUT)))
    assert names(live(network)) == {"conv"}
    assert names(reachable(network)) == {"zero", "relu", "fed", "conv", "both"}
    assert live(network).outputs == ("conv",)
    assert reachable(network).outputs == ("both",)
    assert as_written(network) is network


def test_a_zero_reads_nothing_once_it_is_read_as_a_constant() -> None:
    b = Builder((1, 4, 8, 8))
    zero = b.zero("zero", b.conv("dead", INPUT, 4, 3))
    network = b.finish(b.conv("fed", zero, 4, 3))
    assert names(reachable(network)) == {"zero", "fed"}


def test_a_cell_whose_branches_are_all_dead_does_not_depend_on_the_input() -> None:
    dead = NAS_BENCH_201.network(NAS_BENCH_201.subnet((3, 0, 0, 0, 0, 3)))
    alive = NAS_BENCH_201.network(NAS_BENCH_201.subnet((3, 0, 0, 0, 3, 0)))
    # the residual blocks between the stages lie behind cells, so nothing of the image comes through
    assert not depends_on_input(dead)
    assert depends_on_input(alive)


def test_networks_without_a_live_path_are_those_of_the_benchmark() -> None:
    alive = [
        depends_on_input(NAS_BENCH_201.network(NAS_BENCH_201.subnet((a, b, c, d, e, f))))
        for a in (0, 1)
        for b in (0, 1)
        for c in (0, 1)
        for d in (0, 1)
        for e in (0, 1)
        for f in (0, 1)
    ]
    # an edge has one way to be none and four ways not to be
    dead = [bits for bits, lives in zip(range(64), alive, strict=True) if not lives]
    assert sum(4 ** bin(bits).count("1") for bits in dead) == 341


def test_a_searched_cell_has_nothing_to_remove() -> None:
    network = DARTS.network(cells=6)
    assert live(network) is network
