"""How many accuracies a search strategy has to ask for, replayed on networks whose latency and accuracy were all measured.

    python tools/bench_search.py --latency latency_ms.csv.gz --accuracy accuracy.csv.gz --arch arch.csv.gz --column jetson_tx2 \\
        --accuracy-column cifar100_test_acc_200ep --quantile 0.25 --strategy guided --strategy random --json

A setting is a device (--column) and a latency limit: --limit MS, or --quantile Q of the latencies in that column. All three repeat.
Files are CSV (or .csv.gz) with one row a network: an index in the first column, and the value in COLUMN (empty: not measured); --arch
FILE gives the index's architecture string, in a column `arch_str`, `architecture` or `network`. Accuracies are in percent. Networks
that were not measured, and those without a live path from input to output, are left out.

A strategy of `edgenas.search.strategies` is given the space and every latency, and pays for accuracies alone. It succeeds with the
first query that comes within --points of the best accuracy under the limit; a run that does not within --cap queries counts as --cap.
Two spellings of one network are two networks, as in the files: each was trained on its own, and each costs a query. The strategies
have no start handed to them; populations are of 24, and all else is as in a search for a device. `macs` is no strategy of edgenas: it
asks in the order of live MACs, most first, equal ones in random order.

Printed per setting and over all: mean and median queries, the share of runs that succeed, and the mean regret (points below the best
under the limit) after 25, 50 and 100 queries. 95 % intervals are Student's, over seeds, each seed the mean over the settings; `versus
random` is the difference in regret to `random` with the same seed, negative where the strategy is better. --add FILE takes runs from a
document that this tool printed for the same settings, seeds and cap.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgenas.network.readings import depends_on_input
from edgenas.search.narrow import everything
from edgenas.search.run import search
from edgenas.search.space_features import features_of
from edgenas.search.strategies import names
from edgenas.search.strategy import Problem, SearchRule
from edgenas.spaces.architectures import SPACES, is_architecture
from edgenas.spaces.cell import NAS_BENCH_201, CellSpace
from edgenas.spaces.space import Subnet

ARCHITECTURES = ("arch_str", "architecture", "network")
REGRETS = (25, 50, 100)
BY_MACS = "macs"
POPULATION = 24
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Networks:
    """All that are alive and have both values: their genes (N, genes) and accuracy in percent."""

    space: CellSpace
    genomes: np.ndarray
    ids: tuple[str, ...]
    accuracy: np.ndarray

    @cached_property
    def log_macs(self) -> np.ndarray:
        """(N,) of what is live. Looks at every network."""
        return features_of(self.space).log_size(
            self.space, [self.space.subnet(tuple(row)) for row in self.genomes], "MACs"
        )


@dataclass(frozen=True)
class Setting:
    """`rows` of Networks are measured on this device, `ms` their latencies, all of them and not only those within the limit."""

    column: str
    quantile: float | None
    limit_ms: float
    rows: np.ndarray
    ms: np.ndarray

    @property
    def within(self) -> np.ndarray:
        return self.rows[self.ms <= self.limit_ms]


@dataclass(frozen=True)
class Run:
    """`queries` is None where it did not succeed; `regret` in points after each of REGRETS queries."""

    queries: int | None
    regret: tuple[float, ...]


@click.command(
    help=(__doc__ or "").split("\n", 1)[0], epilog="See the head of this file for the files and the figures."
)
@click.option("--latency", "latency_file", required=True, type=FILE)
@click.option("--column", "columns", required=True, multiple=True, help="A column of latencies in ms; repeats.")
@click.option("--accuracy", "accuracy_file", required=True, type=FILE)
@click.option("--accuracy-column", required=True)
@click.option("--arch", "arch_file", required=True, type=FILE, help="Index -> architecture string.")
@click.option("--limit", "limits", multiple=True, type=float, help="A latency limit in ms; repeats.")
@click.option("--quantile", "quantiles", multiple=True, type=click.FloatRange(0, 1, min_open=True), help="Repeats.")
@click.option("--strategy", "strategies", multiple=True, type=click.Choice([*names(), BY_MACS]), help="Repeats.")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--cap", default=150, show_default=True, type=click.IntRange(1), help="Queries after which a run fails.")
@click.option("--points", default=0.5, show_default=True, type=click.FloatRange(0), help="From the best: a success.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1))
@click.option("--add", "added", multiple=True, type=FILE, help="Runs that were made before.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(
    latency_file: Path,
    columns: tuple[str, ...],
    accuracy_file: Path,
    accuracy_column: str,
    arch_file: Path,
    limits: tuple[float, ...],
    quantiles: tuple[float, ...],
    strategies: tuple[str, ...],
    seeds: int,
    first_seed: int,
    cap: int,
    points: float,
    processes: int,
    added: tuple[Path, ...],
    as_json: bool,
) -> None:
    if not limits and not quantiles:
        raise click.UsageError("name a --limit in ms or a --quantile of the latencies")
    latencies = {column: read_column(latency_file, column) for column in columns}
    accuracies = read_column(accuracy_file, accuracy_column)
    networks = read_networks(
        arch_file, {k: v for k, v in accuracies.items() if any(k in ms for ms in latencies.values())}
    )
    settings = [
        setting
        for column in columns
        for limit, quantile in [*((limit, None) for limit in limits), *((None, each) for each in quantiles)]
        for setting in [setting_of(networks, latencies[column], column, limit, quantile)]
    ]
    about: dict[str, Any] = {"cap": cap, "points": points, "seeds": [first_seed, first_seed + seeds]}
    about["settings"] = [facts(networks, setting, points) for setting in settings]
    runs = {name: each for path in added for name, each in runs_of(path, about).items()}
    for name in strategies:
        runs[name] = replay_all(networks, settings, name, range(first_seed, first_seed + seeds), cap, points, processes)
    found = {"latency": latency_file.name, "accuracy": accuracy_file.name, **about, **figures(runs, cap)}
    click.echo(json.dumps(found, indent=1) if as_json else text(found))


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        yield from csv.DictReader(file)


def read_column(path: Path, column: str) -> dict[str, float]:
    """Index -> value, of those that have one."""
    found = {}
    for row in rows_of(path):
        if column not in row:
            raise click.UsageError(f"{path} has no column {column!r}; it has {', '.join(row)}")
        if row[column]:
            key = row[next(iter(row))]
            try:
                found[key] = float(row[column])
            except ValueError:
                found[key] = math.nan
            if not math.isfinite(found[key]) or found[key] <= 0:
                raise click.UsageError(
                    f"{path}, the row of {key!r}: {column} is {row[column]!r}; a number above 0 was expected"
                )
    if not found:
        raise click.UsageError(f"{path} has no values in the column {column!r}")
    return found


def read_networks(arch_file: Path, accuracy: dict[str, float]) -> Networks:
    """Those with an accuracy (index -> percent) that are alive."""
    ids, subnets = [], []
    space = NAS_BENCH_201
    for row in rows_of(arch_file):
        key = row[next(iter(row))]
        string = next((row[name] for name in ARCHITECTURES if name in row), None)
        if string is None:
            raise click.UsageError(f"{arch_file} has none of the columns {', '.join(ARCHITECTURES)}")
        if not is_architecture(string) or not string.startswith("|"):
            drawable = ", ".join(SPACES)
            raise click.UsageError(f"{string!r} is of no space that a search can draw from; those are {drawable}")
        subnet = space.parse(string)
        if key in accuracy and depends_on_input(space.network(subnet)):
            ids.append(key)
            subnets.append(subnet)
    if not ids:
        raise click.UsageError(f"no network of {arch_file} has an accuracy and a latency")
    return Networks(
        space,
        np.array([subnet.genome for subnet in subnets]),
        tuple(ids),
        np.array([accuracy[key] for key in ids]),
    )


def setting_of(
    networks: Networks, latency: dict[str, float], column: str, limit: float | None, quantile: float | None
) -> Setting:
    rows = np.array([i for i, key in enumerate(networks.ids) if key in latency], int)
    ms = np.array([latency[networks.ids[i]] for i in rows])
    limit = float(np.quantile(ms, quantile)) if limit is None else limit
    if not (ms <= limit).any():
        raise click.UsageError(f"no network of {column} takes at most {limit:g} ms; the fastest takes {ms.min():g}")
    return Setting(column, quantile, limit, rows, ms)


def facts(networks: Networks, setting: Setting, points: float) -> dict[str, Any]:
    accuracy = networks.accuracy[setting.within]
    return {
        "column": setting.column,
        "quantile": setting.quantile,
        "limit_ms": setting.limit_ms,
        "networks": len(accuracy),
        "best": float(accuracy.max()),
        "good_enough": int((accuracy >= accuracy.max() - points).sum()),
    }


def replay_all(
    networks: Networks,
    settings: Sequence[Setting],
    strategy: str,
    seeds: Sequence[int],
    cap: int,
    points: float,
    processes: int,
) -> list[list[Run]]:
    """Per setting, per seed."""
    jobs = [(setting, seed) for setting in settings for seed in seeds]
    if strategy in (BY_MACS, "guided"):
        _ = networks.log_macs  # before there are several processes, which then share what is known of the networks
    one = partial(replay, networks, strategy, cap, points)
    if processes == 1:
        runs = [one(job) for job in jobs]
    else:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            runs = pool.map(one, jobs, chunksize=max(1, len(seeds) // 2))
    return [runs[i : i + len(seeds)] for i in range(0, len(runs), len(seeds))]


def replay(networks: Networks, strategy: str, cap: int, points: float, job: tuple[Setting, int]) -> Run:
    setting, seed = job
    best = networks.accuracy[setting.within].max()
    if strategy == BY_MACS:
        rows = setting.within
        order = np.lexsort((np.random.default_rng(seed).permutation(len(rows)), -networks.log_macs[rows]))
        accuracies = networks.accuracy[rows[order]][: max(cap, *REGRETS)].tolist()
    else:
        accuracies = asked(networks, setting, strategy, seed, cap, best - points)
    first = next((i for i, each in enumerate(accuracies[:cap], start=1) if each >= best - points), None)
    return Run(first, tuple(float(best - max(accuracies[:count])) for count in REGRETS))


def asked(networks: Networks, setting: Setting, strategy: str, seed: int, cap: int, enough: float) -> list[float]:
    """The accuracies that it asked for, until it has what it is after and the regrets are known."""
    space = networks.space
    radix = space.radix()
    codes = np.ravel_multi_index(tuple(networks.genomes.T), radix)
    accuracy = dict(zip(codes.tolist(), networks.accuracy.tolist(), strict=True))
    unknown_ms = 10 * max(setting.limit_ms, float(setting.ms.max()))  # may not be asked for
    table = np.full(space.size(), unknown_ms)
    table[codes[setting.rows]] = setting.ms
    accuracies: list[float] = []

    def latency(genomes: np.ndarray) -> np.ndarray:
        return table[np.ravel_multi_index(tuple(np.asarray(genomes).T), radix)]

    def score(subnet: Subnet) -> float:
        accuracies.append(accuracy[int(np.ravel_multi_index(subnet.genome, radix))])
        return accuracies[-1] / 100

    def is_over() -> bool:
        return len(accuracies) >= max(REGRETS) and max(accuracies[:cap]) >= enough

    rule = SearchRule(
        start=POPULATION, population=POPULATION, evaluations=max(cap, *REGRETS), patience=10**6, tolerance=-1.0
    )
    problem = Problem(space, latency, setting.limit_ms, (), everything(space), rule, seed)
    search(problem, strategy, partial(map, score), out_of_time=is_over)
    return accuracies


def figures(runs: dict[str, list[list[Run]]], cap: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in runs.items():
        queries = np.array([[run.queries or cap for run in setting] for setting in each], float)
        regret = np.array([[run.regret for run in setting] for setting in each])
        success = np.array([[run.queries is not None for run in setting] for setting in each])
        found[name] = {
            "mean_queries": interval(queries.mean(axis=0)),
            "median_queries": float(np.median(queries)),
            "success": float(success.mean()),
            "worst_setting": float(queries.mean(axis=1).max()),
            "regret": {str(n): interval(regret[:, :, i].mean(axis=0)) for i, n in enumerate(REGRETS)},
            "per_setting": [
                {
                    "mean_queries": float(queries[i].mean()),
                    "median_queries": float(np.median(queries[i])),
                    "success": float(success[i].mean()),
                    "regret": {str(n): float(regret[i, :, j].mean()) for j, n in enumerate(REGRETS)},
                }
                for i in range(len(each))
            ],
            "runs": [[asdict(run) for run in setting] for setting in each],
        }
        if "random" in runs and name != "random":
            chance = np.array([[run.regret for run in setting] for setting in runs["random"]])
            found[name]["versus_random"] = {
                str(n): interval((regret - chance)[:, :, i].mean(axis=0)) for i, n in enumerate(REGRETS)
            }
    return {"strategies": found}


def interval(per_seed: np.ndarray) -> dict[str, float | None]:
    """Mean and its 95 % interval."""
    from scipy.stats import t

    mean, n = float(per_seed.mean()), len(per_seed)
    half = float(t.ppf(0.975, n - 1) * per_seed.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def runs_of(path: Path, about: dict[str, Any]) -> dict[str, list[list[Run]]]:
    document = json.loads(path.read_text(encoding="utf-8"))
    for key, value in about.items():
        if document.get(key) != json.loads(json.dumps(value)):
            raise click.UsageError(f"{path} was made with other {key}: {document.get(key)}, and here they are {value}")
    return {
        name: [[Run(run["queries"], tuple(run["regret"])) for run in setting] for setting in each["runs"]]
        for name, each in document["strategies"].items()
    }


def text(found: dict[str, Any]) -> str:
    first, last = found["seeds"]
    lines = [
        f"{len(found['settings'])} settings, {last - first} seeds; queries to within {found['points']:g} points of the best under the "
        f"limit, failures as {found['cap']}; 95 % intervals",
        "",
        f"{'':14}{'queries':>22}{'median':>8}{'success':>9}{'worst':>7}   regret after {', '.join(map(str, REGRETS))}",
    ]
    for name, each in found["strategies"].items():
        regret = "  ".join(_range(each["regret"][str(n)], 2) for n in REGRETS)
        lines.append(
            f"{name:14}{_range(each['mean_queries'], 1):>22}{each['median_queries']:>8.0f}{each['success']:>9.1%}"
            f"{each['worst_setting']:>7.0f}   {regret}"
        )
    lines += ["", "regret against random's, after as many queries"]
    for name, each in found["strategies"].items():
        if "versus_random" in each:
            lines.append(f"{name:14}" + "  ".join(_range(each["versus_random"][str(n)], 2) for n in REGRETS))
    lines += ["", "mean queries by setting", f"{'':44}" + "".join(f"{name:>12}" for name in found["strategies"])]
    for i, setting in enumerate(found["settings"]):
        place = "" if setting["quantile"] is None else f" ({setting['quantile']:.0%})"
        title = f"{setting['column']} <= {setting['limit_ms']:.4g} ms{place}, {setting['good_enough']} of {setting['networks']}"
        each = (strategy["per_setting"][i]["mean_queries"] for strategy in found["strategies"].values())
        lines.append(f"{title:44}" + "".join(f"{value:>12.1f}" for value in each))
    return "\n".join(lines)


def _range(value: dict[str, float | None], digits: int) -> str:
    if value["low"] is None:
        return f"{value['mean']:.{digits}f}"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


if __name__ == "__main__":
    main()
