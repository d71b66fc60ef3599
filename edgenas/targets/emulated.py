"""`emulated:aarch64`: a real aarch64 Python and ONNX Runtime under qemu's user-mode emulation, on this machine.

Its costs are really others, so that a search for it finds other networks; but its timings are an emulator's, and are called so.
"""

from __future__ import annotations

import platform
import shutil

from edgenas.errors import InputError, TargetError
from edgenas.targets.bootstrap import PROGRAM
from edgenas.targets.channel import Link
from edgenas.targets.emulation import PYTHON, QEMU, environment, is_set_up, root
from edgenas.targets.local import ProcessLink
from edgenas.targets.target import TargetOptions

ARCHITECTURES = ("aarch64",)


def open_link(address: str) -> tuple[Link, TargetOptions]:
    """Raises TargetError, with what to do, where the emulator or the packages that it runs are missing."""
    arch = address.partition(":")[2]
    if arch not in ARCHITECTURES:
        raise InputError(
            f"{arch!r} can't be emulated", f"Emulated targets: emulated:{', emulated:'.join(ARCHITECTURES)}."
        )
    if platform.system() != "Linux":
        raise TargetError(f"{address} needs Linux: qemu's user-mode emulation runs nowhere else")
    if shutil.which(QEMU) is None:
        raise TargetError(f"{address} needs {QEMU}, which is not installed", "apt-get install qemu-user-static")
    if not is_set_up():
        raise TargetError(
            f"{address} is not set up: {root()} has no aarch64 Python and ONNX Runtime",
            "Set it up once, in half a minute: python -m edgenas.targets.emulation",
        )
    variables = [part for name, value in environment().items() for part in ("-E", f"{name}={value}")]
    command = [QEMU, "-L", str(root()), *variables, str(root() / PYTHON), "-u", "-c", PROGRAM]
    return ProcessLink(address, command), TargetOptions(provenance="emulated")
