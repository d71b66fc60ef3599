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


def spearman(predicted: np.ndarray, measured: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, measured).statistic)


RESAMPLES = 1000


def rank_figures(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> dict[str, float | None]:
    """How alike two orders are: Spearman's and Kendall's (tau-b) coefficients, each with its 95 % interval (percentile bootstrap over
    pairs, Efron 1979), and n. None where they are not defined: for fewer than three pairs, or where one side is all the same."""
    x, y = np.asarray(one, float), np.asarray(other, float)
    figures: dict[str, float | None] = {"n": len(x)}
    if len(x) < 3 or len(np.unique(x)) == 1 or len(np.unique(y)) == 1:
        return figures | {f"{name}{end}": None for name in ("spearman", "kendall_tau") for end in ("", "_low", "_high")}
    rows = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    for name, value, resampled in (
        ("spearman", spearman(x, y), resampled_spearman(x, y, rows)),
        ("kendall_tau", kendall_tau(x, y), resampled_kendall_tau(x, y, rows)),
    ):
        low, high = np.nanquantile(resampled, (0.025, 0.975))
        figures |= {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
    return figures


def resampled_spearman(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,), (N,) and row numbers (samples, N) -> (samples,); NaN for a sample that is all the same on one side."""
    from scipy.stats import rankdata

    a, b = (rankdata(values[rows], axis=1) for values in (x, y))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        found: np.ndarray = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return found


def resampled_kendall_tau(x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same for Kendall's tau-b. A pair counts as often as both of its rows were drawn, so all samples are three products of
    matrices."""
    from scipy.stats import rankdata

    counts = np.stack([np.bincount(row, minlength=len(x)) for row in rows]).astype(float)
    signs = [np.sign(np.subtract.outer(ranks, ranks)) for ranks in (rankdata(x), rankdata(y))]
    of_both, of_x, of_y = (
        ((counts @ pairs) * counts).sum(axis=1) for pairs in (signs[0] * signs[1], abs(signs[0]), abs(signs[1]))
    )
    with np.errstate(invalid="ignore"):
        found: np.ndarray = of_both / np.sqrt(of_x * of_y)
    return found


def mean_difference(one: Sequence[float], other: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """mean(one) - mean(other) with its 95 % bootstrap interval: (difference, low, high)."""
    a, b = np.asarray(one, float), np.asarray(other, float)
    rng = np.random.default_rng(seed)
    means = [v[rng.integers(len(v), size=(RESAMPLES, len(v)))].mean(axis=1) for v in (a, b)]
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return float(a.mean() - b.mean()), float(low), float(high)


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
