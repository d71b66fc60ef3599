"""The networks that edgenas finds, against hand-designed ones trained, quantized and measured in the same way.

    python tools/bench_headline.py --work build/headline --data fashion-mnist --budgets-ms 0.06 --budgets-ms 0.09
    python tools/bench_headline.py --work build/patches --data ./patches --budgets-ms 0.12 --seed 0 --seed 1 --json

For every seed and budget `edgenas build` finds a network. The baselines are those of the catalog (every family at all its widths
and resolutions) whose faster precision takes 0.5 to 1.6 times the range of the budgets. Every one of them is trained with the
winners' last recipe, images, augmentation and teacher, for as many epochs as a winner that is pruned takes in all (its last training
and the one after pruning), with the learning rate, of two, that its family is better with on average after a quarter of the epochs
with the screening seed. What is far under the others' front by then is left out, and named. Every choice is made on validation
images; the test part is looked at once for each finished network. In the end all of them, in both precisions, are timed in one
interleaved run, several times over.

Says at each budget how long the winner takes against the baselines' front, in either precision, at the same test accuracy
(interpolated; balanced accuracy where the classes are not): below 1 the winner is faster. What is finished lies in --work: started
again, the tool goes on from there. Several may share it at the same time, each with seeds of its own and all but one with --no-judge.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import onnx
from alone import Alone
from front_judging import compared, text
from headline_effort import baseline_recipe, with_epochs, with_finalists, with_learning_rate, with_newcomers
from headline_screening import RATES, Screening
from headline_timing import timed_together

from edgenas.artifacts.kernel import Precision
from edgenas.data import Split
from edgenas.errors import EdgenasError
from edgenas.measure import untrained
from edgenas.nets.module import NetworkModule
from edgenas.nets.recipe import Recipe
from edgenas.network.costs import macs, params
from edgenas.network.graph import Network
from edgenas.pipeline.build import build as build_model
from edgenas.pipeline.context import Build, opened_build
from edgenas.pipeline.judging import accuracy, calibrated, predicted_classes, score
from edgenas.pipeline.measuring import measure_fast_precisions
from edgenas.pipeline.request import EFFORTS, BuildRequest, Effort, epochs_for
from edgenas.pipeline.searching import prepare
from edgenas.pipeline.training import teacher
from edgenas.progress import Progress
from edgenas.spaces.catalog import CatalogSpace, for_data
from edgenas.store import write_bytes, write_text

REACH = (0.5, 1.6)  # of the smallest and the largest budget: baselines of interest
LOOK_AGAIN_S = 10.0


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where everything is kept.")
@click.option("--data", help="As `edgenas build` takes it. Default: the bundled sample of Fashion-MNIST.")
@click.option("--space", help="As `edgenas build` takes it. Default: its own.")
@click.option("--budgets-ms", type=float, multiple=True, required=True, help="Repeat it for each budget.")
@click.option("--seed", "seeds", multiple=True, default=(0, 1, 2), show_default=True, type=click.IntRange(0))
@click.option(
    "--screening-seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="The seed with which baselines are screened: those of others wait for that.",
)
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="quick", show_default=True, help="Of the builds.")
@click.option("--epochs", type=click.IntRange(4), help="Of the last training. Default: the effort's.")
@click.option(
    "--finalists", type=click.IntRange(1), help="How many go through the last training. Default: the effort's."
)
@click.option(
    "--newcomers", type=click.IntRange(2), help="That join the finalists; all are first trained for two fifths as long."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Of winners' trainings from new weights. Default: the effort's.",
)
@click.option("--supernet-epochs", type=click.IntRange(1), help="Of the supernet, before and after it is focused.")
@click.option("--minutes", type=float, help="Start nothing new after so long.")
@click.option("--judge/--no-judge", default=True, help="Whether all that is finished is timed and compared in the end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    work: Path,
    data: str | None,
    space: str | None,
    budgets_ms: tuple[float, ...],
    seeds: tuple[int, ...],
    screening_seed: int,
    effort: str,
    epochs: int | None,
    finalists: int | None,
    newcomers: int | None,
    learning_rate: float | None,
    supernet_epochs: int | None,
    minutes: float | None,
    judge: bool,
    as_json: bool,
) -> None:
    chosen = with_finalists(with_epochs(EFFORTS[effort], epochs, supernet_epochs), finalists)
    chosen = with_learning_rate(with_newcomers(chosen, newcomers), learning_rate)
    headline = Headline(work, data, space, tuple(sorted(budgets_ms)), chosen, effort, screening_seed, deadline(minutes))
    seeds = tuple(sorted(set(seeds), key=lambda seed: (seed != screening_seed, seed)))
    try:
        try:
            for part in (headline.find_winners, headline.train_baselines):
                for seed in seeds:
                    part(seed)
        except OutOfTime:
            click.echo("The time is up; the same command goes on from here.", err=True)
        if not judge:
            return
        found = headline.judged()
    except EdgenasError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


class OutOfTime(Exception):
    """Nothing new is started."""


def deadline(minutes: float | None) -> float:
    return time.monotonic() + minutes * 60 if minutes is not None else float("inf")


@dataclass(frozen=True)
class Headline:
    """A file for each seed holds a line for each finished network; `screening.json` what a quarter of the epochs showed."""

    work: Path
    data: str | None
    space: str | None
    budgets_ms: tuple[float, ...]
    effort: Effort
    effort_name: str
    screening_seed: int
    until: float

    def __post_init__(self) -> None:
        """Raises click.UsageError where `work` holds what other settings led to."""
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / "settings.json"
        own = json.dumps([self.data, self.space, self.effort_name, self.screening_seed, asdict(self.effort)])
        if not path.exists():
            write_text(path, own)
        elif path.read_text() != own:
            raise click.UsageError(f"{self.work} holds a run with other settings: name another folder as --work.")

    def rows(self, seed: int) -> list[dict[str, Any]]:
        path = self.work / f"rows-seed{seed}.json"
        return list(json.loads(path.read_text())) if path.exists() else []

    def all_rows(self) -> list[dict[str, Any]]:
        return [row for path in sorted(self.work.glob("rows-seed*.json")) for row in json.loads(path.read_text())]

    def keep(self, row: dict[str, Any]) -> None:
        path = self.work / f"rows-seed{row['seed']}.json"
        write_text(path, json.dumps([*self.rows(row["seed"]), row]))
        self.stop_if_late()

    def known(self, name: str, seed: int) -> bool:
        return any(row["name"] == name for row in self.rows(seed))

    def screening(self) -> Screening:
        return Screening.read(self.work, self.screening_seed)

    def wait_for_screening(self, names: Collection[str]) -> None:
        """Until another process has done it."""
        if not set(names) <= self.screening().tried.keys():
            click.echo(f"waiting for the screening, which is done with --seed {self.screening_seed}", err=True)
        while not set(names) <= self.screening().tried.keys():
            time.sleep(LOOK_AGAIN_S)
            self.stop_if_late()

    def stop_if_late(self) -> None:
        if time.monotonic() > self.until:
            raise OutOfTime

    def request(self, seed: int, budget_ms: float, out: Path | None = None) -> BuildRequest:
        return BuildRequest(
            "host",
            out or self.work / f"seed{seed}",
            data=self.data,
            space=self.space,
            effort=self.effort_name,
            seed=seed,
            latency_ms=budget_ms,
        )

    def find_winners(self, seed: int) -> None:
        for budget_ms in self.budgets_ms:
            name = f"edgenas {budget_ms:g} ms"
            if self.known(name, seed):
                continue
            request = self.request(seed, budget_ms)
            result = build_model(request, Progress(), self.effort)
            front = json.loads((request.out / "front.json").read_text())
            final = {v["precision"]: v for v in result["variants"]}  # the last of each precision is the final network's
            for precision, variant in final.items():
                file = (request.out / variant["path"]).read_bytes()
                write_bytes(self.work / f"{name} seed {seed} {precision}.onnx", file)
            row = {
                "name": name,
                "kind": "winner",
                "seed": seed,
                "budget_ms": budget_ms,
                "precision": result["winner"]["precision"],
                "architecture": result["architecture"],
                "pruning": result["pruning"],
                "verdict": result["verdict"],
                "measured_in_build_ms": result["winner"]["measured"]["p50_ms"],
                "macs": result["winner"]["macs"],
                "params": result["winner"]["params"],
                "test": {p: float(v["accuracy"][front["accuracy"]["metric"]]) for p, v in final.items()},
                "seconds": sum(stage["seconds"] for stage in result["stages"]),
            }
            self.keep(row)

    def train_baselines(self, seed: int) -> None:
        """The catalog's, by the recipe of the winners' last training."""
        with ExitStack() as opened:
            build = opened.enter_context(opened_build(self.request(seed, self.budgets_ms[-1]), Progress(), self.effort))
            ground = prepare(build)  # cached: the winner of the largest budget needed it
            largest = teacher(build, ground.focused.supernet)
            key = f"seed{seed}-{ground.focused.supernet.key[:12]}"
            alone = Alone(build.dataset, lambda: largest, self.work, key)
            recipe = epochs_for(baseline_recipe(self.effort), len(build.dataset.train))
            short = replace(recipe, epochs=max(1, recipe.epochs // 4))
            networks, ms = self.candidates(build, catalog(build))
            if seed == self.screening_seed:
                self.screen(build, alone, networks, short)
            self.wait_for_screening(networks)
            screening = self.screening()
            far_under = screening.far_under(ms)
            for name, network in networks.items():
                if name in far_under or self.known(name, seed):
                    continue
                rate = screening.rate(name)
                module = alone.train(network, replace(recipe, learning_rate=rate), seed)
                row = {"name": name, "kind": "baseline", "seed": seed, "learning_rate": rate}
                row |= {"macs": macs(network), "params": params(network)} | judged_files(build, module)
                click.echo(f"seed {seed}, {name}: {row['validation']}", err=True)
                self.keep(row)

    def screen(self, build: Build, alone: Alone, networks: dict[str, Network], recipe: Recipe) -> None:
        """All by both learning rates."""
        found = self.screening()
        for name, network in networks.items():
            if name in found.tried:
                continue
            tried = {}
            for rate in RATES:
                module = alone.train(network, replace(recipe, learning_rate=rate), self.screening_seed)
                tried[rate] = max(judged_files(build, module, test=False)["validation"].values())
            click.echo(f"screened {name}: {tried}", err=True)
            found = found.with_result(name, tried)
            found.write(self.work)
            self.stop_if_late()

    def candidates(self, build: Build, space: CatalogSpace) -> tuple[dict[str, Network], dict[str, float]]:
        """The networks within REACH, and what every one of the catalog takes (ms) in its faster precision."""
        networks = catalog_networks(space)
        path = self.work / "catalog-ms.json"
        if not path.exists():
            found = measure_fast_precisions(build.machine, list(networks.values()))
            write_text(path, json.dumps(dict(zip(networks, found, strict=True))))
        ms = {name: min(each.values()) for name, each in json.loads(path.read_text()).items()}
        least, most = self.reach
        return {name: network for name, network in networks.items() if least <= ms[name] <= most}, ms

    @property
    def reach(self) -> tuple[float, float]:
        return REACH[0] * self.budgets_ms[0], REACH[1] * self.budgets_ms[-1]

    def left_out(self, build: Build) -> dict[str, str]:
        networks, ms = self.candidates(build, catalog(build))
        outside = "takes {:.3g} ms, outside {:.3g} to {:.3g}"
        far = {name: outside.format(ms[name], *self.reach) for name in ms if name not in networks}
        return self.screening().far_under(ms) | far

    def judged(self) -> dict[str, Any]:
        """With the latencies of everything that is finished, all timed in one interleaved run."""
        request = self.request(0, self.budgets_ms[-1], self.work / "judging")  # a seed's may be another process's
        with opened_build(request, Progress(), self.effort) as build:
            machine, known, screening = build.machine, self.all_rows(), self.screening()
            timed = timed_together(machine, {timed_as(row): self.files_of(build, row) for row in known})
            rows = [
                row | {"ms": timed.ms[timed_as(row), p], "precision": p, "test_accuracy": row["test"][p]}
                for row in known
                for p in ([row["precision"]] if row["kind"] == "winner" else machine.precisions)
            ]
            return {
                "cpu": machine.probe["cpu_name"],
                "runtime_version": machine.version,
                "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
                "data": self.data or "the bundled sample",
                "balanced": build.dataset.unbalanced,
                "epochs": self.effort.fine_tune[-1].recipe.epochs,
                "epochs_after_pruning": self.effort.after_pruning.epochs,
                "epochs_of_baselines": baseline_recipe(self.effort).epochs,
                "median_spread_of_latencies_pct": timed.median_spread_pct,
                "budgets": [compared(rows, budget_ms) for budget_ms in self.budgets_ms],
                "learning_rates": screening.rates(),
                "left_out": self.left_out(build),
                "rows": rows,
            }

    def files_of(self, build: Build, row: dict[str, Any]) -> dict[Precision, onnx.ModelProto]:
        """A winner's own; a baseline's with random weights, on which latency doesn't depend."""
        machine = build.machine
        if row["kind"] == "winner":
            return {p: onnx.load(self.work / f"{timed_as(row)} {p}.onnx") for p in machine.precisions}
        network = catalog_networks(catalog(build))[row["name"]]
        return {p: untrained(machine.runtime, network, p, machine.weight_bits) for p in machine.precisions}


def timed_as(row: dict[str, Any]) -> str:
    """Baselines of all seeds are one network."""
    name: str = row["name"]
    return f"{name} seed {row['seed']}" if row["kind"] == "winner" else name


def catalog(build: Build) -> CatalogSpace:
    return for_data(build.dataset.resolution_px, build.dataset.channels, len(build.dataset.labels))


def catalog_networks(space: CatalogSpace) -> dict[str, Network]:
    """Every family at every width and resolution."""
    families, widths, resolutions = map(range, space.radix())
    return {
        f"{space.families[f]} {w} {space.resolutions_px[r]}px": space.network(space.subnet((f, w, r)))
        for f, w, r in itertools.product(families, widths, resolutions)
    }


def judged_files(build: Build, module: NetworkModule, *, test: bool = True) -> dict[str, Any]:
    """Accuracy of the files that `module` becomes in each precision, in ONNX Runtime: on validation images and on the test part."""
    judge, network = build.machine.judge, module.network
    quantized = calibrated(build, module)
    models: dict[Precision, onnx.ModelProto] = {
        "fp32": judge.runtime.fp32_model(network, module.folded_weights()),
        "int8": judge.runtime.int8_model(network, quantized.weights, quantized.ranges, build.machine.weight_bits),
    }

    def of(split: Split) -> dict[str, float]:
        px = network.input_shape[2]
        predicted = {p: predicted_classes(build, m, split, px, judge, p) for p, m in models.items()}
        return {p: score(build, accuracy(build, classes, split, judge)) for p, classes in predicted.items()}

    return {"validation": of(build.dataset.validation)} | ({"test": of(build.dataset.test)} if test else {})


if __name__ == "__main__":
    main()
