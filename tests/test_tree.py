"""The tree space: its grammar, and what only its own networks show. Every promise of a search space is held on it too."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.compress.prune import prune
from edgenas.errors import InputError
from edgenas.latency import predictor as predictors
from edgenas.latency import table
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.records import ProfiledNetwork
from edgenas.latency.space_predictor import SpacePredictor
from edgenas.nets.module import Layers, NetworkModule
from edgenas.network.channels import channel_groups
from edgenas.network.costs import macs
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network
from edgenas.onnxio.qdq import to_qdq
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.write import to_onnx
from edgenas.pareto import non_dominated
from edgenas.search.evaluations import Evaluations
from edgenas.search.explore import explore, neighbourhood
from edgenas.search.run import search
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.space import Genome, Subnet
from edgenas.spaces.tree import TreeSpace, for_data
from edgenas.spaces.tree_grammar import COMBINERS, IDENTITY, Grammar, Tree
from edgenas.spaces.tree_operations import OPERATIONS
from tests.test_latency import META, kernel_ms, measured_as
from tests.test_spaces import ISA, RUNTIME, SMALL_TREES, genomes, sampled

SPACE = for_data(28, 1, 10)
GRAMMARS = [
    Grammar(("a",)),
    Grammar(("a", "b"), depth=2, arity=3),
    Grammar(("a",), ("seq", "add", "cat"), depth=2, arity=4),
    Grammar(("a", "b"), ("res",), depth=4),
    Grammar(("a",), ("add", "res")),
    Grammar((), depth=3),
    Grammar(("a", "b", "c"), depth=1),
]


def networks(space: TreeSpace = SPACE) -> st.SearchStrategy[Network]:
    return genomes(space).map(lambda genome: space.network(space.subnet(genome)))


def test_ids_stay_as_they_are() -> None:
    # what was measured and trained is found by them, in other processes and later versions
    assert SPACE.id == "ecf83fd8473c"
    assert SPACE.largest().id == "8ef612ae2830"


class TestGrammar:
    @pytest.mark.parametrize("grammar", GRAMMARS, ids=str)
    def test_it_counts_the_normal_trees_and_their_form_is_final(self, grammar: Grammar) -> None:
        if np.prod(grammar.radix, dtype=float) > 3e5:
            normal = {grammar.normal(tree) for tree in _every_tree(grammar, grammar.depth)}
        else:
            normal = {grammar.normal(grammar.decode(genes)) for genes in itertools.product(*map(range, grammar.radix))}
        assert grammar.count() == len(normal)
        assert all(grammar.normal(tree) == tree for tree in normal)

    @given(seed=st.integers(0, 2**32), grammar=st.sampled_from([g for g in GRAMMARS if g.depth > 1]))
    def test_genes_and_text_there_and_back(self, seed: int, grammar: Grammar) -> None:
        tree = grammar.grown(np.random.default_rng(seed), grammar.depth)
        assert grammar.decode(grammar.encode(tree)) == tree
        assert grammar.parse(str(tree)) == grammar.parse(str(tree).replace(" ", "")) == tree
        genes = grammar.encode(tree)
        assert all(gene == 0 for place, gene in enumerate(genes) if place not in grammar.nodes(tree))

    @pytest.mark.parametrize(
        ("tree", "normal"),
        [
            ("seq(identity, conv3)", "conv3"),
            ("seq(identity, seq(identity, identity))", "identity"),
            ("seq(identity, cat(identity, conv3))", "cat(identity, conv3)"),
            ("add(conv3, identity)", "res(conv3)"),
            ("add(sep3, maxpool)", "add(maxpool, sep3)"),
            ("cat(res(conv3), seq(conv3, identity))", "cat(conv3, res(conv3))"),
            ("res(add(identity, conv3))", "res(conv3)"),
            ("res(res(identity))", "identity"),
            ("add(identity, res(conv3))", "res(conv3)"),
            ("seq(sep3, maxpool)", "seq(sep3, maxpool)"),
        ],
    )
    def test_what_shows_at_once_is_taken_out(self, tree: str, normal: str) -> None:
        grammar = SPACE.grammar
        assert str(grammar.normal(grammar.parse(tree))) == normal

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "no operation or combiner ''"),
            ("seq(conv7, conv3)", "no operation or combiner 'conv7'"),
            ("seq(conv3)", "seq needs 2 in brackets"),
            ("seq(conv3, conv3, conv3)", "seq needs 2 in brackets"),
            ("res(conv3, conv3)", "res needs 1 in brackets"),
            ("res", "res needs 1 in brackets"),
            ("res(res(res(conv3)))", "deeper than 3"),
            ("res(conv3))", r"the end was expected where '\)' stands"),
            ("res[conv3]", "something else than names"),
        ],
    )
    def test_what_is_wrong_with_a_text_is_said(self, text: str, problem: str) -> None:
        with pytest.raises(InputError, match=problem):
            SPACE.grammar.parse(text)

    def test_a_grammar_that_makes_no_sense_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"no combiner \['mul'\]\n.*seq, res, add, cat"):
            Grammar(("a",), ("seq", "mul"))
        with pytest.raises(InputError, match="depth=0, arity=2"):
            Grammar(("a",), depth=0)
        with pytest.raises(InputError, match="depth 30 and arity 2 have more than"):
            Grammar(("a",), ("seq",), depth=30)


def _every_tree(grammar: Grammar, levels: int) -> list[Tree]:
    leaves = [Tree(label) for label in grammar.leaves]
    if levels == 1:
        return leaves
    lower = list({grammar.normal(tree) for tree in _every_tree(grammar, levels - 1)})
    return leaves + [
        Tree(label, children)
        for label in grammar.combiners
        for children in itertools.product(lower, repeat=grammar.children(label))
    ]


class TestChanges:
    @given(seed=st.integers(0, 2**32), rate=st.floats(0, 1), grammar=st.sampled_from(GRAMMARS))
    def test_a_mutant_is_a_tree_of_the_grammar(self, seed: int, rate: float, grammar: Grammar) -> None:
        rng = np.random.default_rng(seed)
        tree = grammar.grown(rng, grammar.depth)
        mutant = grammar.mutated(tree, rng, rate, grammar.depth)
        assert grammar.parse(str(mutant)) == mutant
        assert grammar.mutated(tree, rng, 0.0, grammar.depth) == tree

    @given(seed=st.integers(0, 2**32))
    def test_parents_exchange_one_subtree_at_its_place(self, seed: int) -> None:
        rng, grammar = np.random.default_rng(seed), SPACE.grammar
        one, other = (grammar.normal(grammar.grown(rng, grammar.depth)) for _ in range(2))
        genes = grammar.encode(one), grammar.encode(other)
        child = grammar.decode(grammar.crossed(*genes, rng))
        common = set(grammar.nodes(one)) & set(grammar.nodes(other))
        assert any(child == _exchanged(grammar, one, other, place) for place in common)

    @given(seed=st.integers(0, 2**32))
    def test_a_child_has_each_tree_of_a_parent_or_with_one_subtree_exchanged(self, seed: int) -> None:
        rng, grammar = np.random.default_rng(seed), SPACE.grammar
        one, other = SPACE.sample(rng), SPACE.sample(rng)
        child = SPACE.crossover(one, other, rng)
        for stage in range(len(SPACE.widths)):
            mine, theirs = SPACE.tree(one, stage), SPACE.tree(other, stage)
            common = set(grammar.nodes(mine)) & set(grammar.nodes(theirs))
            exchanged = {grammar.normal(_exchanged(grammar, mine, theirs, place)) for place in common}
            assert SPACE.tree(child, stage) in {mine, *exchanged}
            at = 3 + stage * SPACE.stage_genes
            assert child.genome[at : at + 2] in (one.genome[at : at + 2], other.genome[at : at + 2])


def _exchanged(grammar: Grammar, one: Tree, other: Tree, place: int) -> Tree:
    """`one` with what stands at `place` in `other`, by the trees alone."""
    wanted = grammar.nodes(other)[place]

    def at(tree: Tree, position: int) -> Tree:
        if position == place:
            return wanted
        children = (at(child, grammar.child(position, i)) for i, child in enumerate(tree.children))
        return Tree(tree.label, tuple(children))

    return at(one, 0)


def run(network: Network, image: np.ndarray, int8: bool = False) -> np.ndarray:
    weights = random_weights(network)
    model = to_qdq(network, weights, random_ranges(network)) if int8 else to_onnx(network, weights)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"input": image})[0]
    return found


class TestNetworks:
    @settings(max_examples=40)
    @given(network=networks())
    def test_every_network_is_valid_onnx(self, network: Network) -> None:
        assert to_onnx(network, random_weights(network)).graph.output[0].name == network.output_name

    @settings(max_examples=15)
    @given(network=networks(), int8=st.booleans())
    def test_onnx_runtime_runs_them(self, network: Network, int8: bool) -> None:
        image = np.random.default_rng(0).standard_normal(network.input_shape).astype(np.float32)
        found = run(network, image, int8)
        assert found.shape == (1, 10)
        assert np.isfinite(found).all()

    @pytest.mark.parametrize("operation", [IDENTITY, *OPERATIONS])
    @pytest.mark.parametrize("combiner", COMBINERS)
    def test_torch_computes_what_onnx_runtime_computes(self, operation: str, combiner: str) -> None:
        children = ", ".join([f"cat(conv3, {operation})", operation][: SPACE.grammar.children(combiner)])
        genes = SPACE.grammar.encode(SPACE.grammar.parse(f"{combiner}({children})"))
        network = SMALL_TREES.network(SMALL_TREES.subnet((0, 0, 1, 1, 2, *genes, 0, 0, *genes, 1)))
        module = _trained_looking(network)
        image = np.random.default_rng(1).standard_normal(network.input_shape).astype(np.float32)
        with torch.no_grad():
            expected = module(torch.from_numpy(image)).numpy()
        model = to_onnx(network, module.folded_weights())
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, {"input": image})[0]
        assert expected.std() > 0.001, "logits that are all alike show nothing"
        assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())

    def test_shared_weights_serve_every_subnet(self) -> None:
        layers = Layers(SMALL_TREES.layer_shapes())
        images = torch.randn(2, 1, 12, 12)
        with torch.no_grad():
            for subnet in [*sampled(SMALL_TREES, 20), SMALL_TREES.largest(), *SMALL_TREES.smallest()]:
                assert layers.run(SMALL_TREES.network(subnet), images).isfinite().all()

    @settings(max_examples=30)
    @given(network=networks(SMALL_TREES), seed=st.integers(0, 1000))
    def test_dropping_dead_channels_changes_no_logit(self, network: Network, seed: int) -> None:
        rng, module = np.random.default_rng(seed), _trained_looking(network)
        widths: dict[str, int] = {}
        dead: dict[str, torch.Tensor] = {}  # convolution -> which of its channels make nothing
        for group in channel_groups(network):
            full = network.by_name[group[0]].shape[1]
            kept = int(rng.integers(2, full + 1))
            gone = torch.from_numpy(rng.permutation(full) >= kept)
            widths |= dict.fromkeys(group, kept)
            dead |= dict.fromkeys(group, gone)
        with torch.no_grad():
            for node in network.nodes:
                silent = dead.get(node.name, dead.get(node.inputs[0]) if len(node.shape) == 4 else None)
                if node.op == "Concat" or silent is None:
                    continue
                dead[node.name] = silent
                if node.op == "Conv" and (node.name in widths or node.is_depthwise):
                    for values in (module.conv(node.name).weight, *module.conv(node.name).per_channel()[:3]):
                        values[silent] = 0
                elif node.op == "Conv":
                    del dead[node.name]
            images = torch.randn(2, *network.input_shape[1:])
            smaller = prune(module, widths).eval()
            to_onnx(smaller.network, smaller.folded_weights())
            assert torch.allclose(smaller(images), module(images), atol=1e-4)

    @given(one=genomes(SMALL_TREES), other=genomes(SMALL_TREES))
    def test_equal_subnets_are_equal_networks_and_no_others(self, one: Genome, other: Genome) -> None:
        subnets = SMALL_TREES.subnet(one), SMALL_TREES.subnet(other)
        nets = [SMALL_TREES.network(subnet) for subnet in subnets]
        assert (subnets[0] == subnets[1]) == (nets[0] == nets[1]) == (subnets[0].id == subnets[1].id)

    @given(side=st.integers(4, 260), seed=st.integers(0, 1000))
    def test_there_is_a_space_for_images_of_any_side(self, side: int, seed: int) -> None:
        space = for_data(side, 3, 5)
        assert space.network(space.largest()).input_shape == (1, 3, side, side)
        network = space.network(sampled(space, 1, seed)[0])
        assert network.shape_of(network.output_name) == (1, 5)

    def test_the_description_says_what_is_built(self) -> None:
        trees = [
            SMALL_TREES.grammar.encode(SMALL_TREES.grammar.parse(text))
            for text in ("seq(conv3, res(mbconv3))", "maxpool")
        ]
        subnet = SMALL_TREES.subnet((0, 1, 0, 1, 0, *trees[0], 0, 2, *trees[1], 1))
        assert SMALL_TREES.describe(subnet) == (
            "input: 1 x 12 x 12",
            "stem: conv 3x3, 16 channels, stride 1",
            "stage 1: conv3 to 16 channels, stride 2, then seq(conv3, res(mbconv3))",
            "stage 2: pool to 16 channels, stride 1, then maxpool",
            "head: flatten, 3 classes",
        )

    def test_joined_branches_share_the_width(self) -> None:
        genes = SMALL_TREES.grammar.encode(SMALL_TREES.grammar.parse("cat(identity, seq(conv3, sep3))"))
        network = SMALL_TREES.network(
            SMALL_TREES.subnet((0, 0, 0, 0, 0, *genes, 0, 0, *SMALL_TREES.grammar.encode(Tree(IDENTITY)), 0))
        )
        joined = network.by_name["stage0/tree/0/cat/concat"]
        assert joined.shape[1] == 8
        assert [network.shape_of(name)[1] for name in joined.inputs] == [4, 4]


def _trained_looking(network: Network) -> NetworkModule:
    torch.manual_seed(0)
    module = NetworkModule(network).eval()
    with torch.no_grad():
        for layer in module.bn_layers():
            layer.gamma.uniform_(0.5, 1.5)
            layer.beta.uniform_(-0.2, 0.4)
            layer.mean.uniform_(-0.2, 0.2)
            layer.var.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"widths": ((8,), ())}, "no options for widths"),
        ({"heads": ()}, "no options for heads"),
        ({"entries": ("conv7",)}, r"no operation \['conv7'\]"),
        ({"grammar": Grammar(("shuffle",))}, r"no operation \['shuffle'\]"),
        ({"widths": ((8,), (18,))}, "widths are multiples of 4"),
        ({"grammar": Grammar(("conv3",), arity=3)}, "at least 9, but got"),
        ({"downsampling": ((1, 2),)}, "needs 3 strides of 1 or 2"),
        ({"downsampling": ((1, 2, 3),)}, "needs 3 strides of 1 or 2"),
        ({"grammar": Grammar(("conv3",), ("seq",), depth=6)}, "a code of 64 bits"),
    ],
)
def test_a_space_that_can_not_be_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        replace(SMALL_TREES, **changes)  # type: ignore[arg-type]


@cache
def predictor(precision: Precision) -> LatencyPredictor:
    """Fitted on some networks of the space, so that the affine part is more than a sum."""
    found = []
    for i, subnet in enumerate(sampled(SMALL_TREES, 20, seed=3)):
        kernels = _kernels(SMALL_TREES.network(subnet), precision)
        times = tuple((round(kernel_ms(kernel) * 1e3),) * 4 for kernel in kernels)
        ms = 1.25 * sum(map(kernel_ms, kernels)) + 0.02 * len(kernels) + 0.75
        found.append(ProfiledNetwork(f"{i}", precision, kernels, times, (100_000,) * 4, 2, measured_as(ms)))
    meta = replace(META, space_id=SMALL_TREES.id, precision=precision)
    return predictors.fit(table.from_records(meta, found), RUNTIME.fusion(precision, ISA))


def _kernels(network: Network, precision: Precision) -> tuple[Kernel, ...]:
    return tuple(fused.kernel for fused in fuse(network, RUNTIME.fusion(precision, ISA), precision))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@settings(max_examples=20)
@given(found=st.lists(genomes(SMALL_TREES), min_size=1, max_size=30))
def test_many_subnets_at_once_are_predicted_as_one_by_one(precision: Precision, found: list[Genome]) -> None:
    subnets = [SMALL_TREES.subnet(genome) for genome in found]
    expected = [predictor(precision).latency_ms(SMALL_TREES.network(subnet)) for subnet in subnets]
    rows = np.array([subnet.genome for subnet in subnets])
    at_once = SpacePredictor(SMALL_TREES, predictor(precision))
    assert np.allclose(at_once.latency_ms(rows), expected, rtol=1e-9)
    assert np.allclose(at_once.latency_ms(rows[::-1]), expected[::-1], rtol=1e-9), "from what it knows now"
    assert np.allclose(at_once.latency_ms(np.array(found)), expected, rtol=1e-9), "not yet canonical"


@pytest.mark.parametrize("isa", [ISA, ("avx2",)], ids=["blocks of 16", "blocks of 8"])
def test_what_a_tree_ends_in_does_not_matter_to_the_segments_around_it(isa: tuple[str, ...]) -> None:
    # a join of narrow branches or a pool leaves its tensor in another layout than a convolution does
    base, rules, trees = SMALL_TREES.largest().genome, RUNTIME.fusion("fp32", isa), len(SMALL_TREES.grammar.radix)
    around, within = set(), set()
    for subnet in sampled(SMALL_TREES, 60):
        genome = (*base[:5], *subnet.genome[5 : 5 + trees], *base[5 + trees :])
        network = SMALL_TREES.network(SMALL_TREES.subnet(genome))
        members = SMALL_TREES.segment_members(network)
        owner = {name: place for place, names in enumerate(members) for name in names}
        kernels: list[list[Kernel]] = [[] for _ in members]
        place = len(members) - 1
        for fused in reversed(fuse(network, rules, "fp32")):
            place = owner[fused.members[0]] if fused.members else place
            kernels[place].append(fused.kernel)
        around.add((tuple(kernels[0]), tuple(kernels[2])))
        within.add(tuple(kernels[1]))
    assert len(around) == 1
    assert len(within) > 20


def test_the_search_runs_on_it_and_finds_more_than_the_start(tmp_path: Path) -> None:
    def latency(rows: np.ndarray) -> np.ndarray:
        return np.array([macs(SPACE.network(SPACE.subnet(tuple(map(int, row))))) / 1e8 for row in rows])

    def accuracy(subnet: Subnet) -> float:
        residuals = sum(str(SPACE.tree(subnet, i)).count("res") for i in range(3))
        return 0.5 + 0.04 * np.log10(macs(SPACE.network(subnet)) / 1e5) + 0.02 * residuals

    rule = SearchRule(explored=30, neighbours=20, start=16, population=16, evaluations=120)
    log = Evaluations(tmp_path / "log.jsonl", accuracy)
    found = explore(SPACE, latency, log, 0.1, rule.explored, 0)
    assert found is not None
    start = neighbourhood(SPACE, latency, found, 0.1, rule.neighbours, 0)[: rule.start]
    result = search(Problem(SPACE, latency, 0.1, tuple(start), found.narrowing, rule, 0), "evolution", log.scores)
    assert all(candidate.latency_ms <= 0.1 for candidate in result.evaluated)
    assert all(SPACE.subnet(candidate.subnet.genome) == candidate.subnet for candidate in result.evaluated)
    assert max(c.score for c in result.front) > max(map(accuracy, start))
    points = np.array([(c.latency_ms, 1 - c.score) for c in result.front])
    assert len(non_dominated(points)) == len(points)
