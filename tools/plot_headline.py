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
    all_found = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    families = dict.fromkeys(of_baseline(row)[0] for found in all_found for row in found["rows"] if is_baseline(row))
    colours = {family: f"C{i}" for i, family in enumerate(families)}  # one and the same in all panels
    for axis, found in zip(axes[0], all_found, strict=True):
        panel(axis, found, colours)
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=150)


def is_baseline(row: dict[str, Any]) -> bool:
    return bool(row["kind"] == "baseline")


def of_baseline(row: dict[str, Any]) -> tuple[str, int]:
    """Family and resolution in pixels, of a name like "ds-cnn 0 28px"."""
    family, _, px = row["name"].split()
    return family, int(px.removesuffix("px"))


def panel(axis: Any, found: dict[str, Any], colours: dict[str, str]) -> None:
    families: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in filter(is_baseline, found["rows"]):
        families[of_baseline(row)][row["name"]].append(row)
    largest_px = max((px for _, px in families), default=0)
    for (family, px), networks in families.items():
        style = {
            "linestyle": "-" if px == largest_px else "--",
            "color": colours[family],
            "label": f"{family}, {px} px",
        }
        axis.plot(*means(map(faster, networks.values())), marker="o", markersize=4, linewidth=1, alpha=0.85, **style)
    winners: dict[float, list[dict[str, Any]]] = defaultdict(list)
    for row in found["rows"]:
        if row["kind"] == "winner":
            winners[row["budget_ms"]].append(row)
            axis.plot(row["ms"], 100 * row["test_accuracy"], ".", color=OWN_COLOUR, alpha=0.5)
    axis.plot(*means(winners.values()), "D-", color=OWN_COLOUR, markersize=7, label="edgenas", zorder=3)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="x", which="both", labelsize=8)
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
