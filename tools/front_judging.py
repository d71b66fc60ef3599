"""How bench_headline judges: the front of the hand-designed networks, chosen on validation images, and how long it takes where it is as
accurate on the test part as a network that was found.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np


def compared(rows: Sequence[dict[str, Any]], budget_ms: float) -> dict[str, Any]:
    """The winners of one budget against the front of the same seed's baselines, chosen on validation images."""
    found = []
    for row in rows:
        if row["kind"] == "winner" and row["budget_ms"] == budget_ms:
            baselines = [r for r in rows if r["kind"] == "baseline" and r["seed"] == row["seed"]]
            if baselines:
                reached, note = latency_at(front_of(baselines), row["test_accuracy"])
                found.append(
                    {
                        "seed": row["seed"],
                        "ms": row["ms"],
                        "test_accuracy": row["test_accuracy"],
                        "ratio": row["ms"] / reached,
                        "verdict": row["verdict"],
                    }
                    | ({"note": note} if note else {})
                )
    return {"budget_ms": budget_ms, "seeds": found} | (
        {
            "ms": statistics.mean(f["ms"] for f in found),
            "test_accuracy": statistics.mean(f["test_accuracy"] for f in found),
            "ratio": statistics.mean(f["ratio"] for f in found),
            "worst_ratio": max(f["ratio"] for f in found),
        }
        | of_means(rows, found)
        if found
        else {}
    )


def of_means(rows: Sequence[dict[str, Any]], winners: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The winners' mean latency and accuracy against the front of the baselines' mean accuracies over the same seeds: one seed's front
    is made of those that its noise favoured."""
    seeds = {winner["seed"] for winner in winners}
    networks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "baseline" and row["seed"] in seeds:
            networks.setdefault((row["name"], row["precision"]), []).append(row)
    baselines = [
        {
            "ms": same[0]["ms"],
            "precision": same[0]["precision"],
            "validation": {p: statistics.mean(row["validation"][p] for row in same) for p in same[0]["validation"]},
            "test_accuracy": statistics.mean(row["test_accuracy"] for row in same),
        }
        for same in networks.values()
        if {row["seed"] for row in same} == seeds
    ]
    if not baselines:
        return {}
    accuracy = statistics.mean(winner["test_accuracy"] for winner in winners)
    reached, note = latency_at(front_of(baselines), accuracy)
    found = {"ratio_of_means": statistics.mean(winner["ms"] for winner in winners) / reached}
    return found | ({"note_of_means": note} if note else {})


def front_of(baselines: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """(ms, test accuracy) by rising latency of those that no faster one beats on validation images."""
    front, best = [], -1.0
    for row in sorted(baselines, key=lambda r: r["ms"]):
        validation = row["validation"][row["precision"]]
        if validation > best:
            best = validation
            front.append((row["ms"], row["test_accuracy"]))
    return front


def latency_at(front: Sequence[tuple[float, float]], accuracy: float) -> tuple[float, str]:
    """Latency of the front where it is that accurate, between its members by straight lines. Beyond its ends that of the end, which
    favours the baselines above and the winner below, and a note that says so."""
    ms, reached = np.array([f[0] for f in front]), np.maximum.accumulate([f[1] for f in front])
    if accuracy > reached[-1]:
        return float(ms[int(np.argmax(reached))]), "more accurate than every baseline: compared with the most accurate"
    if accuracy < reached[0]:
        return float(ms[0]), "less accurate than every baseline on the front: compared with the fastest"
    at = int(np.argmax(reached >= accuracy))
    if at == 0:
        return float(ms[0]), ""
    return float(np.interp(accuracy, reached[at - 1 : at + 1], ms[at - 1 : at + 1])), ""


def text(found: dict[str, Any]) -> str:
    kind = "balanced" if found["balanced"] else "top-1"
    lines = [f"{found['data']}, {kind} test accuracy, {found['cpu']}, load {found['load']}"]
    for budget in found["budgets"]:
        if not budget["seeds"]:
            continue
        lines.append(
            f"within {budget['budget_ms']:g} ms: {budget['ms']:.4f} ms, {100 * budget['test_accuracy']:.2f} %, "
            f"{budget['ratio']:.2f} of the best baseline's latency at that accuracy (seeds: "
            + ", ".join(f"{f['ratio']:.2f}" for f in budget["seeds"])
            + (f"; mean accuracies: {budget['ratio_of_means']:.2f})" if "ratio_of_means" in budget else ")")
        )
        lines += [f"  mean accuracies: {budget['note_of_means']}"] if "note_of_means" in budget else []
        lines += [f"  seed {f['seed']}: {f['note']}" for f in budget["seeds"] if "note" in f]
        lines += [
            f"  seed {f['seed']}: budget {f['verdict']} in the build" for f in budget["seeds"] if f["verdict"] != "met"
        ]
    for name, precision in sorted({(r["name"], r["precision"]) for r in found["rows"] if r["kind"] == "baseline"}):
        rows = [r for r in found["rows"] if (r["name"], r["precision"]) == (name, precision)]
        mean = statistics.mean(r["test_accuracy"] for r in rows)
        lines.append(f"  {name:24} {rows[0]['ms']:.4f} ms  {100 * mean:.2f} %  {precision}")
    return "\n".join(lines)
