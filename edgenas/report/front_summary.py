"""The few lines that `edgenas search` prints when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgenas.report.explained import describe_warm_start
from edgenas.report.front import accuracy_name, elsewhere, last_measured, values


def front_summary(front: dict[str, Any], out: Path) -> str:
    budget_ms, rows = front["budgets"][0]["latency_ms"], front["candidates"]
    chosen = next(row for row in rows if row["id"] == front["chosen"])
    evaluated = sum(front["evaluated"]) + front["explored"]
    on_front = sum(row["on_front"] for row in rows)
    weights = "with the supernet's weights" if front["accuracy"]["weights"] == "supernet" else "after a short training"
    lines = [
        f"{on_front} on the front of {evaluated} evaluations within {budget_ms:.3g} ms on {front['device']}",
        f"Latencies are predicted; accuracy is the {accuracy_name(front)} {weights}.",
        "",
        f"{'':14}{'ms':>8}{'80 % interval':>19}{'':>6}{'accuracy':>10}{'M MACs':>9}{'k params':>10}{'KiB':>8}{'peak KiB':>10}",
    ]
    for row in rows:
        metric = values(row)
        latency = metric["latency_ms"]
        between = f"{latency['low']:.3g} to {latency['high']:.3g}"
        mark = "*" if row is chosen else " " if row["on_front"] else "-"
        lines.append(
            f"{mark} {row['id']:12}{latency['value']:>8.3g}{between:>19}{latency['precision']:>6}"
            f"{metric['accuracy']['value']:>10.1%}{metric['macs']['value'] / 1e6:>9.2f}{metric['params']['value'] / 1e3:>10.1f}"
            f"{metric['size_bytes']['value'] / 1024:>8.0f}{metric['activation_peak_mib']['value'] * 1024:>10.0f}"
        )
    lines += ["", *(f"  {line}" for line in chosen["architecture"]), ""]
    if not all(row["on_front"] for row in rows):
        lines.append("- is not on the front, but among the most accurate: a build trains it as well")
    lines += [f"warning: {text}" for text in front["warnings"]]
    if last := last_measured(front):
        verdict = "within" if last["measured_ms"] <= budget_ms else "OVER"
        lines.append(
            f"* takes {last['measured_ms']:.3g} ms {last['provenance']} (predicted {last['predicted_ms']:.3g} ms): "
            f"{verdict} the budget of {budget_ms:.3g} ms"
        )
    else:
        lines.append(
            f"* was not measured: there is no target. Predicted ({values(chosen)['latency_ms']['provenance']})."
        )
    lines += [
        f"  on {row['device']} it is predicted to take {row['value']:.3g} ms ({row['provenance']}), budget {row['budget_ms']:.3g} ms"
        for row in elsewhere(front, chosen)
    ]
    if front.get("warm_start"):
        lines.append(describe_warm_start(front["warm_start"]))
    lines += [
        f"Plot   {out / 'front.html'}",
        f"Data   {out / 'front.json'}, {out / 'evaluations.jsonl'}",
        f"Build  edgenas build with the same options takes all of this from {out}",
    ]
    return "\n".join(lines)
