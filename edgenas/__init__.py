"""edgenas: from a dataset, a device and a budget to a model that is measured to fit."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = (
    "1"  # ONNX Runtime, from 1.29 on, reports to its makers unless told before it is imported
)

__version__ = "0.1.0"
