"""Whether a variant of result.json meets a row of its budgets; the one place that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

Verdict = Literal["met", "not_met", "not_measured"]

# budgets besides latency: the value of a variant's record in the budget's unit, None where it was not measured
VALUES: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "size_mib": lambda record: record["size_bytes"] / 2**20,
    "peak_memory_mib": lambda record: record["activation_peak_mib"],
    "macs_m": lambda record: record["macs"] / 1e6,
    "params_m": lambda record: record["params"] / 1e6,
    "energy_mj": lambda record: (record["measured"] or {}).get("energy_mj"),
}


def broken(record: Mapping[str, Any], budgets: Mapping[str, Any]) -> list[str]:
    """The names of the budgets besides latency that the record breaks."""
    values = {name: value(record) for name, value in VALUES.items() if budgets.get(name) is not None}
    return [name for name, value in values.items() if value is not None and value > budgets[name]]


def verdict(record: Mapping[str, Any], budgets: Mapping[str, Any]) -> Verdict:
    """What was not measured isn't met, but what is computed may be broken without a measurement."""
    measured = record["measured"]
    if broken(record, budgets) or (measured and measured["p50_ms"] > budgets["latency_ms"]):
        return "not_met"
    unknown = not measured or (budgets.get("energy_mj") is not None and measured.get("energy_mj") is None)
    return "not_measured" if unknown else "met"


def of_all(verdicts: Iterable[Verdict]) -> Verdict:
    """Of several devices: one budget that is not met decides, then one that was not measured."""
    found = set(verdicts)
    return next((each for each in ("not_met", "not_measured") if each in found), "met")
