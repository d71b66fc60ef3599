"""The user's own model as what a build starts from, with what the user is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgenas.data import Dataset
from edgenas.errors import InputError
from edgenas.network.costs import macs, params
from edgenas.progress import Progress
from edgenas.spaces.trainable import OF_A_MODEL

if TYPE_CHECKING:
    from edgenas.supernet.given_model import GivenModel

CHANCE_FACTOR = 1.5  # of the accuracy of guessing: a trained model that isn't above was given other images or classes


def refuse_contradiction(spec: str | None, space: str | None) -> None:
    """Raises InputError for a model with another space than its own, and for the space of a model without one."""
    if spec is None and space == OF_A_MODEL:
        raise InputError(
            f"the space {OF_A_MODEL!r} is made of a model, and there is none",
            "Name a function that returns it: --model package.module:function.",
        )
    if spec is not None and space not in (None, OF_A_MODEL):
        raise InputError(
            f"--model makes a space of its own ({OF_A_MODEL}), but --space {space} was asked for",
            "Leave one of the two out.",
        )


def own_model(spec: str | None, dataset: Dataset, progress: Progress) -> GivenModel | None:
    """The model that `spec` names, and None without one. Raises InputError as `given_model` does."""
    if spec is None:
        return None
    from edgenas.supernet.given_model import given_model

    with progress.stage("model", "Reading the model", cached=False):
        given = given_model(spec, dataset)
    _tell(given, progress)
    return given


def described(given: GivenModel, spec: str | None) -> dict[str, Any]:
    """result.json's entry of it; `validation` is accuracy, balanced where the classes are unbalanced."""
    model = given.space.model
    return {
        "name": spec,
        "key": given.key,
        "validation": given.score,
        "params": params(model),
        "macs": macs(model),
        "max_abs_error": given.max_abs_error,
        "channel_groups": len(given.space.groups),
        "fixed_convolutions": given.fixed_convs,
        "removable_blocks": len(given.space.blocks),
    }


def _tell(given: GivenModel, progress: Progress) -> None:
    groups, blocks = given.space.groups, given.space.blocks
    narrowed = sum(len(group.convs) for group in groups)
    progress.say(
        f"  Model: validation accuracy {given.score:.1%}, largest difference after conversion {given.max_abs_error:.2g}"
    )
    progress.say(
        f"  {narrowed} of {narrowed + given.fixed_convs} convolutions can be narrower, in {len(groups)} groups; "
        f"{len(blocks)} residual blocks can be left out"
    )
    if given.score < CHANCE_FACTOR / len(given.dataset.labels):
        progress.warn(
            f"the model's validation accuracy is {given.score:.1%}, hardly better than guessing. Does the data have its classes in the "
            "model's order, and were its images normalised in the same way? A function can return (module, mean, std)."
        )
