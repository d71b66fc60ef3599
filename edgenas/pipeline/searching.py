"""From a request to the candidate that a search ends with: what `build` and `search` have in common, read from top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgenas.artifacts.kernel import Precision
from edgenas.errors import InfeasibleBudget
from edgenas.latency.fastest import FastestPredictor
from edgenas.network.graph import Network
from edgenas.pipeline import budgets
from edgenas.pipeline.checking import preflight
from edgenas.pipeline.context import Build
from edgenas.pipeline.energy import refuse_energy_out_of_reach
from edgenas.pipeline.measuring import Feasibility, Profile, check_feasibility, measure_fast_precisions, profile_space
from edgenas.pipeline.offers import check_strategy, trainings
from edgenas.pipeline.other_devices import (
    Other,
    Timed,
    check_on_others,
    corrected,
    known_others,
    limits_of,
    refuse_for_others,
    rows_of,
)
from edgenas.pipeline.predicting import known_profile, predicted_feasibility
from edgenas.pipeline.space_settings import write_settings
from edgenas.search.evaluations import Candidate
from edgenas.search.promising import most_promising, promise
from edgenas.search.refine import Room
from edgenas.search.run import SearchResult
from edgenas.spaces.space import Subnet
from edgenas.store import key_of

if TYPE_CHECKING:
    from edgenas.pipeline.training import Focus

WASTEFUL_SHARE = (
    0.85  # of the predicted latency: a candidate that is measured below it means that the table is too slow
)
CHECKED = 2  # times as many as can be finalists: at the edge of the budget half of them take longer than predicted
BEFORE, AFTER = "candidate, before it is trained", "after training and export"


@dataclass(frozen=True)
class Ground:
    """What a search stands on: what is known of the device and of the others, the budget, and the trained supernet. `warnings` are the
    preflight's."""

    warnings: list[str]
    feasibility: Feasibility
    profile: Profile
    budget_ms: float
    predictor: FastestPredictor
    others: tuple[Other, ...]
    focused: Focus


@dataclass(frozen=True)
class Searched:
    """`found` in each round so far, and the `finalists` of the last one, the most accurate first, as many as are to be trained;
    `rounds` are result.json's rows. `is_last`: no further round is allowed."""

    found: tuple[SearchResult, ...]
    finalists: tuple[Candidate, ...]
    predictor: FastestPredictor
    others: tuple[Other, ...]
    rounds: tuple[dict[str, Any], ...]
    is_last: bool

    @property
    def last(self) -> SearchResult:
        return self.found[-1]

    @property
    def chosen(self) -> Candidate:
        return self.finalists[0]

    @property
    def is_trained(self) -> bool:
        """Whether scores are those of trainings of their own, not of shared weights."""
        return self.last.comparable[0].rung > 0


def prepare(build: Build) -> Ground:
    """Everything before the search. Raises InputError for what the device can't run, InfeasibleBudget for what nothing meets."""
    from edgenas.pipeline.training import focus, train

    check_strategy(build)
    write_settings(build)
    warnings = preflight(build)
    budgets.refuse_what_nothing_meets(build)
    warnings += refuse_for_others(build)
    refuse_energy_out_of_reach(build)
    if build.machine.reached:
        feasibility = check_feasibility(build)
        profile = profile_space(build)
    else:
        profile = known_profile(build)
        feasibility = predicted_feasibility(build, profile)
    budget_ms = build.request.latency_ms or feasibility.default_budget_ms
    build.progress.say(f"  Budget: p50 of {budget_ms:.3g} ms on {build.request.device}")
    predictor = FastestPredictor(profile.predictors)
    others = known_others(build)
    ours = budgets.latency_limit(build, predictor, profile.key, budget_ms)
    budgets.refuse_what_is_not_met_together(build, [ours, *limits_of(others)])
    supernet = train(build)
    focused = focus(build, supernet, predictor, budget_ms, limits_of(others))
    return Ground(warnings, feasibility, profile, budget_ms, predictor, others, focused)


def search_and_measure(build: Build, ground: Ground) -> Searched:
    """Searches and, where there are targets, measures the best candidates: where they take another time than predicted, the predictor
    is corrected and the search made again. Raises InfeasibleBudget if nothing is found."""
    return _search(build, ground, ground.predictor, ground.others, (), ())


def search_again(
    build: Build,
    ground: Ground,
    before: Searched,
    network: Network,
    measured_ms: Mapping[Precision, float],
    elsewhere: Sequence[Timed],
) -> Searched | None:
    """After what was exported turned out too slow, here or on another device; None where it did not, or was the last that may be tried.
    `measured_ms` is empty where nothing can be measured."""
    others, too_slow_elsewhere = corrected(before.others, elsewhere)
    # where the slower file is shipped for its accuracy, and is over the budget, another search would change nothing
    fastest_ms = min(measured_ms.values(), default=0.0)
    if before.is_last or (fastest_ms <= ground.budget_ms and not too_slow_elsewhere):
        return None
    predictor, number = before.predictor, len(before.found)
    rows = rows_of(number, too_slow_elsewhere, AFTER)
    if fastest_ms > ground.budget_ms:
        rows.append(_round(build, number, predictor.latency_ms(network), fastest_ms, ground.budget_ms, AFTER))
        predictor = predictor.corrected(network, measured_ms)
    try:
        return _search(build, ground, predictor, others, before.found, (*before.rounds, *rows))
    except InfeasibleBudget:
        return None  # the corrected predictor says that nothing meets it: what was built stands, over the budget


def room_for_newcomers(build: Build, ground: Ground, searched: Searched) -> Room | None:
    """None after a search whose scores are those of trainings of their own, not of shared weights: it has no need of them."""
    if searched.is_trained:
        return None
    limits = limits_of(searched.others)
    latency = budgets.latency_within(build, searched.predictor, ground.budget_ms, limits)

    def fitting(subnets: Sequence[Subnet]) -> list[Subnet]:
        checks = zip(subnets, _checked(build, subnets, searched.others), strict=True)
        return [subnet for subnet, check in checks if check.is_within(ground.budget_ms)]

    key = key_of([searched.predictor.key(), ground.budget_ms, budgets.key(build, limits)])
    return Room(latency.where_it_is_tightest, ground.budget_ms, fitting, key)


def with_winner(build: Build, ground: Ground, searched: Searched, winner: Subnet) -> Searched:
    """With a winner that joined the finalists after the search as one of them: what shared weights and the predictor say of it."""
    from edgenas.pipeline.training import score

    if any(candidate.subnet == winner for candidate in searched.finalists):
        return searched
    ms = searched.predictor.latency_ms(build.space.network(winner))
    newcomer = Candidate(winner, score(build, ground.focused.supernet, winner), ms)
    return replace(searched, finalists=(*searched.finalists, newcomer))


def _search(
    build: Build,
    ground: Ground,
    predictor: FastestPredictor,
    others: tuple[Other, ...],
    found: tuple[SearchResult, ...],
    rounds: tuple[dict[str, Any], ...],
) -> Searched:
    from edgenas.pipeline.training import run_search

    budget_ms = ground.budget_ms
    leading: Candidate | None = None
    while True:
        number = len(found) + 1
        focused, offered = ground.focused, trainings(build, ground.focused.supernet, predictor)
        latest = run_search(build, focused, predictor, budget_ms, number, limits_of(others), offered)
        if not latest.front:
            if leading is None:
                raise budgets.nothing_found(build, budget_ms)
            # the corrected predictor says that nothing meets it: the round before came closest
            return Searched(found, (leading,), predictor, others, rounds, True)
        found = (*found, latest)
        # all are within the budget by prediction
        worth = promise(build.space, latest.comparable)
        count = build.effort.fine_tune[0].finalists
        promising = most_promising(latest.comparable, CHECKED * count, worth)
        checks = list(zip(promising, _checked(build, [each.subnet for each in promising], others), strict=True))
        is_last = number >= build.effort.rounds
        fitting = [(candidate, check) for candidate, check in checks if check.is_within(budget_ms)]
        leading, leader = (fitting or checks)[0]
        rounds = (*rounds, *rows_of(number, leader.elsewhere, BEFORE))
        too_fast = False
        if leader.measured_ms:
            predicted_ms = leading.latency_ms
            rounds = (*rounds, _round(build, number, predicted_ms, leader.fastest_ms, budget_ms, BEFORE))
            # so much faster than predicted that the budget has room for a more accurate one
            too_fast = leader.fastest_ms < WASTEFUL_SHARE * min(predicted_ms, budget_ms)
        if is_last or (fitting and not too_fast):
            chosen = tuple(candidate for candidate, _ in fitting[:count]) or (leading,)
            return Searched(found, chosen, predictor, others, rounds, is_last)
        others, _ = corrected(others, leader.elsewhere)
        if leader.fastest_ms > budget_ms or too_fast:
            predictor = predictor.corrected(build.space.network(leading.subnet), leader.measured_ms)


@dataclass(frozen=True)
class _Check:
    """A subnet as measured before it is trained: p50 (ms) a precision, none where nothing can be measured, and on other devices."""

    measured_ms: Mapping[Precision, float]
    elsewhere: tuple[Timed, ...]

    @property
    def fastest_ms(self) -> float:
        return min(self.measured_ms.values(), default=0.0)

    def is_within(self, budget_ms: float) -> bool:
        return self.fastest_ms <= budget_ms and not any(timed.is_over for timed in self.elsewhere)


def _checked(build: Build, subnets: Sequence[Subnet], others: Sequence[Other]) -> list[_Check]:
    """Measured in one interleaved run: a miss costs seconds now and minutes later."""
    measured: list[dict[Precision, float]] = [{} for _ in subnets]
    if build.machine.reached and subnets:
        stage = build.store.stage("check", [[s.genome for s in subnets], build.space.id, build.machine.key])
        with build.progress.stage("check", "Measuring the best candidates on the device", cached=stage.is_done):
            if not stage.is_done:
                networks = [build.space.network(subnet) for subnet in subnets]
                stage.finish(measure_fast_precisions(build.machine, networks))
        measured = stage.outcome()
    return [_Check(ms, check_on_others(others, subnet)) for subnet, ms in zip(subnets, measured, strict=True)]


def _round(
    build: Build, number: int, predicted_ms: float, measured_ms: float, budget_ms: float, note: str
) -> dict[str, Any]:
    return {
        "round": number,
        "device": build.request.device,
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "budget_ms": budget_ms,
        "provenance": build.machine.bench.target.provenance,
        "note": note,
    }
