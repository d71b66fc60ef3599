"""Shared weights: what a subnet computes is what its own module computes, and training resumes to the last bit."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas import device
from edgenas.data import Dataset, Split, load
from edgenas.nets.average import WeightAverage
from edgenas.nets.evaluate import recalibrate
from edgenas.nets.feed import Preprocessing, TrainingFeed, evaluation_images
from edgenas.nets.module import ConvBN, Layers, extract
from edgenas.nets.recipe import Recipe
from edgenas.nets.training import load_checkpoint, save_checkpoint
from edgenas.spaces.mobile import for_data
from edgenas.supernet.evaluate import SubnetJudge, likelihood
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
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if "transforms" in name:
                parameter.normal_(std=0.3)
    images = torch.randn(8, 1, 28, 28)
    for _ in range(8):
        network = SPACE.network(SPACE.sample(rng))
        with torch.no_grad():
            assert torch.allclose(supernet.run(network, images), extract(supernet, network).train()(images), atol=1e-4)


def test_a_smaller_kernel_is_the_transformed_centre_of_the_larger() -> None:
    """Depthwise and full alike; untrained it is the centre alone, and what is cut out has it applied."""
    torch.manual_seed(0)
    for shape in ((8, 1, 7, 7), (4, 6, 7, 7)):
        layer = ConvBN(shape, transforms=True)
        assert set(layer.transforms) == {"3", "5"}
        weight = layer.weight.detach()
        assert torch.equal(layer.sliced((4, shape[1], 3, 3)), weight[:4, :, 2:5, 2:5])
        with torch.no_grad():
            layer.transforms["3"].normal_()
        found = layer.sliced((4, shape[1], 3, 3)).detach()
        matrix = torch.eye(9) + layer.transforms["3"].detach()
        for out in range(4):
            for inner in range(shape[1]):
                centre = weight[out, inner, 2:5, 2:5].reshape(9)
                assert torch.allclose(found[out, inner].reshape(9), centre @ matrix, atol=1e-5)
        assert torch.equal(layer.sliced((4, shape[1], 5, 5)), weight[:4, :, 1:6, 1:6]), (
            "a side has a transform of its own"
        )
        assert torch.equal(layer.sliced(shape), weight)
        assert not ConvBN(shape).transforms


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


@pytest.mark.parametrize("erase", [False, True])
def test_images_of_one_channel_have_the_strides_of_channels_last(few_images: Dataset, erase: bool) -> None:
    """torch goes by them: in the other layout a depthwise convolution takes half as long again."""
    images, _ = next(TrainingFeed(few_images, 64, seed=3, erase=erase).epoch(0))
    assert images.stride() == (28 * 28, 1, 28, 1)
    assert evaluation_images(few_images, few_images.validation, 28).stride() == (28 * 28, 1, 28, 1)


def test_preprocessing_is_what_it_says() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    found = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))(images, 28)
    expected = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    assert np.allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


def test_feature_loss_is_zero_for_equal_features_of_other_channels_and_less_resolution() -> None:
    target = torch.rand(4, 8, 14, 14)
    assert feature_loss(target[:, :5], target).item() == pytest.approx(0, abs=1e-9)
    assert feature_loss(target, target[:, :5]).item() == pytest.approx(0, abs=1e-9)
    assert feature_loss(torch.nn.functional.adaptive_avg_pool2d(target, 7), target).item() == pytest.approx(0, abs=1e-9)
    assert feature_loss(torch.zeros_like(target), target).item() == pytest.approx(1)


@given(decay=st.floats(0, 0.999), values=st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_the_average_is_weighted_by_what_is_left_of_each_step(decay: float, values: list[float]) -> None:
    """Its memory is short at first and grows to what was asked for."""
    module = Layers({"head": (2, 3)})
    average = WeightAverage(module, decay)
    before = average.tensors["layers.head.bias"].clone()
    for step, value in enumerate(values):
        with torch.no_grad():
            module.linear("head").bias.fill_(value)
        average.update(step)
    kept = [min(decay, (1 + step) / (10 + step)) for step in range(len(values))]
    weights = [(1 - share) * np.prod(kept[i + 1 :]) for i, share in enumerate(kept)]
    expected = np.dot(weights, values) + np.prod(kept) * before.numpy()
    assert np.allclose(average.tensors["layers.head.bias"].numpy(), expected, atol=1e-4)
    latest = module.linear("head").bias.clone()
    assert torch.equal(latest, torch.full((2,), values[-1])), "training goes on with the last weights"
    average.give()
    assert torch.equal(module.linear("head").bias, average.tensors["layers.head.bias"])


def test_a_checkpoint_ships_the_average_and_keeps_the_last_weights(tmp_path: Path) -> None:
    module = Layers({"conv": (4, 3, 3, 3)})
    average = WeightAverage(module, 0.9)
    shipped = {name: tensor.clone() for name, tensor in average.tensors.items()}
    with torch.no_grad():
        module.conv("conv").weight.add_(1)
    last = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    save_checkpoint(tmp_path / "c", module, None, 7, average)
    reader, resumed = Layers({"conv": (4, 3, 3, 3)}), Layers({"conv": (4, 3, 3, 3)})
    assert load_checkpoint(tmp_path / "c", reader) == 7
    again = WeightAverage(resumed, 0.9)
    assert load_checkpoint(tmp_path / "c", resumed, None, again) == 7
    for name, tensor in shipped.items():
        assert torch.equal(reader.state_dict()[name], tensor)
        assert torch.equal(again.tensors[name], tensor)
        assert torch.equal(resumed.state_dict()[name], last[name])
    assert not torch.equal(shipped["layers.conv.weight"], last["layers.conv.weight"])


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


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=4, max_size=12), step=st.floats(0.1, 3))
def test_likelihood_is_higher_where_the_loss_is_lower(
    few_images: Dataset, rows: list[tuple[float, float]], step: float
) -> None:
    """And it is what its definition says, which weighs every class the same where classes are unbalanced."""
    labels = np.array([0, *([1] * (len(rows) - 1))])
    split = Split(few_images.validation.images[: len(rows)], labels)
    logits = torch.tensor(rows, dtype=torch.float64)
    nll = -np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True))[np.arange(len(rows)), labels]
    expected = {False: nll.mean(), True: (nll[labels == 0].mean() + nll[labels == 1].mean()) / 2}
    more_certain = logits + step * torch.from_numpy(np.eye(2)[labels])
    for unbalanced, loss in expected.items():
        dataset = replace(few_images, unbalanced=unbalanced)
        found = likelihood(logits, split, dataset)
        assert found == pytest.approx(np.exp(-loss), rel=1e-4)
        assert 0 < found <= 1
        assert likelihood(more_certain, split, dataset) >= found


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
