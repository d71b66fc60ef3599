"""The zero-cost proxies of a build's subnets, each worked out once and kept; and how well they ranked what the search evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgenas.nets.feed import preprocessing
from edgenas.nets.proxies import Batch, measured
from edgenas.nets.proxy_names import NAMES
from edgenas.pipeline.context import Build
from edgenas.search.evaluations import Candidate
from edgenas.spaces.space import Subnet
from edgenas.stats import rank_figures
from edgenas.store import LineLog

if TYPE_CHECKING:
    from edgenas.pipeline.searching import Ground, Searched

IMAGES = 32
Proxies = Mapping[str, float | None]  # None, in place of the lowest value of all, which JSON has no number for


@dataclass(frozen=True)
class Explained:
    """The `proxies` of all that was evaluated, by subnet id, and the `rows` of front.json's `explain`."""

    proxies: Mapping[str, Proxies]
    rows: tuple[dict[str, Any], ...]


def proxies_of(build: Build, subnets: Iterable[Subnet]) -> dict[str, Proxies]:
    """By subnet id. They depend on no device and no budget: another search in the same folder finds them."""
    stage = build.store.stage(
        "proxies", [build.space.id, build.dataset.fingerprint, build.request.seed, IMAGES, NAMES, torch.__version__]
    )
    log = LineLog(stage.path("proxies.jsonl"))
    known: dict[str, Proxies] = {entry["id"]: entry["proxies"] for entry in log.entries}
    wanted = {subnet.id: subnet for subnet in subnets}
    unknown = [subnet for subnet in wanted.values() if subnet.id not in known]
    with build.progress.stage("proxies", f"Zero-cost proxies of {len(wanted)} networks", cached=not unknown):
        networks = [build.space.network(subnet) for subnet in unknown]
        found = build.executor.map(measured, networks, _batch(build))
        for count, (subnet, values) in enumerate(zip(unknown, found, strict=True), start=1):
            known[subnet.id] = {name: value if math.isfinite(value) else None for name, value in values.items()}
            log.add({"id": subnet.id, "proxies": known[subnet.id]})
            build.progress.update(count, len(unknown), f"{count} of {len(unknown)}")
    return {key: known[key] for key in wanted}


def explain(build: Build, ground: Ground, searched: Searched) -> Explained:
    """A row for each phase and proxy says how alike its order and that of the accuracies are. The explored were drawn at random (with a
    warm start only half of them); those of the search are a selection, whose accuracies differ less, and come from other weights."""
    phases = {"explore": ground.focused.explored, "search": _searched(searched)}
    proxies = proxies_of(build, (candidate.subnet for found in phases.values() for candidate in found))

    def value(candidate: Candidate, name: str) -> float:
        found = proxies[candidate.subnet.id][name]
        return -math.inf if found is None else found

    rows = tuple(
        {"proxy": name, "phase": phase} | rank_figures([value(c, name) for c in found], [c.score for c in found])
        for phase, found in phases.items()
        for name in NAMES
    )
    return Explained(proxies, rows)


def _searched(searched: Searched) -> Sequence[Candidate]:
    """Of all rounds, each once: a later one corrects latencies, not accuracies."""
    return list({c.subnet.id: c for found in searched.found for c in found.comparable}.values())


def _batch(build: Build) -> Batch:
    train, seed = build.dataset.train, build.request.seed
    rows = np.random.default_rng(seed).permutation(len(train))[:IMAGES]
    images = train.at(rows)
    return Batch(images.images, images.labels, preprocessing(build.dataset), seed)
