"""The budgets of a build besides latency: what they limit, whether they can be met at all, and whether a finished file meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgenas.artifacts.kernel import BYTES_PER_VALUE, Precision
from edgenas.artifacts.verdict import VALUES
from edgenas.errors import InfeasibleBudget
from edgenas.latency.fastest import FastestPredictor
from edgenas.network import costs
from edgenas.network.graph import Network
from edgenas.onnxio.size import file_bytes
from edgenas.pipeline.context import Build
from edgenas.search.budgets import Budget, LatencyLimit, Shares, WithinBudgets, closest, closest_together
from edgenas.store import key_of

SAMPLES = 300


def budgets_of(build: Build) -> tuple[Budget, ...]:
    """Those that were asked for. Size and memory are those in the narrowest precision that is worth it on the device; of several
    devices on the one where that is the widest."""
    narrowest = [machine.narrowest for machine in (build.machine, *build.other_machines)]
    precision: Precision = max(narrowest, key=lambda each: BYTES_PER_VALUE[each])
    values = BYTES_PER_VALUE[precision]
    of: dict[str, tuple[str, str, Callable[[Network], float]]] = {
        "size_mib": ("the model file", "MiB", lambda network: file_bytes(network, precision) / 2**20),
        "peak_memory_mib": (
            "peak activation memory",
            "MiB",
            lambda network: costs.activation_peak_bytes(network, values) / 2**20,
        ),
        "macs_m": ("the number of MACs", "M", lambda network: costs.macs(network) / 1e6),
        "params_m": ("the number of parameters", "M", lambda network: costs.params(network) / 1e6),
    }
    asked = {key: getattr(build.request, key) for key in of}
    return tuple(
        Budget(f"--{key.replace('_', '-')}", name, unit, asked[key], value)
        for key, (name, unit, value) in of.items()
        if asked[key] is not None
    )


def refuse_what_nothing_meets(build: Build) -> None:
    """Raises InfeasibleBudget for a budget below what the smallest subnets and many random ones reach, with the closest of each."""
    budgets, space = budgets_of(build), build.space
    if not budgets:
        return
    rng = np.random.default_rng(build.request.seed)
    subnets = [*space.smallest(), *(space.sample(rng) for _ in range(SAMPLES))]
    reached = closest([space.network(subnet) for subnet in subnets], budgets)
    broken = [budget for budget in budgets if reached[budget.flag] > budget.limit]
    if broken:
        said = "; ".join(
            f"{budget.name} is at least {reached[budget.flag]:.3g} {budget.unit} ({budget.flag} {budget.limit:g})"
            for budget in broken
        )
        least = " ".join(f"{budget.flag} {reached[budget.flag] * 1.1:.2g}" for budget in broken)
        raise InfeasibleBudget(f"no network of the space meets the budget: {said}", f"Ask for at least {least}.")


def nothing_found(build: Build, budget_ms: float) -> InfeasibleBudget:
    """For a search that found nothing though each budget can be met alone."""
    others = [f"{budget.flag} {budget.limit:g}" for budget in budgets_of(build)]
    others += [f"--latency-ms {each.device}={each.latency_ms:g}" for each in build.request.others if each.latency_ms]
    if others:
        together = ", ".join(others)
        return InfeasibleBudget(
            f"no subnet was found that is predicted to meet {budget_ms:.3g} ms together with {together}",
            "Each of them can be met alone: give one of them more room.",
        )
    return InfeasibleBudget(
        f"no subnet of the space is predicted to meet {budget_ms:.3g} ms",
        "The smallest one is within the budget, so it is very close: ask for a little more.",
    )


def latency_limit(build: Build, predictor: FastestPredictor, profile_key: str, budget_ms: float) -> LatencyLimit:
    """That of the build's device."""
    name = f"the latency on {build.request.device}"
    key = key_of([build.machine.key, profile_key, predictor.key()])
    return LatencyLimit(build.request.latency_flag, name, budget_ms, predictor.over(build.space), key)


def refuse_what_is_not_met_together(build: Build, latencies: Sequence[LatencyLimit]) -> None:
    """`latencies` are those of all devices. Raises InfeasibleBudget where each limit can be met alone but not all of them, with how
    close each comes."""
    limits: list[Budget | LatencyLimit] = [*budgets_of(build), *latencies]
    if len(limits) == 1:
        return
    shares = Shares(build.space, budgets_of(build), latencies)
    found = closest_together(shares, np.random.default_rng(build.request.seed))
    if found is None:
        return
    near = [(each, each.limit * share) for each, share in zip(limits, found.shares, strict=True) if share > 1]
    where = "where the others are met" if found.others_met else "on the network that comes closest"
    raise InfeasibleBudget(
        f"no network was found that meets {', '.join(each.asking(each.limit) for each in limits)} together: {where}, "
        + "; ".join(f"{each.name} is {value:.3g} {each.unit}" for each, value in near),
        f"Give more room: {(' or ' if found.others_met else ' and ').join(each.asking(value * 1.05) for each, value in near)}.",
    )


def latency_within(
    build: Build, predictor: FastestPredictor, budget_ms: float, elsewhere: Sequence[LatencyLimit]
) -> WithinBudgets:
    """Predicted latencies of the space, over the budget where another budget is broken."""
    return WithinBudgets(build.space, predictor.over(build.space), budgets_of(build), budget_ms, elsewhere)


def key(build: Build, elsewhere: Sequence[LatencyLimit]) -> dict[str, Any]:
    """What tells apart two searches for the same latency."""
    limits: dict[str, Any] = {budget.flag: budget.limit for budget in budgets_of(build)}
    limits |= {each.flag: [each.limit, each.key] for each in elsewhere}
    return limits | {"machine": build.machine.key, "objective": build.request.objective}


def asked(build: Build) -> dict[str, float]:
    """As result.json has them."""
    found = {name: getattr(build.request, name) for name in VALUES}
    return {name: limit for name, limit in found.items() if limit is not None}
