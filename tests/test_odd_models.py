"""The odd models are valid: ONNX Runtime runs them, so that a reader that fails on one has itself to blame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.odd_models import ALL, FILES, ORT_REFUSES, feeds

PROVIDERS = ["CPUExecutionProvider"]


@pytest.mark.parametrize("name", [name for name in ALL if name not in ORT_REFUSES])
def test_runs(name: str) -> None:
    model = ALL[name]()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=PROVIDERS)
    outputs = session.run(None, feeds(model))
    assert len(outputs) == len(model.graph.output)
    for declared, output in zip(model.graph.output, outputs, strict=True):
        assert np.isfinite(output).all()
        assert output.std() > 1e-3
        dims = declared.type.tensor_type.shape.dim
        assert all(d.dim_value in (0, side) for d, side in zip(dims, output.shape, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_is_small_and_repeatable(name: str) -> None:
    content = ALL[name]().SerializeToString(deterministic=True)
    assert len(content) < 50_000
    assert content == ALL[name]().SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ORT_REFUSES)
def test_refused(name: str) -> None:
    with pytest.raises(Exception, match=ORT_REFUSES[name]):
        onnxruntime.InferenceSession(ALL[name]().SerializeToString(), providers=PROVIDERS)


def test_files(tmp_path: Path) -> None:
    for name, write in FILES.items():
        folder = tmp_path / name
        folder.mkdir()
        path = write(folder)
        if name == "external_data":
            session = onnxruntime.InferenceSession(path, providers=PROVIDERS)
            assert np.isfinite(session.run(None, feeds(onnx.load(path)))[0]).all()
        else:
            with pytest.raises(Exception, match=r"(?i)protobuf|external|model"):
                onnxruntime.InferenceSession(path, providers=PROVIDERS)
