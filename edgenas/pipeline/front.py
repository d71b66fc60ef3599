"""`front.json` and `evaluations.jsonl` from what a search found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgenas.artifacts.kernel import BYTES_PER_VALUE
from edgenas.latency.fastest import FastestPredictor
from edgenas.network import costs
from edgenas.network.graph import Network
from edgenas.onnxio.size import file_bytes
from edgenas.pipeline import budgets
from edgenas.pipeline.context import Build
from edgenas.pipeline.proxies import Explained, Proxies
from edgenas.pipeline.searching import Ground, Searched
from edgenas.pipeline.warm_start import worth
from edgenas.search.evaluations import Candidate
from edgenas.spaces.space import Subnet
from edgenas.store import write_json, write_text

_METRICS = {
    ("accuracy", False): "top1",
    ("accuracy", True): "balanced",
    ("loss", False): "exp(-loss)",
    ("loss", True): "exp(-loss)",
}


def write_front(
    build: Build, ground: Ground, searched: Searched, chosen: Subnet, explained: Explained | None = None
) -> dict[str, Any]:
    """The whole of front.json, also returned. The candidates are those of the last round's front, and the finalists, by rising latency:
    one that is not `on_front` was the more accurate one once all were measured, or trained on their own. Each metric is
    that of the device it names, or of the network on any device. File size and peak memory are those that budgets limit: in the
    narrowest precision that is worth it on the device. Where the search is `explained`, zero-cost proxies are among the metrics, and
    `explain` says how well each of them ranks."""
    proxies = explained.proxies if explained else {}
    warm, explored = ground.focused.warm, ground.focused.explored
    dataset, last = build.dataset, searched.last
    is_trained = searched.is_trained
    front = {
        **build.heading(),
        "space": {"name": build.space_name, "id": build.space.id},
        "budgets": [
            {"device": device, "latency_ms": budget_ms} | budgets.asked(build)
            for device, budget_ms in (
                (build.request.device, ground.budget_ms),
                *((other.build.request.device, other.budget_ms) for other in searched.others),
            )
        ],
        "accuracy": {
            "metric": _METRICS["accuracy" if is_trained else build.request.objective, dataset.unbalanced],
            "split": "validation",
            "n": len(dataset.validation),
            "weights": "trained" if is_trained else "supernet",
        },
        "candidates": [
            _candidate(build, searched, candidate, proxies.get(candidate.subnet.id, {}))
            | {"on_front": candidate in last.front}
            for candidate in sorted({*last.front, *searched.finalists}, key=lambda c: (c.latency_ms, c.subnet.id))
        ],
        "chosen": chosen.id,
        "rounds": list(searched.rounds),
        "explored": len(ground.focused.explored),
        "evaluated": [len(found.evaluated) for found in searched.found],
        "dropped_options": last.dropped_options,
        "stopped": last.stopped,
        "warnings": [*ground.warnings, *dataset.warnings],
    }
    if warm is not None:
        front["warm_start"] = worth(warm.proxy, warm.ranked, explored)
    if explained is not None:
        front["explain"] = list(explained.rows)
    write_json(build.request.out / "front.json", front)
    write_text(
        build.request.out / "evaluations.jsonl",
        "".join(f"{json.dumps(row)}\n" for row in _log(build, ground, searched, proxies)),
    )
    return front


def _candidate(build: Build, searched: Searched, candidate: Candidate, proxies: Proxies) -> dict[str, Any]:
    network = build.space.network(candidate.subnet)
    narrowest = build.machine.precisions[-1]
    values = BYTES_PER_VALUE[narrowest]
    elsewhere = [_latency(other.build, other.predictor, network) for other in searched.others]
    peak_mib = costs.activation_peak_bytes(network, values) / 2**20
    return {
        "id": candidate.subnet.id,
        "space": candidate.subnet.space,
        "genome": list(candidate.subnet.genome),
        "architecture": list(build.space.describe(candidate.subnet)),
        "metrics": [
            _latency(build, searched.predictor, network) | {"value": candidate.latency_ms},
            *elsewhere,
            {"metric": "accuracy", "device": None, "value": candidate.score},
            {"metric": "macs", "device": None, "value": costs.macs(network)},
            {"metric": "params", "device": None, "value": costs.params(network)},
            {
                "metric": "size_bytes",
                "device": None,
                "value": file_bytes(network, narrowest),
                "precision": narrowest,
                "provenance": "modelled",
            },
            {"metric": "activation_peak_mib", "device": None, "value": peak_mib, "precision": narrowest},
            *(
                {"metric": name, "device": None, "value": proxies[name]}
                for name in proxies
                if name not in ("macs", "params")
            ),
        ],
    }


def _latency(build: Build, predictor: FastestPredictor, network: Network) -> dict[str, Any]:
    precision, estimate = predictor.estimate(network)
    return {
        "metric": "latency_ms",
        "device": build.request.device,
        "value": estimate.latency_ms,
        "low": estimate.low_ms,
        "high": estimate.high_ms,
        "provenance": estimate.provenance,
        "precision": precision,
    }


def _log(build: Build, ground: Ground, searched: Searched, proxies: Mapping[str, Proxies]) -> list[dict[str, Any]]:
    """Every evaluation in its order. Exploration comes before the supernet was trained on: its scores are from other weights. A later
    round takes accuracies that an earlier one found, beside latencies that a measurement corrected."""
    rows = [_evaluation(build, candidate, "explore", None) for candidate in ground.focused.explored]
    for number, found in enumerate(searched.found, start=1):
        rows += [_evaluation(build, candidate, "search", number) for candidate in found.evaluated]
    return [row | ({"proxies": proxies[row["id"]]} if row["id"] in proxies else {}) for row in rows]


def _evaluation(build: Build, candidate: Candidate, phase: str, round_number: int | None) -> dict[str, Any]:
    return {
        "id": candidate.subnet.id,
        "genome": list(candidate.subnet.genome),
        "score": candidate.score,
        "rung": candidate.rung,
        "latency_ms": candidate.latency_ms,
        "phase": phase,
        "round": round_number,
        "architecture": list(build.space.describe(candidate.subnet)),
    }
