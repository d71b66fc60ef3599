"""Weights for a network that is only timed. Random in everything, biases included: equal biases of two convolutions would
become one shared initializer, its bias would stay float and the convolution would not run in INT8 (a real profiling trap)."""

from __future__ import annotations

import numpy as np

from edgenas.network.graph import WEIGHTED, Network
from edgenas.onnxio.qdq import ActivationQuantization

STATISTICS = {"scale": (0.5, 1.5), "bias": (-0.3, 0.3), "mean": (-0.5, 0.5), "variance": (0.5, 2.0)}


def random_weights(network: Network, seed: int = 0) -> dict[str, np.ndarray]:
    """He-scaled float32 weights and small random biases for every Conv, ConvTranspose and Gemm; statistics for a BatchNormalization."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}
    for node in network.nodes:
        channels = node.shape[1] if len(node.shape) > 1 else 1
        if node.op == "BatchNormalization":
            for part, (low, high) in STATISTICS.items():
                weights[f"{node.name}.{part}"] = rng.uniform(low, high, channels).astype(np.float32)
        if node.op not in (*WEIGHTED, "ConvTranspose"):
            continue
        if node.op == "ConvTranspose":
            shape = (
                network.shape_of(node.inputs[0])[1],
                channels // node.attribute("group"),
                *node.attribute("kernel_shape"),
            )
        else:
            shape = network.weight_shape(node)
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{node.name}.weight"] = (rng.standard_normal(shape, dtype=np.float32) * scale).astype(np.float32)
        weights[f"{node.name}.bias"] = (rng.standard_normal(channels, dtype=np.float32) * 0.1).astype(np.float32)
    return weights


def random_ranges(network: Network, seed: int = 0) -> dict[str, ActivationQuantization]:
    """Plausible uint8 scales for every tensor: unsigned after a ReLU, affine elsewhere; all different, as real ones are."""
    rng = np.random.default_rng(seed)
    ranges = {network.input_name: ActivationQuantization(float(rng.uniform(0.01, 0.02)), 128)}
    for node in network.nodes:
        zero_point = 0 if node.op in ("Relu", "Clip") else 128
        ranges[node.name] = ActivationQuantization(float(rng.uniform(0.01, 0.05)), zero_point)
    return ranges
