"""Fine-tuning with distillation: it resumes to the last bit, and the average of the weights comes out where the recipe asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas.compress.distill import fine_tune
from edgenas.compress.finalist import FineTuning, lesson, train_finalist
from edgenas.compress.teacher import Teacher
from edgenas.data import Split
from edgenas.data.dataset import assemble
from edgenas.nets.evaluate import logits
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import load_checkpoint, log_priors
from edgenas.pipeline.request import EFFORTS, from_trained
from tests.test_supernet_spaces import images_for
from tests.tiny_space import SPACE

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RECIPE = Recipe(epochs=3, batch_size=24)


def tuned(recipe: Recipe, path: Path, epochs: int = 99, teacher: Teacher | None = None) -> NetworkModule:
    """Killed in the middle of the epoch after so many."""

    class Killed(Exception):
        pass

    def on_step(done: float) -> None:
        if done > epochs:
            raise Killed

    torch.manual_seed(0)
    largest = NetworkModule(SPACE.network(SPACE.largest()))
    student = NetworkModule(SPACE.network(SPACE.smallest()[0]))
    try:
        return fine_tune(
            student, Teacher(largest) if teacher is None else teacher, images_for(SPACE), recipe, 0, path, on_step
        )
    except Killed:
        return student


@pytest.mark.parametrize("ema", [None, 0.8])
def test_it_resumes_to_the_last_bit(ema: float | None, tmp_path: Path) -> None:
    recipe = replace(RECIPE, ema=ema)
    whole = tuned(recipe, tmp_path / "whole")
    for epochs in (1, 2):
        tuned(recipe, tmp_path / "broken", epochs)
    resumed = tuned(recipe, tmp_path / "broken")
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "whole").read_bytes()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_what_comes_out_is_the_average(tmp_path: Path) -> None:
    averaged = tuned(replace(RECIPE, ema=0.8), tmp_path / "averaged")
    last = tuned(RECIPE, tmp_path / "last")
    saved = NetworkModule(averaged.network)
    assert load_checkpoint(tmp_path / "averaged", saved) == RECIPE.epochs
    for name, tensor in averaged.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name])
        assert not torch.equal(tensor, last.state_dict()[name])


def test_a_teacher_answers_each_batch_once_and_always_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = Teacher(NetworkModule(SPACE.network(SPACE.largest())))
    asked: list[int] = []
    teacher.network.register_forward_hook(lambda *_: asked.append(1))
    first = tuned(RECIPE, tmp_path / "first", teacher=teacher)
    steps = len(asked)
    assert steps == len(teacher.answers) >= RECIPE.epochs
    second = tuned(RECIPE, tmp_path / "second", teacher=teacher)
    assert len(asked) == steps
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_from_new_weights_a_finalist_is_the_same_wherever_it_is_trained(tmp_path: Path) -> None:
    largest, network = NetworkModule(SPACE.network(SPACE.largest())), SPACE.network(SPACE.smallest()[0])
    taught = lesson(largest, images_for(SPACE))
    paths = [tmp_path / name for name in ("one", "other", "another seed")]
    for path, seed in zip(paths, (3, 3, 4), strict=True):
        torch.rand(2)  # whatever was drawn before
        train_finalist(taught, FineTuning(network, None, path, RECIPE, seed), lambda epochs: None)
    one, other, another_seed = (path.read_bytes() for path in paths)
    assert one == other != another_seed


def test_without_a_share_of_the_loss_the_teacher_is_never_asked(tmp_path: Path) -> None:
    class Mute(Teacher):
        def logits(self, images: torch.Tensor, asked: tuple[int, int, int, int]) -> torch.Tensor:
            raise AssertionError(f"asked for {asked}")

    mute = Mute(NetworkModule(SPACE.network(SPACE.largest())))
    alone = tuned(replace(RECIPE, teacher_share=0), tmp_path / "alone", teacher=mute)
    taught = tuned(RECIPE, tmp_path / "taught")
    assert any(not torch.equal(a, b) for a, b in zip(alone.parameters(), taught.parameters(), strict=True))


def test_weights_of_the_user_are_never_thrown_away() -> None:
    for effort in EFFORTS.values():
        assert effort.fine_tune[-1].fresh
        assert effort.fine_tune[0].fresh or not effort.newcomers  # else they would start behind the finalists, or ahead
        trained = from_trained(effort)
        assert not any(rung.fresh for rung in trained.fine_tune)
        assert trained.newcomers == 0
        assert all(recipe.teacher_share for recipe in (trained.after_pruning, *(r.recipe for r in trained.fine_tune)))


def test_where_classes_are_unbalanced_images_that_say_nothing_are_of_any_class(tmp_path: Path) -> None:
    network = SPACE.network(SPACE.smallest()[0])
    _, channels, px, _ = network.input_shape
    classes = network.by_name[network.output_name].shape[1]
    counts = np.array([240, *[60] * (classes - 1)])
    labels = np.repeat(np.arange(classes), counts)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), px, px, channels), dtype=np.uint8)
    split = Split(images, labels)
    dataset = assemble("noise", [str(i) for i in range(classes)], split, seed=0, source="noise", flip=False)
    shares = np.bincount(dataset.train.labels) / len(dataset.train)
    assert log_priors(dataset).numpy() == pytest.approx(np.log(shares), rel=1e-5)
    assert not log_priors(replace(dataset, unbalanced=False)).any()
    largest = lesson(NetworkModule(network), dataset)  # knows nothing yet
    found = {}
    for unbalanced in (True, False):
        torch.manual_seed(0)
        module = NetworkModule(network)
        path = tmp_path / str(unbalanced)
        fine_tune(module, largest.teacher, replace(dataset, unbalanced=unbalanced), replace(RECIPE, epochs=6), 0, path)
        said = logits(module, evaluation_images(dataset, dataset.validation, px)).softmax(1).mean(0)
        found[unbalanced] = float(said[0])
    assert abs(found[True] - 1 / classes) < 0.08
    assert found[False] > found[True] + 0.1
