"""Which of the final network's files is shipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgenas.artifacts.kernel import Precision
from edgenas.errors import GateError
from edgenas.nets.module import NetworkModule
from edgenas.network.builder import INPUT, Builder
from edgenas.pipeline.shipping import MAX_PARITY_ERROR, Variant, choose, parity_error

BUDGET_MS = 1.0


def variant(precision: Precision, score: float, ms: float, error: float = 0.0) -> Variant:
    record: dict[str, Any] = {"measured": {"p50_ms": ms}, "predicted": None}
    return Variant(precision, precision, "onnxruntime", f"{precision}.onnx", score, error, True, record)


def shipped(fp32: Variant, int8: Variant, max_drop: float = 1.0) -> tuple[str, str]:
    chosen, decision = choose(fp32, [fp32, int8], max_drop, BUDGET_MS)
    return chosen.name, decision


def test_the_faster_is_shipped_while_it_loses_no_more_than_allowed() -> None:
    name, decision = shipped(variant("fp32", 0.900, 0.9), variant("int8", 0.891, 0.5))
    assert name == "int8"
    assert "loses 0.90 points" in decision


def test_what_loses_more_is_not_shipped_where_the_other_meets_the_budget_too() -> None:
    """However little the validation images say of it."""
    assert shipped(variant("fp32", 0.90, 0.9), variant("int8", 0.88, 0.5, error=0.02))[0] == "fp32"


def test_what_may_have_lost_more_by_chance_is_shipped_where_it_alone_meets_the_budget() -> None:
    name, decision = shipped(variant("fp32", 0.90, 1.2), variant("int8", 0.88, 0.5, error=0.008))
    assert name == "int8"
    assert "nothing else meets the budget of 1 ms" in decision
    assert "loses 2.00 points of validation accuracy, give or take 0.80" in decision


def test_what_has_surely_lost_more_is_not_shipped_for_the_budget() -> None:
    name, decision = shipped(variant("fp32", 0.90, 1.2), variant("int8", 0.88, 0.5, error=0.005))
    assert name == "fp32"
    assert "more than the 1 allowed" in decision


def test_nothing_is_excused_where_the_budget_is_missed_anyway() -> None:
    assert shipped(variant("fp32", 0.90, 1.4), variant("int8", 0.88, 1.2, error=0.02))[0] == "fp32"


def one_convolution() -> NetworkModule:
    torch.manual_seed(0)
    b = Builder((1, 1, 8, 8))
    x = b.flatten("flatten", b.global_average_pool("pool", b.conv("conv", INPUT, 4, 1, 1)))
    return NetworkModule(b.finish(b.linear("head", x, 3))).eval()


def logits(module: NetworkModule, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return module(images).numpy()  # type: ignore[no-any-return]


def test_logits_of_another_network_are_not_shipped() -> None:
    module, images = one_convolution(), torch.rand(5, 1, 8, 8)
    right = logits(module, images)
    assert parity_error(module, images, right) == 0
    with pytest.raises(GateError, match=r"differ from torch's by up to 0\.0[12]"):
        parity_error(module, images, right + 0.015)


def test_what_float32_itself_loses_is_no_fault_of_the_export() -> None:
    """A channel that is all but constant, normalised: most of what is left of it is rounding."""
    module = one_convolution()
    images = 1 + 1e-6 * torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        layer = module.layers["conv"]
        layer.mean.copy_(layer.weight.sum(dim=(1, 2, 3)))
        layer.var.zero_()
        layer.gamma.fill_(1e5)
        found = module.double()(images.double()).float().numpy()
        module.float()
    error = parity_error(module, images, found)
    assert error > MAX_PARITY_ERROR * max(1.0, float(np.abs(logits(module, images)).max()))
    with pytest.raises(GateError):
        parity_error(module, images, found + 20 * error)
