"""result.json -> report.html: one page without scripts or network access, for light, dark, phone and paper.

Reads schema 1 and these extensions, all of which may be missing or null: `example`, `decision`, `front`, `steps`,
`pruning`, `held_out`, `rounds`, `predictor_by_precision`, `kernel_groups` (rows of group, count, predicted_ms,
measured_ms), `architecture`, `data`, `environment`. Accuracies, `within_5pct`, `within_10pct` and `coverage_80` are
fractions of one. What is unknown is said to be unknown, and no latency stands without its provenance: measured,
calibrated, modelled or emulated.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from jinja2 import Environment

Row = dict[str, Any]

VERDICTS = {"met": "Met", "not_met": "Not met", "not_measured": "Not measured"}
PROVENANCES = ("measured", "calibrated", "modelled", "emulated")
RUNTIMES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tflite": "LiteRT", "litert": "LiteRT",
            "openvino": "OpenVINO", "coreml": "Core ML", "ncnn": "ncnn"}  # fmt: skip


def write(build_dir: Path) -> Path:
    """Writes `build_dir`/report.html from `build_dir`/result.json and returns its path.

    Raises InputError when result.json is missing or is not a result of schema 1.
    """
    result = _load(build_dir / "result.json")
    page = _environment().get_template("template.html.j2").render(_view(result))
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
def _environment() -> Environment:
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


# What the page says, in the order of the page.


def _dict(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[Row]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [str(item) for item in value if isinstance(item, str | int | float)] if isinstance(value, list) else []


def series(precision: object) -> str:
    """The CSS class that gives a precision its colour."""
    return f"p-{precision}" if precision in ("fp32", "fp16", "int8") else "p-other"


def runtime_name(name: object, version: object = None) -> str:
    known = RUNTIMES.get(str(name), str(name)) if name else "unknown runtime"
    return f"{known} {version}" if isinstance(version, str) and version else known


@dataclass(frozen=True)
class Check:
    """One budget of the device that was built for."""

    flag: str
    title: str
    unit: str
    limit: float
    value: float | None

    @property
    def over(self) -> bool:
        return self.value is not None and self.value > self.limit


@dataclass(frozen=True)
class Advice:
    text: str
    command: str = ""


def _view(result: Row) -> Row:
    timed = "emulated" if str(result.get("target")).startswith("emulated") else "measured"
    winner = _variant(_dict(result.get("winner")), timed)
    variants = [
        _variant(row, timed) | {"shipped": row.get("name") is not None and row.get("name") == winner.get("name")}
        for row in _rows(result.get("variants"))
    ] + [_variant(row, timed) | {"shipped": False, "baseline": True} for row in _rows(result.get("baselines"))]
    environment = _dict(result.get("environment"))
    budget = _budget(result)
    percentile = _percentile(budget)
    checks = _checks(budget, winner, percentile)
    latency = next((c for c in checks if c.flag == "--latency-ms"), None)
    which = "" if percentile == 50 else f"p{percentile} "
    mark = plots.Mark(latency.limit, f"{which}budget {ms(latency.limit)}") if latency else None
    steps = _steps(_rows(result.get("steps")))
    return {
        "r": result,
        "winner": winner,
        "timed": timed,
        "built": _built(winner),
        "device": str(result.get("device") or "unknown device"),
        "runtime": runtime_name(result.get("runtime"), result.get("runtime_version")),
        "word": VERDICTS[result["verdict"]],
        "sentence": _sentence(result, winner, checks, percentile),
        "advice": _advice(result, winner, checks),
        "checks": checks,
        "latency": latency,
        "percentile": percentile,
        "gauge": _gauge(winner["measured"], latency),
        "accuracy_interval": interval(winner["accuracy"].get("top1"), winner["accuracy"].get("n")),
        "unbalanced": _dict(result.get("data")).get("unbalanced") is True,
        "data": _dict(result.get("data")),
        "front": _front(_dict(result.get("front")), winner, mark),
        "steps": steps,
        "panels": _panels(steps, mark) if percentile == 50 else _panels(steps, None),
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


def _built(winner: Row) -> bool:
    return any(winner.get(key) is not None for key in ("name", "precision", "path"))


def _budget(result: Row) -> Row:
    rows = _rows(result.get("budgets"))
    return next((row for row in rows if row.get("device") == result.get("device")), rows[0] if rows else {})


def _percentile(budget: Row) -> int:
    digits = re.sub(r"\D", "", str(budget.get("latency_percentile") or ""))
    return int(digits) if digits else 50


def _checks(budget: Row, winner: Row, percentile: int) -> list[Check]:
    def scaled(key: str, scale: float) -> float | None:
        value = number(winner.get(key))
        return None if value is None else value / scale

    measured = winner["measured"]
    found: list[tuple[str, str, str, float | None]] = [
        ("latency_ms", f"p{percentile} latency", "ms", number(measured.get(f"p{percentile}_ms"))),
        ("size_mib", "size", "MiB", scaled("size_bytes", 1024**2)),
        ("peak_memory_mib", "peak activation memory", "MiB", number(winner.get("activation_peak_mib"))),
        ("energy_mj", "energy", "mJ", number(measured.get("energy_mj"))),
        ("macs_m", "MACs", "M", scaled("macs", 1e6)),
        ("params_m", "parameters", "M", scaled("params", 1e6)),
    ]
    return [
        Check("--" + key.replace("_", "-"), title, unit, limit, value)
        for key, title, unit, value in found
        if (limit := number(budget.get(key))) is not None
    ]


def _sentence(result: Row, winner: Row, checks: list[Check], percentile: int) -> list[tuple[str, str]]:
    """The verdict as (CSS class, text) parts, without its first word."""
    if not _built(winner):
        return [("", "no model was built.")]
    named = str(winner.get("precision") or winner.get("name") or "unnamed")
    latency = next((c for c in checks if c.flag == "--latency-ms"), None)
    value = number(winner["measured"].get(f"p{percentile}_ms"))
    predicted = winner["predicted"]
    parts = [("", f"{named.upper() if series(named) != 'p-other' else named} model ")]
    if value is not None:
        threads = result.get("threads")
        where = f"p{percentile}, {winner['provenance']} on {result.get('device')}"
        how = f"{runtime_name(result.get('runtime'), result.get('runtime_version'))}, {threads or 'unknown number of'} "
        parts += [("", "runs in "), ("strong", str(ms(value)))]
        parts += [("soft", f" ({where}, {how}thread{'' if threads == 1 else 's'})")]
    elif text := ms(predicted.get("latency_ms")):
        low, high = significant(predicted.get("low_ms")), ms(predicted.get("high_ms"))
        span = f", between {low} and {high}" if low and high else ""
        provenance = predicted.get("provenance") or "unknown provenance"
        parts += [("", "is predicted to run in "), ("strong", text)]
        parts += [("soft", f" ({provenance} for {result.get('device')}{span})")]
    else:
        parts += [("", "has not been measured and its latency is unknown")]
    if latency and latency.over and latency.value is not None:
        excess = significant((latency.value / latency.limit - 1) * 100, 2) if latency.limit else None
        parts += [("", f", {excess}{NBSP}% over the budget of " if excess else ", over the budget of ")]
        parts += [("strong", str(ms(latency.limit)))]
    elif latency:
        parts += [("", ", budget "), ("strong", str(ms(latency.limit)))]
    for check in checks:
        if check is latency or not (check.over or not latency):
            continue
        relation = "over the" if check.over else "within the" if check.value is not None else "unknown against the"
        figure = "" if check.value is None else f"{significant(check.value)}{NBSP}{check.unit}, "
        parts += [("", f"; {check.title} {figure}{relation} budget of {significant(check.limit)}{NBSP}{check.unit}")]
    top1 = percent(winner["accuracy"].get("top1"))
    return [*parts, *([("", "; "), ("strong", top1), ("", " test top-1.")] if top1 else [("", "; accuracy unknown.")])]


def _advice(result: Row, winner: Row, checks: list[Check]) -> list[Advice]:
    device = shlex.quote(str(result.get("device") or "DEVICE"))
    path = shlex.quote(str(winner.get("path") or "model/model.onnx"))
    if result["verdict"] == "met" or (result["verdict"] == "not_measured" and not _built(winner)):
        return []
    if result["verdict"] == "not_measured":
        target = "ssh://user@board" if result.get("device") != "host" else "local"
        text = "Nothing on this page was timed on the device. Measure the model there"
        return [Advice(f"{text}:", f"edgenas bench {path} --device {device} --target {target}")]
    found = []
    for check in checks:
        if check.over and check.value is not None:
            step = 10.0 ** (math.floor(math.log10(check.value)) - 2) if check.value > 0 else 1.0
            enough = significant(math.ceil(check.value / step - 1e-9) * step)
            text = f"A {check.title} budget of {enough}{NBSP}{check.unit} is met by this very model"
            text += " (keep your other options):"
            found += [Advice(text, f"edgenas build --device {device} {check.flag} {str(enough).replace(',', '')}")]
    found += [
        Advice("To keep the budget, search longer and train more:", f"edgenas build --device {device} --effort max")
    ]
    p50, p90 = number(winner["measured"].get("p50_ms")), number(winner["measured"].get("p90_ms"))
    if p50 and p90 and p90 > 1.25 * p50:
        text = (
            f"The measurement was uneven (p90 is {p90 / p50:.1f} times p50). Leave the device idle and measure again:"
        )
        found += [Advice(text, f"edgenas bench {path} --device {device} --strict")]
    return found


def _gauge(measured: Row, latency: Check | None) -> Row | None:
    """Lengths in percent of a bar that compares p50, p90 and p99 with the budget."""
    known = {key: value for key in ("p50", "p90", "p99") if (value := number(measured.get(f"{key}_ms"))) is not None}
    if "p50" not in known or not latency:
        return None
    full = max(latency.limit, known["p50"], min(max(known.values()), 1.5 * latency.limit)) * 1.06 or 1.0
    lengths = {key: f"{min(100.0, value / full * 100):.1f}" for key, value in known.items()}
    return {"lengths": lengths, "budget": f"{latency.limit / full * 100:.1f}"}


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
