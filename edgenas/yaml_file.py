"""YAML files that people write: whatever is wrong in one is said with its line and key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edgenas.errors import InputError

Loc = tuple[int | str, ...]
_FOUND: dict[type, str] = {type(None): "an empty file", list: "a list"}
_WORDS = {"missing": "this key is missing", "extra_forbidden": "there is no such key"}


@dataclass(frozen=True, eq=False)
class YamlFile:
    """`data` is what the file says; `root` knows on which lines."""

    path: Path
    root: yaml.Node
    data: dict[str, Any]

    def refusal(self, loc: Loc, problem: str, hint: str) -> InputError:
        """Of what stands at `loc`, or of the deepest part of it that is there."""
        key, mark = _locate(self.root, loc)
        return InputError(f"{_place(self.path, mark)}{f', {key}' if key else ''}: {problem}", hint)

    def refused(self, error: ValidationError, hint: str) -> InputError:
        return InputError(_what_is_wrong(self.path, self.root, error), hint)


def read_yaml(path: Path, kind: str, keys: str, remedy: str) -> YamlFile:
    """`kind` is what the file describes ("a device"), `keys` some of its keys, `remedy` what to do with a file of something else.

    Raises InputError for what can't be read, is no mapping, or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{_place(path, mark)}: not valid YAML: {what}", hint="Mend that line.") from None
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}", hint=f"A file of {kind} is meant here: see whether its name is right."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date or number
        raise InputError(f"{path} cannot be read as {kind}: {error}", hint="Mend or remove the file.") from None
    if not isinstance(data, dict) or root is None:
        raise InputError(
            f"{path}: expected the keys of {kind}, such as {keys}, but found {_FOUND.get(type(data), 'a single value')}",
            hint=remedy,
        )
    _refuse_repeated_keys(path, root)
    return YamlFile(path, root, data)


def _what_is_wrong(path: Path, root: yaml.Node, error: ValidationError) -> str:
    """One sentence for the first wrong key; the alternatives of a field of several types are joined with "or"."""
    problems: dict[str, tuple[Any, Any, list[str]]] = {}
    # A misspelt key is also a missing one; the misspelling is the one to show.
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden"):
        key, mark = _locate(root, problem["loc"])
        if problem["type"] == "missing":
            key = ".".join(str(part) for part in problem["loc"])
        text = _WORDS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        problems.setdefault(key, (mark, problem, []))[2].append(text)
    key, (mark, problem, texts) = next(iter(problems.items()))
    got = "" if problem["type"] in _WORDS or isinstance(problem["input"], dict) else f", but got {problem['input']!r}"
    more = f" ({len(problems) - 1} more wrong)" if len(problems) > 1 else ""
    return f"{_place(path, mark)}{f', {key}' if key else ''}: {' or '.join(texts)}{got}{more}"


def _locate(root: yaml.Node, loc: tuple[int | str, ...]) -> tuple[str, Any]:
    """The dotted key and the mark of the deepest part of `loc` that the file has (pydantic may add type names)."""
    node, mark, key = root, root.start_mark, []
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                break
            mark, node = pair[0].start_mark, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
        key.append(str(part))
    return ".".join(key), mark


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    """YAML's reader keeps the last of two equal keys without a word; in a file of facts that hides a mistake."""
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _refuse_repeated_keys(path, inner)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise InputError(
                    f"{_place(path, key.start_mark)}, {key.value}: the key is there twice", hint="Keep one."
                )
            seen.add(key.value)
            _refuse_repeated_keys(path, value)


def _place(path: Path, mark: Any) -> str:
    return f"{path}, line {mark.line + 1}" if mark else str(path)
