"""How accurate an exported file is, on the device or in ONNX Runtime here: what every choice after training rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgenas import data
from edgenas.artifacts.kernel import Precision
from edgenas.compress.quantize import Quantization, calibrate
from edgenas.data import Split, balanced_accuracy
from edgenas.measure import Bench
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.pipeline.context import Build

if TYPE_CHECKING:
    import onnx


def calibrated(build: Build, module: NetworkModule) -> Quantization:
    """Weights and activation ranges for INT8, from the calibration images."""
    px = module.network.input_shape[2]
    images = evaluation_images(build.dataset, build.dataset.calibration, px).contiguous().numpy()
    return calibrate(module.network, module.folded_weights(), images, weight_bits=build.machine.weight_bits)


def predicted_classes(
    build: Build, model: onnx.ModelProto, split: Split, px: int, through: Bench, precision: Precision
) -> np.ndarray:
    """(N,) by a file that takes images of `px`, run by `through`."""
    images = evaluation_images(build.dataset, split, px).contiguous().numpy()
    predicted: np.ndarray = through.infer(model, images, precision).argmax(axis=1)
    return predicted


def accuracy(build: Build, predicted: np.ndarray, split: Split, through: Bench) -> dict[str, Any]:
    """Of classes that `through` predicted: an entry's `accuracy` in result.json."""
    return {
        "top1": float((predicted == split.labels).mean()),
        "balanced": balanced_accuracy(predicted, split.labels, len(build.dataset.labels)),
        "n": len(split),
        "runtime": through.runtime.NAME,
    }


def score(build: Build, found: dict[str, Any]) -> float:
    """The accuracy that counts: balanced where the classes are not."""
    return float(found["balanced"] if build.dataset.unbalanced else found["top1"])


def difference_error(build: Build, one: np.ndarray, other: np.ndarray, split: Split) -> float:
    """Standard error of the difference between two predictions' scores on `split`."""
    classes = len(build.dataset.labels) if build.dataset.unbalanced else None
    return data.difference_error(one, other, split.labels, classes)


def score_in(build: Build, module: NetworkModule, precision: Precision) -> float:
    """Validation accuracy of the file that `module` becomes in a precision, in ONNX Runtime on this machine."""
    judge, network = build.machine.judge, module.network
    if precision == "int8":
        found = calibrated(build, module)
        model = judge.runtime.int8_model(network, found.weights, found.ranges, build.machine.weight_bits)
    else:
        model = judge.runtime.fp32_model(network, module.folded_weights())
    validation, px = build.dataset.validation, network.input_shape[2]
    predicted = predicted_classes(build, model, validation, px, judge, "int8" if precision == "int8" else "fp32")
    return score(build, accuracy(build, predicted, validation, judge))
