"""Statistics of samples, and of predictions against measurements. Numpy arrays in, plain floats out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NOISY_RATIO = 1.10  # wall over CPU time, or reference model over its quiet time: above this a result is marked
SLOW_RATIO = 1.04  # reference model over its quiet time: above this a run is repeated; quiet machines repeat within 1 %


def percentile_ms(samples_ns: Sequence[int], percent: float) -> float:
    return float(np.percentile(np.asarray(samples_ns, float), percent)) / 1e6


def quiet_chunks(reference_ns: Sequence[int], chunk: int, quiet_ns: float) -> np.ndarray:
    """Which chunks of samples were taken on a quiet machine: the reference model was at its quiet speed right before and right after.

    `reference_ns` holds `chunk` times per chunk. Shared machines flip between two speeds within milliseconds.
    """
    before = np.median(np.reshape(reference_ns, (-1, chunk)), axis=1) <= SLOW_RATIO * quiet_ns
    after = np.append(before[1:], before[-1])
    quiet: np.ndarray = before & after
    return quiet


def within(predicted: np.ndarray, measured: np.ndarray, percent: float) -> float:
    """Share (0..1) of predictions that lie within ±percent of what was measured."""
    return float(np.mean(np.abs(predicted / measured - 1) <= percent / 100))


def mape_pct(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean(np.abs(predicted / measured - 1)) * 100)


def kendall_tau(predicted: np.ndarray, measured: np.ndarray) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, measured).statistic)


def accuracy_figures(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """The figures of `result.json`'s `predictor`, without the interval's coverage; shares are of one."""
    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    return {
        "mape_pct": mape_pct(p, m),
        "within_5pct": within(p, m, 5),
        "within_10pct": within(p, m, 10),
        "kendall_tau": kendall_tau(p, m),
        "n_held_out": len(m),
    }
