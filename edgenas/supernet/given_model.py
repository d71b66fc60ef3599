"""A user's own trained torch module as a search space and as the supernet of it: checked against the data, turned into a Network,
its channels sorted by importance."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from edgenas import user_code
from edgenas.data import Dataset
from edgenas.errors import InputError
from edgenas.nets.channel_groups import ModuleGroup, module_groups
from edgenas.nets.channel_selection import with_channels
from edgenas.nets.evaluate import predict
from edgenas.nets.feed import evaluation_images
from edgenas.nets.given_weights import give_statistics, with_weights
from edgenas.nets.module import Layers, NetworkModule, can_compute
from edgenas.nets.training import channels_last
from edgenas.network.channels import channel_groups
from edgenas.network.graph import Network
from edgenas.onnxio.from_torch import from_torch, module_of
from edgenas.spaces.slim import SlimSpace, for_model
from edgenas.supernet.evaluate import RECALIBRATION_IMAGES, score

PROBED_IMAGES = 8
PARITY_SHARE = 1e-3  # of the largest logit; float32 in another order differs by 1e-5, a wrong conversion by far more
EXPECTED = (
    "the function takes no arguments and returns a torch.nn.Module with its weights, from images (N, C, H, W) to logits "
    "(N, classes), or a tuple (module, mean, std): what it was trained to have images of 0..1 normalised with, per channel"
)


@dataclass(frozen=True, eq=False)
class GivenModel:
    """`dataset` is normalised as the model expects. `trained` has the user's weights, with each group's channels in the order of
    their importance, and computes what the user's module does. `key` is a hash of space and weights; `fixed_convs`
    counts the convolutions (without depthwise ones) whose width the space can't change; `max_abs_error` is of the converted logits;
    `score` is on validation images, as `SubnetJudge` has it."""

    space: SlimSpace
    dataset: Dataset
    trained: NetworkModule
    key: str
    fixed_convs: int
    max_abs_error: float
    score: float

    def supernet(self) -> Layers:
        """Weights of its own to train on: those of the model."""
        layers = Layers(self.space.layer_shapes())
        layers.load_state_dict(self.trained.state_dict())
        return channels_last(layers)


def given_model(spec: str, dataset: Dataset) -> GivenModel:
    """`spec` is "package.module:function", as EXPECTED says. Raises InputError, naming the place, for a function that can't be called
    or returns something else, a model that fails on such images or has other classes, can't be traced, has an operator that edgenas
    lacks, computes something else when converted, or has nothing that could be made smaller."""
    source = f"`--model {spec}`"
    if not user_code.names_a_function(spec):
        raise InputError(f"{source}: expected package.module:function, such as my_nets:resnet", EXPECTED)
    with user_code.running():
        module, dataset = _called(spec, dataset, source)
        images = evaluation_images(dataset, dataset.train.at(np.arange(PROBED_IMAGES)), dataset.resolution_px)
        _check_output(module, images, len(dataset.labels), source)
        shape = (1, *images.shape[1:])
        network, weights = from_torch(module, shape, source)
        refuse_what_is_lacking(network, source)
        converted = with_weights(network, weights)
        error = check_parity(module, converted, torch.cat([images, torch.randn_like(images)]), source)
        groups = module_groups(module, shape, source)
    return _sorted(converted, agreed(network, groups), dataset, error)


def agreed(network: Network, groups: Sequence[ModuleGroup]) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    """(convolutions, importance) of the groups that torch-pruning found in the module and `channel_groups` in the network: what
    only one of them holds to belong together, such as channels that are joined with others, keeps its width."""
    by_modules = {group.convs: group.importance for group in groups}
    ours = {frozenset(map(module_of, names)): names for names in channel_groups(network)}
    return [(names, by_modules[modules]) for modules, names in ours.items() if modules in by_modules]


def refuse_what_is_lacking(network: Network, source: str) -> None:
    lacking = [node for node in network.nodes if not can_compute(node)]
    if lacking:
        places = ", ".join(sorted({f"{node.op} in {module_of(node.name)}" for node in lacking})[:5])
        hint = "Return logits, without a softmax." if any("Softmax" in node.op for node in lacking) else ""
        raise InputError(f"{source}: edgenas can't train the operator {places}", hint)


def check_parity(module: nn.Module, converted: NetworkModule, images: torch.Tensor, source: str) -> float:
    """The largest absolute difference of the logits. Raises InputError where it is above PARITY_SHARE of the largest logit."""
    with torch.no_grad():
        wanted, found = module(images), converted(images)
    difference = float((wanted - found).abs().max())
    limit = PARITY_SHARE * float(wanted.abs().max())
    if not difference <= limit:
        raise InputError(
            f"{source}: the converted model's logits differ from the module's by up to {difference:.3g}, more than {limit:.3g}",
            "Expected a model that computes the same every time; is something in it random in evaluation mode?",
        )
    return difference


def _called(spec: str, dataset: Dataset, source: str) -> tuple[nn.Module, Dataset]:
    """The module, ready to run, and the dataset with the normalisation that it was trained with."""
    returned = user_code.called(spec, source, EXPECTED)
    module, *normalisation = returned if isinstance(returned, tuple) else (returned,)
    if not isinstance(module, nn.Module):
        raise InputError(f"{source}: expected a torch.nn.Module, but got {user_code.kind(module)}", EXPECTED)
    if normalisation:
        dataset = _normalised(dataset, normalisation, source)
    return module.cpu().float().eval(), dataset


def _normalised(dataset: Dataset, given: list[Any], source: str) -> Dataset:
    values = []
    for each in given:
        try:
            values.append(tuple(float(value) for value in each))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{source}: expected numbers as mean and std, but got {user_code.kind(each)}", EXPECTED
            ) from error
    if [len(each) for each in values] != [dataset.channels] * 2 or not all(0 < std < math.inf for std in values[1]):
        raise InputError(
            f"{source}: expected mean and std (above 0) of {dataset.channels} channels, but got {values}", EXPECTED
        )
    mean, std = values
    fingerprint = hashlib.sha256(repr((dataset.fingerprint, mean, std)).encode()).hexdigest()
    return replace(dataset, mean=mean, std=std, fingerprint=fingerprint)


def _check_output(module: nn.Module, images: torch.Tensor, classes: int, source: str) -> None:
    shown = " x ".join(map(str, images.shape[1:]))
    try:
        with torch.no_grad():
            logits = module(images)
    except Exception as error:  # whatever the user's module raises
        reason = user_code.said(error).splitlines()[0]
        raise InputError(
            f"{source}: the model fails on the data's images of {shown}: {reason}",
            "It has to take images of the data's channels and resolution; --effort bounds the resolution.",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise InputError(
            f"{source}: expected logits of shape ({len(images)}, {classes}), but got {user_code.kind(logits)}", EXPECTED
        )
    if logits.shape[1] != classes:
        raise InputError(
            f"{source}: the model tells {logits.shape[1]} classes apart, but the data has {classes}",
            "Give the data that it was trained for, or a model with a last layer for these classes.",
        )
    if not bool(logits.isfinite().all()):
        raise InputError(f"{source}: the model's logits are not finite numbers", EXPECTED)


def _sorted(
    converted: NetworkModule,
    groups: list[tuple[tuple[str, ...], tuple[float, ...]]],
    dataset: Dataset,
    max_abs_error: float,
) -> GivenModel:
    network = converted.network
    space = for_model(network, [names for names, _ in groups])
    order: dict[str, torch.Tensor] = {}
    for names, importance in groups:
        indices = torch.argsort(torch.tensor(importance, dtype=torch.float64), descending=True, stable=True)
        order |= dict.fromkeys(names, indices)
    trained = with_channels(converted, order).eval()
    px = network.input_shape[2]
    rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:RECALIBRATION_IMAGES]
    give_statistics(trained, evaluation_images(dataset, dataset.train.at(rows.numpy()), px))
    free = {name for group in space.groups for name in group.convs}
    fixed = [node for node in network.nodes if node.op == "Conv" and not node.is_depthwise and node.name not in free]
    predicted = predict(trained, evaluation_images(dataset, dataset.validation, px))
    return GivenModel(
        space=space,
        dataset=dataset,
        trained=trained,
        key=_key(space, converted),
        fixed_convs=len(fixed),
        max_abs_error=max_abs_error,
        score=score(predicted, dataset.validation, dataset),
    )


def _key(space: SlimSpace, converted: NetworkModule) -> str:
    digest = hashlib.sha256(space.id.encode())
    for name, tensor in converted.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
