"""Profiling a space: whole subnets, each node timed in context, chosen so that together they cover the kernels in reach.

A kernel timed alone pays for layout changes at its edges that it doesn't pay inside a network; so nothing is timed alone. A share
of the subnets gets odd channel counts, because pruning asks for the staircase between a space's own widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgenas.artifacts.kernel import Kernel, Precision
from edgenas.artifacts.measurement import Measurement
from edgenas.errors import DeviceAway, EdgenasError, TargetError
from edgenas.latency import records
from edgenas.latency.records import ProfiledNetwork
from edgenas.measure import QUICK, Bench, NodeProfile, most_tries, untrained
from edgenas.network.channels import channel_groups, with_widths
from edgenas.network.fuse import fuse
from edgenas.network.graph import Network
from edgenas.spaces.space import SearchSpace

if TYPE_CHECKING:
    import onnx

NOTHING = NodeProfile((), (), 1)
CANDIDATES = 24
FRESH_TRIES = 200
HELD_OUT = "held-out/"  # names of networks that are never fitted on
CHUNK, LEAST_CHUNKS, MOST_CHUNKS = 4, 3, 9  # runs of a network whose nodes are timed
NODE_PROFILE_MS = 150.0  # and about how long they take


@dataclass(frozen=True)
class ProfilePlan:
    """`covering` subnets of the space as they are, `odd` ones with widths in between, `held_out` ones only timed as a whole."""

    covering: int = 70
    odd: int = 30
    held_out: int = 30
    seed: int = 0


@dataclass(frozen=True)
class PlannedNetwork:
    name: str
    network: Network
    held_out: bool = False


def plan_networks(
    space: SearchSpace, plan: ProfilePlan, rules_of: Callable[[Network], set[Kernel]]
) -> Iterator[PlannedNetwork]:
    """Lazily, in a fixed order. Of several random candidates the one with the most kernels not yet covered comes next."""
    rng = np.random.default_rng(plan.seed)
    covered: set[Kernel] = set()
    seen: set[str] = set()

    def fresh() -> tuple[str, Network] | None:
        for _ in range(FRESH_TRIES):
            subnet = space.sample(rng)
            if subnet.id not in seen:
                return subnet.id, space.network(subnet)
        return None  # a space so small that it was all seen

    for _ in range(plan.held_out):
        found = fresh()
        if found is None:
            return
        name, network = found
        seen.add(name)
        yield PlannedNetwork(f"{HELD_OUT}{name}", network, held_out=True)
    for i in range(plan.covering + plan.odd):
        candidates = [found for found in (fresh() for _ in range(CANDIDATES)) if found is not None]
        if not candidates:
            return
        odd = i * plan.odd // (plan.covering + plan.odd) != (i + 1) * plan.odd // (plan.covering + plan.odd)
        if odd:
            name, network = candidates[0]
            yield PlannedNetwork(f"odd/{name}", odd_widths(network, rng))
        else:
            name, network = max(candidates, key=lambda pair: len(rules_of(pair[1]) - covered))
            yield PlannedNetwork(f"space/{name}", network)
            covered |= rules_of(network)
        seen.add(name)


def odd_widths(network: Network, rng: np.random.Generator, multiple: int = 4) -> Network:
    """Each channel group keeps 45 to 100 % of its channels, in multiples of `multiple`."""
    widths = {}
    for group in channel_groups(network):
        full = network.by_name[group[0]].shape[1]
        kept = full if full <= multiple else max(multiple, int(full * rng.uniform(0.45, 1.0)) // multiple * multiple)
        widths.update(dict.fromkeys(group, kept))
    return with_widths(network, widths)


def profile(
    space: SearchSpace,
    bench: Bench,
    precisions: Sequence[Precision],
    plan: ProfilePlan,
    weight_bits: int,
    path: Path,
    on_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[ProfiledNetwork]:
    """Measure what `path` doesn't hold yet, appending to it, and return all of it. A network that fails is recorded as such."""
    done = records.read(path)
    have = {record.name for record in done}
    total = plan.covering + plan.odd + plan.held_out

    def kernels_of(network: Network) -> set[Kernel]:
        return {f.kernel for f in fuse(network, bench.fusion(precisions[-1]), precisions[-1])}

    for count, planned in enumerate(plan_networks(space, plan, kernels_of)):
        on_progress(count, total, planned.name)
        if planned.name not in have:
            found = measure(planned, bench, precisions, weight_bits, seed=count)
            records.append(path, found)
            done.extend(found)
    on_progress(total, total, "")
    return done


def measure(
    planned: PlannedNetwork, bench: Bench, precisions: Sequence[Precision], weight_bits: int, seed: int
) -> list[ProfiledNetwork]:
    """In all of the precisions, in one interleaved run. What the runtime refuses, or can't be written, is recorded so; DeviceAway is
    raised, as nothing else would succeed."""
    models: dict[Precision, onnx.ModelProto] = {}
    failed: dict[Precision, str] = {}
    for precision in precisions:
        try:
            models[precision] = untrained(bench.runtime, planned.network, precision, weight_bits, seed)
        except EdgenasError as error:
            failed[precision] = error.message
    try:
        timed = (
            bench.time_models(list(models.values()), QUICK, precisions=list(models), tries=most_tries())
            if models
            else []
        )
        wholes = dict(zip(models, timed, strict=True))
        profiles = {
            p: NOTHING if planned.held_out else _node_profile(model, p, wholes[p], bench) for p, model in models.items()
        }
    except DeviceAway:
        raise
    except TargetError as error:
        failed |= dict.fromkeys(models, error.message)
    return [
        ProfiledNetwork(planned.name, p, (), (), (), 1, None, failed[p])
        if p in failed
        else _record(planned, p, profiles[p], wholes[p], bench)
        for p in precisions
    ]


def _node_profile(model: onnx.ModelProto, precision: Precision, whole: Measurement, bench: Bench) -> NodeProfile:
    chunks = int(np.clip(NODE_PROFILE_MS / (CHUNK * (whole.p50_ms + whole.reference_ms)), LEAST_CHUNKS, MOST_CHUNKS))
    return bench.profile_nodes(model, precision=precision, chunks=chunks, chunk=CHUNK, tries=most_tries())


def _record(
    planned: PlannedNetwork, precision: Precision, found: NodeProfile, whole: Measurement, bench: Bench
) -> ProfiledNetwork:
    kernels = fuse(planned.network, bench.fusion(precision), precision)
    times = bench.runtime.attribute(found.nodes, kernels)
    return ProfiledNetwork(
        planned.name,
        precision,
        tuple(f.kernel for f in kernels),
        tuple(tuple(us) if us is not None else None for us in times),
        found.reference_cpu_ns,
        found.chunk,
        whole,
    )
