"""front.json and evaluations.jsonl -> front.html: one page without scripts or network access, in the style of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgenas.report import plots
from edgenas.report.html import templates
from edgenas.report.numbers import ms, percent
from edgenas.report.verdict import runtime_name, series
from edgenas.store import read_json, write_text

Row = dict[str, Any]


def write(folder: Path) -> Path:
    """Writes `folder`/front.html from the two files that lie there and returns its path."""
    front = read_json(folder / "front.json")
    log = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]
    path = folder / "front.html"
    write_text(path, templates().get_template("front.html.j2").render(_view(front, log)))
    return path


def values(candidate: Row) -> Row:
    """Its metrics by name; of those of several devices the first."""
    found: Row = {}
    for metric in candidate["metrics"]:
        found.setdefault(metric["metric"], metric)
    return found


def last_measured(front: Row) -> Row | None:
    """The last round on the first device, None where it was not measured."""
    return next((row for row in reversed(front["rounds"]) if row["device"] == front["device"]), None)


def elsewhere(front: Row, candidate: Row) -> list[Row]:
    """A candidate's latencies on the other devices, each with its budget there."""
    limits = {budget["device"]: budget["latency_ms"] for budget in front["budgets"][1:]}
    metrics = [metric for metric in candidate["metrics"] if metric["metric"] == "latency_ms"]
    return [metric | {"budget_ms": limits[metric["device"]]} for metric in metrics if metric["device"] in limits]


def accuracy_name(front: Row) -> str:
    names = {"top1": "top-1", "balanced": "balanced accuracy"}
    metric: str = front["accuracy"]["metric"]
    return f"validation {names.get(metric, metric)}"


def _view(front: Row, log: list[Row]) -> Row:
    rows = [row | values(row) for row in front["candidates"]]
    chosen = next(row for row in rows if row["id"] == front["chosen"])
    on_front = [row for row in rows if row["on_front"]]
    measured = last_measured(front)
    budget_ms = front["budgets"][0]["latency_ms"]
    verdict = "not_measured" if not measured else "met" if measured["measured_ms"] <= budget_ms else "not_met"
    latest = {row["id"]: row for row in log}  # of a candidate that was looked at again, what was said last
    others = [row for row in latest.values() if row["id"] not in {row["id"] for row in on_front}]
    metric, provenance = accuracy_name(front), chosen["latency_ms"]["provenance"]
    trained_rung = max(row["rung"] for row in log)
    said = f"chosen: {ms(chosen['latency_ms']['value'])}, {percent(chosen['accuracy']['value'])}"
    plot = plots.pareto(
        [],
        [_front_point(row) for row in on_front],
        _front_point(chosen),
        said,
        plots.Mark(budget_ms, f"budget {ms(budget_ms)}"),
        f"predicted latency, ms ({provenance})",
        f"{metric}, %",
        f"{len(latest)} candidates by predicted latency ({provenance}) and {metric}; {len(on_front)} on the Pareto front; {said}. "
        "The table below holds the front.",
        seen=[_seen_point(row, trained_rung) for row in others],
    )
    return {
        "f": front,
        "rows": rows,
        "on_front": len(on_front),
        "chosen": chosen,
        "measured": measured,
        "elsewhere": elsewhere(front, chosen),
        "budget_ms": budget_ms,
        "verdict": verdict,
        "runtime": runtime_name(front["runtime"], front["runtime_version"]),
        "metric": metric,
        "provenance": provenance,
        "seen": len(latest),
        "explored_shown": sum(row["phase"] == "explore" for row in others),
        "is_trained": trained_rung > 0,
        "series": sorted({series(row["latency_ms"]["precision"]) for row in rows}),
        "picture": plot,
    }


def _front_point(row: Row) -> plots.Point:
    latency, score = row["latency_ms"], row["accuracy"]["value"]
    return plots.Point(latency["value"], score * 100, _tip(row, latency["value"], score), series(latency["precision"]))


def _seen_point(row: Row, trained_rung: int) -> plots.Point:
    """One with a score that can't be compared with those on the front says so."""
    tip = _tip(row, row["latency_ms"], row["score"])
    if row["rung"] < trained_rung:
        tip += f"\njudged {'after a shorter training' if row['rung'] else 'with shared weights'}"
    elif row["phase"] == "explore":
        tip += "\njudged before the weights were trained on"
    else:
        return plots.Point(row["latency_ms"], row["score"] * 100, tip, "")
    return plots.Point(row["latency_ms"], row["score"] * 100, tip, "explored")


def _tip(row: Row, latency_ms: float, score: float) -> str:
    return "\n".join((f"{row['id']}: {ms(latency_ms)}, {percent(score)}", *row["architecture"]))
