"""Calibration through NNCF: what is taken from it, that the result runs quantized, and that nothing phones home."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgenas.compress.quantize import affine, calibrate
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.onnxio.qdq import to_qdq
from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.write import to_onnx

pytestmark = pytest.mark.heavy


GUARDED = """
import socket

import numpy as np

from edgenas.compress.quantize import calibrate
from edgenas.network.builder import INPUT, Builder
from edgenas.network.graph import Network
from edgenas.onnxio.random_weights import random_weights

# NETWORK

def refuse(*args, **kwargs):
    print("CONNECTED", args, flush=True)
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
network = small_network()
calibrate(network, random_weights(network), np.ones((4, 1, 12, 12), np.float32), weight_bits=8)
print("CALIBRATED")
"""


def small_network() -> Network:
    b = Builder((1, 1, 12, 12))
    x = b.activation("relu1", b.conv("conv1", INPUT, 16, 3))
    y = b.conv("conv3", b.activation("relu2", b.conv("conv2", x, 16, 3)), 16, 3)
    x = b.activation("relu3", b.add("add", y, x))
    return b.finish(b.linear("linear", b.flatten("flatten", b.global_average_pool("pool", x)), 5))


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("faint", [0, 0.9], ids=["alike", "nine of ten faint"])
def test_int8_follows_fp32_closely(bits: int, faint: float) -> None:
    import onnxruntime

    network = small_network()
    weights = random_weights(network, 3)
    images = np.random.default_rng(0).standard_normal((48, 1, 12, 12)).astype(np.float32)
    images[: int(faint * len(images))] *= 0.05  # sea between coasts: a range that suits most images cuts the others off
    found = calibrate(network, weights, images, weight_bits=bits)
    assert set(found.ranges) == {network.input_name, *network.by_name}
    assert found.ranges["relu3"].zero_point == 0, "after a ReLU the whole unsigned range is for positive values"
    models = [to_onnx(network, weights), to_qdq(network, found.weights, found.ranges, weight_bits=bits)]
    outputs = []
    for model in models:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(np.concatenate([session.run(None, {"input": image[None]})[0] for image in images]))
    signal, noise = np.square(outputs[0]).mean(), np.square(outputs[0] - outputs[1]).mean()
    assert 10 * np.log10(signal / noise) > 25


def test_a_range_holds_zero_exactly() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        found = affine(low, high)
        assert 0 <= found.zero_point <= 255
        assert found.scale > 0


def test_nothing_phones_home(tmp_path: Path) -> None:
    """In a process of its own, because NNCF behaves differently under pytest; any connection or file in the home folder fails."""
    script = tmp_path / "calibrates.py"
    script.write_text(GUARDED.replace("# NETWORK", inspect.getsource(small_network)))
    home = tmp_path / "home"
    home.mkdir()
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": str(root)}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert "CALIBRATED" in done.stdout, done.stderr[-2000:]
    assert "CONNECTED" not in done.stdout
    assert not (home / "intel").exists()
    assert not (home / ".ses").exists(), "ONNX Runtime's telemetry leaves this"
