"""The energy budget: whether a device can tell what a run takes at all, and whether the smallest networks of the space meet it.

Energy is not predicted for candidates, so it doesn't steer the search: what is judged by it is the finished file, measured.
"""

from __future__ import annotations

from edgenas.errors import InfeasibleBudget, InputError
from edgenas.measure import untrained
from edgenas.pipeline.context import Build

SECONDS = 0.5  # for each network: enough to tell a budget that is far out of reach


def refuse_energy_out_of_reach(build: Build) -> None:
    """For each device. Raises InputError for one without data of energy, InfeasibleBudget where no smallest network meets it."""
    budget_mj = build.request.energy_mj
    if budget_mj is None:
        return
    for each in (build, *build.on_others):
        if each.machine.reached is None:
            raise InputError(
                f"--energy-mj needs measured energy, and device {each.request.device!r} has none: there is no target to measure it on",
                "Name one (--target ssh://user@host), or leave --energy-mj out.",
            )
        refuse_energy(each.request.device, budget_mj, _least_mj(each))


def refuse_energy(device: str, budget_mj: float, least_mj: float | None) -> None:
    """`least_mj`: what the most frugal of the smallest networks was measured to take, None where nothing tells."""
    if least_mj is None:
        raise InputError(
            f"--energy-mj needs measured energy, and device {device!r} has no energy counter or power rail that can be read",
            "Leave --energy-mj out. Where the processor has a counter (RAPL), its file energy_uj must be readable for you.",
        )
    if least_mj > budget_mj:
        raise InfeasibleBudget(
            f"no network of the space meets --energy-mj {budget_mj:g}: the most frugal one takes {least_mj:.3g} mJ on {device}",
            f"Ask for at least --energy-mj {least_mj * 1.1:.2g}.",
        )


def _least_mj(build: Build) -> float | None:
    machine, space = build.machine, build.space
    stage = build.store.stage("energy", {"space": space.id, "machine": machine.key})
    title = f"Measuring what the smallest networks take on {build.request.device}"
    with build.progress.stage("energy", title, cached=stage.is_done):
        if not stage.is_done:
            models = [
                (untrained(machine.runtime, space.network(subnet), p, machine.weight_bits), p)
                for subnet in space.smallest()
                for p in machine.precisions
            ]
            found = [machine.bench.energy(model, precision=p, seconds=SECONDS)[0] for model, p in models]
            stage.finish({"least_mj": min((mj for mj in found if mj is not None), default=None)})
    least_mj: float | None = stage.outcome()["least_mj"]
    return least_mj
