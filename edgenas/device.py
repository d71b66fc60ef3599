"""Finds, loads, starts and completes device descriptions: `devices/*.yaml` -> DeviceSpec.

`shipped` is the one place that knows where data files lie in an installed package and in a checkout; a user's own
files, in `user_folder`, win over shipped ones of the same name.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import ValidationError

from edgenas.artifacts.device_spec import DETECTED, ID_PATTERN, SLOW, DeviceSpec
from edgenas.errors import EdgenasError, InputError, TargetError
from edgenas.yaml_file import read_yaml

Kind = Literal["devices", "latency_tables", "datasets"]

_PACKAGE = Path(__file__).parent
_X86 = ("x86_64", "amd64")
_ARM = ("aarch64", "arm64")
_VNNI = {"avx512vnni", "avxvnni"}  # without underscores: systems spell them differently


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
        raise InputError(
            f"there is no device called {device_id!r}",
            hint=f"{guess}Devices: {', '.join(sorted(paths))}. Describe your own with `edgenas devices --new ID`.",
        )
    return _read(paths[device_id])


def is_own(device_id: str) -> bool:
    """Whether the device is described by a file of the user's own."""
    return (user_folder("devices") / f"{device_id}.yaml").is_file()


def create(device_id: str) -> Path:
    """Writes the file of a device of the user's own and gives its path: a commented template or, for the id of a shipped
    device, a copy of its file, which wins from then on.

    Raises InputError for an id that can't be one, a file that is there already, and a folder that can't be written to.
    """
    if re.fullmatch(ID_PATTERN, device_id) is None:
        raise InputError(
            f"{device_id!r} can't be a device's id: expected lower-case letters, digits and single hyphens between them",
            hint="Such as my-board-2.",
        )
    original = shipped("devices") / f"{device_id}.yaml"
    if original.is_file():
        text = original.read_text(encoding="utf-8")
    else:
        text = (_PACKAGE / "device_template.yaml").read_text(encoding="utf-8").replace("MY-DEVICE", device_id)
    path = user_folder("devices") / f"{device_id}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{path} is there already", hint="Edit it, remove it, or choose another id.") from None
    except OSError as error:
        raise InputError(
            f"{path} can't be written: {error.strerror or error}", hint="EDGENAS_HOME names another folder."
        ) from None
    return path


def resolve(spec: DeviceSpec, probe: Mapping[str, Any], runtime: str = "", remedy: str = "") -> DeviceSpec:
    """`spec` with every "detected" field filled from a probe of the machine, for the named runtime or the default one.

    The probe's keys: `machine` (as platform.machine() says), `cpu_name`, `isa` (lower-case flags), `cores`, `ram_mib`
    (None when unknown) and `runtime_versions` ({"onnxruntime": "1.32.0"}). A probed version wins over the file's, and
    other runtimes that the machine lacks are left out. Raises TargetError when the runtime or a needed key is missing,
    or the machine is neither x86-64 nor 64-bit ARM. `remedy`: what to do where the machine lacks the runtime.
    """
    runtime = runtime or spec.default_runtime
    spec.runtime(runtime)
    versions = _probed(spec, probe, "runtime_versions")
    if runtime not in versions:
        has = ", ".join(sorted(versions)) or "none"
        others = f" Or choose one of {', '.join(spec.runtimes)} with --runtime." if len(spec.runtimes) > 1 else ""
        raise TargetError(
            f"device {spec.id!r} needs the runtime {runtime!r}, but the machine has {has}",
            hint=(remedy or f"Install {runtime} on the machine.") + others,
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
    if key == "slow":
        return () if arch == "aarch64" else SLOW
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
    file = read_yaml(path, "a device", "id and runtimes", "Remove it and start again with `edgenas devices --new`.")
    try:
        spec = DeviceSpec.model_validate(file.data)
    except ValidationError as error:
        raise file.refused(error, "Mend that line.") from None
    if spec.id != path.stem:
        raise file.refusal(("id",), f"{spec.id!r} is not the file's name", f"Say id: {path.stem}.")
    return spec
