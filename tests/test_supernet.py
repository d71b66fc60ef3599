"""Shared weights: what a subnet computes is what its own module computes, and training resumes to the last bit."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenas import device
from edgenas.data import Dataset, load
from edgenas.nets.evaluate import recalibrate
from edgenas.nets.feed import Preprocessing, TrainingFeed, evaluation_images
from edgenas.nets.module import Layers, extract
from edgenas.nets.training import Recipe
from edgenas.spaces.mobile import for_data
from edgenas.supernet.evaluate import SubnetJudge
from edgenas.supernet.train import feature_loss, new_supernet, train_supernet

SPACE = for_data(28, 1, 10)


@pytest.fixture(scope="module")
def few_images() -> Dataset:
    dataset = load(None, sample_dir=device.shipped("datasets") / "fashion-mnist-sample")
    rows = np.arange(256)
    return replace(dataset, train=dataset.train.at(rows), validation=dataset.validation.at(rows[:100]))


def test_a_subnet_cut_out_computes_what_the_shared_weights_compute() -> None:
    rng = np.random.default_rng(0)
    supernet = new_supernet(SPACE, 0).train()
    images = torch.randn(8, 1, 28, 28)
    for _ in range(8):
        network = SPACE.network(SPACE.sample(rng))
        with torch.no_grad():
            assert torch.allclose(supernet.run(network, images), extract(supernet, network).train()(images), atol=1e-4)


def test_recalibration_sets_the_statistics_of_the_images() -> None:
    network = SPACE.network(SPACE.smallest()[0])
    module = extract(new_supernet(SPACE, 0), network)
    images = torch.randn(500, 1, 28, 28)
    recalibrate(module, images)
    first = module.conv("stem/conv")
    with torch.no_grad():
        made = torch.nn.functional.conv2d(images, first.weight, None, (2, 2), (1, 1))
    assert torch.allclose(first.mean, made.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(first.var, made.var((0, 2, 3)), rtol=0.02)
    assert not module.training


def test_the_feed_repeats_itself_and_differs_between_epochs(few_images: Dataset) -> None:
    feed = TrainingFeed(few_images, 64, seed=3, erase=True)
    once, again, later = (torch.cat([x for x, _ in feed.epoch(n)]) for n in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, later)
    assert once.shape == (256, 1, 28, 28)


def test_preprocessing_is_what_it_says() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    found = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(images, 28)
    expected = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    assert np.allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_feature_loss_is_zero_for_equal_features_of_fewer_channels_and_less_resolution() -> None:
    target = torch.rand(4, 8, 14, 14)
    assert feature_loss(target[:, :5], target).item() == pytest.approx(0, abs=1e-9)
    assert feature_loss(torch.nn.functional.adaptive_avg_pool2d(target, 7), target).item() == pytest.approx(0, abs=1e-9)
    assert feature_loss(torch.zeros_like(target), target).item() == pytest.approx(1)


@pytest.mark.heavy
def test_training_that_is_resumed_ends_with_the_same_bits(few_images: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=64)

    def run(path: Path, epochs: int) -> Layers:
        class Stop(Exception):
            pass

        def stop_after(done: int, total: int, loss: float) -> None:
            if done == epochs:
                raise Stop

        supernet = new_supernet(SPACE, 0)
        with contextlib.suppress(Stop):
            train_supernet(supernet, SPACE, SPACE.sample, few_images, recipe, 0, path, on_epoch=stop_after)
        return supernet

    whole = run(tmp_path / "whole.safetensors", 99)
    run(tmp_path / "broken.safetensors", 2)
    resumed = run(tmp_path / "broken.safetensors", 99)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.heavy
def test_a_little_training_already_tells_classes_apart(few_images: Dataset, tmp_path: Path) -> None:
    supernet = new_supernet(SPACE, 0)
    judge = SubnetJudge(SPACE, supernet, few_images)
    before = judge.score(SPACE.largest())
    train_supernet(
        supernet, SPACE, SPACE.sample, few_images, Recipe(epochs=12, batch_size=32), 0, tmp_path / "s.safetensors"
    )
    after = judge.score(SPACE.largest())
    assert after > 0.4 > before
    images = evaluation_images(few_images, few_images.validation, 28)
    assert images.shape == (100, 1, 28, 28)
