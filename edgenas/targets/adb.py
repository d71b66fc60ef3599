"""`adb:SERIAL`: an Android device, over Android's own adb. `adb:` alone is the only one that is connected.

`adb:SERIAL[?perf_test=PATH]`: where on the device `onnxruntime_perf_test` is, if neither on its PATH nor in /data/local/tmp. There
is no Python on such a device: the agent runs on this machine and reaches it through `android_place`.
"""

from __future__ import annotations

import sys
from urllib.parse import parse_qsl

from edgenas.errors import InputError
from edgenas.targets.adb_client import devices, only_device
from edgenas.targets.bootstrap import PROGRAM, Via
from edgenas.targets.channel import Link
from edgenas.targets.local import ProcessLink
from edgenas.targets.target import TargetOptions

PROGRAMS = {"perf_test": "onnxruntime_perf_test"}  # by the option that says where it is
SHAPE = (
    "Android devices look like adb:SERIAL, as `adb devices` lists them, or adb:SERIAL?perf_test=/data/local/tmp/FILE."
)


def open_link(address: str) -> tuple[Link, TargetOptions]:
    """Raises InputError for an address that isn't of that shape, TargetError if no serial is given and not one device is there."""
    serial, _, query = address.removeprefix("adb:").partition("?")
    try:
        options = dict(parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True))
    except ValueError:
        raise InputError(f"{address!r} is not an address", SHAPE) from None
    if wrong := options.keys() - PROGRAMS.keys():
        raise InputError(f"{address!r}: there is no option {', '.join(sorted(wrong))}", SHAPE)
    for option, path in options.items():
        if not path.startswith("/") or "\0" in path:
            raise InputError(f"{option} in {address!r} is not a path that starts with /", SHAPE)
    if not serial:
        serial = only_device(devices())
    programs = {PROGRAMS[option]: path for option, path in options.items()}
    via = Via("edgenas.targets.android_place", {"serial": serial, "programs": programs})
    return ProcessLink(f"adb:{serial}", [sys.executable, "-u", "-c", PROGRAM]), TargetOptions(via=via)
