"""`edgenas build`, read from top to bottom."""

from __future__ import annotations

from typing import Any

from edgenas.pipeline.context import Build, opened_build
from edgenas.pipeline.other_devices import timed_of, timed_when_finished
from edgenas.pipeline.request import BuildRequest, Effort
from edgenas.pipeline.searching import prepare, room_for_newcomers, search_again, search_and_measure, with_winner
from edgenas.progress import Progress


def build(request: BuildRequest, progress: Progress, effort: Effort | None = None) -> dict[str, Any]:
    """Runs every stage that isn't cached yet and returns result.json's content. Raises InputError for what can't be built."""
    with opened_build(request, progress, effort) as opened:
        return _build(opened)


def _build(build: Build) -> dict[str, Any]:
    from edgenas.pipeline.front import write_front
    from edgenas.pipeline.model_folder import write_model_folder
    from edgenas.pipeline.result import write_lock, write_result
    from edgenas.pipeline.shipping import ship
    from edgenas.pipeline.specialising import specialise
    from edgenas.report import write as write_report
    from edgenas.report.front import write as write_front_page

    ground = prepare(build)
    searched = search_and_measure(build, ground)
    while True:
        subnets = [candidate.subnet for candidate in searched.finalists]
        room = room_for_newcomers(build, ground, searched)
        winner = specialise(build, ground.focused.supernet, subnets, searched.predictor, ground.profile.key, room)
        searched = with_winner(build, ground, searched, winner.subnet)
        shipment = ship(build, winner, ground.profile.predictors, ground.budget_ms)
        elsewhere = [(o, ship(o.build, winner, o.profile.predictors, o.budget_ms)) for o in searched.others]
        measured_ms = timed_of(shipment) if build.machine.reached else {}
        network = winner.final.network
        again = search_again(build, ground, searched, network, measured_ms, timed_when_finished(elsewhere, network))
        if again is None:
            break
        searched = again

    write_front(build, ground, searched, winner.subnet)
    write_front_page(build.request.out)
    write_model_folder(build, shipment, winner)
    for other, shipped in elsewhere:
        write_model_folder(other.build, shipped, winner)
    write_lock(build, ground.budget_ms, ground.profile, ground.feasibility, shipment, elsewhere)
    result = write_result(
        build,
        ground.budget_ms,
        ground.profile,
        searched,
        winner,
        shipment,
        ground.warnings,
        elsewhere,
    )
    write_report(build.request.out)
    return result
