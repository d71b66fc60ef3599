"""Finds, loads and completes device descriptions: `devices/*.yaml` -> DeviceSpec.

`shipped` is the one place that knows where data files lie in an installed package and in a checkout; a user's own
files, in `user_folder`, win over shipped ones of the same name.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
import yaml
from pydantic import ValidationError

from edgenas.artifacts.device_spec import DETECTED, DeviceSpec
from edgenas.errors import EdgenasError, InputError, TargetError

Kind = Literal["devices", "latency_tables", "datasets"]

_PACKAGE = Path(__file__).parent
_X86 = ("x86_64", "amd64")
_ARM = ("aarch64", "arm64")
_VNNI = {"avx512vnni", "avxvnni"}  # without underscores: systems spell them differently
_WORDS = {"missing": "this key is missing", "extra_forbidden": "there is no such key"}


def shipped(kind: Kind) -> Path:
    """The folder of data files that come with edgenas. Raises EdgenasError when the installation lacks it."""
    installed, checkout = _PACKAGE / "_shipped" / kind, _PACKAGE.parent / kind
    if installed.is_dir():
        return installed
    # An unrelated folder of that name may lie beside an installed package; only a checkout has a pyproject.toml there.
    if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file():
        return checkout
    raise EdgenasError(
        f"edgenas comes with a folder {kind!r}, but neither {installed} nor {checkout} is there",
        hint="Install edgenas again; in a checkout, restore the folder with git.",
    )


def user_folder(kind: Kind) -> Path:
    """Where the user's own files of that kind belong; it need not exist. EDGENAS_HOME names another base folder."""
    base = os.environ.get("EDGENAS_HOME")
    return (Path(base).expanduser() if base else platformdirs.user_data_path("edgenas", appauthor=False)) / kind


def names() -> list[str]:
    """The ids of all devices, shipped and the user's own, sorted."""
    return sorted(_paths())


def load(device_id: str) -> DeviceSpec:
    """The description of one device, the user's own file first.

    Raises InputError for an unknown id, and for a file that is not as DeviceSpec says, with its line and key.
    """
    paths = _paths()
    if device_id not in paths:
        close = difflib.get_close_matches(device_id, paths, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        own = user_folder("devices") / "ID.yaml"
        raise InputError(
            f"there is no device called {device_id!r}",
            hint=f"{guess}Devices: {', '.join(sorted(paths))}. Describe your own in {own}.",
        )
    return _read(paths[device_id])


def resolve(spec: DeviceSpec, probe: Mapping[str, Any], runtime: str = "") -> DeviceSpec:
    """`spec` with every "detected" field filled from a probe of the machine, for the named runtime or the default one.

    The probe's keys: `machine` (as platform.machine() says), `cpu_name`, `isa` (lower-case flags), `cores`, `ram_mib`
    (None when unknown) and `runtime_versions` ({"onnxruntime": "1.32.0"}). A probed version wins over the file's, and
    other runtimes that the machine lacks are left out. Raises TargetError when the runtime or a needed key is missing,
    or the machine is neither x86-64 nor 64-bit ARM.
    """
    runtime = runtime or spec.default_runtime
    spec.runtime(runtime)
    versions = _probed(spec, probe, "runtime_versions")
    if runtime not in versions:
        has = ", ".join(sorted(versions)) or "none"
        raise TargetError(
            f"device {spec.id!r} needs the runtime {runtime!r}, but the machine has {has}",
            hint=f"Install {runtime} on the machine, or choose one of {', '.join(spec.runtimes)} with --runtime.",
        )
    data = spec.model_dump()
    data["runtimes"] = {
        name: {**found, "version": versions[name]} for name, found in data["runtimes"].items() if name in versions
    }
    if spec.default_runtime not in versions:
        data["default_runtime"] = runtime
    for field in spec.detected_fields:
        *path, key = field.split(".")
        section = data
        for part in path:
            section = section.get(part, {})
        if section.get(key) == DETECTED:
            section[key] = _detect(spec, probe, key)
    return DeviceSpec.model_validate(data)


def _detect(spec: DeviceSpec, probe: Mapping[str, Any], key: str) -> Any:
    """The value of one "detected" field of `spec`, by the field's own name."""
    if key in ("cores", "ram_mib"):
        return _probed(spec, probe, key)
    if key == "isa":
        return tuple(_probed(spec, probe, "isa"))
    arch = _arch(spec, _probed(spec, probe, "machine"))
    if key == "arch":
        return arch
    if key == "name":
        return _probed(spec, probe, "cpu_name") or arch
    if key == "int8_weight_bits":
        vnni = _VNNI & {flag.lower().replace("_", "") for flag in _probed(spec, probe, "isa")}
        return 8 if arch == "aarch64" or vnni else 7
    if key == "int8_channel_multiple":
        return 8 if arch == "aarch64" else 16
    raise InputError(
        f"device {spec.id!r} says {DETECTED!r} for {key!r}, which cannot be detected",
        hint="Give the value, or null where the field allows it.",
    )


def _arch(spec: DeviceSpec, machine: str) -> str:
    if machine.lower() in _X86:
        return "x86_64"
    if machine.lower() in _ARM:
        return "aarch64"
    raise TargetError(
        f"device {spec.id!r} has to be an x86-64 or a 64-bit ARM machine, but this one is {machine!r}",
        hint="Choose another target; on ARM boards install the 64-bit system.",
    )


def _probed(spec: DeviceSpec, probe: Mapping[str, Any], key: str) -> Any:
    if key not in probe:
        raise TargetError(
            f"the probe of device {spec.id!r} does not say {key!r}; it says {', '.join(sorted(probe)) or 'nothing'}",
            hint="Give the value in the device's own file, or probe the device again.",
        )
    return probe[key]


def _paths() -> dict[str, Path]:
    """id -> file; the user's folder comes last, so that it wins."""
    folders = (shipped("devices"), user_folder("devices"))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _read(path: Path) -> DeviceSpec:
    """One device file, checked; every error names the file, the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{_place(path, mark)}: not valid YAML: {what}", hint="Mend that line.") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or an impossible date or number
        raise InputError(f"{path} cannot be read as a device: {error}", hint="Mend or remove the file.") from None
    if not isinstance(data, dict) or root is None:
        raise InputError(
            f"{path}: expected the keys of a device, such as id and runtimes, but found {type(data).__name__}",
            hint=f"Start from a copy of {shipped('devices') / 'host.yaml'}.",
        )
    _refuse_repeated_keys(path, root)
    try:
        spec = DeviceSpec.model_validate(data)
    except ValidationError as error:
        raise InputError(_what_is_wrong(path, root, error), hint="Mend that line.") from None
    if spec.id != path.stem:
        where = _place(path, _locate(root, ("id",))[1])
        raise InputError(f"{where}, id: {spec.id!r} is not the file's name", hint=f"Say id: {path.stem}.")
    return spec


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
