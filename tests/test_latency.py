"""From measured networks to predicted ones: records on disk, the table, and the predictor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.artifacts.kernel import PRECISIONS, Kernel
from edgenas.artifacts.latency_estimate import Source
from edgenas.artifacts.measurement import Measurement, Provenance
from edgenas.errors import InputError
from edgenas.latency import predictor as predictors
from edgenas.latency import records, table
from edgenas.latency.kernel_model import MIN_FOR_PROCESS, KernelModel
from edgenas.latency.predictor import LEAST_SHARE, Affine, LatencyPredictor
from edgenas.latency.records import ProfiledNetwork
from edgenas.latency.space_predictor import SpacePredictor
from edgenas.latency.table import KernelTime, LatencyTable
from edgenas.network.graph import Network
from edgenas.spaces.space import Subnet
from edgenas.stats import quiet_chunks
from tests.tiny_space import ISA, META, QUIET_MS, RUNTIME, SPACE, kernels_of, subnets

SHAPES = st.lists(st.integers(1, 2048), min_size=1, max_size=3).map(tuple)
PAIRS = st.tuples(st.integers(0, 11), st.integers(0, 11))
KERNELS = st.builds(
    Kernel,
    op=st.sampled_from(["Conv", "Gemm", "GlobalAveragePool"]),
    in_shape=SHAPES,
    out_shape=SHAPES,
    kernel_size_hw=PAIRS,
    stride_hw=PAIRS,
    dilation_hw=PAIRS,
    pads=st.sampled_from([(), (0, 0, 0, 0), (1, 0, 2, 1)]),
    groups=st.integers(1, 960),
    fused=st.lists(st.sampled_from(["Add", "Relu", "Clip"]), max_size=3).map(tuple),
    precision=st.sampled_from(PRECISIONS),
)
TIMES = st.builds(
    KernelTime,
    *(st.integers(1, 10**6).map(lambda n: n / 1e4) for _ in range(3)),  # what six digits hold
    n=st.integers(1, 10**6),
)


class TestKernel:
    @given(kernel=KERNELS)
    def test_a_row_holds_it_all(self, kernel: Kernel) -> None:
        assert Kernel.from_row(kernel.to_row()) == kernel

    @pytest.mark.parametrize(
        ("column", "text"), [("groups", "many"), ("in_shape", "3xx28"), ("precision", "int4"), ("pads", "a")]
    )
    def test_a_cell_that_cannot_be_read_is_named(self, column: str, text: str) -> None:
        row = Kernel("Conv", (3, 8, 8), (4, 8, 8)).to_row()
        with pytest.raises(InputError, match=f"column '{column}' holds '{text}', which can't be read"):
            Kernel.from_row(row | {column: text})
        del row[column]
        with pytest.raises(InputError, match=f"column '{column}' holds None"):
            Kernel.from_row(row)


class TestMeasurement:
    def test_halves_that_agree_say_so_and_halves_that_do_not_too(self) -> None:
        quiet = Measurement((100,) * 8, (100,) * 8, (50,) * 8, chunk=2)
        assert quiet.disagreement == 0
        slowed = replace(quiet, cpu_ns=(100,) * 4 + (125,) * 4)
        assert slowed.disagreement == pytest.approx(0.2)
        both = replace(slowed, reference_cpu_ns=(40,) * 4 + (50,) * 4)
        assert both.disagreement == pytest.approx(0), "the reference was slowed alike"
        assert replace(quiet, cpu_ns=(100,) * 2, reference_cpu_ns=(50,) * 2).disagreement == 0, (
            "one chunk has no halves"
        )

    @given(st.integers(100, 10**7), st.floats(0.5, 4))
    def test_a_slow_machine_is_taken_out_of_a_median_and_a_fast_one_is_not(self, ns: int, slowness: float) -> None:
        quiet = Measurement((ns,) * 8, (ns,) * 8, (10**6,) * 8, chunk=2)
        slowed = Measurement((round(ns * slowness),) * 8, (ns,) * 8, (round(10**6 * slowness),) * 8, chunk=2)
        expected = quiet.p50_ms * min(1.0, slowness)
        assert slowed.quiet_p50_ms(quiet.reference_ms) == pytest.approx(expected, rel=0.01)


class TestRecords:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "records.jsonl"

    def test_what_is_appended_is_read(self, path: Path) -> None:
        assert records.read(path) == []
        failed = ProfiledNetwork("b", "int8", (), (), (), 1, None, "out of memory")
        records.append(path, [record("a"), failed])
        records.append(path, [record("c")])
        assert records.read(path) == [record("a"), failed, record("c")]

    @settings(max_examples=25)
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_a_last_line_cut_short_is_dropped(self, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
        path = tmp_path_factory.getbasetemp() / "cut.jsonl"
        path.unlink(missing_ok=True)
        records.append(path, [record("a")])
        whole = path.stat().st_size
        records.append(path, [record("b")])
        cut = whole + int((path.stat().st_size - whole) * share)
        path.write_bytes(path.read_bytes()[:cut])
        assert records.read(path) == [record("a")]
        assert path.stat().st_size == whole
        records.append(path, [record("c")])
        assert records.read(path) == [record("a"), record("c")]

    def test_kernel_times_come_from_quiet_runs(self) -> None:
        quiet, slow = [100_000] * 2, [200_000] * 2
        found = ProfiledNetwork(
            "a",
            "int8",
            (Kernel("Conv", (1,), (1,)), Kernel("Gemm", (1,), (1,)), Kernel("Flatten", (1,), (1,))),
            ((9, 9, 9, 9, 5, 5, 5, 7), (8, 8, 8, 8, 1, 1, 1, 3), None),
            (*quiet, *slow, *quiet, *quiet),  # right before and right after the last two chunks
            2,
            None,
        )
        assert quiet_chunks(found.reference_cpu_ns, 2, 100_000).tolist() == [False, False, True, True]
        # three quarters of the four quiet runs, the fastest
        assert found.kernel_ms(0.1) == [0.005, 0.001, None]
        # never quiet: the fastest quarter of the eight
        assert found.kernel_ms(0.01) == [0.005, 0.001, None]


class TestTable:
    @settings(max_examples=40)
    @given(times=st.dictionaries(KERNELS, TIMES, max_size=6))
    def test_it_is_loaded_as_it_was_saved(
        self, tmp_path_factory: pytest.TempPathFactory, times: dict[Kernel, KernelTime]
    ) -> None:
        saved = LatencyTable(META, times)
        path = table.save(saved, tmp_path_factory.getbasetemp() / "tables")
        assert path.name == "onnxruntime-int8-t1.csv"
        assert table.load(path) == saved

    def test_times_are_those_of_the_records_of_its_precision(self) -> None:
        kernel = Kernel("Conv", (3, 8, 8), (4, 8, 8), precision="int8")
        base = ProfiledNetwork("a", "int8", (kernel,), ((4, 4, 4, 4),), (100_000,) * 4, 2, None)
        other = replace(base, name="b", kernel_us=((8, 8, 8, 8),))
        failed = ProfiledNetwork("c", "int8", (), (), (), 1, None, "broken")
        fp32 = replace(base, precision="fp32", kernel_us=((1, 1, 1, 1),))
        found = table.from_records(META, [base, other, failed, fp32])
        mib = kernel.bytes_moved / 2**20
        assert found.times == {kernel: KernelTime(0.005, 0.004, 0.006, 8, network_mib=pytest.approx(mib))}

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        kernels = kernels_of(SPACE.network(SPACE.largest()))[:3]
        return table.save(LatencyTable(META, {k: KernelTime(0.5, 0.25, 0.5, 9) for k in kernels}), tmp_path)

    @pytest.mark.parametrize(
        ("spoil", "expected"),
        [
            (lambda lines: [*lines, lines[2]], "line 5: the kernel stands twice"),
            (lambda lines: [lines[0], lines[1].replace("0.25", "nan"), *lines[2:]], "line 2: .*not a finite number"),
            (lambda lines: [*lines[:2], lines[2].replace("0.25", "-0.25")], "line 3: .*not a finite number"),
            (lambda lines: [*lines[:2], lines[2].replace("0.25", "inf")], "line 3: .*not a finite number"),
            (lambda lines: [*lines[:2], lines[2].replace("0.25", "fast")], "line 3: .*'fast'"),
            (lambda lines: [*lines[:2], lines[2].replace("int8", "int4")], "line 3: .*'precision' holds 'int4'"),
            (
                lambda lines: [lines[0].replace("mean_ms", "ms"), *lines[1:]],
                "line 1: the columns \\['mean_ms'\\] are missing",
            ),
            (lambda lines: [lines[0].replace("groups", "group"), *lines[1:]], "line 2: .*'groups' holds None"),
            (
                lambda lines: [lines[0].replace(",n,", ",count,"), *lines[1:]],
                "line 1: the columns \\['n'\\] are missing",
            ),
            (lambda lines: [*lines[:3], lines[3][: len(lines[3]) // 2]], "line 4: "),
        ],
    )
    def test_a_bad_row_is_refused_with_file_and_line(
        self, saved: Path, spoil: Callable[[list[str]], list[str]], expected: str
    ) -> None:
        lines = saved.read_text().splitlines()
        saved.write_text("\n".join(spoil(lines)) + "\n")
        with pytest.raises(InputError, match=expected) as error:
            table.load(saved)
        assert error.value.message.startswith(f"{saved}, line ")

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"schema": 1}, r"t1\.meta\.json: schema 2 was expected, but it has 1"),
            ({"schema": None}, r"t1\.meta\.json: schema 2 was expected, but it has None"),
            ({"space": "x"}, r"t1\.csv can't be read: .*'space'"),
            ({"failed": None}, r"t1\.csv can't be read"),
        ],
    )
    def test_another_schema_is_refused(self, saved: Path, change: dict[str, Any], expected: str) -> None:
        meta = saved.with_suffix(".meta.json")
        meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
        with pytest.raises(InputError, match=expected):
            table.load(saved)

    @pytest.mark.parametrize(
        "text", ["", "[", '[{"ms": 1.0}]', '[{"ms": 1.0, "kernels": [9999]}]', '[{"ms": -1, "kernels": [0]}]']
    )
    def test_timed_networks_that_cannot_be_read_are_refused(self, saved: Path, text: str) -> None:
        networks = saved.with_suffix(".networks.json")
        networks.write_text(text)
        with pytest.raises(InputError, match=r"t1\.networks\.json"):
            table.load(saved)
        networks.unlink()
        with pytest.raises(InputError, match=r"t1\.networks\.json can't be read"):
            table.load(saved)

    @pytest.mark.parametrize("suffix", [".csv", ".meta.json"])
    @pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"[]\n"])
    def test_a_missing_or_foreign_file_is_refused(self, saved: Path, suffix: str, content: bytes | None) -> None:
        path = saved.with_suffix(suffix)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"t1\.csv"):
            table.load(saved)


def kernel_ms(kernel: Kernel) -> float:
    """What a made-up device takes: work, traffic, and a little of its own for every kernel."""
    work = prod(kernel.out_shape) * kernel.in_shape[0] // kernel.groups * max(1, prod(kernel.kernel_size_hw))
    return 0.1 + 1e-5 * work + 1e-5 * (prod(kernel.in_shape) + prod(kernel.out_shape))


def measured_as(ms: float) -> Measurement:
    """A measurement on a machine at its quiet speed."""
    return Measurement((round(ms * 1e6),) * 4, (round(ms * 1e6),) * 4, (round(QUIET_MS * 1e6),) * 4)


def record(name: str, subnet: Subnet | None = None, ms: float = 1.0) -> ProfiledNetwork:
    kernels = kernels_of(SPACE.network(subnet or SPACE.largest()))
    times = tuple((round(kernel_ms(kernel) * 1e3),) * 4 for kernel in kernels)
    return ProfiledNetwork(name, "int8", kernels, times, (round(QUIET_MS * 1e6),) * 4, 2, measured_as(ms))


A, B, C = 1.25, 0.02, 0.75


def true_ms(network: Network) -> float:
    kernels = kernels_of(network)
    return A * sum(map(kernel_ms, kernels)) + B * len(kernels) + C


def fitted(noise: float = 0.0, known: float = 1.0, count: int = 20, slow: int = 0) -> LatencyPredictor:
    """On `count` networks of the made-up device, `slow` of them timed while it was busy, with this share of all kernels known."""
    rng = np.random.default_rng(7)
    found = []
    for i, subnet in enumerate(subnets(count, seed=3)):
        ms = true_ms(SPACE.network(subnet)) * (1 + noise * rng.standard_normal()) * (2 if i < slow else 1)
        found.append(record(f"{i}", subnet, ms))
    made = true_table()
    kept = {kernel: time for kernel, time in made.times.items() if rng.random() < known}
    return predictors.fit(replace(timed(found), times=kept), RUNTIME.fusion("int8", ISA))


@cache
def every_kernel() -> tuple[Kernel, ...]:
    """What the space can reach."""
    return tuple(sorted({kernel for subnet in subnets(1500) for kernel in kernels_of(SPACE.network(subnet))}))


def true_table() -> LatencyTable:
    times = {kernel: kernel_ms(kernel) for kernel in every_kernel()}
    return LatencyTable(META, {kernel: KernelTime(ms, ms, ms, 4) for kernel, ms in times.items()})


def timed(found: list[ProfiledNetwork]) -> LatencyTable:
    """The true table with these networks."""
    return replace(true_table(), networks=table.from_records(META, found).networks)


@cache
def exact() -> LatencyPredictor:
    return fitted()


@cache
def noisy() -> LatencyPredictor:
    return fitted(noise=0.05, known=0.7)


GENOMES = st.tuples(*(st.integers(0, count - 1) for count in SPACE.radix()))
PREDICTORS = st.sampled_from([exact, noisy])


class TestPredictor:
    def test_an_affine_device_is_recovered(self) -> None:
        affine = exact().affine
        assert np.allclose([affine.a, affine.b, affine.c], [A, B, C], rtol=1e-4)
        assert affine.half_width(0) < 1e-4
        for network in map(SPACE.network, subnets(20, seed=11)):
            assert np.isclose(exact().latency_ms(network), true_ms(network), rtol=1e-5)

    def test_networks_that_were_timed_on_a_busy_machine_do_not_count(self) -> None:
        predictor = fitted(slow=2)
        for network in map(SPACE.network, subnets(20, seed=11)):
            assert np.isclose(predictor.latency_ms(network), true_ms(network), rtol=0.01)

    def test_a_slowed_machine_is_taken_out(self) -> None:
        # everything takes twice as long, the reference model too
        found = [record(subnet.id, subnet, true_ms(SPACE.network(subnet))) for subnet in subnets(20, seed=3)]
        slowed = [replace(each, whole=_twice_as_slow(each.whole)) for each in found if each.whole]
        predictor = predictors.fit(timed(slowed), RUNTIME.fusion("int8", ISA))
        for network in map(SPACE.network, subnets(20, seed=11)):
            assert np.isclose(predictor.latency_ms(network), true_ms(network), rtol=1e-5)

    def test_other_precisions_and_failures_are_not_fitted_on(self) -> None:
        good = [record(f"{i}", s, true_ms(SPACE.network(s))) for i, s in enumerate(subnets(20, seed=3))]
        noise = [
            replace(good[0], precision="fp32", whole=measured_as(99)),
            replace(good[1], whole=None, error="broken"),
        ]
        fits = [predictors.fit(timed(found), RUNTIME.fusion("int8", ISA)) for found in (good, good + noise)]
        assert fits[0].affine == fits[1].affine

    @settings(max_examples=50)
    @given(genome=GENOMES, factor=st.floats(0.5, 2).filter(lambda factor: abs(factor - 1) > 0.02), predictor=PREDICTORS)
    def test_a_measurement_draws_the_prediction_to_it(
        self, genome: tuple[int, ...], factor: float, predictor: Callable[[], LatencyPredictor]
    ) -> None:
        network = SPACE.network(SPACE.subnet(genome))
        before = predictor().latency_ms(network)
        measured_ms = before * factor
        corrected = predictor().corrected(network, measured_ms)
        after = corrected.latency_ms(network)
        assert abs(after - measured_ms) < abs(before - measured_ms)
        assert predictor().latency_ms(network) == before, "the one that was given stays as it is"
        assert abs(corrected.corrected(network, measured_ms).latency_ms(network) - measured_ms) < abs(
            before - measured_ms
        )

    @given(genomes=st.lists(GENOMES, min_size=1, max_size=30), predictor=PREDICTORS)
    @settings(max_examples=40)
    def test_many_subnets_at_once_are_predicted_as_one_by_one(
        self, genomes: list[tuple[int, ...]], predictor: Callable[[], LatencyPredictor]
    ) -> None:
        subnets_ = [SPACE.subnet(genome) for genome in genomes]
        expected = [predictor().latency_ms(SPACE.network(subnet)) for subnet in subnets_]
        rows = np.array([subnet.genome for subnet in subnets_])
        space_predictor = SpacePredictor(SPACE, predictor())
        assert np.allclose(space_predictor.latency_ms(rows), expected, rtol=1e-9)
        assert np.allclose(space_predictor.latency_ms(rows[::-1]), expected[::-1], rtol=1e-9), "from what it knows now"
        assert np.allclose(space_predictor.latency_ms(np.array(genomes)), expected, rtol=1e-9), "not yet canonical"

    @given(genome=GENOMES, predictor=PREDICTORS)
    def test_an_estimate_says_how_sure_it_is_and_where_it_comes_from(
        self, genome: tuple[int, ...], predictor: Callable[[], LatencyPredictor]
    ) -> None:
        network = SPACE.network(SPACE.subnet(genome))
        found = predictor().estimate(network)
        assert found.low_ms <= found.latency_ms <= found.high_ms
        assert found.latency_ms == predictor().latency_ms(network) > 0
        assert found.provenance in get_args(Provenance)
        assert found.provenance in ("calibrated", "modelled"), "nothing was measured"
        assert tuple(each.kernel for each in found.kernels) == kernels_of(network)
        known = predictor().kernels.is_measured
        assert all((each.source == "table") == known(each.kernel) for each in found.kernels)
        assert np.isclose(sum(found.share(source) for source in get_args(Source)), 1)

    def test_an_estimate_outside_of_what_was_measured_is_modelled(self) -> None:
        predictor = exact()
        network = SPACE.network(subnets(1, seed=3)[0])
        assert predictor.estimate(network).provenance == "calibrated"
        far = replace(predictor, affine=replace(predictor.affine, domain_ms=(1000.0, 2000.0)))
        assert far.estimate(network).provenance == "modelled"

    def test_guessed_kernels_widen_the_interval(self) -> None:
        predictor = replace(exact(), affine=replace(exact().affine, scale=0.1 / predictors.NOISE))
        unknown = replace(predictor, kernels=KernelModel(dict(list(predictor.kernels.measured.items())[:5])))
        network = SPACE.network(SPACE.largest())
        sure, unsure = predictor.estimate(network), unknown.estimate(network)
        assert np.isclose(sure.share("table"), 1)
        assert unsure.share("table") < 0.5
        assert np.isclose(sure.high_ms / sure.latency_ms, 1.1)
        assert unsure.high_ms / unsure.latency_ms > 1.15


class TestKernelModel:
    def test_what_was_measured_is_answered_as_it_was(self) -> None:
        times = {kernel: kernel_ms(kernel) for kernel in every_kernel()}
        model = KernelModel(times)
        assert model.times_ms(list(times)) == list(times.values())
        assert all(map(model.is_measured, times))

    def test_what_was_not_is_near_the_truth(self) -> None:
        kernels = every_kernel()
        known = {kernel: kernel_ms(kernel) for i, kernel in enumerate(kernels) if i % 3}
        assert sum(kernel.op == "Conv" and kernel.groups == 1 for kernel in known) >= MIN_FOR_PROCESS
        unknown = [kernel for kernel in kernels if kernel not in known]
        model = KernelModel(known)
        assert not any(map(model.is_measured, unknown))
        errors = [found / kernel_ms(kernel) - 1 for kernel, found in zip(unknown, model.times_ms(unknown), strict=True)]
        assert np.median(np.abs(errors)) < 0.05
        assert model.times_ms(unknown) == model.times_ms(unknown)

    def test_a_kind_that_was_never_measured_is_still_answered(self) -> None:
        kernels = every_kernel()
        model = KernelModel({kernel: kernel_ms(kernel) for kernel in kernels if kernel.groups == 1})
        depthwise = [kernel for kernel in kernels if kernel.groups > 1]
        assert all(np.isfinite(ms) and ms > 0 for ms in model.times_ms(depthwise))


def _twice_as_slow(whole: Measurement) -> Measurement:
    doubled = {
        name: tuple(2 * ns for ns in getattr(whole, name)) for name in ("samples_ns", "cpu_ns", "reference_cpu_ns")
    }
    return replace(whole, **doubled)


@given(st.floats(0.01, 10), st.floats(-5, 0), st.floats(-20, 0), st.floats(0.1, 100))
def test_no_network_takes_nothing_and_a_factor_stays_one(a: float, b: float, c: float, factor: float) -> None:
    """Far outside of what was fitted the sum may be negative: a share of the kernels' time is left, and scales with the rest."""
    terms = np.array([[0.3, 5.0, 0.1, 0.0], [2.0, 40.0, 1.0, 0.5]])
    ms = Affine(a, b, c, 0.0, 0.0, 1.0, (0.1, 1.0)).apply(terms)
    assert (ms >= LEAST_SHARE * a * terms[:, 0]).all()
    scaled = Affine(factor * a, factor * b, factor * c, 0.0, 0.0, 1.0, (0.1, 1.0)).apply(terms)
    assert scaled == pytest.approx(factor * ms)
