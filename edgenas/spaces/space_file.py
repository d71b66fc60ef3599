"""The settings of a space as a YAML file: `space: mobile` and its choices. A build writes one, which can be edited and given back.

What a file leaves out is as in the space that is made for the data. The channels and classes are always the data's.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenas.errors import InputError
from edgenas.spaces import catalog, cell_stack, mobile, tree
from edgenas.spaces.blocks import ACTIVATIONS, BLOCKS
from edgenas.spaces.families import FAMILIES
from edgenas.spaces.offer import Offer
from edgenas.spaces.operations import OPERATIONS
from edgenas.spaces.space import SearchSpace
from edgenas.spaces.tree_grammar import COMBINERS, Grammar
from edgenas.spaces.tree_operations import ENTRIES
from edgenas.spaces.tree_operations import OPERATIONS as TREE_OPERATIONS
from edgenas.yaml_file import Loc, YamlFile, read_yaml

HEADER = """\
# The choices of this search space. Edit them and give the file back: edgenas build --space space.yaml
# What is left out at the top level is as edgenas makes it for the data. Numbers rise; every list has at least one entry.
"""
OF_A_SPACE = {
    "mobile": """\
# Separable blocks have twice as many channels as `widths` says. `double_stem_widths`, which may be empty: stems of two convolutions.
"""
}
WIDTHS = ("widths", "stem_widths", "double_stem_widths")
OPTIONAL = ("double_stem_widths",)  # may be an empty list
RISING = ("resolutions_px", "stem_halvings", "depths", "kernels", "expands", "repeats", *WIDTHS)
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Strides = Annotated[tuple[Literal[1, 2], ...], Field(min_length=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def space(self, channels: int, classes: int) -> SearchSpace:
        raise NotImplementedError

    def values(self) -> dict[str, Any]:
        """As the space's dataclass takes them."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class _Stage(_Settings):
    types: Names
    depths: Counts
    kernels: Counts
    expands: Counts
    widths: Counts


class Mobile(_Settings):
    resolutions_px: Counts
    stem_widths: Counts
    downsampling: Annotated[tuple[Strides, ...], Field(min_length=1)]
    stages: Annotated[tuple[_Stage, ...], Field(min_length=1)]
    heads: Names
    activations: Names
    squeeze_excite: Annotated[tuple[bool, ...], Field(min_length=1)]
    double_stem_widths: tuple[Count, ...]

    def space(self, channels: int, classes: int) -> SearchSpace:
        stages = tuple(mobile.Stage(**stage.values()) for stage in self.stages)
        return mobile.MobileSpace(channels, classes, **(self.values() | {"stages": stages}))


class Cell(_Settings):
    resolutions_px: Counts
    stem_halvings: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    widths: Annotated[tuple[Counts, ...], Field(min_length=1)]
    repeats: Annotated[tuple[Counts, ...], Field(min_length=1)]
    operations: Names
    nodes: Count

    def space(self, channels: int, classes: int) -> SearchSpace:
        return cell_stack.CellStack(channels, classes, **self.values())


class _Grammar(_Settings):
    operations: Names
    combiners: Names
    depth: Count
    arity: Count


class Tree(_Settings):
    resolutions_px: Counts
    stem_widths: Counts
    downsampling: Annotated[tuple[Strides, ...], Field(min_length=1)]
    widths: Annotated[tuple[Counts, ...], Field(min_length=1)]
    entries: Names
    grammar: _Grammar
    heads: Names

    def space(self, channels: int, classes: int) -> SearchSpace:
        grammar = Grammar(**self.grammar.values())
        return tree.TreeSpace(channels, classes, **(self.values() | {"grammar": grammar}))


class Catalog(_Settings):
    resolutions_px: Counts
    activations: Names
    squeeze_excite: bool
    families: Names

    def space(self, channels: int, classes: int) -> SearchSpace:
        return catalog.CatalogSpace(channels, classes, **self.values())


SETTINGS: dict[str, type[_Settings]] = {"mobile": Mobile, "cell": Cell, "tree": Tree, "catalog": Catalog}
_MADE = {"mobile": mobile, "cell": cell_stack, "tree": tree, "catalog": catalog}
_NAMES = {
    mobile.MobileSpace: "mobile",
    cell_stack.CellStack: "cell",
    tree.TreeSpace: "tree",
    catalog.CatalogSpace: "catalog",
}


def is_file(space: str) -> bool:
    """Whether `--space` names a file rather than a space."""
    return Path(space).suffix in (".yaml", ".yml")


def settings_of(space: SearchSpace) -> dict[str, Any] | None:
    """What its file says; None for a space that is made of a model."""
    name = _NAMES.get(type(space))
    if name is None:
        return None
    settings = asdict(space)  # type: ignore[call-overload]
    of_the_data = ("channels", "classes")
    plain = json.loads(json.dumps({key: value for key, value in settings.items() if key not in of_the_data}))
    return {"space": name, **plain}


def text_of(space: SearchSpace) -> str | None:
    """The file; None as there."""
    settings = settings_of(space)
    if settings is None:
        return None
    header = HEADER + OF_A_SPACE.get(settings["space"], "")
    return header + yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120)


def read_space_file(path: Path) -> tuple[YamlFile, str]:
    """The file and the space that it names. Raises InputError, with line and key, for what is no such file."""
    file = read_yaml(path, "a search space", "space and resolutions_px", "A build writes such a file: space.yaml.")
    name = file.data.get("space")
    if not isinstance(name, str) or name not in SETTINGS:
        expected = f"expected one of {', '.join(SETTINGS)}"
        problem = f"{expected}, but got {name!r}" if "space" in file.data else f"the key space is missing: {expected}"
        raise file.refusal(("space",), problem, "Say which space it is: space: mobile.")
    return file, name


def space_from_file(path: Path, resolution_px: int, channels: int, classes: int, offer: Offer) -> SearchSpace:
    """Raises InputError, with line and key, for what no space can be made of, what the devices don't run, and what doesn't fit images
    of this side."""
    file, name = read_space_file(path)
    made = settings_of(_MADE[name].for_data(resolution_px, channels, classes, offer))
    given = {key: value for key, value in file.data.items() if key != "space"}
    settings = {key: value for key, value in (made or {}).items() if key != "space"} | given
    _refuse_options(file, name, given)
    try:
        chosen = SETTINGS[name].model_validate_json(json.dumps(settings, default=str))
    except ValidationError as error:
        raise file.refused(error, "Mend that line.") from None
    _refuse_for_devices(file, given, offer)
    _refuse_for_images(file, settings, resolution_px)
    try:
        return chosen.space(channels, classes)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


def _lists(value: Any, loc: Loc = ()) -> Iterator[tuple[Loc, str, list[Any]]]:
    """Where each list is, the key that it stands under, and itself."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lists(inner, (*loc, key))
    elif isinstance(value, list):
        yield loc, next((part for part in reversed(loc) if isinstance(part, str)), ""), value
        for i, inner in enumerate(value):
            yield from _lists(inner, (*loc, i))


def _refuse_options(file: YamlFile, name: str, given: dict[str, Any]) -> None:
    """Of no options, of twice the same, of numbers that don't rise, of names that there aren't."""
    known: dict[str, Collection[str]] = {
        "types": BLOCKS,
        "activations": ACTIVATIONS,
        "entries": ENTRIES,
        "operations": OPERATIONS if name == "cell" else TREE_OPERATIONS,
        "combiners": COMBINERS,
        "families": FAMILIES,
        "heads": mobile.HEADS,
    }
    for loc, key, options in _lists(given):
        if not options:
            if key in OPTIONAL:
                continue
            raise file.refusal(loc, "the choice has no options", "Give it at least one.")
        of_stages = isinstance(options[0], list | dict) and key != "downsampling"
        is_strides = key == "downsampling" and isinstance(loc[-1], int)
        if not (of_stages or is_strides) and any(options.count(each) > 1 for each in options):
            twice = next(each for each in options if options.count(each) > 1)
            raise file.refusal(loc, f"the option {twice!r} is there twice", "Keep one.")
        numbers = [each for each in options if isinstance(each, int) and not isinstance(each, bool)]
        is_counts = len(numbers) == len(options) and min(numbers) >= 0  # what isn't is refused for that
        if key in RISING and is_counts and numbers != sorted(numbers):
            raise file.refusal(loc, f"numbers have to rise, but got {numbers}", f"Write {sorted(numbers)}.")
        if key == "kernels" and (even := [number for number in numbers if number % 2 == 0]):
            raise file.refusal(loc, f"kernels have odd sides, but got {even[0]}", "Such as 3, 5 and 7.")
        for i, each in enumerate(options):
            if key in known and isinstance(each, str) and each not in known[key]:
                close = difflib.get_close_matches(each, known[key], n=1)
                guess = f"Did you mean {close[0]!r}? " if close else ""
                raise file.refusal((*loc, i), f"there is no {each!r}", f"{guess}Known: {', '.join(known[key])}.")


def _refuse_for_devices(file: YamlFile, given: dict[str, Any], offer: Offer) -> None:
    """Of widths that INT8 kernels don't work in, and of what a device doesn't run at all. What is slow may be asked for."""
    multiple = offer.width_multiple
    for loc, key, options in _lists(given):
        for i, each in enumerate(options):
            if key in WIDTHS and isinstance(each, int) and each % multiple:
                below, above = each // multiple * multiple, -(-each // multiple) * multiple
                raise file.refusal(
                    (*loc, i),
                    f"{each} channels were asked for, but the device's INT8 kernels work in multiples of {multiple}",
                    f"Take {f'{below} or ' if below else ''}{above}.",
                )
            if key == "activations" and each not in offer.runs:
                raise file.refusal((*loc, i), f"the device doesn't run {each}", f"It runs {', '.join(offer.runs)}.")
    asked = given.get("squeeze_excite", False)
    if not offer.runs_squeeze_excite and (True in asked if isinstance(asked, list) else asked):
        raise file.refusal(("squeeze_excite",), "the device doesn't run squeeze-excite", "Say false.")


def _refuse_for_images(file: YamlFile, settings: dict[str, Any], resolution_px: int) -> None:
    resolutions = settings["resolutions_px"]
    if max(resolutions) != resolution_px:
        raise file.refusal(
            ("resolutions_px",),
            f"the largest has to be that of the images, {resolution_px} px, but is {max(resolutions)}",
            f"Write [..., {resolution_px}]. --effort bounds the images' resolution.",
        )
    px = min(resolutions)
    if "downsampling" in settings:
        stages = len(settings["stages"] if "stages" in settings else settings["widths"]) + 1
        for i, strides in enumerate(settings["downsampling"]):
            if len(strides) != stages:
                raise file.refusal(
                    ("downsampling", i),
                    f"down-sampling needs {stages} strides, the stem's and each stage's, but got {len(strides)}",
                    "Give each stage one of 1 or 2.",
                )
            _refuse_halvings(file, ("downsampling", i), strides.count(2), px)
    if "stem_halvings" in settings:
        for i, halvings in enumerate(settings["stem_halvings"]):
            _refuse_halvings(file, ("stem_halvings", i), halvings + len(settings["widths"]) - 1, px)


def _refuse_halvings(file: YamlFile, loc: Loc, count: int, px: int) -> None:
    if 2**count > px:
        raise file.refusal(
            loc,
            f"images of {px} px can't be halved {count} times",
            f"At most {px.bit_length() - 1} times: take fewer strides of 2, or a higher resolution.",
        )
