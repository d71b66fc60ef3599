"""TensorRT's calibration cache: the form that TensorRT itself writes, a round trip, and the names and scales that belong in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.network.builder import INPUT, Builder
from edgenas.onnxio.qdq import ActivationQuantization, to_qdq
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.onnxio.write import to_onnx
from edgenas.runtimes.calibration_cache import cache_text, read_cache, scales, version_digits

# As TensorRT 8.4.1 wrote it. Source: README of https://github.com/zhsky2017/TRT-Hackathon-2022-SegFormer
BY_TENSORRT = """TRT-8401-EntropyCalibration2
input: 3caa54fc
371: 3caa54fc
376: 3caa54fc
380: 3cbe52af
(Unnamed Layer* 64) [Shuffle]_output: 0
366: 0
395: 3cbe52af
404: 3d5c11b5
(Unnamed Layer* 82) [Shuffle]_output: 3c56713e
405: 3c209a08
"""
NAMES = st.text(min_size=1).filter(lambda name: name == name.strip() and "\n" not in name and "\r" not in name)
SCALES = st.floats(min_value=0, exclude_min=True, allow_infinity=False, width=32)


def test_what_tensorrt_wrote_is_read_and_written_again() -> None:
    version, found = read_cache(BY_TENSORRT)
    assert version == 8401
    assert found["input"] == pytest.approx(2.6406446 / 127)  # ImageNet's normalised images reach 2.64
    assert found["(Unnamed Layer* 64) [Shuffle]_output"] == 0
    used = {name: scale for name, scale in found.items() if scale}
    lines = [line for line in BY_TENSORRT.splitlines() if not line.endswith(": 0")]
    assert cache_text(used, "8.4.1").splitlines() == lines


def test_a_pair_that_onnx_runtime_documents() -> None:
    """Source: the comment at `ReadDynamicRange` in ONNX Runtime's TensorRT execution provider."""
    found = read_cache("TRT-7103-EntropyCalibration2\ndata_0: 4000889d\n")
    assert found == (7103, {"data_0": pytest.approx(2.008338, abs=5e-7)})


@given(st.dictionaries(NAMES, SCALES))
def test_what_is_written_is_read_back(found: dict[str, float]) -> None:
    assert read_cache(cache_text(found, "8.2.1")) == (8201, found)


@pytest.mark.parametrize(
    ("version", "digits"), [("8.2.1", 8201), ("8.6.1.6", 8601), ("10.3.0", 100300), ("10.14.1", 101401)]
)
def test_versions(version: str, digits: int) -> None:
    """10.14.1 heads its caches TRT-101401, 8.4.1 TRT-8401."""
    assert version_digits(version) == digits


def test_it_names_the_tensors_of_the_fp32_file_and_has_the_scales_of_the_int8_one() -> None:
    b = Builder((1, 3, 8, 8))
    x = b.activation("stage0/relu", b.conv("stage0/conv", INPUT, 8, 3))
    network = b.finish(b.linear("head", b.flatten("flatten", b.global_average_pool("pool", x)), 5))
    ranges = random_ranges(network)
    _, found = read_cache(cache_text(scales(ranges), "8.2.1"))
    model = to_onnx(network, random_weights(network))
    assert set(found) == {model.graph.input[0].name, *(name for node in model.graph.node for name in node.output)}
    int8 = to_qdq(network, random_weights(network), ranges, flavour="trt")
    scale = next(tensor for tensor in int8.graph.initializer if tensor.name == "stage0/relu.scale")
    assert np.frombuffer(scale.raw_data, np.float32)[0] == np.float32(found["stage0/relu"])
    assert scales({"x": ActivationQuantization(0.1, 128)}) == {"x": pytest.approx(12.8 / 127)}


@pytest.mark.parametrize(
    ("found", "version", "said"),
    [
        ({"x": 0.0}, "8.2.1", "positive float32"),
        ({"x": float("nan")}, "8.2.1", "positive float32"),
        ({"x": 1e39}, "8.2.1", "positive float32"),
        ({"x": 1e-50}, "8.2.1", "positive float32"),
        ({"x\ny": 1.0}, "8.2.1", "can't name the tensor"),
        ({"x": 1.0}, "8.2", "in full"),
    ],
)
def test_what_can_not_be_written(found: dict[str, float], version: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        cache_text(found, version)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "starts with"), ("x: 3caa54fc\n", "starts with"), ("TRT-8201-EntropyCalibration2\nx 3c", "line 2")],
)
def test_what_can_not_be_read(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_cache(text)
