"""The table of `edgenas search --explain`: how well zero-cost proxies ranked what the search evaluated."""

from __future__ import annotations

import io
from typing import Any

WIDTH = 110
PHASES = {
    "explore": "{} explored, judged by the supernet before its focus",
    "search": "{} that the search chose, a narrower selection",
}


def describe_explained(rows: list[dict[str, Any]]) -> str:
    """`rows` as front.json's `explain` has them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    for phase in dict.fromkeys(row["phase"] for row in rows):
        of_phase = [row for row in rows if row["phase"] == phase]
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", title_style="")
        table.title = f"Rank correlation with the accuracy of the {PHASES[phase].format(of_phase[0]['n'])}"
        for name in ("proxy", "Spearman", "95 %", "Kendall", "95 %"):
            table.add_column(name, justify="left" if name == "proxy" else "right")
        for row in sorted(of_phase, key=lambda row: -(row["spearman"] if row["spearman"] is not None else -2)):
            table.add_row(row["proxy"], *_figures(row, "spearman"), *_figures(row, "kendall_tau"))
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def describe_warm_start(found: dict[str, Any]) -> str:
    """What the proxy's choices were worth beside random ones, in one sentence."""
    points, low, high = (100 * found[name] for name in ("difference", "low", "high"))
    helped = "helped" if low > 0 else "did harm" if high < 0 else "made no difference that can be told from chance"
    return (
        f"Warm start by {found['proxy']}: its {found['n_ranked']} choices score {points:+.1f} points beside {found['n_random']} "
        f"random ones (95 %: {low:+.1f} to {high:+.1f}). It {helped}."
    )


def _figures(row: dict[str, Any], name: str) -> tuple[str, str]:
    if row[name] is None:
        return "-", "undefined"
    return f"{row[name]:.2f}", f"{row[f'{name}_low']:.2f} to {row[f'{name}_high']:.2f}"
