"""The known networks are what their names say, and their files compute what their modules do."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tools.known_networks import NETWORKS, PX, UNFOLDED, example, export, light_models, macs

PARAMS = {  # torchvision's documentation (num_params); EfficientNet-Lite0: the weights that Google published
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_small": 2_542_856,
    "efficientnet_lite0": 4_652_008,
    "resnet18": 11_689_512,
    "squeezenet1_1": 1_235_496,
    "shufflenet_v2": 2_278_604,
}
MILLION_MACS = {  # the papers; ResNet-18, SqueezeNet 1.1: torchvision's documentation (GFLOPS)
    "mobilenet_v2": 300,
    "mobilenet_v3_small": 56,
    "efficientnet_lite0": 390,  # of EfficientNet-B0, whose squeeze-and-excite costs next to nothing
    "resnet18": 1_814,
    "squeezenet1_1": 349,
    "shufflenet_v2": 146,
}
CHARACTERISTIC = {  # operators that make the network worth having here
    "mobilenet_v2": {"Clip", "Add", "GlobalAveragePool"},
    "mobilenet_v3_small": {"HardSwish", "HardSigmoid", "Mul"},
    "efficientnet_lite0": {"Pad", "Clip"},
    "resnet18": {"MaxPool", "Add"},
    "squeezenet1_1": {"MaxPool", "Concat"},
    "shufflenet_v2": {"Concat", "Reshape", "Transpose", "Slice", "ReduceMean"},
    "unet": {"ConvTranspose", "Concat"},
    "detector": {"Resize", "Concat", "Sigmoid", "Transpose", "Reshape"},
}
LIGHT = {
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
}


def run(path: Path, image: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: image})
    return outputs


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def assert_same(path: Path, name: str) -> None:
    with torch.no_grad():
        expected = NETWORKS[name]()(example())
    outputs = run(path, example().numpy())
    for y, output in zip(expected if isinstance(expected, tuple) else (expected,), outputs, strict=True):
        assert np.isfinite(output).all()
        assert 1e-3 < output.std() < 1e3
        assert np.abs(output - y.numpy()).max() < 1e-3 * output.std()


@pytest.mark.parametrize("name", NETWORKS)
def test_file_computes_what_the_module_does(name: str, tmp_path: Path) -> None:
    path = export(name, tmp_path)
    assert_same(path, name)
    found = operators(path)
    assert found.keys() >= CHARACTERISTIC[name]
    assert "BatchNormalization" not in found


@pytest.mark.parametrize("name", UNFOLDED)
def test_unfolded_keeps_batch_norm(name: str, tmp_path: Path) -> None:
    path = export(name, tmp_path, unfolded=True)
    assert_same(path, name)
    found = operators(path)
    assert found["BatchNormalization"] == found["Conv"]


@pytest.mark.parametrize("name", PARAMS)
def test_published_figures(name: str) -> None:
    assert sum(p.numel() for p in NETWORKS[name]().parameters()) == PARAMS[name]
    assert macs(name) / 1e6 == pytest.approx(MILLION_MACS[name], rel=0.02)


def test_outputs_of_the_dense_networks() -> None:
    cells = sum((PX // stride) ** 2 for stride in (8, 16, 32))
    with torch.no_grad():
        assert NETWORKS["unet"]()(example()).shape == (1, 1, PX, PX)
        boxes, scores = NETWORKS["detector"]()(example())
    assert boxes.shape == (1, 3 * cells, 4)
    assert scores.shape == (1, 3 * cells, 20)
    assert 0 <= scores.min() < scores.max() <= 1


def test_light_models() -> None:
    models = light_models()
    assert models.keys() == LIGHT
    for path in models.values():
        model = onnx.load(path)
        constants = {initializer.name for initializer in model.graph.initializer}
        (given,) = (given for given in model.graph.input if given.name not in constants)
        assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 3, PX, PX]
        assert model.ir_version == 3
        assert [opset.version for opset in model.opset_import] == [9]
    for name in ("squeezenet", "shufflenet"):  # the quick ones
        (output,) = run(models[name], example().numpy())
        assert output.size == 1000
        assert output.sum() == pytest.approx(1, abs=1e-4)
