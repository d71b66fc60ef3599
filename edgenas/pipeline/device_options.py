"""The options of a build that may be given for each of several devices: ID=VALUE, or the bare value where there is one device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from edgenas.artifacts.device_spec import ID_PATTERN
from edgenas.errors import InputError
from edgenas.pipeline.request import OtherDevice

Value = TypeVar("Value")
_FOR_ONE = re.compile(f"(?P<device>{ID_PATTERN.strip('^$')})=(?P<value>.+)")


def split(text: str) -> tuple[str | None, str]:
    """ "host=0.1" -> ("host", "0.1"), "0.1" -> (None, "0.1"). An address with a = in it is not an id and a value."""
    found = _FOR_ONE.fullmatch(text)
    return (found["device"], found["value"]) if found else (None, text)


def of_devices(
    devices: Sequence[str],
    latency_ms: Sequence[tuple[str | None, float]],
    targets: Sequence[tuple[str | None, str]],
    of_one: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of a BuildRequest that say for what is built; the first device is the one that is reported on in detail. `of_one`:
    options (by their flags) that can't be given for several. Raises InputError for what is missing, doubled or ambiguous."""
    for device in devices:
        if devices.count(device) > 1:
            raise InputError(
                f"--device {device} is given twice",
                f"Give each device once, with one budget: --device {device} --latency-ms {device}=MS.",
            )
    budgets_ms = _by_device("--latency-ms", "MS", devices, latency_ms)
    addresses = _by_device("--target", "T", devices, targets)
    _refuse_for_several(devices, of_one)
    if len(devices) > 1:
        for device in devices:
            if device not in budgets_ms:
                raise InputError(
                    f"device {device!r} has no latency budget, and one of several devices needs one",
                    f"Add --latency-ms {device}=MS.",
                )
    first, *others = (OtherDevice(device, budgets_ms.get(device), addresses.get(device)) for device in devices)
    return {
        "device": first.device,
        "latency_ms": first.latency_ms,
        "target": first.target,
        "others": tuple(others),
    }


def targets_of(
    devices: Sequence[str], targets: Sequence[tuple[str | None, str]], of_one: Mapping[str, Any]
) -> list[tuple[str, str | None]]:
    """(device, address) each, None where no target was named. Raises InputError as `of_devices` does."""
    for device in devices:
        if devices.count(device) > 1:
            raise InputError(f"--device {device} is given twice", "Give each device once.")
    _refuse_for_several(devices, of_one)
    addresses = _by_device("--target", "T", devices, targets)
    return [(device, addresses.get(device)) for device in devices]


def _refuse_for_several(devices: Sequence[str], of_one: Mapping[str, Any]) -> None:
    for flag, value in of_one.items():
        if value is not None and len(devices) > 1:
            raise InputError(
                f"{flag} is for one device, and there are {len(devices)}",
                f"Each has that of its own file: leave {flag} out, or edit a copy (edgenas devices --new {devices[0]}).",
            )


def _by_device(
    flag: str, unit: str, devices: Sequence[str], given: Sequence[tuple[str | None, Value]]
) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for device, value in given:
        if device is None and len(devices) > 1:
            raise InputError(
                f"{flag} {_shown(value)} doesn't say for which of the {len(devices)} devices it is",
                "Write " + " ".join(f"{flag} {each}={unit}" for each in devices) + ".",
            )
        name = device or devices[0]
        if name not in devices:
            raise InputError(
                f"{flag} {name}={_shown(value)} is for a device that is not one of those asked for",
                f"Those are: {', '.join(devices)}. Add --device {name}, or leave it out.",
            )
        if name in found:
            raise InputError(
                f"{flag} is given twice for device {name!r}: {_shown(found[name])} and {_shown(value)}", "Keep one."
            )
        found[name] = value
    return found


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
