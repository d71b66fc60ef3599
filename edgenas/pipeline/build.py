"""`edgenas build`, read from top to bottom."""

from __future__ import annotations

from typing import Any

from edgenas.artifacts.kernel import Precision
from edgenas.errors import InfeasibleBudget
from edgenas.latency.fastest import FastestPredictor
from edgenas.network.graph import Network
from edgenas.pipeline.context import Build, opened_build
from edgenas.pipeline.measuring import check_feasibility, fast_precisions, measure_fast_precisions, profile_space
from edgenas.pipeline.request import BuildRequest, Effort
from edgenas.progress import Progress
from edgenas.search.evaluations import Candidate
from edgenas.search.evolution import SearchResult
from edgenas.spaces.space import Subnet


def build(request: BuildRequest, progress: Progress, effort: Effort | None = None) -> dict[str, Any]:
    """Runs every stage that isn't cached yet and returns result.json's content. Raises InputError for what can't be built."""
    with opened_build(request, progress, effort) as opened:
        return _build(opened)


def _build(build: Build) -> dict[str, Any]:
    from edgenas.pipeline.result import write_lock, write_result
    from edgenas.pipeline.shipping import ship, write_model_folder
    from edgenas.pipeline.specialising import specialise
    from edgenas.pipeline.training import focus, run_search, train
    from edgenas.report import write as write_report

    feasibility = check_feasibility(build)
    budget_ms = build.request.latency_ms or feasibility.largest_int8_ms / 2
    build.progress.say(f"  Budget: p50 of {budget_ms:.3g} ms on {build.request.device}")
    profile = profile_space(build)
    predictor = FastestPredictor({p: profile.predictors[p] for p in fast_precisions(build.machine)})
    supernet = train(build)
    focused = focus(build, supernet, predictor, budget_ms)

    rounds: list[dict[str, Any]] = []
    for number in range(1, build.effort.rounds + 1):
        last = number == build.effort.rounds
        found = run_search(build, focused, predictor, budget_ms, number)
        chosen = _best(found, budget_ms)
        candidate = build.space.network(chosen.subnet)
        measured_ms = _check(build, candidate, chosen.subnet)
        fastest_ms = min(measured_ms.values())
        rounds.append(_round(number, chosen.latency_ms, fastest_ms, budget_ms, "candidate, before it is trained"))
        if fastest_ms > budget_ms and not last:
            predictor = predictor.corrected(candidate, measured_ms)
            continue
        winner = specialise(build, focused.supernet, chosen.subnet, predictor, profile.key)
        shipment = ship(build, winner, profile.predictors)
        final = {v.precision: v.record for v in shipment.variants[-2:]}
        measured_ms = {p: final[p]["measured"]["p50_ms"] for p in measured_ms}
        fastest_ms = min(measured_ms.values())
        # where the slower one is shipped for its accuracy, and is over the budget, another search would change nothing
        if fastest_ms <= budget_ms or last:
            break
        predicted_ms = predictor.latency_ms(winner.final.network)
        rounds.append(_round(number, predicted_ms, fastest_ms, budget_ms, "after training and export"))
        predictor = predictor.corrected(winner.final.network, measured_ms)

    write_model_folder(build, shipment, winner)
    write_lock(build, budget_ms, profile, feasibility, shipment)
    result = write_result(build, budget_ms, profile, found, winner, shipment, rounds)
    write_report(build.request.out)
    return result


def _best(found: SearchResult, budget_ms: float) -> Candidate:
    """The most accurate of the front; it is within the budget by prediction."""
    if not found.front:
        raise InfeasibleBudget(
            f"no subnet of the space is predicted to meet {budget_ms:.3g} ms",
            "The smallest one was measured within the budget, so it is very close: ask for a little more.",
        )
    return max(found.front, key=lambda candidate: candidate.score)


def _check(build: Build, candidate: Network, subnet: Subnet) -> dict[Precision, float]:
    """Measured p50 (ms) a precision, before it is trained: a miss costs seconds now and minutes later."""
    stage = build.store.stage("check", [subnet.genome, build.space.id, build.machine.key])
    with build.progress.stage("check", "Measuring the candidate on the device", cached=stage.is_done):
        if not stage.is_done:
            stage.finish(measure_fast_precisions(build.machine, candidate))
    p50_ms: dict[Precision, float] = stage.outcome()
    return p50_ms


def _round(number: int, predicted_ms: float, measured_ms: float, budget_ms: float, note: str) -> dict[str, Any]:
    return {
        "round": number,
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "budget_ms": budget_ms,
        "note": note,
    }
