"""A Measurement: raw samples of one model on one device. Statistics are derived when read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from statistics import quantiles
from typing import Any, Literal

Provenance = Literal["measured", "calibrated", "modelled", "emulated"]

THROTTLED_SHARE = 0.05  # of the clock, and of the reference model's time


@dataclass(frozen=True)
class Measurement:
    """`samples_ns` is wall time and `cpu_ns` CPU time of the same runs, in order; before every `chunk` of them the reference
    model ran as often (`reference_cpu_ns`). With `error` set there are none."""

    samples_ns: tuple[int, ...] = ()
    cpu_ns: tuple[int, ...] = ()
    reference_cpu_ns: tuple[int, ...] = ()
    chunk: int = 1
    warmup_count: int = 0
    threads: int = 1
    temperature_c: tuple[float | None, float | None] = (None, None)
    clock_mhz: tuple[int | None, int | None] = (None, None)
    load: float | None = None
    peak_rss_mib: float | None = None
    provenance: Provenance = "measured"
    warnings: tuple[str, ...] = field(default=())
    error: str | None = None

    def percentile_ms(self, percent: int) -> float:
        """Of wall time."""
        return _percentile(self.samples_ns, percent) / 1e6

    @property
    def p50_ms(self) -> float:
        return self.percentile_ms(50)

    @property
    def cpu_p50_ms(self) -> float:
        return _percentile(self.cpu_ns, 50) / 1e6

    @property
    def contention(self) -> float:
        """Median wall over median CPU time: 1 on a quiet machine. Only one thread's CPU time can be compared so."""
        return self.p50_ms / self.cpu_p50_ms if self.threads == 1 and self.cpu_p50_ms > 0 else 1.0

    @property
    def throttled(self) -> bool:
        """Whether the device lowered its clock under the load: it was lower at the end, and the reference model slower."""
        before, after = self.clock_mhz
        if not before or not after or after > before * (1 - THROTTLED_SHARE):
            return False
        third = max(1, len(self.reference_cpu_ns) // 3)
        early, late = self.reference_cpu_ns[:third], self.reference_cpu_ns[-third:]
        return _percentile(late, 50) > _percentile(early, 50) * (1 + THROTTLED_SHARE)

    @property
    def reference_ms(self) -> float:
        """What the reference model took meanwhile (p10 of CPU time): how fast the machine was."""
        return _percentile(self.reference_cpu_ns, 10) / 1e6

    @property
    def reference_p50_ms(self) -> float:
        """Its median, which bursts of other work do reach, as they reach this model's."""
        return _percentile(self.reference_cpu_ns, 50) / 1e6

    @property
    def reference_ratio(self) -> float:
        """This model over the reference model, each by the p10 of its CPU time. Bursts of other work don't reach a p10 (it repeats
        within 0.4 % where medians move by 1.5 %), and a machine that is slow throughout slows both."""
        return _percentile(self.cpu_ns, 10) / _percentile(self.reference_cpu_ns, 10)

    @property
    def disagreement(self) -> float:
        """By how much, relative, the two halves of the run differ in `reference_ratio`. Quiet machines stay within 1 %."""
        half = len(self.cpu_ns) // 2 // self.chunk * self.chunk
        if not half:
            return 0.0
        first, second = (
            replace(self, cpu_ns=self.cpu_ns[part], reference_cpu_ns=self.reference_cpu_ns[part]).reference_ratio
            for part in (slice(half), slice(half, None))
        )
        return abs(first / second - 1)

    def steady_ms(self, quiet_reference_ms: float) -> float:
        """Latency on this machine at its quiet speed, at which the reference takes `quiet_reference_ms`: what predictors are
        fitted and judged on."""
        return self.reference_ratio * quiet_reference_ms

    def quiet_p50_ms(self, quiet_reference_ms: float) -> float:
        """p50 of wall time with the slowness of the machine taken out that the reference model shows: it took `quiet_reference_ms` when
        the machine was quiet."""
        return self.p50_ms * min(1.0, quiet_reference_ms / self.reference_ms)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Measurement:
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return Measurement(**values)


def _percentile(values: tuple[int, ...], percent: int) -> float:
    if len(values) == 1:
        return float(values[0])
    return float(quantiles(values, n=100, method="inclusive")[percent - 1])
