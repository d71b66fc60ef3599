"""How well networks are predicted from a table of operations that somebody else measured, on networks of architectures never seen.

    python tools/bench_op_tables.py --ops ops.csv.gz --networks networks.csv.gz --device pixel4
    python tools/bench_op_tables.py --ops ops.csv.gz --networks networks.csv.gz --device pixel4 --json

The files are those of mobile-ml-benchmark (a row for each operation of each network, and a row for each whole network). A network
counts if it has both. Each of ten splits draws architecture families at random until about 70 networks are there to fit on, and
predicts the others: no family stands on both sides (`architecture_family` says what belongs together), and no two splits are the
same. Of a network that is predicted only the architecture is used: operations, shapes, and what is fused into them.

The predictor is that of every device (`latency/predictor.py`), fitted from a LatencyTable. Beside it stand a regression affine in MACs,
one affine in the number of operations too, and, as an upper bound, one affine in the sum and number of the operation times that were
*measured* on the network itself. Takes about five seconds a device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgenas.errors import InputError
from edgenas.latency import predictor as predictors
from edgenas.latency.op_tables import OperationTable, read_networks_ms, read_operations
from edgenas.network.fuse import FusionRules
from edgenas.stats import accuracy_figures, spearman

NO_FUSION = FusionRules(conv_add=(), activations_after={})  # the tables hold kernels as they were fused
SPLITS = 10
TRAINING = 70  # networks, at most
LEAST_TRAINING = 0.9  # of what is asked for
TRIES = 1000  # random orders of the families
FIGURES = ("within_5pct", "within_10pct", "mape_pct", "spearman", "kendall_tau")
LINEAGES = (
    ("resnet", r"(se)?(pre)?resne[x]?t"),  # with squeeze-and-excitation, pre-activation and groups
    ("mobilenet v1", r"(fd)?mobilenetb?_"),
    ("mobilenet v2", r"mobilenetv2"),
    ("mobilenet v3", r"mobilenetv3"),
    ("squeezenet", r"squeeze(res)?net"),
    ("regnet", r"regnet"),
)


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--ops", required=True, type=click.Path(path_type=Path), help="Table of operations, CSV or CSV.gz.")
@click.option("--networks", required=True, type=click.Path(path_type=Path), help="Table of whole networks.")
@click.option("--device", required=True, help="A device of both tables.")
@click.option("--training", default=TRAINING, show_default=True, type=click.IntRange(4), help="Networks to fit on.")
@click.option("--splits", default=SPLITS, show_default=True, type=click.IntRange(1), help="Random splits.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(ops: Path, networks: Path, device: str, training: int, splits: int, as_json: bool) -> None:
    try:
        found = bench(read_operations(ops, device), read_networks_ms(networks, device), training, splits)
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error
    click.echo(json.dumps(found, indent=2) if as_json else text(found))


def bench(table: OperationTable, whole_ms: dict[str, float], training: int, splits: int) -> dict[str, Any]:
    names = sorted(name for name in table.networks if name in whole_ms)
    each = [_split(table, whole_ms, fitted, names) for fitted in grouped_splits(names, training, splits)]
    methods = list(each[0]["methods"])
    return {
        "device": table.device,
        "networks": len(names),
        "families": len({architecture_family(name) for name in names}),
        "fusion": "element-wise operations linked to the operation before them; a rule of the graph, the same on every device",
        **{figure: _mean([split["methods"]["predictor"][figure] for split in each]) for figure in FIGURES},
        "mean": {m: {f: _mean([split["methods"][m][f] for split in each]) for f in FIGURES} for m in methods},
        "splits": each,
    }


def architecture_family(name: str) -> str:
    """Networks that differ in width, depth or resolution, or descend from one design (LINEAGES), are one family; of any other the
    family is the name up to its first digit or underscore."""
    for family, pattern in LINEAGES:
        if re.match(pattern, name):
            return family
    return re.sub(r"[\d_].*", "", name)


def grouped_splits(names: Sequence[str], training: int, splits: int) -> list[list[str]]:
    """The networks to fit on, sorted, of each split. Families in random order are taken while they fit.

    Raises InputError if there are fewer different splits than asked for.
    """
    families = sorted({architecture_family(name) for name in names})
    members = {family: [name for name in names if architecture_family(name) == family] for family in families}
    found: list[list[str]] = []
    for seed in range(TRIES):
        fitted: list[str] = []
        for i in np.random.default_rng(seed).permutation(len(families)):
            if len(fitted) + len(members[families[i]]) <= training:
                fitted += members[families[i]]
        fitted.sort()
        if LEAST_TRAINING * training <= len(fitted) < len(names) and fitted not in found:
            found.append(fitted)
        if len(found) == splits:
            return found
    raise InputError(
        f"{splits} different splits with about {training} networks to fit on were asked for, but {len(names)} networks of "
        f"{len(families)} families give {len(found)}",
        "Ask for fewer with --training or --splits.",
    )


def _split(
    table: OperationTable, whole_ms: dict[str, float], fitted: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    unseen = sorted(set(names) - set(fitted))
    predictor = predictors.fit(table.latency_table(fitted, whole_ms), NO_FUSION)
    estimates = [predictor.estimate_kernels(table.kernels(name)) for name in unseen]
    sources = [kernel.source for estimate in estimates for kernel in estimate.kernels]

    def measured(name: str) -> list[float]:
        return [sum(each.ms for each in table.networks[name]), float(len(table.networks[name])), 1.0]

    def macs(name: str) -> list[float]:
        return [float(sum(kernel.macs for kernel in table.kernels(name))), 1.0]

    def macs_and_count(name: str) -> list[float]:
        return [*macs(name), float(len(table.kernels(name)))]

    y, truth = (np.array([whole_ms[name] for name in side]) for side in (fitted, unseen))

    def regressed(terms: Callable[[str], list[float]]) -> np.ndarray:
        design = np.array([terms(name) for name in fitted])
        scale = design.max(axis=0)
        solved = np.linalg.lstsq(design / scale / y[:, None], np.ones(len(y)), rcond=None)[0] / scale
        return np.asarray(np.array([terms(name) for name in unseen]) @ solved)

    answers = {
        "predictor": np.array([estimate.latency_ms for estimate in estimates]),
        "affine in MACs": regressed(macs),
        "affine in MACs and operations": regressed(macs_and_count),
        "from measured operations": regressed(measured),
    }
    return {
        "fitted": len(fitted),
        "unseen": len(unseen),
        "families_unseen": sorted({architecture_family(name) for name in unseen}),
        "kernels_known": sources.count("table") / len(sources),
        "methods": {method: figures(answer, truth) for method, answer in answers.items()},
        "networks": {
            name: {"measured_ms": float(truth[i]), "predicted_ms": float(answers["predictor"][i])}
            for i, name in enumerate(unseen)
        },
    }


def figures(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    found = accuracy_figures(list(predicted), list(measured))
    return {key: found[key] for key in FIGURES if key in found} | {"spearman": spearman(predicted, measured)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['device']}: {found['networks']} networks of {found['families']} architecture families, {len(found['splits'])} splits",
        "",
        f"{'mean of the splits':34}{'in 5 %':>8}{'in 10 %':>9}{'MAPE':>9}{'rho':>8}{'tau':>8}",
    ]
    lines += [_line(method, values) for method, values in found["mean"].items()]
    lines += ["", f"{'predictor, split by split':34}"]
    for number, split in enumerate(found["splits"], start=1):
        lines.append(
            _line(f"{number}: {split['fitted']} fitted, {split['unseen']} unseen", split["methods"]["predictor"])
        )
        lines.append(
            f"   unseen: {', '.join(split['families_unseen'])}; {split['kernels_known']:.0%} of their operations measured"
        )
    return "\n".join(lines)


def _line(name: str, f: dict[str, float]) -> str:
    return (
        f"{name:34}{f['within_5pct']:>8.1%}{f['within_10pct']:>9.1%}{f['mape_pct']:>7.2f} %{f['spearman']:>8.3f}"
        f"{f['kendall_tau']:>8.3f}"
    )


if __name__ == "__main__":
    main()
