"""A supernet of cells whose choices are mixed: what a mix computes, which way its loss falls, and going on after being killed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.nets.module import Layers
from edgenas.nets.recipe import Recipe
from edgenas.network.costs import macs
from edgenas.pipeline.request import BuildRequest
from edgenas.pipeline.search_command import search as search_command
from edgenas.progress import Progress
from edgenas.search.narrow import everything
from edgenas.search.run import SearchResult, search
from edgenas.search.strategies import differentiable
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.cell_relaxed import RelaxedNetwork, relaxed_network
from edgenas.spaces.cell_stack import CellStack
from edgenas.spaces.space import Subnet
from edgenas.store import read_json
from edgenas.supernet import relaxation
from edgenas.supernet.evaluate import SubnetJudge
from edgenas.supernet.relaxation import RECIPE, SAVED_EVERY, RelaxedSupernet
from edgenas.supernet.train import new_supernet, train_supernet
from tests.test_build import EFFORT, write_photos
from tests.test_supernet_spaces import images_for

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SPACE = CellStack(1, 3, (8, 12), (0, 1, 2), ((16, 32), (16,)), ((1, 3), (2,)), nodes=3)
SMALL = CellStack(1, 3, (12,), (1,), ((16, 32), (16,)), ((1, 2), (1,)), nodes=3)  # quick to train
OFFSETS = np.concatenate([[0], np.cumsum(SPACE.radix())])
EVEN, SMALL_EVEN = (
    np.concatenate([np.full(options, 1 / options) for options in space.radix()]) for space in (SPACE, SMALL)
)
genomes = st.tuples(*(st.integers(0, options - 1) for options in SPACE.radix()))


def one_hot(subnet: Subnet) -> np.ndarray:
    shares = np.zeros(OFFSETS[-1])
    shares[OFFSETS[:-1] + np.array(subnet.genome)] = 1
    return shares


def any_weights(space: CellStack) -> Layers:
    supernet = new_supernet(space, 0).train()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return supernet


def logits(supernet: Layers, relaxed: RelaxedNetwork, images: torch.Tensor, shares: np.ndarray) -> torch.Tensor:
    factors = {
        name: torch.from_numpy(matrix @ shares).float().reshape(1, -1, 1, 1) for name, matrix in relaxed.factors.items()
    }
    with torch.no_grad():
        return supernet.tensors(relaxed.network, images, factors)[relaxed.network.output_name]


SUPERNET, SMALL_SUPERNET = any_weights(SPACE), any_weights(SMALL)


@settings(max_examples=40)
@given(genome=genomes)
def test_all_of_one_option_of_each_choice_is_the_subnet(genome: tuple[int, ...]) -> None:
    subnet = SPACE.subnet(genome)
    network = SPACE.network(subnet)
    images = torch.randn(4, *network.input_shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = SUPERNET.run(network, images)
    found = logits(SUPERNET, relaxed_network(SPACE, *subnet.genome[:2]), images, one_hot(subnet))
    assert torch.allclose(found, wanted, atol=1e-4 * max(1.0, wanted.abs().max().item()))


def test_a_mix_lies_between_and_depends_on_every_option() -> None:
    relaxed = relaxed_network(SPACE, 1, 1)
    images = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    before = logits(SUPERNET, relaxed, images, EVEN)
    asked = OFFSETS[2]  # resolution and stem are not mixed
    zeros = set(OFFSETS[SPACE.edge_genes.start : -1])  # nothing is what `none` adds
    for place in range(OFFSETS[-1]):
        shares = EVEN.copy()
        shares[place] += 0.2
        alike = torch.equal(logits(SUPERNET, relaxed, images, shares), before)
        assert alike == (place < asked or place in zeros), place


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation, "mixed_precision", nullcontext)


@pytest.mark.usefixtures("exact")
def test_the_gradient_is_that_of_the_loss_on_images_apart(tmp_path: Path) -> None:
    """By differences; the weights stand still meanwhile."""
    relaxed = RelaxedSupernet(SPACE, SUPERNET, images_for(SPACE), 0, tmp_path)
    loss, gradient = relaxed(EVEN)
    batch = relaxed.judging.at(0)
    with torch.no_grad():
        rng, step = np.random.default_rng(0), 0.003
        for _ in range(6):
            way = rng.normal(size=len(EVEN))
            more, less = (
                float(relaxed._loss(torch.from_numpy(EVEN + sign * step * way).float(), *batch)) for sign in (1, -1)
            )
            assert (more - less) / (2 * step) == pytest.approx(way @ gradient, rel=0.05, abs=0.01)
        assert float(relaxed._loss(torch.from_numpy(EVEN).float(), *batch)) == pytest.approx(loss, abs=1e-5)


def test_weights_learn_on_one_half_and_validation_images_are_not_seen(tmp_path: Path) -> None:
    data = images_for(SMALL)
    before = {name: tensor.clone() for name, tensor in SMALL_SUPERNET.state_dict().items()}
    relaxed = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path)
    halves = [{image.tobytes() for image in feed.feed.images.numpy()} for feed in (relaxed.learning, relaxed.judging)]
    whole = {image.tobytes() for image in relaxation.TrainingFeed(data, RECIPE.batch_size, 0).images.numpy()}
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == whole, "all of the training images and no others"
    losses = [relaxed(SMALL_EVEN)[0] for _ in range(15)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    for name, tensor in SMALL_SUPERNET.state_dict().items():
        assert torch.equal(tensor, before[name]), "the weights that subnets are judged by are the caller's"


def test_killed_at_any_call_it_answers_the_same_and_goes_on(tmp_path: Path) -> None:
    data, count = images_for(SMALL), 2 * SAVED_EVERY + 3
    rng = np.random.default_rng(0)
    asked = [np.concatenate([rng.dirichlet(np.ones(options)) for options in SMALL.radix()]) for _ in range(count)]
    whole = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path / "whole")
    wanted = [whole(shares) for shares in asked]
    for killed_after in (3, SAVED_EVERY + 4, count - 1):
        first = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path / "killed")
        for shares in asked[:killed_after]:
            first(shares)
    again = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path / "killed")
    for shares, (loss, gradient) in zip(asked, wanted, strict=True):
        found = again(shares)
        assert found[0] == loss
        assert np.array_equal(found[1], gradient)


def test_asked_for_another_path_it_forgets_the_one_it_knows(tmp_path: Path) -> None:
    data, first = images_for(SMALL), np.roll(SMALL_EVEN, 1)
    known = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path / "known")
    for _ in range(SAVED_EVERY):
        known(SMALL_EVEN)
    other = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path / "known")
    fresh = RelaxedSupernet(SMALL, SMALL_SUPERNET, data, 0, tmp_path / "fresh")
    for shares in (first, SMALL_EVEN):
        (one, gradient), (wanted, wanted_gradient) = other(shares), fresh(shares)
        assert one == wanted
        assert np.array_equal(gradient, wanted_gradient)


@pytest.fixture(scope="module")
def trained_cells(tmp_path_factory: pytest.TempPathFactory) -> Layers:
    path = tmp_path_factory.mktemp("cells") / "supernet"
    recipe = Recipe(6, batch_size=24)
    return train_supernet(new_supernet(SMALL, 0), SMALL, SMALL.sample, images_for(SMALL), recipe, 0, path)


def test_the_strategy_proposes_what_is_within_the_budget_and_takes_the_same_path_when_killed(
    trained_cells: Layers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differentiable, "STEPS", 24)
    monkeypatch.setattr(differentiable, "FITTED", 300)
    data = images_for(SMALL)
    judge = SubnetJudge(SMALL, trained_cells, data)
    known: dict[Subnet, float] = {}

    def latency(rows: np.ndarray) -> np.ndarray:
        for row in rows:
            subnet = SMALL.subnet(tuple(map(int, row)))
            known.setdefault(subnet, macs(SMALL.network(subnet)) / 1e6)
        return np.array([known[SMALL.subnet(tuple(map(int, row)))] for row in rows])

    rng = np.random.default_rng(0)
    budget = float(np.quantile(latency(np.array([SMALL.sample(rng).genome for _ in range(100)])), 0.2))

    class Killed(Exception):
        pass

    def run(folder: Path, calls: int = 99) -> SearchResult:
        def on_call(count: int) -> None:
            if count > calls:
                raise Killed

        relaxed = RelaxedSupernet(SMALL, trained_cells, data, 0, folder, on_call)
        rule = SearchRule(start=4, evaluations=12, patience=12)
        problem = Problem(SMALL, latency, budget, (), everything(SMALL), rule, 0, relaxation=relaxed)
        return search(problem, "differentiable", lambda subnets: map(judge.score, subnets))

    whole = run(tmp_path / "whole")
    assert len(whole.evaluated) == 12
    assert all(candidate.latency_ms <= budget for candidate in whole.evaluated)
    for calls in (5, 17):
        with pytest.raises(Killed):
            run(tmp_path / "killed", calls)
    assert run(tmp_path / "killed") == whole


@pytest.mark.heavy
class TestCommand:
    def test_a_search_by_gradients(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a supernet whose training starts with its larger subnets, and averages the weights."""
        monkeypatch.setattr(differentiable, "STEPS", 12)
        write_photos(tmp_path / "photos")
        effort = replace(EFFORT, supernet=replace(EFFORT.supernet, ema=0.9), shrinking=True, rounds=1)
        request = BuildRequest(
            "host",
            tmp_path / "out",
            data=str(tmp_path / "photos"),
            space="cell",
            strategy="differentiable",
            latency_ms=50.0,
            effort="quick",
        )
        front = search_command(request, Progress(quiet=True), effort)
        assert front["strategy"] == "differentiable"
        assert front["evaluated"] == [effort.search.evaluations]
        stages = tmp_path / "out" / "stages"
        (answers,) = stages.glob("search-*/relaxed.npy")
        assert len(np.load(answers)) == SAVED_EVERY
        (losses,) = stages.glob("supernet-*/losses.json")
        assert len(read_json(losses)) == 4, (
            "few images: four times the epochs of the recipe, the first with the largest alone"
        )

    def test_a_space_without_operations_to_mix_is_refused(self, tmp_path: Path) -> None:
        write_photos(tmp_path / "photos")
        request = BuildRequest(
            "host",
            tmp_path / "out",
            data=str(tmp_path / "photos"),
            space="tree",
            strategy="differentiable",
            effort="quick",
        )
        said = "the search strategy 'differentiable' can't be used here: it mixes the operations of a supernet"
        with pytest.raises(InputError, match=said):
            search_command(request, Progress(quiet=True), EFFORT)
