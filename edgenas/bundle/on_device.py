"""What measures a shipped model on its own device, without edgenas there: `on_device.py` and, for TensorRT, `on_device.sh`.

The script runs the very agent that edgenas sends to its targets, from plain files beside it.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

from edgenas.artifacts.kernel import Precision
from edgenas.runtimes import trtexec
from edgenas.runtimes.runtime import Runtime
from edgenas.store import write_bytes, write_text
from edgenas.targets.bootstrap import MODULES, ON_DEVICE

SCRIPT = Path(__file__).with_name("device_script.py")
ENGINE = "engine"


def write_on_device(
    folder: Path,
    device: str,
    runtime: Runtime,
    version: str,
    precision: Precision,
    threads: int,
    golden: tuple[np.ndarray, np.ndarray],
    calibration_cache: str | None,
) -> None:
    """Into `folder`, which holds model.onnx: the script, the agent's files, and golden inputs (N, C, H, W) and outputs (N, classes) of
    float32. `calibration_cache`: its name in the folder, for the commands that would build an INT8 engine."""
    modules = folder / "on_device"
    modules.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(SCRIPT, folder / "on_device.py")
    files = {f"{name}.py": ON_DEVICE / f"{name}.py" for name in (*MODULES, "agent")}
    files |= {path.name: path for path in runtime.AGENT_MODULES} | {"part.py": runtime.AGENT_PART}
    for name, path in files.items():
        shutil.copyfile(path, modules / name)
    about = {
        "device": device,
        "runtime": runtime.NAME,
        "precision": precision,
        "threads": threads,
        "model": "model.onnx",
        "missing": runtime.remedy(has_python=True),
    }
    write_text(modules / "about.json", json.dumps(about, indent=2) + "\n")
    for name, array in zip(("inputs", "outputs"), golden, strict=True):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array, np.float32))
        write_bytes(folder / "golden" / f"{name}.npy", buffer.getvalue())
    if runtime.NAME == "tensorrt":
        path = folder / "on_device.sh"
        write_text(path, trtexec_commands(version, precision, calibration_cache))
        path.chmod(0o755)


def trtexec_commands(version: str, precision: Precision, calibration_cache: str | None) -> str:
    """A shell script with the very commands that build and time the engine, for that version of TensorRT."""
    numbers = tuple(int(part) for part in version.split("."))

    def shell(command: list[str]) -> str:
        return " ".join(['"$TRTEXEC"', *map(shlex.quote, command[1:])])

    engine = f"{ENGINE}.{precision}"
    build = trtexec.build_command("trtexec", numbers, "model.onnx", engine, {"precision": precision})
    bench = trtexec.bench_command("trtexec", numbers, "model.onnx", engine, 500, "times.json")
    lines = [
        "#!/bin/sh",
        f"# The engine of model.onnx in {precision.upper()} for TensorRT {version}: built and timed on the device by hand.",
        "# `python3 on_device.py > measured.json` does the same, checks the outputs too, and prints what edgenas takes in.",
        "set -eu",
        'cd "$(dirname "$0")"',
        "TRTEXEC=$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)",
        shell(build),
        shell(bench),
    ]
    if calibration_cache is not None and precision != "int8":
        options = {"precision": "int8", "calibration_cache": calibration_cache}
        command = trtexec.build_command("trtexec", numbers, "model.onnx", f"{ENGINE}.int8", options)
        lines += [
            "",
            "# For comparison, an INT8 engine from the calibration cache (implicit quantization):",
            f"# {shell(command)}",
        ]
    return "\n".join(lines) + "\n"
