"""Draws what bench_headline found: test accuracy over latency, the networks that edgenas finds against hand-designed ones.

    python tools/bench_headline.py ... --json > found.json
    python tools/plot_headline.py found.json more.json --out docs/headline.svg

One panel a file. A family at a resolution is a line through its widths, each network the mean over seeds in its faster precision; what
was found is a mark for each seed, and a larger one for their mean.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np

OWN_COLOUR = "#c2185b"


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="An .svg or .png file.")
def main(files: tuple[Path, ...], out: Path) -> None:
    import matplotlib

    matplotlib.use("svg" if out.suffix == ".svg" else "agg")
    matplotlib.rcParams |= {"svg.hashsalt": "edgenas", "axes.spines.top": False, "axes.spines.right": False}
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(files), figsize=(6.5 * len(files), 4.6), squeeze=False, layout="constrained")
    for axis, path in zip(axes[0], files, strict=True):
        panel(axis, json.loads(path.read_text(encoding="utf-8")))
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=150)


def panel(axis: Any, found: dict[str, Any]) -> None:
    families: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in found["rows"]:
        if row["kind"] == "baseline":
            family, _, px = row["name"].split()
            families[f"{family}, {px.removesuffix('px')} px"][row["name"]].append(row)
    for family, networks in families.items():
        axis.plot(*means(map(faster, networks.values())), "o-", markersize=4, linewidth=1, alpha=0.85, label=family)
    winners: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for row in found["rows"]:
        if row["kind"] == "winner":
            winners[row["budget_ms"]].append(row)
            axis.plot(row["ms"], 100 * row["test_accuracy"], ".", color=OWN_COLOUR, alpha=0.5)
    axis.plot(*means(winners.values()), "D-", color=OWN_COLOUR, markersize=7, label="edgenas", zorder=3)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="x", which="minor", labelsize=7)
    axis.grid(alpha=0.25)
    axis.set_xlabel(f"measured latency, ms ({found['cpu']}, one thread)")
    axis.set_ylabel(f"{'balanced' if found['balanced'] else 'top-1'} test accuracy, %")
    axis.set_title(Path(found["data"]).name)
    axis.legend(fontsize=8, frameon=False, loc="best")


def faster(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `rows` in the precision that is."""
    precision = min(rows, key=lambda row: row["ms"])["precision"]
    return [row for row in rows if row["precision"] == precision]


def means(networks: Any) -> tuple[list[float], list[float]]:
    """(ms, percent) of each, by rising latency."""
    points = sorted(
        (float(np.mean([r["ms"] for r in rows])),
         100 * float(np.mean([r["test_accuracy"] for r in rows])))
        for rows in networks
    )  # fmt: skip
    return [ms for ms, _ in points], [percent for _, percent in points]


if __name__ == "__main__":
    main()
