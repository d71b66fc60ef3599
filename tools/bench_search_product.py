"""Search strategies in the product: their fronts after equal many evaluations and after equal time, with a trained supernet.

    edgenas search --device host --effort quick --out build/demo
    python tools/bench_search_product.py --out build/demo --effort quick --strategy guided --strategy evolution --strategy random

Everything up to the search is taken from the folder (or made there first). Then each strategy searches with each seed, from the same
start, under the same budget. An accuracy that was evaluated once is kept in `bench_search_product.jsonl` of the folder with the CPU
seconds that it took, and a strategy that asks for it later is charged these seconds; besides, each is charged the CPU seconds of its
own thinking. CPU time with one thread, so that other work on the machine doesn't count.

Hypervolumes of error and latency are shares of the area between the budget and the worst accuracy that any run evaluated. Compared are
those after a quarter, a half and all of --evaluations, and after the same shares of the time that the quickest run took. 95 %
intervals by bootstrap over seeds, of the mean and of the mean difference to the first --strategy with the same seed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgenas.pareto import hypervolume
from edgenas.pipeline import budgets
from edgenas.pipeline.context import Build, opened_build
from edgenas.pipeline.request import EFFORTS, BuildRequest
from edgenas.pipeline.searching import Ground, prepare
from edgenas.progress import Progress
from edgenas.search.run import search
from edgenas.search.strategies import names, needs
from edgenas.search.strategy import Problem
from edgenas.spaces.space import Subnet

LOG = "bench_search_product.jsonl"
SHARES = (0.25, 0.5, 1.0)
RESAMPLES = 10_000


@dataclass
class Prices:
    """Subnet -> score and the CPU seconds that it took to find out, each worked out once and kept in `path`."""

    path: Path
    score: Callable[[Subnet], float]
    known: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.known[entry["id"]] = entry["score"], entry["cpu_s"]

    def of(self, subnet: Subnet) -> tuple[float, float]:
        if subnet.id not in self.known:
            before = time.process_time()
            score = self.score(subnet)
            self.known[subnet.id] = score, time.process_time() - before
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": subnet.id, "score": score, "cpu_s": self.known[subnet.id][1]}) + "\n")
        return self.known[subnet.id]


@dataclass(frozen=True)
class Run:
    """In the order of evaluation: `points` (N, 2) ms and error, and `seconds` (N,) charged up to and with each. `thinking_s` is the
    strategy's part of them."""

    points: np.ndarray
    seconds: np.ndarray
    thinking_s: float


@click.command(
    help=(__doc__ or "").split("\n", 1)[0], epilog="See the head of this file for what is charged and compared."
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="A build's folder.")
@click.option("--device", default="host", show_default=True)
@click.option("--effort", default="quick", show_default=True, type=click.Choice(list(EFFORTS)))
@click.option("--latency-ms", type=float, help="The budget, as in the search that made the folder.")
@click.option("--strategy", "strategies", required=True, multiple=True, type=click.Choice(names()), help="Repeats.")
@click.option("--evaluations", default=180, show_default=True, type=click.IntRange(4))
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    out: Path,
    device: str,
    effort: str,
    latency_ms: float | None,
    strategies: tuple[str, ...],
    evaluations: int,
    seeds: int,
    as_json: bool,
) -> None:
    if needy := [name for name in strategies if needs(name)]:
        raise click.UsageError(f"{needy[0]} takes more than shared weights, which is not compared here")
    request = BuildRequest(device, out, effort=effort, latency_ms=latency_ms)
    with opened_build(request, Progress()) as build:
        found = bench(build, prepare(build), strategies, evaluations, seeds)
    click.echo(json.dumps(found, indent=1) if as_json else text(found))


def bench(build: Build, ground: Ground, strategies: tuple[str, ...], evaluations: int, seeds: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    focused = ground.focused
    latency = budgets.latency_within(build, ground.predictor, ground.budget_ms, ())
    prices = Prices(build.request.out / LOG, lambda subnet: focused.supernet.load().score(subnet))
    focused.supernet.load()  # whose seconds are nobody's
    rule = replace(build.effort.search, evaluations=evaluations, patience=evaluations)
    runs: dict[str, list[Run]] = {name: [] for name in strategies}
    for seed in range(seeds):
        problem = Problem(
            build.space, latency, ground.budget_ms, focused.start, focused.narrowing, rule, seed, charged_by_size=True
        )
        for name in strategies:
            runs[name].append(one(problem, name, prices))
    return {
        "device": build.request.device,
        "budget_ms": ground.budget_ms,
        "evaluations": evaluations,
        "seeds": seeds,
        "strategies": figures(runs, ground.budget_ms, evaluations),
    }


def one(problem: Problem, strategy: str, prices: Prices) -> Run:
    seconds: list[float] = []
    charged = thinking = 0.0
    since = time.process_time()

    def score(subnet: Subnet) -> float:
        nonlocal charged, thinking, since
        thought = time.process_time() - since
        found, price = prices.of(subnet)
        thinking += thought
        charged += thought + price
        seconds.append(charged)
        since = time.process_time()
        return found

    found = search(problem, strategy, partial(map, score))
    points = np.array([(c.latency_ms, 1 - c.score) for c in found.evaluated])
    return Run(points, np.array(seconds), thinking)


def figures(runs: dict[str, list[Run]], budget_ms: float, evaluations: int) -> dict[str, Any]:
    every = [run for each in runs.values() for run in each]
    worst = max(float(run.points[:, 1].max()) for run in every)
    quickest = min(float(run.seconds[-1]) for run in every)
    area = budget_ms * worst

    def volumes(each: list[Run], kept: Callable[[Run], np.ndarray]) -> np.ndarray:
        return np.array([hypervolume(run.points[kept(run)], (budget_ms * 1.0001, worst)) / area for run in each])

    found: dict[str, Any] = {}
    first: dict[str, np.ndarray] = {}
    for name, each in runs.items():
        at = {}
        for share in SHARES:
            count, time_s = round(share * evaluations), share * quickest
            at[f"{count} evaluations"] = volumes(each, lambda run, n=count: np.arange(len(run.points)) < n)  # type: ignore[misc]
            at[f"{time_s:.1f} s"] = volumes(each, lambda run, s=time_s: run.seconds <= s)  # type: ignore[misc]
        first = first or at
        found[name] = {
            "thinking_s": float(np.mean([run.thinking_s for run in each])),
            "total_s": float(np.mean([run.seconds[-1] for run in each])),
            "best_accuracy": interval(np.array([1 - run.points[:, 1].min() for run in each])),
            "hypervolume": {key: interval(values) for key, values in at.items()},
            "below_the_first": {key: interval(first[key] - values) for key, values in at.items()},
        }
    return found


def interval(per_seed: np.ndarray) -> dict[str, float]:
    """Mean and its 95 % bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(per_seed), size=(RESAMPLES, len(per_seed)))
    low, high = np.percentile(per_seed[drawn].mean(axis=1), [2.5, 97.5])
    return {"mean": float(per_seed.mean()), "low": float(low), "high": float(high)}


def text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['device']}, p50 within {found['budget_ms']:.3g} ms: hypervolumes, mean of {found['seeds']} seeds with 95 % intervals"
    ]
    for name, each in found["strategies"].items():
        lines += [
            "",
            f"{name}: {each['total_s']:.1f} s of CPU, {each['thinking_s']:.1f} s of them its own; best accuracy "
            f"{_range(each['best_accuracy'])}",
        ]
        lines += [
            f"  after {key:18}{_range(value)}   the first one's is larger by {_range(each['below_the_first'][key])}"
            for key, value in each["hypervolume"].items()
        ]
    return "\n".join(lines)


def _range(value: dict[str, float]) -> str:
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


if __name__ == "__main__":
    main()
