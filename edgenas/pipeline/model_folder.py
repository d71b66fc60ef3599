"""`model/`: what a build hands over, with all that an app has to know and what checks and times it on the device."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.bundle.on_device import write_on_device
from edgenas.nets.feed import evaluation_images
from edgenas.network.graph import Network
from edgenas.pipeline.context import Build
from edgenas.pipeline.shipping import Shipment
from edgenas.pipeline.specialising import Winner
from edgenas.store import write_json

GOLDEN_IMAGES = 8


def write_model_folder(build: Build, shipment: Shipment, winner: Winner) -> Path:
    """`model/`: the chosen file as model.onnx, the others beside it, model.json with what an app has to know, and what checks and times
    the model on the device."""
    folder, machine = build.request.out / "model", build.machine
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model.fp32.onnx": shipment.fp32.file, "model.int8.onnx": shipment.named("int8").file}
    files |= {f"model.int8.{v.runtime}.onnx": v.file for v in shipment.variants if v.name == "trt-int8"}
    if shipment.calibration_cache is not None:
        files[shipment.calibration_cache] = shipment.calibration_cache
    for name, source in (files | {"model.onnx": shipment.chosen.file}).items():
        temporary = folder / f".{name}"
        shutil.copyfile(shipment.folder / source, temporary)
        temporary.replace(folder / name)
    write_json(folder / "model.json", _about(build, shipment, winner.final.network))
    if machine.reached is not None and not machine.reached.target.has_python:
        return folder  # the script that measures it there is Python
    write_on_device(
        folder,
        machine.spec.id,
        machine.runtime,
        machine.version,
        shipment.chosen.precision,
        machine.threads,
        _golden(build, folder / "model.onnx", winner.final.network.input_shape[2]),
        shipment.calibration_cache,
    )
    return folder


def _about(build: Build, shipment: Shipment, network: Network) -> dict[str, Any]:
    """What an app has to know."""
    dataset = build.dataset
    return {
        "file": "model.onnx",
        "precision": shipment.chosen.precision,
        "input": {
            "name": network.input_name,
            "shape": list(network.input_shape),
            "layout": "NCHW",
            "dtype": "float32",
            "colour_order": "RGB" if dataset.channels == 3 else "grey",
            "scale": "value = (byte / 255 - mean) / std",
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "resize": f"shorter side to {network.input_shape[2]} px, bilinear with antialiasing, then the centre square",
        },
        "output": {
            "name": network.output_name,
            "shape": list(network.shape_of(network.output_name)),
            "meaning": "logits",
        },
        "labels": list(dataset.labels),
    }


def _golden(build: Build, model: Path, px: int) -> tuple[np.ndarray, np.ndarray]:
    """A few validation images as the model takes them, and its logits in ONNX Runtime on the host."""
    import onnx

    images = evaluation_images(build.dataset, build.dataset.validation, px)[:GOLDEN_IMAGES].contiguous().numpy()
    return images, build.machine.judge.infer(onnx.load(model), images)
