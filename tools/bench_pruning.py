"""What pruning down the latency staircase saves, against removing as many channels evenly.

    python tools/bench_pruning.py                                                      # profiles first: two minutes
    python tools/bench_pruning.py --records build/demo/stages/profile-*/records.jsonl  # with a finished build's measurements
    python tools/bench_pruning.py --importance-limit 0.3 --subnets 10 --json

Takes large random subnets, gives them deliberately odd widths (multiples of 4, not of 16) and random weights, and plans their
pruning as `edgenas build` does: a step is taken only where the predictor says that it saves time. Four networks are then
measured in INT8 in one interleaved run: as it was, pruned by the plan, and with as many channels taken evenly from all channel
groups, in multiples of 4 and to the single channel. Prints the channels removed and the milliseconds predicted and measured
to be saved; "steady" is the same from CPU times relative to the reference model, which other work hardly moves.

Random weights make all channels of a group about equally important, so the importance limit (the share of a group's squared
norm that may go; 0.15 in a build) bounds the share of its channels.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from edgenas.artifacts.measurement import Measurement
from edgenas.compress.prune import plan_pruning
from edgenas.latency import records
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile import odd_widths
from edgenas.nets.module import NetworkModule
from edgenas.network.channels import channel_groups, with_widths
from edgenas.network.costs import macs
from edgenas.network.graph import Network
from edgenas.pipeline.context import Machine, opened_machine
from edgenas.pipeline.measuring import Profile, measure_untrained, profile_inputs, run_profile
from edgenas.pipeline.request import EFFORTS
from edgenas.progress import Progress
from edgenas.spaces.mobile import MobileSpace, for_data
from edgenas.store import Store

BLOCK, STEP = 16, 4  # channels that INT8 kernels handle at once; the multiple that odd widths are of
DRAWN = 20  # of which the largest is taken
UNIFORM = {"uniform": STEP, "uniform_single": 1}
PRUNED = ("planned", *UNIFORM)
QUICK_PLAN = EFFORTS["quick"].plan


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option(
    "--records", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A finished profile's."
)
@click.option("--px", default=28, show_default=True, help="Side of the images, where there are no --records.")
@click.option("--channels", default=1, show_default=True, help="1 for grey images, 3 for colour.")
@click.option("--classes", default=10, show_default=True)
@click.option("--covering", default=QUICK_PLAN.covering, show_default=True, help="Networks that cover the kernels.")
@click.option("--odd", default=QUICK_PLAN.odd, show_default=True, help="Networks with widths in between.")
@click.option("--subnets", default=5, show_default=True, type=click.IntRange(1), help="How many are pruned.")
@click.option("--importance-limit", default=0.15, show_default=True, type=click.FloatRange(0, 1))
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(path: Path | None, as_json: bool, subnets: int, importance_limit: float, seed: int, **profiling: int) -> None:
    with opened_machine("host", None, None) as machine, tempfile.TemporaryDirectory() as folder:
        space, profile = profiled(machine, path, Path(folder), **profiling)
        predictor = profile.predictors["int8"]
        machine.bench.quiet_reference_ms = profile.quiet_reference_ms
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        rng = np.random.default_rng(seed)
        rows = [prune_one(machine, odd_subnet(space, rng), predictor, importance_limit, seed) for _ in range(subnets)]
    found = {
        "cpu": machine.probe["cpu_name"],
        "runtime_version": machine.version,
        "threads": machine.threads,
        "load": load,
        "importance_limit": importance_limit,
        "subnets": rows,
        "mean": mean(rows),
    }
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def profiled(
    machine: Machine, path: Path | None, folder: Path, px: int, channels: int, classes: int, covering: int, odd: int
) -> tuple[MobileSpace, Profile]:
    """The space and its profile: measured now, or from a finished one's records, which say for what images it was."""
    plan = replace(QUICK_PLAN, covering=covering, odd=odd, held_out=0)
    if path is not None:
        shapes = [(r.kernels[0].in_shape, r.kernels[-1].out_shape) for r in records.read(path) if r.kernels]
        (channels, px, _), (classes,) = max(shapes, key=lambda pair: pair[0][1])
    space = for_data(px, channels, classes)
    store = Store(folder)
    stage = store.stage("profile", profile_inputs(space, machine, plan))
    if path is not None:
        for source in (path, path.with_name("done.json")):  # copies, because tables are written beside the records
            if not source.exists():
                raise click.BadParameter(f"{source} is missing: the profile that {path} belongs to is not finished")
            shutil.copyfile(source, stage.path(source.name))
    found = run_profile(space, machine, plan, stage, Progress())
    store.close()
    return space, found


def odd_subnet(space: MobileSpace, rng: np.random.Generator) -> Network:
    """The largest of a few random subnets, no channel group of it at a multiple of 16."""
    drawn = [space.network(space.sample(rng)) for _ in range(DRAWN)]
    network = odd_widths(max(drawn, key=macs), rng, STEP)
    widths = {}
    for group in channel_groups(network):
        width = width_of(network, group)
        widths.update(dict.fromkeys(group, width + STEP if width % BLOCK == 0 else width))
    return with_widths(network, widths)


def prune_one(
    machine: Machine, network: Network, predictor: LatencyPredictor, importance_limit: float, seed: int
) -> dict[str, Any]:
    torch.manual_seed(seed)
    plan = plan_pruning(NetworkModule(network), predictor.latency_ms, importance_limit)
    removed = plan.channels_before - plan.channels_after
    candidates = {"planned": with_widths(network, plan.widths)} | {
        name: with_widths(network, uniform_widths(network, removed, multiple)) for name, multiple in UNIFORM.items()
    }
    before, *after = measure_untrained(machine, [(each, "int8") for each in (network, *candidates.values())])
    return {
        "channels": plan.channels_before,
        "channels_removed": removed,
        "channel_groups": len(channel_groups(network)),
        "macs": macs(network),
        "before_ms": before.p50_ms,
        "predicted_before_ms": plan.before_ms,
        "warnings": list(before.warnings),
        **{
            name: saving(machine, before, measured, plan.before_ms - predictor.latency_ms(smaller))
            | {"macs_removed": macs(network) - macs(smaller)}
            for (name, smaller), measured in zip(candidates.items(), after, strict=True)
        },
    }


def saving(machine: Machine, before: Measurement, after: Measurement, predicted_ms: float) -> dict[str, float]:
    quiet_ms = machine.bench.quiet_reference_ms or before.reference_ms
    steady_before_ms, steady_after_ms = before.steady_ms(quiet_ms), after.steady_ms(quiet_ms)
    return {
        "predicted_saved_ms": predicted_ms,
        "saved_ms": before.p50_ms - after.p50_ms,
        "steady_saved_ms": steady_before_ms - steady_after_ms,
        "steady_saved_share": 1 - steady_after_ms / steady_before_ms,
    }


def uniform_widths(network: Network, removed: int, multiple: int) -> Mapping[str, int]:
    """`removed` channels in all, from each group in proportion to its width, rounded to multiples (largest remainders first)."""
    groups = channel_groups(network)
    full = [width_of(network, group) for group in groups]
    steps = removed // multiple
    quotas = [steps * width / sum(full) for width in full]
    taken = [int(quota) for quota in quotas]
    remainders = sorted(range(len(full)), key=lambda i: taken[i] - quotas[i])
    for i in remainders[: steps - sum(taken)]:
        taken[i] += 1
    return {
        name: width - less * multiple for group, width, less in zip(groups, full, taken, strict=True) for name in group
    }


def width_of(network: Network, group: Sequence[str]) -> int:
    return network.by_name[group[0]].shape[1]


def mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {key: float(np.mean([r[key] for r in rows])) for key in ("channels_removed", "before_ms")}
    for name in PRUNED:
        figures[name] = {key: float(np.mean([r[name][key] for r in rows])) for key in rows[0][name]}
    return figures


def text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['cpu']}, ONNX Runtime {found['runtime_version']}, {found['threads']} thread(s), load {found['load']}; INT8, "
        f"importance limit {found['importance_limit']}",
        "",
        f"{'saved ms':37}{'by the plan':^32}{f'evenly, multiples of {STEP}':^32}{'evenly, single channels':^32}",
        f"{'':8}{'channels':>10}{'removed':>9}{'p50 ms':>10}" + 3 * f"{'predicted':>14}{'measured':>10}{'steady':>8}",
    ]
    for i, row in enumerate([*found["subnets"], found["mean"]]):
        name = "mean" if row is found["mean"] else f"{i + 1}"
        line = f"{name:8}{row.get('channels', ''):>10}{row['channels_removed']:>9.0f}{row['before_ms']:>10.4f}"
        for side in (row[name] for name in PRUNED):
            line += f"{side['predicted_saved_ms']:>14.4f}{side['saved_ms']:>10.4f}{side['steady_saved_ms']:>8.4f}"
        lines.append(line)
    plan, even, single = (found["mean"][name]["steady_saved_share"] for name in PRUNED)
    lines += [
        "",
        f"Saved on average (steady): {plan:.1%} by the plan; evenly {even:.1%}, by single channels {single:.1%}",
    ]
    lines += [f"warning: {i + 1}: {note}" for i, row in enumerate(found["subnets"]) for note in row["warnings"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
