"""How fast the search is when accuracies cost nothing: CPU time of proposing and predicting 100,000 candidates.

    python tools/bench_search_speed.py                       # the mobile space of 28 px grey images
    python tools/bench_search_speed.py --candidates 10000 --json

Profiles a few networks of the space on this machine, as `edgenas build` does, and fits a predictor for each precision. Then

- by step: candidates are sampled, mutated and crossed, a third each, in their canonical form, and all are predicted in both
  precisions in batches as large as a search takes; `cold` is with nothing worked out yet, `warm` the same once more;
- evolution: the whole of the strategy of that name, with a sum over the genome in place of the accuracy, until it has
  proposed as many different candidates (each of which is predicted; what is over the budget is not evaluated).

CPU time of the process, with the linear algebra held to one thread, so that other work on the machine doesn't count. It takes
half a minute to profile; leave the machine alone meanwhile.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from threadpoolctl import threadpool_limits

from edgenas.latency.fastest import FastestPredictor
from edgenas.latency.profile import ProfilePlan
from edgenas.pipeline.context import Machine, opened_machine
from edgenas.pipeline.measuring import profile_inputs, run_profile
from edgenas.progress import Progress
from edgenas.search.explore import LatencyFunction
from edgenas.search.narrow import everything
from edgenas.search.run import search
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.mobile import MobileSpace, for_data
from edgenas.spaces.space import Subnet
from edgenas.store import Store

T = TypeVar("T")
BATCH = 4000  # as `edgenas.search.explore` asks
MUTATION_RATE = 0.1
POPULATION = 64
BUDGET_QUANTILE = 0.25  # of the space's latencies


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--candidates", default=100_000, show_default=True, type=click.IntRange(1000))
@click.option("--px", default=28, show_default=True, help="Side of the images.")
@click.option("--covering", default=16, show_default=True, help="Networks profiled that cover the kernels.")
@click.option("--odd", default=4, show_default=True, help="Networks profiled with widths in between.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(candidates: int, px: int, covering: int, odd: int, seed: int, as_json: bool) -> None:
    space = for_data(px, 1, 10)
    with opened_machine("host", None, None) as machine:
        predictor = fitted(space, machine, ProfilePlan(covering=covering, odd=odd, held_out=0))
        with threadpool_limits(limits=1):
            found = bench(space, predictor, candidates, seed)
        about = {"cpu": machine.probe["cpu_name"], "threads": 1, "px": px, "space": "mobile", "seed": seed}
    found = about | {"load": load_average(), "precisions": list(predictor.each)} | found
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def fitted(space: MobileSpace, machine: Machine, plan: ProfilePlan) -> FastestPredictor:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        stage = store.stage("profile", profile_inputs(space, machine, plan))
        profile = run_profile(space, machine, plan, stage, Progress())
        store.close()
    return FastestPredictor(profile.predictors)


def bench(space: MobileSpace, predictor: FastestPredictor, candidates: int, seed: int) -> dict[str, Any]:
    steps, subnets = by_step(space, predictor.over(space), candidates, np.random.default_rng(seed))
    evolution = evolved(space, predictor.over(space), candidates, seed)
    return {
        "candidates": candidates,
        "distinct": len(set(subnets)),
        "cpu_s": steps,
        "total_cpu_s": sum(seconds for name, seconds in steps.items() if name != "predict_warm"),
        "evolution": evolution,
    }


def by_step(
    space: MobileSpace, latency: LatencyFunction, candidates: int, rng: np.random.Generator
) -> tuple[dict[str, float], list[Subnet]]:
    """CPU seconds of each step, and all candidates."""
    a_third = candidates // 3
    sampled, sample_s = timed(lambda: [space.sample(rng) for _ in range(candidates - 2 * a_third)])
    mutated, mutate_s = timed(lambda: [space.mutate(s, rng, MUTATION_RATE) for s in sampled[:a_third]])
    pairs = rng.integers(len(sampled), size=(a_third, 2))
    crossed, cross_s = timed(lambda: [space.crossover(sampled[a], sampled[b], rng) for a, b in pairs])
    subnets = [*sampled, *mutated, *crossed]
    genomes = np.array([subnet.genome for subnet in subnets])

    def predict() -> np.ndarray:
        return np.concatenate([latency(genomes[at : at + BATCH]) for at in range(0, len(genomes), BATCH)])

    cold, cold_s = timed(predict)
    warm, warm_s = timed(predict)
    if not np.array_equal(cold, warm):
        raise RuntimeError("the same candidates were predicted differently when asked again")
    steps = {"sample": sample_s, "mutate": mutate_s, "cross": cross_s, "predict_cold": cold_s, "predict_warm": warm_s}
    return steps, subnets


def evolved(space: MobileSpace, latency: LatencyFunction, candidates: int, seed: int) -> dict[str, float]:
    """The CPU seconds of a search that never converges."""
    rng = np.random.default_rng(seed)
    genomes = np.array([space.sample(rng).genome for _ in range(BATCH)])
    budget_ms = float(np.quantile(latency(genomes), BUDGET_QUANTILE))
    start = [space.subnet(tuple(map(int, row))) for row in genomes[latency(genomes) <= budget_ms]][:POPULATION]
    rule = SearchRule(population=POPULATION, evaluations=candidates, patience=candidates)
    highest = sum(space.radix())
    proposed: set[bytes] = set()

    def counted(rows: np.ndarray) -> np.ndarray:
        proposed.update(row.tobytes() for row in rows)
        return latency(rows)

    found, seconds = timed(
        lambda: search(
            Problem(space, counted, budget_ms, tuple(start), everything(space), rule, seed),
            "evolution",
            partial(map, lambda subnet: sum(subnet.genome) / highest),
            out_of_time=lambda: len(proposed) >= candidates,
        )
    )
    return {"cpu_s": seconds, "proposed": len(proposed), "evaluated": len(found.evaluated), "front": len(found.front)}


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    made = work()
    return made, time.process_time() - start


def load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def text(found: dict[str, Any]) -> str:
    evolution, rows = found["evolution"], found["cpu_s"] | {"all but warm": found["total_cpu_s"]}
    lines = [
        f"{found['cpu']}, one thread, load {found['load']}; space {found['space']} of {found['px']} px",
        f"{found['candidates']:,} candidates, {found['distinct']:,} of them distinct; {' and '.join(found['precisions'])}",
        "",
        *(f"  {name.replace('_', ', '):16}{seconds:8.2f} s of CPU" for name, seconds in rows.items()),
        f"  {'evolution':16}{evolution['cpu_s']:8.2f} s of CPU: {evolution['proposed']:,} proposed and predicted, "
        f"{evolution['evaluated']:,} evaluated",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
