"""What the report says first: whether the budgets are met, in one sentence and as a gauge, and what to do if they are not.

Rows are dictionaries out of result.json, in which anything may be missing.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Any

from edgenas.report.numbers import NBSP, ms, number, percent, significant

Row = dict[str, Any]

RUNTIMES = {"onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT", "tflite": "LiteRT", "litert": "LiteRT",
            "openvino": "OpenVINO", "coreml": "Core ML", "ncnn": "ncnn"}  # fmt: skip


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


def series(precision: object) -> str:
    """The CSS class that gives a precision its colour."""
    return f"p-{precision}" if precision in ("fp32", "fp16", "int8") else "p-other"


def runtime_name(name: object, version: object = None) -> str:
    known = RUNTIMES.get(str(name), str(name)) if name else "unknown runtime"
    return f"{known} {version}" if isinstance(version, str) and version else known


def built(winner: Row) -> bool:
    return any(winner.get(key) is not None for key in ("name", "precision", "path"))


def budget_of(rows: list[Row], device: object) -> Row:
    return next((row for row in rows if row.get("device") == device), rows[0] if rows else {})


def percentile_of(budget: Row) -> int:
    digits = re.sub(r"\D", "", str(budget.get("latency_percentile") or ""))
    return int(digits) if digits else 50


def checks_of(budget: Row, winner: Row, percentile: int) -> list[Check]:
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


def devices_of(result: Row) -> list[Row]:
    """Where there are several, one row each, the one that the report is on first: id, budget_ms, the latency that is known and how,
    `over` (None: not measured)."""
    given = result.get("devices")
    rows = [(str(name), row) for name, row in given.items() if isinstance(row, dict)] if isinstance(given, dict) else []
    if len(rows) < 2:
        return []
    found = []
    for name, row in rows:
        measured, predicted = (_dict(row.get(key)) for key in ("measured", "predicted"))
        p50, guess, limit = (
            number(measured.get("p50_ms")),
            number(predicted.get("latency_ms")),
            number(row.get("budget_ms")),
        )
        how = measured.get("provenance") or "measured" if p50 is not None else predicted.get("provenance")
        found.append(
            row
            | {
                "id": name,
                "budget_ms": limit,
                "latency_ms": guess if p50 is None else p50,
                "predicted_ms": guess,
                "provenance": how,
                "over": None if p50 is None or limit is None else p50 > limit,
            }
        )
    return found


def _dict(value: object) -> Row:
    return value if isinstance(value, dict) else {}


def sentence(result: Row, winner: Row, checks: list[Check], percentile: int) -> list[tuple[str, str]]:
    """The verdict as (CSS class, text) parts, without its first word."""
    if not built(winner):
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
    for row in devices_of(result)[1:]:
        figure = (
            f"{ms(row['latency_ms'])} ({row['provenance']})" if row["latency_ms"] is not None else "latency unknown"
        )
        relation = "over the budget of" if row["over"] else "budget"
        parts += [
            ("", f"; on {row['id']} "),
            ("strong", figure),
            ("", f", {relation} {ms(row['budget_ms']) or 'unknown'}"),
        ]
    top1 = percent(winner["accuracy"].get("top1"))
    return [*parts, *([("", "; "), ("strong", top1), ("", " test top-1.")] if top1 else [("", "; accuracy unknown.")])]


def advice(result: Row, winner: Row, checks: list[Check]) -> list[Advice]:
    device = shlex.quote(str(result.get("device") or "DEVICE"))
    several = devices_of(result)
    again = " ".join(f"--device {shlex.quote(row['id'])}" for row in several) or f"--device {device}"
    path = shlex.quote(str(winner.get("path") or "model/model.onnx"))
    if result["verdict"] == "met" or (result["verdict"] == "not_measured" and not built(winner)):
        return []
    if result["verdict"] == "not_measured" and several:
        away = [row for row in several if row["over"] is None]
        text = (
            "On {} nothing was timed. Copy the folder of {} there, run on_device.py in it, and take its output in here:"
        )
        return [Advice(text.format(row["id"], row.get("path")), "edgenas report --add measured.json .") for row in away]
    if result["verdict"] == "not_measured":
        target = "ssh://user@board" if result.get("device") != "host" else "local"
        text = "Nothing on this page was timed on the device. Measure the model there"
        return [
            Advice(f"{text}:", f"edgenas bench {path} --device {device} --target {target}"),
            Advice("Or copy the folder model/ there, run this in it,", "python3 on_device.py > measured.json"),
            Advice("and take the measurement in here:", "edgenas report --add measured.json ."),
        ]
    found = []
    for check in checks:
        if check.over and check.value is not None:
            step = 10.0 ** (math.floor(math.log10(check.value)) - 2) if check.value > 0 else 1.0
            enough = significant(math.ceil(check.value / step - 1e-9) * step)
            text = f"A {check.title} budget of {enough}{NBSP}{check.unit} is met by this very model"
            text += " (keep your other options):"
            flag = f"{check.flag} {device}=" if several and check.flag == "--latency-ms" else f"{check.flag} "
            found += [Advice(text, f"edgenas build {again} {flag}{str(enough).replace(',', '')}")]
    for row in several[1:]:
        if row["over"]:
            text = (
                f"On {row['id']} this very model takes {ms(row['latency_ms'])}: give it that budget, or search longer."
            )
            found += [Advice(text)]
    found += [Advice("To keep the budget, search longer and train more:", f"edgenas build {again} --effort max")]
    p50, p90 = number(winner["measured"].get("p50_ms")), number(winner["measured"].get("p90_ms"))
    if p50 and p90 and p90 > 1.25 * p50:
        text = (
            f"The measurement was uneven (p90 is {p90 / p50:.1f} times p50). Leave the device idle and measure again:"
        )
        found += [Advice(text, f"edgenas bench {path} --device {device} --strict")]
    return found


def gauge(measured: Row, latency: Check | None) -> Row | None:
    """Lengths in percent of a bar that compares p50, p90 and p99 with the budget."""
    known = {key: value for key in ("p50", "p90", "p99") if (value := number(measured.get(f"{key}_ms"))) is not None}
    if "p50" not in known or not latency:
        return None
    full = max(latency.limit, known["p50"], min(max(known.values()), 1.5 * latency.limit)) * 1.06 or 1.0
    lengths = {key: f"{min(100.0, value / full * 100):.1f}" for key, value in known.items()}
    return {"lengths": lengths, "budget": f"{latency.limit / full * 100:.1f}"}
