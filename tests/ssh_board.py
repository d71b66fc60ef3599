"""A board of the user's own, and the command line run for it in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
BOARD = "bench-board"
WITH_RUNTIME = f"?python={sys.executable}"
Run = subprocess.CompletedProcess[str]


def save_model(path: Path, channels: int = 8, names: tuple[str, str] = ("conv", "relu"), graph: str = "g") -> Path:
    """One convolution of an 8x8 image and a ReLU, 9 x channels x channels weights."""
    weights = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    shape = [1, channels, 8, 8]
    made = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["input", "w"], ["c"], name=names[0], pads=[1] * 4),
                helper.make_node("Relu", ["c"], ["output"], name=names[1]),
            ],
            graph,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=7,
    )
    onnx.save(made, path)
    return path


def edgenas(*arguments: str | Path, ssh: str | None = None) -> Run:
    """The command line in a process of its own; `ssh`: another client than the test's."""
    return subprocess.run(
        [sys.executable, "-m", "edgenas.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **({"EDGENAS_SSH": ssh} if ssh else {})},
        timeout=180,
        check=False,
    )


def bench(model: Path, address: str, ssh: str | None = None) -> Run:
    return edgenas("bench", model, "--device", BOARD, "--target", address, "--json", ssh=ssh)


def assert_one_error(run: Run, message: str, hint: str, code: int = 1) -> None:
    """One sentence and one hint at the end of standard error, nothing on standard output."""
    assert run.returncode == code, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    lines = run.stderr.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 2) + [True, False], run.stderr
    assert re.search(message, lines[-2]), lines[-2]
    assert re.search(f"^  .*{hint}", lines[-1]), lines[-1]


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path
