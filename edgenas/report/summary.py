"""The few lines that `edgenas build` prints when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def summary(result: dict[str, Any], out: Path) -> str:
    winner, budget_ms = result["winner"], result["budgets"][0]["latency_ms"]
    measured, predicted, accuracy = winner["measured"], winner["predicted"], winner["accuracy"]
    words = {"met": "met", "not_met": "NOT met", "not_measured": "not measured"}
    if measured:
        latency = f"p50 {measured['p50_ms']:.3g} ms {measured['provenance']} on {result['device']}"
        guess = f" (predicted {predicted['latency_ms']:.3g} ms)"
    else:
        latency = f"predicted {predicted['latency_ms']:.3g} ms ({predicted['provenance']}) for {result['device']}"
        guess = f" (between {predicted['low_ms']:.3g} and {predicted['high_ms']:.3g} ms with 80 %)"
    several = _on_each(result) if len(result["devices"]) > 1 else []
    lines = several or [
        f"Budget {words[result['verdict']]}: {latency}, budget {budget_ms:.3g} ms{guess}",
    ]
    lines += [
        f"{winner['precision'].upper()}: test top-1 {accuracy['top1']:.2%}"
        + (f", balanced {accuracy['balanced']:.2%}" if result["data"]["unbalanced"] else "")
        + f" on {accuracy['n']:,} images, {winner['size_bytes'] / 1024:.0f} KiB, {winner['macs'] / 1e6:.2f} M MACs",
        result["decision"],
        "",
        f"{'':32}{'test top-1':>11}{'p50 ms':>10}{'KiB':>8}",
    ]
    for step in result["steps"]:
        ms = f"{step['latency_ms']:.3g}" if step["latency_ms"] is not None else "unknown"
        lines.append(f"{step['title']:32}{step['top1']:>11.2%}{ms:>10}{step['size_bytes'] / 1024:>8.0f}")
    lines += ["", *(f"  {line}" for line in result["architecture"]), ""]
    lines += [f"warning: {text}" for text in result["warnings"]]
    if not measured:
        lines += [
            f"On the device: copy {out / 'model'} there, run python3 on_device.py > measured.json, and then here:",
            f"               edgenas report --add measured.json {out}",
        ]
    lines += [f"Ship    {out / 'model'}", f"Report  {out / 'report.html'}"]
    return "\n".join(lines)


def _on_each(result: dict[str, Any]) -> list[str]:
    """What came out on all devices together, and a line for each."""
    together = {
        "met": "Budgets met on all devices",
        "not_met": "Budgets NOT met on all devices",
        "not_measured": "Budgets not measured on all devices",
    }
    found = [f"{together[result['verdict']]}:"]
    for device, row in result["devices"].items():
        measured, predicted, budget = row["measured"], row["predicted"], f"budget {row['budget_ms']:.3g} ms"
        guess = f"predicted {predicted['latency_ms']:.3g} ms"
        if measured:
            word = "met" if measured["p50_ms"] <= row["budget_ms"] else "NOT met"
            said = f"{word}, p50 {measured['p50_ms']:.3g} ms {measured['provenance']}, {budget} ({guess})"
        else:
            said = f"not measured, {guess} ({predicted['provenance']}), {budget}"
        found.append(f"  {device}: {said}; {row['precision'].upper()}, {row['path']}")
    return found
