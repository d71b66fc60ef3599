"""The few lines that `edgenas build` prints when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def summary(result: dict[str, Any], out: Path) -> str:
    winner, budget_ms = result["winner"], result["budgets"][0]["latency_ms"]
    measured, accuracy = winner["measured"], winner["accuracy"]
    words = {"met": "met", "not_met": "NOT met", "not_measured": "not measured"}
    lines = [
        f"Budget {words[result['verdict']]}: p50 {measured['p50_ms']:.3g} ms {measured['provenance']} on {result['device']}, "
        f"budget {budget_ms:.3g} ms (predicted {winner['predicted']['latency_ms']:.3g} ms)",
        f"{winner['precision'].upper()}: test top-1 {accuracy['top1']:.2%}"
        + (f", balanced {accuracy['balanced']:.2%}" if result["data"]["unbalanced"] else "")
        + f" on {accuracy['n']:,} images, {winner['size_bytes'] / 1024:.0f} KiB, {winner['macs'] / 1e6:.2f} M MACs",
        result["decision"],
        "",
        f"{'':28}{'test top-1':>11}{'p50 ms':>10}{'KiB':>8}",
    ]
    for step in result["steps"]:
        lines.append(
            f"{step['title']:28}{step['top1']:>11.2%}{step['latency_ms']:>10.3g}{step['size_bytes'] / 1024:>8.0f}"
        )
    lines += ["", *(f"  {line}" for line in result["architecture"]), ""]
    lines += [f"warning: {text}" for text in result["warnings"]]
    lines += [f"Ship    {out / 'model'}", f"Report  {out / 'report.html'}"]
    return "\n".join(lines)
