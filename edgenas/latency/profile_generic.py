"""Profiling for arbitrary models: random networks of the common families, each time the one that the table knows least about.

It stops when networks are predicted well before they are measured (each is predicted first, and only then added: Dawid's
prequential principle, 1984), when the time is over, or when there are enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.latency import records
from edgenas.latency.kernel_model import KernelModel, network_mib, unsure
from edgenas.latency.profile import PlannedNetwork, measure
from edgenas.latency.records import ProfiledNetwork
from edgenas.measure import Bench
from edgenas.network.costs import macs
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network
from edgenas.spaces.generic import FAMILIES, random_network

GENERIC = "generic/"  # names of these networks
CANDIDATES = 6
MOST_MACS = 900e6
REFITTED_EVERY = 20
JUDGED_ON = 30  # the latest networks


@dataclass(frozen=True)
class GenericPlan:
    """At most `count` networks and `max_s` seconds of measuring; enough when the latest were predicted within `good_pct` on average."""

    count: int = 160
    max_s: float | None = None
    good_pct: float = 2.5
    seed: int = 0


def profile_generic(
    bench: Bench,
    precisions: Sequence[Precision],
    plan: GenericPlan,
    weight_bits: int,
    path: Path,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[ProfiledNetwork]:
    """Measure what `path` doesn't hold yet, appending to it, and return all of it."""
    done = records.read(path)
    chooser = _Chooser(bench, precisions[0])
    have = list(dict.fromkeys(record.name for record in done))
    for name in have:
        chooser.add([record for record in done if record.name == name])
    start = time.monotonic()
    for step in range(len(have), plan.count):
        on_progress(step, plan.count, chooser.status())
        late = plan.max_s is not None and time.monotonic() - start > plan.max_s
        if late or chooser.error_pct() <= plan.good_pct:
            break
        network = chooser.chosen(candidates(plan.seed, step))
        found = measure(PlannedNetwork(f"{GENERIC}{step}", network), bench, precisions, weight_bits, seed=step)
        chooser.add(found)
        records.append(path, found)
        done.extend(found)
    on_progress(plan.count, plan.count, chooser.status())
    return done


def candidates(seed: int, step: int) -> list[Network]:
    """Of one family a step, in turn; the same whatever was measured before."""
    rng = np.random.default_rng([seed, step])
    family = list(FAMILIES)[step % len(FAMILIES)]
    found: list[Network] = []
    while len(found) < CANDIDATES:
        network = random_network(rng, family)
        if macs(network) <= MOST_MACS:
            found.append(network)
    return found


@dataclass
class _Chooser:
    """What is known so far in one precision, and what of several networks would add the most to it."""

    bench: Bench
    precision: Precision
    times_ms: dict[Kernel, list[float]] = field(default_factory=dict)
    mib: dict[Kernel, float] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    count: int = 0
    model: KernelModel | None = None

    def chosen(self, networks: Sequence[Network]) -> Network:
        return max(networks, key=self._interest)

    def _interest(self, network: Network) -> float:
        kernels = [fused.kernel for fused in fuse(network, self.bench.fusion(self.precision), self.precision)]
        if self.model is None:
            return float(len(set(kernels) - self.times_ms.keys()))
        return unsure(self.model.estimates(kernels, network_mib(kernels)))

    def add(self, found: Sequence[ProfiledNetwork]) -> None:
        self.count += 1
        record = next(r for r in found if r.precision == self.precision)
        if record.whole is None:
            return
        mib = network_mib(record.kernels)
        if self.model is not None:
            predicted_ms = sum(self.model.times_ms(record.kernels, mib))
            self.errors.append(abs(predicted_ms / record.whole.cpu_p50_ms - 1))
        quiet_ms = self.bench.quiet_reference_ms or record.whole.reference_ms
        for kernel, ms in zip(record.kernels, record.kernel_ms(quiet_ms), strict=True):
            if ms is not None:
                self.times_ms.setdefault(kernel, []).append(ms)
                self.mib.setdefault(kernel, mib)
        if self.count % REFITTED_EVERY == 0:
            self.model = KernelModel({k: float(np.mean(ms)) for k, ms in self.times_ms.items()}, self.mib)

    def error_pct(self) -> float:
        latest = self.errors[-JUDGED_ON:]
        return 100 * float(np.mean(latest)) if len(latest) == JUDGED_ON else float("inf")

    def status(self) -> str:
        latest = self.errors[-JUDGED_ON:]
        return f"unseen networks within {100 * float(np.mean(latest)):.1f} %" if latest else ""
