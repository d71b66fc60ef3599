"""Milliseconds of any kernel: the table's own figure where it was measured, else a Gaussian process over kernels of its kind.

The process works on logarithms (latency spans three decades and errors are relative), with a linear part for the scaling laws
and a Matern part for the staircases that blocked kernels make of channel counts (Rasmussen & Williams, GPML, 2006, ch. 2 and 4).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import log, prod
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import Kernel

BLOCK = 16  # channels that blocked CPU kernels handle at once
MIN_FOR_PROCESS = 12


class KernelModel:
    """`times_ms` are the measured kernels. Answers are kept, so a kernel is worked out once."""

    def __init__(self, times_ms: Mapping[Kernel, float]) -> None:
        self.measured = dict(times_ms)
        self._known: dict[Kernel, float] = dict(times_ms)
        self._models: dict[str, _Family] = {}

    def is_measured(self, kernel: Kernel) -> bool:
        return kernel in self.measured

    def times_ms(self, kernels: Sequence[Kernel]) -> list[float]:
        missing = [kernel for kernel in dict.fromkeys(kernels) if kernel not in self._known]
        for family in {_family(kernel) for kernel in missing}:
            group = [kernel for kernel in missing if _family(kernel) == family]
            self._known.update(zip(group, self._model(family).predict(group), strict=True))
        return [self._known[kernel] for kernel in kernels]

    def _model(self, family: str) -> _Family:
        if family not in self._models:
            group = {k: ms for k, ms in self.measured.items() if _family(k) == family}
            self._models[family] = _Family(group or self.measured)
        return self._models[family]


class _Family:
    """One regression over the kernels of one kind."""

    def __init__(self, times_ms: Mapping[Kernel, float]) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        kernels = list(times_ms)
        x, y = _features(kernels), np.log([max(times_ms[k], 1e-5) for k in kernels])
        self._scale = StandardScaler().fit(x)
        x = self._scale.transform(x)
        self._linear = Ridge(alpha=1.0).fit(x, y)
        self._process: Any = None
        if len(kernels) >= MIN_FOR_PROCESS:
            shape = ConstantKernel(0.1) * Matern(np.full(x.shape[1], 3.0), (0.3, 100.0), nu=1.5) + WhiteKernel(
                1e-2, (1e-4, 1.0)
            )
            self._process = GaussianProcessRegressor(shape, random_state=0)
            # a length scale at its bound says that a feature doesn't matter here; matrices this small are slower on two threads
            with warnings.catch_warnings(), threadpool_limits(1):
                warnings.simplefilter("ignore")
                self._process.fit(x, y - self._linear.predict(x))

    def predict(self, kernels: Sequence[Kernel]) -> list[float]:
        x = self._scale.transform(_features(kernels))
        # the mean of the posterior, summed row by row: a matrix product's last bits depend on how many kernels are asked at once
        log_ms = (x * self._linear.coef_).sum(axis=1) + self._linear.intercept_
        if self._process is not None:
            covariance = self._process.kernel_(x, self._process.X_train_)
            log_ms = log_ms + (covariance * self._process.alpha_).sum(axis=1)
        return [float(v) for v in np.exp(log_ms)]


def _family(kernel: Kernel) -> str:
    if kernel.op == "Conv":
        return "depthwise" if kernel.groups > 1 else "conv"
    return kernel.op


def _features(kernels: Sequence[Kernel]) -> np.ndarray:
    return np.array([_feature_row(kernel) for kernel in kernels])


def _feature_row(k: Kernel) -> list[float]:
    c_in, c_out = k.in_shape[0], k.out_shape[0]
    inner = prod(k.in_shape) if k.op == "Gemm" else c_in // k.groups
    work = prod(k.kernel_size_hw) if k.op == "Conv" else 1
    positions = prod(k.out_shape[1:])
    return [
        log(c_in),
        log(c_out),
        log(positions),
        log(max(work, 1) * inner * c_out * positions),
        log(prod(k.in_shape) + prod(k.out_shape)),
        log(_padded(c_in) / c_in),
        log(_padded(c_out) / c_out),
        float(k.kernel_size_hw[0]),
        float(k.stride_hw[0]),
        float("Add" in k.fused),
        float(len(k.fused)),
    ]


def _padded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK
