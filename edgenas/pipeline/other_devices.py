"""A build for several devices: what the others know, measure and get. Each is looked at as if it was built for alone, then limits the
search for the first one by its latency budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.kernel import Precision
from edgenas.latency.fastest import FastestPredictor
from edgenas.network.graph import Network
from edgenas.pipeline import budgets
from edgenas.pipeline.checking import preflight
from edgenas.pipeline.context import Build
from edgenas.pipeline.measuring import Feasibility, Profile, check_feasibility, measure_fast_precisions, profile_space
from edgenas.pipeline.predicting import known_profile, predicted_feasibility
from edgenas.search.budgets import LatencyLimit
from edgenas.spaces.space import Subnet

if TYPE_CHECKING:
    from edgenas.pipeline.shipping import Shipment


@dataclass(frozen=True)
class Other:
    """`build` is the build as this device sees it."""

    build: Build
    feasibility: Feasibility
    profile: Profile
    predictor: FastestPredictor
    budget_ms: float

    @property
    def limit(self) -> LatencyLimit:
        return budgets.latency_limit(self.build, self.predictor, self.profile.key, self.budget_ms)


@dataclass(frozen=True)
class Timed:
    """What a network was measured to take on one device."""

    other: Other
    network: Network
    measured_ms: dict[Precision, float]

    @property
    def fastest_ms(self) -> float:
        return min(self.measured_ms.values())

    @property
    def is_over(self) -> bool:
        return self.fastest_ms > self.other.budget_ms


def refuse_for_others(build: Build) -> list[str]:
    """The warnings of their preflights. Raises InputError for what one of them can't run, and InfeasibleBudget for what nothing meets
    there: before the first device is profiled."""
    warnings = []
    for each in build.on_others:
        warnings += [f"{each.request.device}: {text}" for text in preflight(each)]
        if each.machine.reached:
            check_feasibility(each)
        else:
            predicted_feasibility(each, known_profile(each))
    return warnings


def known_others(build: Build) -> tuple[Other, ...]:
    """Profiles those that can be reached, and takes what is known of the rest."""
    found = []
    for each in build.on_others:
        if each.machine.reached:
            feasibility, profile = check_feasibility(each), profile_space(each)
        else:
            profile = known_profile(each)
            feasibility = predicted_feasibility(each, profile)
        budget_ms = each.request.latency_ms or feasibility.default_budget_ms
        each.progress.say(f"  Budget: p50 of {budget_ms:.3g} ms on {each.request.device}")
        found.append(Other(each, feasibility, profile, FastestPredictor(profile.predictors), budget_ms))
    return tuple(found)


def limits_of(others: Sequence[Other]) -> list[LatencyLimit]:
    return [each.limit for each in others]


def check_on_others(others: Sequence[Other], subnet: Subnet) -> tuple[Timed, ...]:
    """Measures a candidate, before it is trained, on those that can be reached."""
    return tuple(_checked(other, subnet) for other in others if other.build.machine.reached)


def _checked(other: Other, subnet: Subnet) -> Timed:
    build, network = other.build, other.build.space.network(subnet)
    stage = build.store.stage("check", [subnet.genome, build.space.id, build.machine.key])
    title = f"Measuring the candidate on {build.request.device}"
    with build.progress.stage("check", title, cached=stage.is_done):
        if not stage.is_done:
            stage.finish(measure_fast_precisions(build.machine, [network])[0])
    return Timed(other, network, stage.outcome())


def timed_of(shipment: Shipment) -> dict[Precision, float]:
    """Measured p50 (ms) a precision."""
    return {v.precision: v.record["measured"]["p50_ms"] for v in shipment.eligible}


def timed_when_finished(elsewhere: Sequence[tuple[Other, Shipment]], network: Network) -> tuple[Timed, ...]:
    """What was measured of the files on those that can be reached."""
    return tuple(
        Timed(other, network, timed_of(shipment)) for other, shipment in elsewhere if other.build.machine.reached
    )


def corrected(others: Sequence[Other], timed: Sequence[Timed]) -> tuple[tuple[Other, ...], list[Timed]]:
    """Those that were too slow, and the devices with the predictors of these corrected by what was measured."""
    over = {each.other.build.request.device: each for each in timed if each.is_over}

    def mended(other: Other) -> Other:
        found = over.get(other.build.request.device)
        return replace(other, predictor=other.predictor.corrected(found.network, found.measured_ms)) if found else other

    return tuple(map(mended, others)), list(over.values())


def rows_of(number: int, timed: Sequence[Timed], note: str) -> list[dict[str, Any]]:
    """As result.json's `rounds` has them."""
    return [
        {
            "round": number,
            "device": each.other.build.request.device,
            "predicted_ms": each.other.predictor.latency_ms(each.network),
            "measured_ms": each.fastest_ms,
            "budget_ms": each.other.budget_ms,
            "provenance": each.other.build.machine.bench.target.provenance,
            "note": note,
        }
        for each in timed
    ]
