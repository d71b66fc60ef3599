"""Milliseconds of any kernel: the table's own figure where it was measured; else a regression over the measured kernels of its family;
for a family that was never measured, a formula of MACs and bytes.

A family's regression is a roofline of its own (`roofline`), which is the trend beyond what was measured, and a Gaussian process on the
logarithm of what the roofline leaves over (`gaussian_process`): blocks, tiles and steps. Latency spans four decades and errors are
relative, hence logarithms. A family of few kernels takes the formula as its trend, shifted to where its kernels lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from edgenas.artifacts.kernel import Kernel
from edgenas.artifacts.latency_estimate import Source
from edgenas.latency import roofline
from edgenas.latency.gaussian_process import GaussianProcess
from edgenas.latency.kernel_features import LENGTHS, STAIRCASE, family, features, plain_work, work

MIN_FOR_MODEL = 3  # kernels of a family; below it the formula answers
MIN_FOR_PROCESS = 12  # kernels of a family from which on it has a trend of its own; below, it is the formula's
LEAST_MS = 1e-5  # runtimes report whole microseconds, some of them 0
MEASURED_STD = 0.02
LEAST_FORMULA_STD = 0.5


@dataclass(frozen=True)
class KernelGuess:
    """`relative_std` is the standard deviation of log(ms): 0.1 means that the truth lies within about 10 %, two times out of three."""

    ms: float
    relative_std: float
    source: Source


class KernelModel:
    """`times_ms` are the measured kernels. Answers are kept, so a kernel is worked out once; each depends on the measured kernels
    alone, to the last bit, never on what else is asked. Families are fitted when they are first asked for."""

    def __init__(self, times_ms: Mapping[Kernel, float]) -> None:
        self.measured = dict(times_ms)
        self._known = {kernel: KernelGuess(ms, MEASURED_STD, "table") for kernel, ms in self.measured.items()}
        self._families: dict[str, list[Kernel]] = {}
        for kernel in sorted(self.measured):
            self._families.setdefault(family(kernel), []).append(kernel)
        self._models: dict[str, _Family] = {}
        self._formula: _Formula | None = None

    def is_measured(self, kernel: Kernel) -> bool:
        return kernel in self.measured

    def times_ms(self, kernels: Sequence[Kernel]) -> list[float]:
        return [guess.ms for guess in self.estimates(kernels)]

    def estimates(self, kernels: Sequence[Kernel]) -> list[KernelGuess]:
        """One a kernel, in their order. Raises ValueError if nothing was measured and something is asked."""
        if missing := [kernel for kernel in dict.fromkeys(kernels) if kernel not in self._known]:
            # the number of threads changes last bits, and for matrices this small a second one waits more than it works
            with _threads().limit(limits=1):
                self._known.update((kernel, self._guess(kernel)) for kernel in missing)
        return [self._known[kernel] for kernel in kernels]

    def _guess(self, kernel: Kernel) -> KernelGuess:
        if self._formula is None:
            if not self.measured:
                raise ValueError("a KernelModel of no measured kernels can't answer for any other")
            self._formula = _Formula(self.measured)
        name = family(kernel)
        members = self._families.get(name, [])
        if len(members) < MIN_FOR_MODEL:
            return KernelGuess(float(np.exp(self._formula.log_ms([kernel])[0])), self._formula.relative_std, "formula")
        if name not in self._models:
            self._models[name] = _Family({k: self.measured[k] for k in members}, self._formula)
        log_ms, std = self._models[name].predict(kernel)
        return KernelGuess(float(np.exp(log_ms)), std, "model")


@cache
def _threads() -> ThreadpoolController:
    """numpy's linear algebra; looked for once."""
    return ThreadpoolController()


class _Formula:
    """One roofline over all measured kernels, whatever they are."""

    def __init__(self, times_ms: Mapping[Kernel, float]) -> None:
        kernels = sorted(times_ms)
        self._rates = roofline.fit(_table(plain_work, kernels), _ms(times_ms, kernels))
        left_over = np.log(_ms(times_ms, kernels)) - self.log_ms(kernels)
        self.relative_std = max(LEAST_FORMULA_STD, float(np.sqrt((left_over**2).mean())))

    def log_ms(self, kernels: Sequence[Kernel]) -> np.ndarray:
        return roofline.log_ms(self._rates, _table(plain_work, kernels))


class _Family:
    """One regression over the kernels of one kind."""

    def __init__(self, times_ms: Mapping[Kernel, float], formula: _Formula) -> None:
        kernels = list(times_ms)
        ms = _ms(times_ms, kernels)
        self._formula, self._shift = formula, 0.0
        self._rates: np.ndarray | None = None
        if len(kernels) >= MIN_FOR_PROCESS:
            self._rates = roofline.fit(_table(work, kernels), ms)
        else:
            self._shift = float(np.median(np.log(ms) - formula.log_ms(kernels)))
        left_over = np.log(ms) - self._trend(kernels)
        self._process = GaussianProcess(_table(features, kernels), left_over, np.array([*LENGTHS.values()]), STAIRCASE)

    def predict(self, kernel: Kernel) -> tuple[float, float]:
        """Logarithm of ms, and its standard deviation."""
        mean, std = self._process.predict(np.array(features(kernel)))
        return float(self._trend([kernel])[0]) + mean, std

    def _trend(self, kernels: Sequence[Kernel]) -> np.ndarray:
        if self._rates is None:
            return self._formula.log_ms(kernels) + self._shift
        return roofline.log_ms(self._rates, _table(work, kernels))


def _table(columns_of: Callable[[Kernel], list[float]], kernels: Iterable[Kernel]) -> np.ndarray:
    return np.array([columns_of(kernel) for kernel in kernels])


def _ms(times_ms: Mapping[Kernel, float], kernels: Iterable[Kernel]) -> np.ndarray:
    return np.array([max(times_ms[kernel], LEAST_MS) for kernel in kernels])
