"""How well, and how fast, the latency predictor answers for networks that it has never seen.

    python tools/bench_predictor.py                       # the space of 28 px grey images, 30 unseen networks
    python tools/bench_predictor.py --px 64 --channels 3 --held-out 50 --json

Profiles the search space for images of that size on this machine into a temporary folder, as `edgenas build --effort quick`
does, and predicts random subnets that nothing was fitted on. Beside the predictor's figures stand, from the same run,

- the noise floor: the same networks measured a second time, the first measurement taken as the prediction;
- three baselines fitted on the same whole networks, by least squares of relative errors: latency affine in MACs, in MACs and
  bytes moved, and with non-negative rates for each type of operation;
- networks at the corners of the space, and networks found by searching against the predictor, timed in other processes.

Latencies are those at the machine's quiet speed (`Measurement.steady_ms`). Speed is subnets per second of CPU time, all threads
counted, so it is that of one core: `cold` is a batch with nothing worked out yet, `warm` a batch of other subnets after it.
Takes two to three minutes on a quiet machine; leave it alone meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.latency import profile, records
from edgenas.latency.kernel_model import KernelModel
from edgenas.latency.predictor import LatencyPredictor
from edgenas.latency.profile import ProfilePlan
from edgenas.latency.records import ProfiledNetwork
from edgenas.latency.space_predictor import SpacePredictor
from edgenas.measure import QUICK, most_tries
from edgenas.network.costs import macs
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.pipeline.context import Machine, opened_machine
from edgenas.pipeline.measuring import Profile, profile_inputs, run_profile
from edgenas.pipeline.request import EFFORTS
from edgenas.progress import Progress
from edgenas.spaces.mobile import MobileSpace, for_data
from edgenas.spaces.space import Subnet
from edgenas.stats import accuracy_figures
from edgenas.store import Store

CLIMBED = 150  # steps of each search
WARM_BATCHES = 3
QUICK_PLAN = EFFORTS["quick"].plan


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--px", default=28, show_default=True, help="Side of the images.")
@click.option("--channels", default=1, show_default=True, help="1 for grey images, 3 for colour.")
@click.option("--classes", default=10, show_default=True)
@click.option("--covering", default=QUICK_PLAN.covering, show_default=True, help="Networks that cover the kernels.")
@click.option("--odd", default=QUICK_PLAN.odd, show_default=True, help="Networks with widths in between.")
@click.option("--held-out", default=30, show_default=True, type=click.IntRange(2), help="Networks only predicted.")
@click.option("--batch", default=100_000, show_default=True, help="Subnets predicted at once, for the speed.")
@click.option("--special", "special_count", default=24, show_default=True, help="Corner and searched networks, each.")
@click.option("--busy", is_flag=True, help="Keep another core busy meanwhile.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    px: int,
    channels: int,
    classes: int,
    covering: int,
    odd: int,
    held_out: int,
    batch: int,
    special_count: int,
    busy: bool,
    as_json: bool,
) -> None:
    space = for_data(px, channels, classes)
    plan = ProfilePlan(covering=covering, odd=odd, held_out=held_out)
    with (
        opened_machine("host", None, None) as machine,
        tempfile.TemporaryDirectory() as folder,
        other_core_busy(busy),
    ):
        found = bench(space, machine, plan, batch, special_count, Path(folder))
    found = {"px": px, "channels": channels, "classes": classes, **found}
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def bench(
    space: MobileSpace, machine: Machine, plan: ProfilePlan, batch: int, special_count: int, folder: Path
) -> dict[str, Any]:
    store = Store(folder)
    stage = store.stage("profile", profile_inputs(space, machine, plan))
    load, start = load_average(), time.monotonic()
    profiled = run_profile(space, machine, plan, stage, Progress())
    seconds = time.monotonic() - start
    second = profile.profile(
        space,
        machine.bench,
        machine.precisions,
        replace(plan, covering=0, odd=0),
        machine.weight_bits,
        folder / "again.jsonl",
    )
    store.close()
    first = records.read(stage.path("records.jsonl"))
    quiet_ms = profiled.quiet_reference_ms
    precisions = {}
    for precision in machine.precisions:
        fitted, unseen = split(first, precision)
        repeated = {r.name: r for r in split(second, precision)[1]}
        unseen = [r for r in unseen if r.name in repeated]
        measured = [steady_ms(r, quiet_ms) for r in unseen]
        precisions[precision] = {
            "predictor": profiled.accuracy[precision],
            "noise_floor": accuracy_figures(measured, [steady_ms(repeated[r.name], quiet_ms) for r in unseen]),
            "baselines": {
                name: accuracy_figures(regression(features, fitted, quiet_ms)(unseen), measured)
                for name, features in BASELINES.items()
            },
            "latency_ms": [min(measured), float(np.median(measured)), max(measured)],
            "networks_fitted": len(fitted),
            "kernels": len(profiled.predictors[precision].kernels.measured),
        }
    marked = [r for r in [*first, *second] if r.whole is not None and r.whole.warnings]
    return {
        "cpu": machine.probe["cpu_name"],
        "runtime_version": machine.version,
        "threads": machine.threads,
        "plan": asdict(plan),
        "measuring_s": seconds,
        "load": [load, load_average()],
        "busy_share": len(marked) / len([*first, *second]),
        "failed": list(profiled.failed),
        "precisions": precisions,
        "special": special(space, machine, profiled, special_count) if special_count else {},
        "speed": speed(space, profiled.predictors["int8"], batch),
    }


def special(space: MobileSpace, machine: Machine, profiled: Profile, count: int) -> dict[str, dict[str, Any]]:
    """Corners of the space, and networks found by searching against the predictor, timed in a process of their own."""
    rng = np.random.default_rng(7)
    groups = {
        "corners": corners(space, count, rng),
        "searched": searched(space, profiled.predictors["int8"], count, rng),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, subnets in groups.items():
        found[name] = {}
        for precision, predictor in profiled.predictors.items():
            apart = []
            for subnet in subnets:
                network = space.network(subnet)
                weights, ranges = random_weights(network), random_ranges(network)
                model = (
                    machine.bench.runtime.fp32_model(network, weights)
                    if precision == "fp32"
                    else machine.bench.runtime.int8_model(network, weights, ranges, machine.weight_bits)
                )
                (timed,) = machine.bench.time_models([model], QUICK, tries=most_tries(), fresh_process=True)
                apart.append(predictor.latency_ms(network) / timed.steady_ms(profiled.quiet_reference_ms) - 1)
            errors = np.abs(apart)
            found[name][precision] = {
                "networks": len(subnets),
                "within_10pct": float(np.mean(errors <= 0.1)),
                "worst_pct": float(100 * errors.max()),
            }
    return found


def corners(space: MobileSpace, count: int, rng: np.random.Generator) -> list[Subnet]:
    """The smallest, the largest, and networks whose every choice is the first or the last there is."""
    found = {subnet.id: subnet for subnet in (*space.smallest(), space.largest())}
    while len(found) < count:
        genome = tuple(int(rng.choice((0, options - 1))) for options in space.radix())
        found.setdefault((subnet := space.subnet(genome)).id, subnet)
    return list(found.values())[:count]


def searched(space: MobileSpace, predictor: LatencyPredictor, count: int, rng: np.random.Generator) -> list[Subnet]:
    """Hill climbing towards the most MACs in the least predicted time: where a predictor errs, it is found out."""
    asked = SpacePredictor(space, predictor)
    found = []
    for _ in range(count):
        best = space.sample(rng)
        rate = 0.0
        for _ in range(CLIMBED):
            other = space.mutate(best, rng, 0.1)
            gain = macs(space.network(other)) / float(asked.latency_ms(np.array([other.genome]))[0])
            if gain > rate:
                best, rate = other, gain
        found.append(best)
    return found


@contextmanager
def other_core_busy(wanted: bool) -> Iterator[None]:
    """Another process that computes all the time meanwhile."""
    if not wanted:
        yield
        return
    code = "import numpy as np\na = np.random.rand(512, 512)\nwhile True: a = np.tanh(a @ a)"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def split(
    found: Sequence[ProfiledNetwork], precision: Precision
) -> tuple[list[ProfiledNetwork], list[ProfiledNetwork]]:
    """(fitted on, never fitted on) of one precision."""
    used = [r for r in found if r.precision == precision and r.whole is not None]
    unseen = [r for r in used if r.name.startswith(profile.HELD_OUT)]
    return [r for r in used if not r.name.startswith(profile.HELD_OUT)], unseen


def steady_ms(record: ProfiledNetwork, quiet_ms: float) -> float:
    assert record.whole is not None
    return record.whole.steady_ms(quiet_ms)


def macs_alone(record: ProfiledNetwork) -> list[float]:
    return [sum(k.macs for k in record.kernels), 1.0]


def macs_and_bytes(record: ProfiledNetwork) -> list[float]:
    return [sum(k.macs for k in record.kernels), sum(k.bytes_moved for k in record.kernels), 1.0]


def per_operation(record: ProfiledNetwork) -> list[float]:
    """MACs (of a convolution by kind and kernel size), bytes and number of each type of operation."""
    found = dict.fromkeys([(kind, what) for kind in OPERATIONS for what in range(3)], 0.0)
    for k in record.kernels:
        kind = next((o for o in OPERATIONS if o == operation(k)), OPERATIONS[-1])
        found[kind, 0] += k.macs
        found[kind, 1] += k.bytes_moved
        found[kind, 2] += 1
    return [*found.values(), 1.0]


def operation(kernel: Kernel) -> str:
    if kernel.op != "Conv":
        return kernel.op
    return f"{'depthwise ' if kernel.groups > 1 else ''}Conv {kernel.kernel_size_hw[0]}"


OPERATIONS = (
    *("Conv 1", "Conv 3", "Conv 5", "Conv 7", "depthwise Conv 3", "depthwise Conv 5", "depthwise Conv 7"),
    *("Gemm", "Add", "GlobalAveragePool", "other"),
)
BASELINES: dict[str, Callable[[ProfiledNetwork], list[float]]] = {
    "macs": macs_alone,
    "macs_bytes": macs_and_bytes,
    "per_operation": per_operation,
}


def regression(
    features: Callable[[ProfiledNetwork], list[float]], fitted: Sequence[ProfiledNetwork], quiet_ms: float
) -> Callable[[Sequence[ProfiledNetwork]], list[float]]:
    """Records -> ms, by least squares of relative errors over `fitted`; with one rate an operation none is negative."""
    from scipy.optimize import nnls

    measured = np.array([steady_ms(r, quiet_ms) for r in fitted])
    design = np.array([features(r) for r in fitted], float)
    scale = np.abs(design).max(axis=0)  # MACs and a constant are ten orders apart
    scale[scale == 0] = 1.0
    relative, ones = design / scale / measured[:, None], np.ones(len(measured))
    solved = nnls(relative, ones)[0] if features is per_operation else np.linalg.lstsq(relative, ones, rcond=None)[0]
    coefficients = solved / scale
    return lambda unseen: [float(np.array(features(r)) @ coefficients) for r in unseen]


def speed(space: MobileSpace, predictor: LatencyPredictor, batch: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    batches = [np.array([space.sample(rng).genome for _ in range(batch)]) for _ in range(1 + WARM_BATCHES)]
    fresh = replace(predictor, kernels=KernelModel(predictor.kernels.measured))
    asked = SpacePredictor(space, fresh)
    seconds = []
    for genomes in batches:
        start = time.process_time()
        asked.latency_ms(genomes)
        seconds.append(time.process_time() - start)
    return {"batch": batch, "cold_subnets_per_s": batch / seconds[0], "warm_subnets_per_s": batch / min(seconds[1:])}


def load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def text(found: dict[str, Any]) -> str:
    plan = found["plan"]
    lines = [
        f"{found['cpu']}, ONNX Runtime {found['runtime_version']}, {found['threads']} thread(s); "
        f"{found['channels']} x {found['px']} x {found['px']}",
        f"{plan['covering']} + {plan['odd']} networks profiled, {plan['held_out']} only predicted, "
        f"in {found['measuring_s']:.0f} s; load {found['load'][0]} before, {found['load'][1]} after; "
        f"{found['busy_share']:.0%} of the measurements on a busy machine",
        "",
        f"{'':32}{'MAPE':>8}{'in 5 %':>8}{'in 10 %':>8}{'tau':>7}{'in 80 % interval':>18}",
    ]
    for precision, entry in found["precisions"].items():
        rows = {"predictor": entry["predictor"], "the same, measured again": entry["noise_floor"]}
        rows |= {"affine in MACs": entry["baselines"]["macs"]}
        rows |= {"affine in MACs and bytes": entry["baselines"]["macs_bytes"]}
        rows |= {"a rate per operation (NNLS)": entry["baselines"]["per_operation"]}
        for name, f in rows.items():
            covered = f"{f['coverage_80']:.0%}" if "coverage_80" in f else ""
            lines.append(
                f"{precision.upper() + ' ' + name:32}{f['mape_pct']:>6.2f} %{f['within_5pct']:>8.0%}"
                f"{f['within_10pct']:>8.0%}{f['kendall_tau']:>7.3f}{covered:>18}"
            )
    lines.append("")
    for name, each in found["special"].items():
        for precision, f in each.items():
            lines.append(
                f"{precision.upper()} {f['networks']} {name}: {f['within_10pct']:.0%} within 10 %, worst {f['worst_pct']:.1f} %"
            )
    rates = found["speed"]
    lines += [
        "",
        f"Speed on one core, batches of {rates['batch']:,}: {rates['warm_subnets_per_s']:,.0f} subnets/s, "
        f"{rates['cold_subnets_per_s']:,.0f} with nothing worked out yet",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
