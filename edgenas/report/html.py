"""result.json -> report.html: one page without scripts or network access, for light, dark, phone and paper.

Reads schema 1 and these extensions, all of which may be missing or null: `example`, `decision`, `front`, `steps`,
`pruning`, `held_out`, `rounds`, `devices`, `predictor_by_precision`, `kernel_groups` (rows of group, count, predicted_ms,
measured_ms), `architecture`, `data`, `environment`. Accuracies, `within_5pct`, `within_10pct` and `coverage_80` are
fractions of one. What is unknown is said to be unknown, and no latency stands without its provenance: measured,
calibrated, modelled or emulated.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgenas.errors import InputError
from edgenas.report import plots
from edgenas.report.numbers import (
    MINUS,
    NBSP,
    amount,
    duration,
    interval,
    ms,
    number,
    percent,
    signed,
    significant,
    size,
    whole,
    with_unit,
)
from edgenas.report.verdict import (
    advice,
    budget_of,
    built,
    checks_of,
    devices_of,
    gauge,
    percentile_of,
    runtime_name,
    sentence,
    series,
)

if TYPE_CHECKING:
    from jinja2 import Environment

Row = dict[str, Any]

VERDICTS = {"met": "Met", "not_met": "Not met", "not_measured": "Not measured"}
PROVENANCES = ("measured", "calibrated", "modelled", "emulated")


def write(build_dir: Path) -> Path:
    """Writes `build_dir`/report.html from `build_dir`/result.json and returns its path.

    Raises InputError when result.json is missing or is not a result of schema 1.
    """
    result = _load(build_dir / "result.json")
    page = templates().get_template("template.html.j2").render(_view(result))
    path = build_dir / "report.html"
    unfinished = path.with_name(f".report.html.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8", errors="replace")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _load(path: Path) -> Row:
    rebuild = "Run the `edgenas build` that made this folder again: what is done is taken from its cache."
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except OSError as error:
        hint = "Give the --out folder of a finished `edgenas build`; it holds result.json."
        raise InputError(f"Can't read {path}: {error.strerror or error}.", hint) from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}.", rebuild) from error
    if not isinstance(result, dict):
        raise InputError(f"{path} must hold a JSON object, but holds {type(result).__name__}.", rebuild)
    if result.get("schema") != 1:
        hint = "Make the report with the edgenas version that made the build, or build again with this one."
        raise InputError(f"{path} must be of schema 1, but is of schema {result.get('schema')!r}.", hint)
    if result.get("verdict") not in tuple(VERDICTS):
        expected = ", ".join(VERDICTS)
        raise InputError(f"The verdict in {path} must be one of {expected}, but is {result.get('verdict')!r}.", rebuild)
    return result


@cache
def templates() -> Environment:
    """The templates of this folder, and how numbers are written in them."""
    from jinja2 import ChainableUndefined, PackageLoader
    from jinja2 import Environment as Jinja
    from markupsafe import Markup, escape

    def shown(text: Callable[[object], str | None]) -> Callable[..., str]:
        def show(value: object, missing: str = "unknown") -> str:
            found = text(value)
            return Markup('<span class="missing">{}</span>').format(missing) if found is None else escape(found)

        return show

    def word(value: object) -> str | None:
        return None if not isinstance(value, str | int | float) or value == "" else str(value)

    environment = Jinja(
        loader=PackageLoader("edgenas.report", "."),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ms": shown(ms),
        "bare": shown(significant),
        "percent": shown(percent),
        "bare_percent": shown(lambda value: percent(value, unit=False)),
        "size": shown(size),
        "mib": shown(with_unit("MiB")),
        "mj": shown(with_unit("mJ")),
        "amount": shown(amount),
        "whole": shown(whole),
        "duration": shown(duration),
        "word": shown(word),
        "series": series,
        "runtime": runtime_name,
        "command": shlex.quote,
    }
    return environment


# What the page says, in the order of the page. What it says first, the verdict, has a file of its own.


def _dict(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[Row]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [str(item) for item in value if isinstance(item, str | int | float)] if isinstance(value, list) else []


def _view(result: Row) -> Row:
    timed = "emulated" if str(result.get("target")).startswith("emulated") else "measured"
    winner = _variant(_dict(result.get("winner")), timed)
    variants = [
        _variant(row, timed) | {"shipped": row.get("name") is not None and row.get("name") == winner.get("name")}
        for row in _rows(result.get("variants"))
    ] + [_variant(row, timed) | {"shipped": False, "baseline": True} for row in _rows(result.get("baselines"))]
    environment = _dict(result.get("environment"))
    budget = budget_of(_rows(result.get("budgets")), result.get("device"))
    percentile = percentile_of(budget)
    checks = checks_of(budget, winner, percentile)
    latency = next((c for c in checks if c.flag == "--latency-ms"), None)
    which = "" if percentile == 50 else f"p{percentile} "
    mark = plots.Mark(latency.limit, f"{which}budget {ms(latency.limit)}") if latency else None
    steps = _steps(_rows(result.get("steps")))
    return {
        "r": result,
        "winner": winner,
        "timed": timed,
        "built": built(winner),
        "device": str(result.get("device") or "unknown device"),
        "runtime": runtime_name(result.get("runtime"), result.get("runtime_version")),
        "word": VERDICTS[result["verdict"]],
        "sentence": sentence(result, winner, checks, percentile),
        "advice": advice(result, winner, checks),
        "checks": checks,
        "devices": devices_of(result),
        "latency": latency,
        "percentile": percentile,
        "gauge": gauge(winner["measured"], latency),
        "accuracy_interval": interval(winner["accuracy"].get("top1"), winner["accuracy"].get("n")),
        "unbalanced": _dict(result.get("data")).get("unbalanced") is True,
        "data": _dict(result.get("data")),
        "front": _front(_dict(result.get("front")), winner, mark),
        "steps": steps,
        "panels": _panels(steps, mark) if percentile == 50 else _panels(steps, None),
        "finalists": _rows(result.get("finalists")),
        "finalists_error": result.get("finalists_error"),
        "pruning": _dict(result.get("pruning")),
        "variants": variants,
        "variants_plot": _variants_plot(variants, mark),
        "predictor": _predictor(_dict(result.get("predictor_by_precision") or result.get("predictor")), winner),
        "held_out": _held_out(_rows(result.get("held_out")), timed),
        "kernel_groups": [row | _difference(row) for row in _rows(result.get("kernel_groups"))],
        "shipped_difference": _difference(
            {"predicted_ms": winner["predicted"].get("latency_ms"), "measured_ms": winner["measured"].get("p50_ms")}
        ),
        "rounds": _rows(result.get("rounds")),
        "architecture": _texts(result.get("architecture")),
        "stages": _stages(_rows(result.get("stages"))),
        "warnings": _texts(result.get("warnings")),
        "environment": environment,
        "packages": sorted(_dict(environment.get("packages")).items()),
    }


def _variant(row: Row, timed: str) -> Row:
    parts = {key: _dict(row.get(key)) for key in ("accuracy", "predicted", "measured")}
    given = parts["measured"].get("provenance")
    return row | parts | {"provenance": given if given in PROVENANCES else timed}


def _front(front: Row, winner: Row, fallback: plots.Mark | None) -> Row | None:
    rows: list[Row] = [
        {"id": str(row.get("id", "")), "latency_ms": x, "top1": y}
        for row in _rows(front.get("evaluated"))
        if (x := number(row.get("latency_ms"))) is not None and (y := number(row.get("top1"))) is not None
    ]
    if not rows:
        return None
    on_front, chosen_id = set(_texts(front.get("front"))), str(front.get("chosen"))
    colour = series(front.get("precision") or winner.get("precision"))

    def point(row: Row) -> plots.Point:
        tip = f"{row['id']}: {ms(row['latency_ms'])}, {percent(row['top1'])}"
        return plots.Point(row["latency_ms"], row["top1"] * 100, tip, colour)

    limit = number(front.get("budget_ms"))
    budget = plots.Mark(limit, f"budget {ms(limit)}") if limit is not None else fallback
    best = sorted((row for row in rows if row["id"] in on_front), key=lambda row: row["latency_ms"])
    chosen = next((row for row in rows if row["id"] == chosen_id), None)
    provenance = str(front.get("provenance") or "provenance unknown")
    metric = str(front.get("metric") or "validation top-1")
    said = f"chosen: {ms(chosen['latency_ms'])}, {percent(chosen['top1'])}" if chosen else ""
    alt = f"{len(rows)} candidates by predicted latency ({provenance}) and {metric}; {len(best)} on the Pareto front"
    alt += (
        "".join(f"; {part}" for part in (said, budget and budget.label) if part) + ". The table below holds the front."
    )
    plot = plots.pareto(
        [(row["latency_ms"], row["top1"] * 100) for row in rows if row["id"] not in on_front],
        [point(row) for row in best],
        point(chosen) if chosen else None,
        said,
        budget,
        f"predicted latency, ms ({provenance})",
        f"{metric}, %",
        alt,
    )
    return {
        "plot": plot,
        "rows": best,
        "chosen": chosen,
        "evaluated": len(rows),
        "series": colour,
        "metric": metric,
        "is_trained": front.get("weights") == "trained",
        "provenance": provenance,
    }


def _steps(rows: Iterable[Row]) -> list[Row]:
    """The steps with what each changed against the one before, where the two can be compared at all."""
    found: list[Row] = []
    for row in rows:
        before = found[-1] if found else {}
        changes: dict[str, tuple[str, str]] = {}
        for key, comparable in (("top1", "split"), ("latency_ms", "provenance"), ("size_bytes", "")):
            old, new = number(before.get(key)), number(row.get(key))
            if old is None or new is None or (comparable and before.get(comparable) != row.get(comparable)):
                continue
            change = (new - old) * 100 if key == "top1" else (new / old - 1) * 100 if old else 0.0
            text = signed(change, f"{abs(change):.1f}" if key == "top1" or abs(change) < 9.95 else f"{abs(change):.0f}")
            better = (change > 0) == (key == "top1")
            css = "soft" if text[0] not in f"+{MINUS}" else "better" if better else "worse"
            changes[key] = (f"{text}{NBSP}{'pt' if key == 'top1' else '%'}", css)
        found.append(row | {"changes": changes})
    return found


def _panels(steps: list[Row], budget: plots.Mark | None) -> list[Row]:
    provenances = sorted(
        {str(s.get("provenance") or "provenance unknown") for s in steps if number(s.get("latency_ms"))}
    )
    splits = sorted({str(s.get("split") or "unknown split") for s in steps if number(s.get("top1"))})
    dashed = ", budget dashed" if budget else ""
    asked: list[tuple[str, str, Callable[[object], str | None], float]] = [
        (f"Top-1, % ({', '.join(splits)})", "top1", lambda v: percent(v, unit=False), 100),
        (f"Latency, ms ({', '.join(provenances)}{dashed})", "latency_ms", significant, 1),
        ("Model file", "size_bytes", size, 1),
    ]
    found = []
    for title, key, text, scale in asked:
        bars = [
            plots.Bar(
                str(step.get("name") or step.get("title") or "step"),
                None if (value := number(step.get(key))) is None else value * scale,
                text(value) or "unknown",
                series(step.get("precision")),
            )
            for step in steps
        ]
        if any(bar.value is not None for bar in bars):
            alt = f"{title}: " + ", ".join(f"{bar.name} {bar.label}" for bar in bars)
            mark = budget if key == "latency_ms" else None
            found.append({"title": title, "svg": plots.small_multiple(bars, key != "top1", mark, alt)})
    return found


def _variants_plot(variants: list[Row], budget: plots.Mark | None) -> plots.Plot | None:
    rows = [
        plots.Range(
            str(row.get("name")),
            f"{ms(p50)} {row['provenance']}" + (", shipped" if row["shipped"] else ""),
            p50,
            number(row["measured"].get("p90_ms")),
            number(row["measured"].get("p99_ms")),
            series(row.get("precision")),
        )
        for row in variants
        if (p50 := number(row["measured"].get("p50_ms"))) is not None
    ]
    if not rows:
        return None
    alt = "p50, p90 and p99 latency: " + "; ".join(f"{row.name} {row.label}" for row in rows)
    return plots.ranges(rows, budget, "latency, ms", alt)


def _predictor(predictor: Row, winner: Row) -> list[Row]:
    by_precision = [row | {"precision": name} for name, row in predictor.items() if isinstance(row, dict)]
    flat = {key: value for key, value in predictor.items() if not isinstance(value, dict)}
    if not by_precision and any(number(value) is not None for value in flat.values()):
        return [{"precision": winner.get("precision")} | flat]
    return by_precision


def _difference(row: Row) -> Row:
    predicted, measured = number(row.get("predicted_ms")), number(row.get("measured_ms"))
    if predicted is None or not measured:
        return {"difference": None}
    change = (predicted / measured - 1) * 100
    return {"difference": signed(change, f"{abs(change):.1f}") + f"{NBSP}%"}


def _held_out(rows: list[Row], timed: str) -> Row | None:
    points, table = [], []
    for row in rows:
        predicted, measured = number(row.get("predicted_ms")), number(row.get("measured_ms"))
        if predicted and measured and predicted > 0 and measured > 0:
            filled = row | _difference(row)
            tip = f"{row.get('id')} {row.get('precision')}: predicted {ms(predicted)}, {timed} {ms(measured)}"
            low, high = number(row.get("low_ms")), number(row.get("high_ms"))
            tip += f" ({filled['difference']})"
            points.append(plots.Point(predicted, measured, tip, series(row.get("precision")), low, high))
            table.append(filled)
    if not points:
        return None
    inside = sum(abs(p.x / p.y - 1) <= 0.1 for p in points)
    alt = f"Predicted against {timed} latency of {len(points)} networks; {inside} within 10 percent. Table below."
    precisions = sorted({str(row.get("precision")) for row in table})
    return {"plot": plots.agreement(points, f"{timed}, ms", alt), "rows": table, "precisions": precisions}


def _stages(rows: list[Row]) -> Row:
    seconds = [number(row.get("seconds")) for row in rows]
    longest, known = max((s or 0 for s in seconds), default=0), [s for s in seconds if s is not None]
    filled = [
        row | {"share": f"{(s or 0) / longest * 100:.1f}" if longest else "0"}
        for row, s in zip(rows, seconds, strict=True)
    ]
    return {"rows": filled, "total": sum(known) if known else None}
