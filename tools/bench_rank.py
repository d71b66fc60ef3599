"""How well a supernet ranks its subnets, against training each of them alone; and what both cost.

    python tools/bench_rank.py --work build/rank                # the bundled sample, quick effort: about two hours of one core
    python tools/bench_rank.py --work build/rank --subnets 10 --json

Draws subnets of the space, half of them over the whole range of latencies and half within 20 % of the default budget,
and trains each of them alone with the recipe of a build's last step, twice with different seeds. Prints Kendall's tau
between their accuracies alone and those that the supernet gives (as it is after its own training, and after training
on around the best under the budget), over all and within the band; the same for the promise by which a build chooses
its finalists, which is made of the latter and of MACs; and beside it the ceiling: tau between the two seeds, which is
what no ranking can beat. Intervals (90 %) are of bootstrap samples of the subnets. Accuracies are of validation images;
the test part is not looked at.

What is finished lies in --work: started again, the tool goes on from there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from alone import Alone
from scipy.stats import kendalltau

from edgenas.latency.fastest import FastestPredictor
from edgenas.nets.evaluate import predict
from edgenas.nets.feed import evaluation_images
from edgenas.nets.module import NetworkModule
from edgenas.pipeline.context import Build, opened_build
from edgenas.pipeline.measuring import check_feasibility, profile_space
from edgenas.pipeline.request import EFFORTS, BuildRequest, epochs_for
from edgenas.pipeline.training import Supernet, focus, train
from edgenas.progress import Progress
from edgenas.search.evaluations import Candidate
from edgenas.search.explore import feasible
from edgenas.search.promising import promise
from edgenas.spaces.space import SearchSpace, Subnet
from edgenas.store import write_text
from edgenas.supernet.evaluate import score

BAND = 0.2  # of the budget, to both sides
POOL = 3000
BOOTSTRAPS = 2000
ROWS = "rows.json"


@dataclass(frozen=True)
class Grounds:
    """A trained supernet, as it is and focused on the budget, and what is known of latencies."""

    build: Build
    supernet: Supernet
    focused: Supernet
    predictor: FastestPredictor
    budget_ms: float


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where everything is kept.")
@click.option("--data", help="As `edgenas build` takes it. Default: the bundled sample of Fashion-MNIST.")
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="quick", show_default=True)
@click.option("--subnets", default=30, show_default=True, type=click.IntRange(4))
@click.option("--epochs", type=click.IntRange(1), help="Of training alone. Default: as many as the effort's last step.")
@click.option("--supernet-epochs", type=click.IntRange(1), help="Default: the effort's.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    work: Path,
    data: str | None,
    effort: str,
    subnets: int,
    epochs: int | None,
    supernet_epochs: int | None,
    seed: int,
    as_json: bool,
) -> None:
    chosen = EFFORTS[effort]
    if supernet_epochs is not None:
        shorter, focused = (replace(each, epochs=supernet_epochs) for each in (chosen.supernet, chosen.focus))
        chosen = replace(chosen, supernet=shorter, focus=focused)
    request = BuildRequest("host", work, data=data, effort=effort, seed=seed)
    with opened_build(request, Progress(), chosen) as build:
        grounds = prepared(build)
        rows = trained_rows(grounds, drawn(grounds, subnets), epochs)
        found = {
            "cpu": build.machine.probe["cpu_name"],
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "space": build.space_name,
            "train_images": len(build.dataset.train),
            "budget_ms": grounds.budget_ms,
            "subnets": len(rows),
            "whole_range": taus(rows, None),
            "band": taus([row for row in rows if row["in_band"]], BAND),
            "seconds": training_seconds(work) | alone_seconds(rows),
            "rows": rows,
        }
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def prepared(build: Build) -> Grounds:
    feasibility = check_feasibility(build)
    profile = profile_space(build)
    predictor = FastestPredictor(profile.predictors)
    budget_ms = feasibility.default_budget_ms
    supernet = timed(build.request.out, "supernet", lambda: train(build))
    focused = timed(build.request.out, "focus", lambda: focus(build, supernet, predictor, budget_ms).supernet)
    return Grounds(build, supernet, focused, predictor, budget_ms)


def timed(work: Path, stage: str, training: Callable[[], Supernet]) -> Supernet:
    """Notes what it costs in `work`, unless it goes on with what an earlier start began."""
    is_whole = not any((work / "stages").glob(f"{stage}-*"))
    cpu, wall = time.process_time(), time.perf_counter()
    found = training()
    if is_whole:
        seconds = {"cpu": round(time.process_time() - cpu, 1), "wall": round(time.perf_counter() - wall, 1)}
        write_text(work / f"{stage}-seconds.json", json.dumps(seconds))
    return found


def training_seconds(work: Path) -> dict[str, float | None]:
    """None where a training was interrupted: the seconds before that are not known."""
    found: dict[str, float | None] = {}
    for stage in ("supernet", "focus"):
        path = work / f"{stage}-seconds.json"
        seconds = json.loads(path.read_text()) if path.exists() else {"cpu": None, "wall": None}
        found |= {f"{stage}_{clock}": value for clock, value in seconds.items()}
    return found


def drawn(grounds: Grounds, count: int) -> list[tuple[Subnet, float]]:
    """(subnet, predicted ms): half of them over the whole range of latencies, evenly, half within the band around the budget."""
    build, rng = grounds.build, np.random.default_rng(grounds.build.request.seed + 1)
    space, latency = build.space, grounds.predictor.over(build.space)
    pool = list(dict.fromkeys(space.sample(rng) for _ in range(POOL)))
    ms = latency(np.array([subnet.genome for subnet in pool]))
    order = np.argsort(ms, kind="stable")
    anywhere = order[np.linspace(0, len(order) - 1, count - count // 2).astype(int)]
    found = {pool[i]: float(ms[i]) for i in anywhere}
    least, most = (1 - BAND) * grounds.budget_ms, (1 + BAND) * grounds.budget_ms
    for subnet, predicted in feasible(space, latency, most, POOL // 3, rng):
        if len(found) == count:
            break
        if predicted >= least:
            found.setdefault(subnet, predicted)
    return list(found.items())


def trained_rows(grounds: Grounds, subnets: Sequence[tuple[Subnet, float]], epochs: int | None) -> list[dict[str, Any]]:
    build = grounds.build
    recipe = epochs_for(build.effort.fine_tune[-1].recipe, len(build.dataset.train))
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    stage = build.store.stage("rank", [grounds.focused.key, [s.genome for s, _ in subnets], recipe.epochs])
    path = stage.path(ROWS)
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    judge = grounds.focused.load()
    largest = judge.module(build.space.largest())
    alone = Alone(build.dataset, lambda: largest, stage.folder, "largest")
    done = {tuple(row["genome"]) for row in rows}
    for seed in (0, 1):  # one seed for all, then the other: the teacher's answers are those of one seed
        for i, (subnet, predicted_ms) in enumerate(subnets):
            genome = subnet.genome
            if seed == 0 and genome not in done:
                rows.append(
                    {
                        "genome": list(genome),
                        "predicted_ms": predicted_ms,
                        "in_band": abs(predicted_ms / grounds.budget_ms - 1) <= BAND,
                        "alone": [],
                        "cpu_s": [],
                    }
                )
            row = next(row for row in rows if tuple(row["genome"]) == genome)
            if len(row["alone"]) == seed:
                started = time.process_time()
                module = alone.train(build.space.network(subnet), recipe, build.request.seed + 100 + seed)
                row["cpu_s"].append(round(time.process_time() - started, 1))
                row["alone"].append(validation_score(build, module))
                write_text(path, json.dumps(rows))
                click.echo(f"seed {seed}, {i + 1} of {len(subnets)}: {row['alone'][-1]:.4f}", err=True)
    shared = {"supernet": grounds.supernet.load(), "focused": judge}
    scores = {subnet.genome: {name: each.score(subnet) for name, each in shared.items()} for subnet, _ in subnets}
    rows = [row | scores[tuple(row["genome"])] for row in rows]
    return with_promise(build.space, rows)


def with_promise(space: SearchSpace, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By the accuracies of the focused supernet."""
    asked = [Candidate(space.subnet(tuple(row["genome"])), row["focused"], row["predicted_ms"]) for row in rows]
    return [row | {"promise": float(worth)} for row, worth in zip(rows, promise(space, asked), strict=True)]


def validation_score(build: Build, module: NetworkModule) -> float:
    images = evaluation_images(build.dataset, build.dataset.validation, module.network.input_shape[2])
    return score(predict(module, images), build.dataset.validation, build.dataset)


def alone_seconds(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """CPU seconds of training all of them alone once: the shorter of both trainings each, so that the teacher's answers, which the
    first network of a seed pays for, don't count."""
    return {"all_alone_cpu": round(sum(min(row["cpu_s"]) for row in rows), 1)}


def taus(rows: Sequence[dict[str, Any]], band: float | None) -> dict[str, Any]:
    """Kendall's tau-b with 90 % bootstrap intervals. The truth that supernets are held to is the mean of both seeds."""
    alone = np.array([row["alone"] for row in rows])
    truth = alone.mean(axis=1)
    pairs = {
        "supernet": (np.array([row["supernet"] for row in rows]), truth),
        "focused": (np.array([row["focused"] for row in rows]), truth),
        "promise": (np.array([row["promise"] for row in rows]), truth),
        "latency": (np.array([row["predicted_ms"] for row in rows]), truth),
        "ceiling": (alone[:, 0], alone[:, 1]),
    }
    rng = np.random.default_rng(0)
    samples = rng.integers(len(rows), size=(BOOTSTRAPS, len(rows)))
    found: dict[str, Any] = {"n": len(rows), "band": band, "spread_of_truth": float(np.ptp(truth))}
    for name, (a, b) in pairs.items():
        tau = float(kendalltau(a, b).statistic)
        boots = [kendalltau(a[rows_], b[rows_]).statistic for rows_ in samples]
        low, high = np.nanquantile(boots, [0.05, 0.95])
        found[name] = {"tau": round(tau, 3), "low": round(float(low), 3), "high": round(float(high), 3)}
    return found


def text(found: dict[str, Any]) -> str:
    def line(name: str, part: dict[str, Any]) -> str:
        cells = (
            f"{key} {part[key]['tau']:.2f} ({part[key]['low']:.2f} to {part[key]['high']:.2f})"
            for key in ("supernet", "focused", "promise", "latency", "ceiling")
        )
        return f"{name:12} n {part['n']:3}  " + "  ".join(cells)

    s = found["seconds"]
    together = f"{found['subnets']} alone {s['all_alone_cpu']:.0f}"
    if s["supernet_cpu"] is None or s["focus_cpu"] is None:
        cost = f"{together}; the supernet's training was interrupted, what it costs is not known"
    else:
        share = (s["supernet_cpu"] + s["focus_cpu"]) / s["all_alone_cpu"]
        cost = f"supernet {s['supernet_cpu']:.0f}, focused on the budget {s['focus_cpu']:.0f}; {together}: "
        cost += f"the supernet takes {share:.0%} of that"
    return "\n".join(
        [
            "Kendall's tau with accuracy alone (90 % interval)",
            line("whole range", found["whole_range"]),
            line(f"within {BAND:.0%}", found["band"]),
            f"CPU seconds: {cost}",
        ]
    )


if __name__ == "__main__":
    main()
