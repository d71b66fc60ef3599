"""Profiling for arbitrary models, on this machine: resumable, chosen by what the table knows least about, and honest about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgenas.latency import predictor as predictors
from edgenas.latency import profile_generic as generic
from edgenas.latency import records, table
from edgenas.latency.cross_validation import with_left_out
from edgenas.latency.profile_generic import GenericPlan, candidates, profile_generic
from edgenas.latency.table import LatencyTable, TableMeta
from edgenas.measure import Bench
from edgenas.network.fuse import fuse
from edgenas.runtimes.runtime import load_runtime
from edgenas.spaces.generic import random_network
from edgenas.targets.target import open_target

pytestmark = pytest.mark.alone

COUNT = 9
PRECISIONS = ("fp32", "int8")
META = TableMeta("host", "onnxruntime", "1", "fp32", 1, "", 0.1, {})


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    target = open_target("local")
    yield Bench(target, load_runtime("onnxruntime"))
    target.close()


@pytest.fixture(scope="module")
def measured(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small networks, so that it takes seconds; the model refitted soon, so that it chooses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generic, "random_network", lambda rng, family: random_network(rng, family, max_px=48))
        patch.setattr(generic, "REFITTED_EVERY", 4)
        path = tmp_path_factory.mktemp("generic") / "records.jsonl"
        profile_generic(bench, PRECISIONS, GenericPlan(count=COUNT), 8, path)
        yield path


def test_each_network_is_measured_in_every_precision_and_kernel_by_kernel(measured: Path) -> None:
    found = records.read(measured)
    assert len(found) == 2 * COUNT
    for each in found:
        assert each.error is None
        assert each.whole is not None
        assert each.kernels
    fp32 = [each for each in found if each.precision == "fp32"]
    assert all(us is not None for each in fp32 for us in each.kernel_us), "the runtime showed a node for every kernel"


def test_a_second_run_measures_only_what_is_missing(measured: Path, bench: Bench) -> None:
    before = measured.read_bytes()
    seen: list[tuple[int, int, str]] = []
    profile_generic(
        bench, PRECISIONS, GenericPlan(count=COUNT + 1), 8, measured, lambda *progress: seen.append(progress)
    )
    after = measured.read_bytes()
    assert after.startswith(before)
    assert len(records.read(measured)) == 2 * (COUNT + 1)
    assert seen[0][2].startswith("unseen networks within"), "what was measured before is learned from again"
    profile_generic(bench, PRECISIONS, GenericPlan(count=COUNT + 5, max_s=0.0), 8, measured)
    profile_generic(bench, PRECISIONS, GenericPlan(count=COUNT + 5, good_pct=float("inf")), 8, measured)
    assert measured.read_bytes() == after, "no time is left, or it is good enough"


def test_candidates_do_not_depend_on_what_was_measured() -> None:
    assert candidates(3, 7) == candidates(3, 7)
    assert candidates(3, 7) != candidates(4, 7)


def test_networks_left_out_make_the_interval(measured: Path, bench: Bench, tmp_path: Path) -> None:
    found = [each for each in records.read(measured) if each.precision == "fp32"]
    quiet_ms = min(each.whole.reference_ms for each in found if each.whole)
    made = table.from_records(replace(META, quiet_reference_ms=quiet_ms), found)
    judged = with_left_out(made, found)
    assert judged.times == made.times
    assert {each.kernels for each in judged.networks} == {each.kernels for each in made.networks}
    assert all(each.left_out is not None and each.left_out.sum_ms > 0 for each in judged.networks)
    again: LatencyTable = table.load(table.save(judged, tmp_path))
    assert again.networks == judged.networks
    predictor = predictors.fit(judged, bench.fusion("fp32"))
    assert predictor.in_context
    network = random_network(np.random.default_rng(99), "fire", max_px=48)
    estimate = predictor.estimate(network)
    assert estimate.low_ms < estimate.latency_ms < estimate.high_ms
    assert len(estimate.kernels) == len(fuse(network, bench.fusion("fp32"), "fp32"))
