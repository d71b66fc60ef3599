"""Profiling a space for real: every network in every precision, resumed after a stop, in an order that covers its kernels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgenas.errors import TargetError
from edgenas.latency import predictor as predictors
from edgenas.latency import records, table
from edgenas.latency.profile import PlannedNetwork, ProfilePlan, plan_networks, profile
from edgenas.measure import Bench
from edgenas.network.graph import Network
from edgenas.onnxio.write import Weights
from edgenas.pipeline.context import opened_machine
from edgenas.pipeline.measuring import RECORDS, run_profile
from edgenas.progress import Progress
from edgenas.runtimes.runtime import Runtime
from edgenas.store import Store
from edgenas.targets.target import open_target
from tests.tiny_space import ISA, META, RUNTIME, SPACE, kernels_of, subnets

pytestmark = pytest.mark.alone

PLAN = ProfilePlan(covering=2, odd=1, held_out=1, seed=4)


def as_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def names_and_precisions(path: Path) -> list[tuple[str, str]]:
    return [(found.name, found.precision) for found in records.read(path)]


@dataclass
class Refusing:
    """ONNX Runtime, but the file of one network, or of every one, is none that it can load."""

    runtime: Runtime
    refused: Network | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runtime, name)

    def fp32_model(self, network: Network, weights: Weights) -> onnx.ModelProto:
        model = self.runtime.fp32_model(network, weights)
        if self.refused is None or network == self.refused:
            model.graph.node[0].op_type = "Deconvolve"
        return model


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    target = open_target("local")
    yield Bench(target, RUNTIME)
    target.close()


@pytest.fixture(scope="module")
def measured(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "records.jsonl"
    profile(SPACE, bench, ("fp32", "int8"), PLAN, 7, path)
    return path


class TestProfile:
    @pytest.fixture
    def path(self, measured: Path, tmp_path: Path) -> Path:
        """A copy to spoil."""
        return Path(shutil.copy(measured, tmp_path))

    def test_each_network_is_measured_in_each_precision(self, measured: Path) -> None:
        found = records.read(measured)
        kinds = [(each.name.split("/")[0], each.precision) for each in found]
        assert sorted(kinds) == sorted(
            (kind, p) for kind in ("held-out", "space", "space", "odd") for p in ("fp32", "int8")
        )
        for each in found:
            assert each.error is None
            assert each.whole is not None
            assert len(each.whole.samples_ns) == len(each.whole.cpu_ns) == len(each.whole.reference_cpu_ns) > 0
            assert {kernel.precision for kernel in each.kernels} == {each.precision}
            assert len(each.kernel_us) == len(each.kernels) > 3
            if each.name.startswith("held-out/"):
                assert set(each.kernel_us) == {None}
            else:
                assert {len(us) for us in each.kernel_us if us is not None} == {len(each.reference_cpu_ns)}
                assert None not in each.kernel_us

    def test_a_second_call_measures_nothing(self, bench: Bench, measured: Path) -> None:
        before = measured.read_bytes()
        again = profile(SPACE, bench, ("fp32", "int8"), PLAN, 7, measured)
        assert measured.read_bytes() == before
        assert again == records.read(measured)

    def test_after_a_kill_between_networks_only_the_missing_are_measured(self, bench: Bench, path: Path) -> None:
        everything, kept = names_and_precisions(path), as_lines(path)[:2]
        path.write_bytes(b"".join(kept) + as_lines(path)[2][:100])
        seen: list[tuple[int, int, str]] = []
        found = profile(SPACE, bench, ("fp32", "int8"), PLAN, 7, path, lambda *progress: seen.append(progress))
        assert as_lines(path)[:2] == kept
        assert names_and_precisions(path) == everything
        assert found == records.read(path)
        assert [done for done, _, _ in seen] == [0, 1, 2, 3, 4]
        assert {total for _, total, _ in seen} == {4}

    def test_after_a_kill_between_precisions_the_other_is_measured(self, bench: Bench, path: Path) -> None:
        everything = names_and_precisions(path)
        path.write_bytes(as_lines(path)[0] + as_lines(path)[1][:100])
        profile(SPACE, bench, ("fp32", "int8"), PLAN, 7, path)
        assert sorted(names_and_precisions(path)) == sorted(everything)

    def test_a_model_that_the_runtime_refuses_is_recorded(self, bench: Bench, tmp_path: Path) -> None:
        plan, path = ProfilePlan(covering=1, odd=0, held_out=1), tmp_path / "records.jsonl"
        bad = next(plan_networks(SPACE, plan, lambda network: set()))
        refusing: Any = Refusing(RUNTIME, bad.network)
        found = profile(SPACE, Bench(bench.target, refusing), ("fp32", "int8"), plan, 7, path)
        failed = [each for each in found if each.error]
        assert [(each.name, each.precision) for each in failed] == [(bad.name, "fp32"), (bad.name, "int8")]
        assert all("refused" in str(each.error) and each.whole is None and not each.kernels for each in failed)
        good = [each for each in found if not each.error]
        assert len(good) == 2
        assert all(each.whole and each.kernels for each in good)
        before = path.read_bytes()
        profile(SPACE, Bench(bench.target, refusing), ("fp32", "int8"), plan, 7, path)
        assert path.read_bytes() == before, "what failed is not tried again and again"

    def test_where_every_network_is_refused_it_is_said_why_and_nothing_kept(self, tmp_path: Path) -> None:
        refusing: Any = Refusing(RUNTIME, None)
        with opened_machine("host", None, None) as machine, closing(Store(tmp_path)) as store:
            broken = replace(machine, runtime=refusing, reached=Bench(machine.bench.target, refusing))
            stage = store.stage("profile", {})
            with pytest.raises(TargetError, match=r"no network could be profiled in fp32: .*refused"):
                run_profile(SPACE, broken, PLAN, stage, Progress(quiet=True))
            assert not stage.path(RECORDS).exists(), "the device may be mended"

    def test_a_table_and_a_predictor_come_of_it(self, measured: Path) -> None:
        found = records.read(measured)
        for precision in RUNTIME.PRECISIONS:
            made = table.from_records(replace(META, precision=precision), found)
            profiled = [each for each in found if each.precision == precision and not each.name.startswith("held-out/")]
            assert made.times.keys() == {kernel for each in profiled for kernel in each.kernels}
            assert all(time.mean_ms >= 0 and time.n > 0 for time in made.times.values())
            made = table.from_records(made.meta, profiled)
            predictor = predictors.fit(made, RUNTIME.fusion(precision, ISA))
            assert len(predictor.samples) == len(profiled) == 3
            assert all(predictor.affine.apply(np.array([sample.terms])) > 0 for sample in predictor.samples)


class TestPlan:
    def test_it_is_the_same_every_time_and_names_no_network_twice(self) -> None:
        plan = ProfilePlan(covering=6, odd=4, held_out=5, seed=1)
        first, again = (list(plan_networks(SPACE, plan, lambda n: set(kernels_of(n)))) for _ in range(2))
        assert first == again
        assert len({planned.name.split("/")[1] for planned in first}) == len(first)
        assert [planned.name.split("/")[0] for planned in first].count("odd") == 4
        assert [planned.held_out for planned in first] == [True] * 5 + [False] * 10

    def test_held_out_networks_do_not_depend_on_how_many_are_profiled(self) -> None:
        def held_out(covering: int) -> list[PlannedNetwork]:
            plan = ProfilePlan(covering=covering, odd=0, held_out=3)
            return [p for p in plan_networks(SPACE, plan, lambda n: set(kernels_of(n))) if p.held_out]

        assert held_out(1) == held_out(4)

    def test_it_covers_more_kernels_than_chance(self) -> None:
        plan = ProfilePlan(covering=8, odd=0, held_out=0, seed=2)
        covered = {k for p in plan_networks(SPACE, plan, lambda n: set(kernels_of(n))) for k in kernels_of(p.network)}
        by_chance = [
            len({k for subnet in subnets(8, seed) for k in kernels_of(SPACE.network(subnet))}) for seed in range(10)
        ]
        assert len(covered) > max(by_chance)
