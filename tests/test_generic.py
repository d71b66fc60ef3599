"""Random networks for profiling: they run, and what is written of them reads back as the same kernels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest

from edgenas.network.fuse import fuse
from edgenas.onnxio.random_weights import random_weights
from edgenas.onnxio.read import read
from edgenas.onnxio.write import to_onnx
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.generic import FAMILIES, random_network

RULES = load_runtime("onnxruntime").fusion("fp32", ("avx2", "avx512f"))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_runtime_runs_it_and_it_reads_back_as_the_same_kernels(family: str) -> None:
    rng = np.random.default_rng(3)
    for seed in range(2):
        network = random_network(rng, family, max_px=64)
        model = to_onnx(network, random_weights(network, seed))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        image = rng.standard_normal(network.input_shape).astype(np.float32)
        outputs = session.run(None, {network.input_name: image})
        assert [output.shape for output in outputs] == [network.shape_of(name) for name in network.outputs]
        assert all(np.isfinite(output).all() for output in outputs)
        kernels = [Counter(fused.kernel for fused in fuse(n, RULES, "fp32")) for n in (network, read(model))]
        assert kernels[0] == kernels[1]


def test_the_same_seed_draws_the_same_networks() -> None:
    first, again = (
        [random_network(rng) for _ in range(12)] for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert first == again
    assert len(set(first)) == 12
