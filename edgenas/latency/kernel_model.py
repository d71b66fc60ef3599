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
from edgenas.latency.kernel_features import LENGTHS, STAIRCASE, family, features, plain_work, weight_share, work

MIN_FOR_MODEL = 3  # kernels of a family; below it the formula answers
MIN_OF_A_KIND = 6  # kernels of one operation in one layout from which on they stand alone
MIN_FOR_PROCESS = 12  # kernels of a family from which on it has a trend of its own; below, it is the formula's
LEAST_MS = 1e-5  # runtimes report whole microseconds, some of them 0
MEASURED_STD = 0.02
MOSTLY_WEIGHTS = 0.3
ANOTHER_NETWORK = 1.25  # times as many bytes, or as few
LEAST_FORMULA_STD = 0.5


@dataclass(frozen=True)
class KernelGuess:
    """`relative_std` is the standard deviation of log(ms): 0.1 means that the truth lies within about 10 %, two times out of three."""

    ms: float
    relative_std: float
    source: Source


class KernelModel:
    """`times_ms` are the measured kernels; `network_mib` what a run of the networks moved in which they were measured (nothing: the
    same for all). Answers are kept, so a kernel is worked out once; each depends on the measured kernels alone, to the last bit,
    never on what else is asked. Families are fitted when they are first asked for."""

    def __init__(self, times_ms: Mapping[Kernel, float], network_mib: Mapping[Kernel, float] | None = None) -> None:
        self.measured = dict(times_ms)
        self._mib = dict(network_mib or {})
        self._usual_mib = float(np.median(list(self._mib.values()))) if self._mib else 0.0
        self._known: dict[tuple[Kernel, float], KernelGuess] = {}
        self._families: dict[str, list[Kernel]] = {}
        for kernel in sorted(self.measured):
            for name in (_kind(kernel), family(kernel)):
                self._families.setdefault(name, []).append(kernel)
        self._models: dict[str, _Family] = {}
        self._formula: _Formula | None = None

    def is_measured(self, kernel: Kernel) -> bool:
        return kernel in self.measured

    def times_ms(self, kernels: Sequence[Kernel], network_mib: float | None = None) -> list[float]:
        return [guess.ms for guess in self.estimates(kernels, network_mib)]

    def estimates(self, kernels: Sequence[Kernel], network_mib: float | None = None) -> list[KernelGuess]:
        """One a kernel, in their order, in a network that moves `network_mib` in a run; without, in one like those that were measured.
        Raises ValueError if nothing was measured and something is asked."""
        mib = -1.0 if network_mib is None else 2 ** (round(2 * np.log2(max(network_mib, 1e-3))) / 2)
        if missing := [kernel for kernel in dict.fromkeys(kernels) if (kernel, mib) not in self._known]:
            # the number of threads changes last bits, and for matrices this small a second one waits more than it works
            with _threads().limit(limits=1):
                for kernel in missing:
                    self._known[kernel, mib] = self._guess(kernel, None if network_mib is None else mib)
        return [self._known[kernel, mib] for kernel in kernels]

    def _guess(self, kernel: Kernel, network_mib: float | None) -> KernelGuess:
        if kernel in self.measured:
            return self._measured(kernel, network_mib)
        if self._formula is None:
            if not self.measured:
                raise ValueError("a KernelModel of no measured kernels can't answer for any other")
            self._formula = _Formula(self.measured)
        model = self._model(kernel)
        if model is None:
            return KernelGuess(float(np.exp(self._formula.log_ms([kernel])[0])), self._formula.relative_std, "formula")
        log_ms, std = model.predict(kernel, self._usual_mib if network_mib is None else network_mib)
        return KernelGuess(float(np.exp(log_ms)), std, "model")

    def _measured(self, kernel: Kernel, network_mib: float | None) -> KernelGuess:
        """As it was measured; where its weights are most of what it moves, and the network is another, by as much more or less as
        kernels of its kind take there."""
        ms, mib = self.measured[kernel], self._mib.get(kernel, 0.0)
        elsewhere = network_mib is not None and mib > 0 and max(network_mib / mib, mib / network_mib) > ANOTHER_NETWORK
        if not elsewhere or network_mib is None or weight_share(kernel) < MOSTLY_WEIGHTS:
            return KernelGuess(ms, MEASURED_STD, "table")
        if self._formula is None:
            self._formula = _Formula(self.measured)
        model = self._model(kernel)
        if model is None:
            return KernelGuess(ms, MEASURED_STD, "table")
        ratio = model.predict(kernel, network_mib)[0] - model.predict(kernel, mib)[0]
        return KernelGuess(ms * float(np.exp(ratio)), MEASURED_STD + abs(ratio) / 2, "model")

    def _model(self, kernel: Kernel) -> _Family | None:
        name, least = _kind(kernel), MIN_OF_A_KIND
        if len(self._families.get(name, [])) < least:
            name, least = family(kernel), MIN_FOR_PROCESS
        members = self._families.get(name, [])
        if len(members) < MIN_FOR_MODEL or self._formula is None:
            return None
        if name not in self._models:
            mib = {kernel: self._mib.get(kernel, 0.0) for kernel in members}
            times_ms = {kernel: self.measured[kernel] for kernel in members}
            self._models[name] = _Family(times_ms, mib, self._formula, has_trend=len(members) >= least)
        return self._models[name]


def network_mib(kernels: Iterable[Kernel]) -> float:
    """What one run of a network moves."""
    return sum(kernel.bytes_moved for kernel in kernels) / 2**20


def unsure(guesses: Sequence[KernelGuess]) -> float:
    """By how much, relative, the sum of these may be off for what was not measured of it. The errors are taken to go together: one
    regression made them."""
    total = sum(guess.ms for guess in guesses)
    return sum(guess.ms * guess.relative_std for guess in guesses if guess.source != "table") / max(total, 1e-12)


def _kind(kernel: Kernel) -> str:
    """Narrower than its family: that operation, in that layout. Where enough of it was measured, it stands alone."""
    return f"{family(kernel)}: {kernel.op} {kernel.layout}"


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

    def __init__(
        self, times_ms: Mapping[Kernel, float], network_mib: Mapping[Kernel, float], formula: _Formula, has_trend: bool
    ) -> None:
        kernels = list(times_ms)
        ms = _ms(times_ms, kernels)
        self._formula, self._shift = formula, 0.0
        self._rates: np.ndarray | None = None
        if has_trend:
            self._rates = roofline.fit(np.array([work(k, network_mib[k]) for k in kernels]), ms)
            trend = roofline.log_ms(self._rates, np.array([work(k, network_mib[k]) for k in kernels]))
        else:
            self._shift = float(np.median(np.log(ms) - formula.log_ms(kernels)))
            trend = formula.log_ms(kernels) + self._shift
        rows = np.array([features(k, network_mib[k]) for k in kernels])
        self._process = GaussianProcess(rows, np.log(ms) - trend, np.array([*LENGTHS.values()]), STAIRCASE)

    def predict(self, kernel: Kernel, network_mib: float) -> tuple[float, float]:
        """Logarithm of ms, and its standard deviation."""
        if self._rates is None:
            trend = float(self._formula.log_ms([kernel])[0]) + self._shift
        else:
            trend = float(roofline.log_ms(self._rates, np.array([work(kernel, network_mib)]))[0])
        mean, std = self._process.predict(np.array(features(kernel, network_mib)))
        return trend + mean, std


def _table(columns_of: Callable[[Kernel], list[float]], kernels: Iterable[Kernel]) -> np.ndarray:
    return np.array([columns_of(kernel) for kernel in kernels])


def _ms(times_ms: Mapping[Kernel, float], kernels: Iterable[Kernel]) -> np.ndarray:
    return np.array([max(times_ms[kernel], LEAST_MS) for kernel in kernels])
