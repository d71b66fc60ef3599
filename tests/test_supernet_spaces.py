"""Every space that has shared weights: the sandwich rule, in-place distillation, and a checkpoint after each epoch to go on from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from edgenas.data import Dataset
from edgenas.data.dataset import Split, assemble
from edgenas.nets.module import Layers
from edgenas.nets.recipe import Recipe
from edgenas.network.channels import channel_groups
from edgenas.spaces.cell_stack import CellStack
from edgenas.spaces.slim import for_model
from edgenas.spaces.space import SearchSpace
from edgenas.supernet import shrinking, train
from edgenas.supernet.train import RANDOM_SUBNETS, new_supernet, train_supernet
from tests.test_spaces import SMALL_TREES
from tests.tiny_space import SPACE

pytestmark = pytest.mark.usefixtures("one_torch_thread")

EPOCHS = 4


def slim() -> SearchSpace:
    """Of a network of the tiny space."""
    model = SPACE.network(SPACE.largest())
    return for_model(model, channel_groups(model))


CELLS = CellStack(1, 3, (12,), (0, 1), ((16, 32), (16,)), ((1, 2), (1,)), nodes=3)
SPACES: dict[str, SearchSpace] = {"mobile": SPACE, "cell": CELLS, "tree": SMALL_TREES, "slim": slim()}


def images_for(space: SearchSpace) -> Dataset:
    """Each class has a bright bar at a place of its own."""
    network = space.network(space.largest())
    _, channels, px, _ = network.input_shape
    classes = network.by_name[network.output_name].shape[1]
    rng = np.random.default_rng(0)
    labels = np.arange(30 * classes) % classes
    images = rng.integers(0, 120, (len(labels), px, px, channels), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[label * px // classes : (label + 1) * px // classes] += 100
    names = [f"class {label}" for label in range(classes)]
    return assemble("bars", names, Split(images, labels), seed=0, source="bars", flip=False)


def trained(space: SearchSpace, path: Path, recipe: Recipe, stop_after: int = 99) -> Layers:
    class Stop(Exception):
        pass

    def on_epoch(done: int, total: int, loss: float) -> None:
        if done > stop_after:
            raise Stop

    supernet = new_supernet(space, 0)
    with contextlib.suppress(Stop):
        train_supernet(
            supernet, space, space.sample, images_for(space), recipe, 0, path, shrinking=True, on_epoch=on_epoch
        )
    return supernet


def epochs_in(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return int(json.loads(file.metadata()["epoch"]))


@pytest.mark.parametrize("name", SPACES)
class TestSpace:
    def test_a_step_trains_the_largest_the_smallest_and_the_drawn(self, name: str, tmp_path: Path) -> None:
        space = SPACES[name]
        drawn = []

        def sample(rng: np.random.Generator):  # type: ignore[no-untyped-def]
            drawn.append(space.sample(rng))
            return drawn[-1]

        supernet = new_supernet(space, 0)
        before = {key: tensor.clone() for key, tensor in supernet.named_parameters()}
        data = images_for(space)
        train_supernet(
            supernet, space, sample, data, Recipe(1, batch_size=len(data.train), warmup_share=0), 0, tmp_path / "s"
        )
        assert len(drawn) == RANDOM_SUBNETS, "one step"
        used = {
            node.name
            for subnet in (*drawn, space.largest(), space.smallest()[0])
            for node in space.network(subnet).weighted()
        }
        for key, tensor in supernet.named_parameters():
            layer, part = key.removeprefix("layers.").rsplit(".", 1)
            if part == "weight":
                assert torch.equal(tensor, before[key]) == (layer not in used), key

    def test_subnets_learn_from_the_largest_ones_predictions(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        space = SPACES[name]
        taught: list[Tensor] = []
        real = train.soft_cross_entropy

        def seen(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
            taught.append(teacher_logits)
            return real(logits, teacher_logits, temperature)

        monkeypatch.setattr(train, "soft_cross_entropy", seen)
        data = images_for(space)
        trained_once = Recipe(1, batch_size=len(data.train), learning_rate=0.0)
        train_supernet(new_supernet(space, 0), space, space.sample, data, trained_once, 0, tmp_path / "s")
        feed = train.TrainingFeed(data, len(data.train), 0)
        (images, _), *_ = feed.epoch(0)
        with torch.no_grad(), train.mixed_precision():
            wanted = new_supernet(space, 0).train().run(space.network(space.largest()), images).float()
        assert len(taught) == RANDOM_SUBNETS + 1
        half = len(images) // 2
        for i, logits in enumerate(taught):
            assert torch.allclose(logits, wanted[:half] if i % 2 else wanted[half:], atol=1e-2)

    def test_it_saves_every_epoch_and_resumes_to_the_last_bit(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With everything that a training may have to remember."""
        monkeypatch.setattr(shrinking, "PROBED", 40)
        space, recipe = SPACES[name], Recipe(EPOCHS, batch_size=24, ema=0.9)
        whole = trained(space, tmp_path / "whole", recipe)
        assert epochs_in(tmp_path / "whole") == EPOCHS
        path = tmp_path / "broken"
        for done in (1, EPOCHS - 1):  # channels are sorted right after the first
            trained(space, path, recipe, stop_after=done)
            assert epochs_in(path) == done
        resumed = trained(space, path, recipe)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes()
        for key, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[key]), key
