"""`edgenas profile`: the tables of a device's search space, into the user's folder."""

from __future__ import annotations

from typing import Any

from edgenas import device as devices
from edgenas.pipeline.context import load_dataset, opened_machine, space_for
from edgenas.pipeline.measuring import profile_inputs, run_profile, save_tables, work_folder
from edgenas.pipeline.request import EFFORTS
from edgenas.progress import Progress
from edgenas.store import Store


def profile_device(
    device: str,
    progress: Progress,
    *,
    target: str | None,
    data: str | None,
    effort: str,
    threads: int | None,
    seed: int,
) -> dict[str, Any]:
    """Raw records stay in a work folder beside the tables, so that a killed run goes on where it stopped."""
    chosen = EFFORTS[effort]
    folder = devices.user_folder("latency_tables") / device
    dataset = load_dataset(data, chosen, seed, progress)
    with opened_machine(device, target, threads) as machine:
        store = Store(work_folder(device))
        try:
            space = space_for(dataset)
            stage = store.stage("profile", profile_inputs(space, machine, chosen.plan))
            found = run_profile(space, machine, chosen.plan, stage, progress)
        finally:
            store.close()
    tables = [
        {"path": str(path), "precision": precision, "kernels": len(found.predictors[precision].kernels.measured)}
        | found.accuracy[precision]
        for path, precision in zip(save_tables(found, folder), found.predictors, strict=True)
    ]
    return {"device": device, "tables": tables, "failed": list(found.failed)}
