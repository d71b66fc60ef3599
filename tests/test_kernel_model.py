"""Times of any kernel: measured ones come back, others are near the truth, every answer stands by itself, nothing explodes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.artifacts.kernel import Kernel
from edgenas.latency import roofline
from edgenas.latency.gaussian_process import GaussianProcess
from edgenas.latency.kernel_features import LENGTHS, family, features, plain_work, work
from edgenas.latency.kernel_model import MIN_FOR_MODEL, KernelModel

ROOT = Path(__file__).resolve().parents[1]
CHANNELS = (3, 8, 13, 16, 24, 32, 48, 64, 100, 128)
SIDES = (7, 14, 28, 56)


def conv(
    c_in: int, c_out: int, side: int, kernel: int = 1, stride: int = 1, groups: int = 1, fused: tuple[str, ...] = ()
) -> Kernel:
    out, pad = -(-side // stride), kernel // 2
    return Kernel(
        "Conv",
        (c_in, side, side),
        (c_out, out, out),
        (kernel, kernel),
        (stride, stride),
        (1, 1),
        (pad,) * 4,
        groups,
        fused,
    )


def true_ms(kernel: Kernel) -> float:
    """Of a made-up device: channels in blocks of 8, traffic, a launch."""
    blocked = -(-kernel.out_shape[0] // 8) * 8 / kernel.out_shape[0]
    return 0.002 + 2e-8 * kernel.macs * blocked + 1e-7 * kernel.bytes_moved + 1e-7 * prod(kernel.out_shape)


@cache
def every_kernel() -> tuple[Kernel, ...]:
    rng = np.random.default_rng(0)
    found: set[Kernel] = set()
    while len(found) < 240:
        c_in, c_out, side = (int(rng.choice(of)) for of in (CHANNELS, CHANNELS, SIDES))
        found.add(
            conv(
                c_in,
                c_out,
                side,
                int(rng.choice([1, 3])),
                int(rng.choice([1, 2])),
                fused=("Relu",) * int(rng.integers(2)),
            )
        )
        found.add(conv(c_in, c_in, side, int(rng.choice([3, 5])), groups=c_in))
        found.add(Kernel("Add", (c_in, side, side), (c_in, side, side)))
    return tuple(sorted(found))


@cache
def model() -> KernelModel:
    return KernelModel({kernel: true_ms(kernel) for i, kernel in enumerate(every_kernel()) if i % 3})


KERNELS = st.one_of(
    st.builds(
        conv,
        st.integers(1, 600),
        st.integers(1, 600),
        st.integers(1, 120),
        st.sampled_from([1, 3, 5, 7]),
        st.sampled_from([1, 2]),
        fused=st.sampled_from([(), ("Relu",), ("Add", "Relu"), ("HardSwish",)]),
    ),
    st.builds(
        Kernel,
        st.sampled_from(["Mul", "Add", "Concat", "Softmax", "Gemm", "MaxPool", "Whatever"]),
        st.tuples(st.integers(1, 900)) | st.tuples(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.integers(1, 900)) | st.tuples(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60)),
    ),
)


class TestKernelModel:
    @given(times=st.dictionaries(KERNELS, st.floats(0, 1e4), min_size=1, max_size=8))
    def test_what_was_measured_comes_back_exactly(self, times: dict[Kernel, float]) -> None:
        found = KernelModel(times)
        assert found.times_ms(list(times)) == list(times.values())
        assert all(map(found.is_measured, times))
        assert {guess.source for guess in found.estimates(list(times))} == {"table"}
        assert found.measured == times

    @settings(max_examples=40)
    @given(asked=st.lists(KERNELS, min_size=1, max_size=12), order=st.randoms(use_true_random=False))
    def test_an_answer_does_not_depend_on_what_else_is_asked(self, asked: list[Kernel], order: object) -> None:
        alone = [KernelModel(model().measured).estimates([kernel])[0] for kernel in asked[:2]]
        again = KernelModel(model().measured)
        shuffled = list(asked)
        order.shuffle(shuffled)  # type: ignore[attr-defined]
        together = dict(zip(shuffled, again.estimates(shuffled), strict=True))
        assert alone == [together[kernel] for kernel in asked[:2]], "to the last bit"
        assert model().estimates(asked) == [together[kernel] for kernel in asked]

    @given(asked=st.lists(KERNELS, max_size=6))
    def test_answers_are_positive_and_say_where_they_come_from(self, asked: list[Kernel]) -> None:
        known = {family(kernel) for kernel in model().measured}
        for kernel, guess in zip(asked, model().estimates(asked), strict=True):
            assert np.isfinite(guess.ms)
            assert guess.ms > 0
            assert np.isfinite(guess.relative_std)
            assert guess.relative_std > 0
            expected = "table" if model().is_measured(kernel) else "model" if family(kernel) in known else "formula"
            assert guess.source == expected

    @given(times=st.dictionaries(KERNELS, st.floats(0, 100), min_size=1, max_size=6), asked=KERNELS)
    @settings(max_examples=40)
    def test_a_handful_of_any_kernels_answers_for_any_other(self, times: dict[Kernel, float], asked: Kernel) -> None:
        (guess,) = KernelModel(times).estimates([asked])
        assert np.isfinite(guess.ms)
        assert guess.ms >= 0

    def test_what_was_not_measured_is_near_the_truth(self) -> None:
        unknown = [kernel for i, kernel in enumerate(every_kernel()) if not i % 3]
        error = np.abs([np.log(ms / true_ms(k)) for k, ms in zip(unknown, model().times_ms(unknown), strict=True)])
        assert np.median(error) < 0.03
        assert np.quantile(error, 0.9) < 0.12

    def test_the_standard_deviation_is_honest(self) -> None:
        unknown = [kernel for i, kernel in enumerate(every_kernel()) if not i % 3]
        inside = [
            abs(np.log(guess.ms / true_ms(kernel))) < 2 * guess.relative_std
            for kernel, guess in zip(unknown, model().estimates(unknown), strict=True)
        ]
        assert np.mean(inside) > 0.85

    def test_what_is_known_less_is_less_certain(self) -> None:
        measured, near, far, foreign = model().estimates(
            [
                next(iter(model().measured)),
                conv(24, 56, 28),
                conv(2000, 3000, 300),
                Kernel("Whatever", (8, 9, 9), (8, 9, 9)),
            ]
        )
        assert measured.relative_std < near.relative_std < far.relative_std < foreign.relative_std

    def test_five_kernels_of_a_kind_are_enough_to_be_close(self) -> None:
        measured = {kernel: true_ms(kernel) for kernel in every_kernel() if kernel.op != "Add"}
        adds = [kernel for kernel in every_kernel() if kernel.op == "Add"]
        few = {kernel: 3 * true_ms(kernel) for kernel in adds[::8][:5]}
        unknown = [kernel for kernel in adds if kernel not in few]
        error = [
            np.log(ms / 3 / true_ms(k))
            for k, ms in zip(unknown, KernelModel(measured | few).times_ms(unknown), strict=True)
        ]
        assert np.median(np.abs(error)) < 0.25

    def test_a_kind_with_too_few_kernels_is_answered_by_the_formula(self) -> None:
        pools = [Kernel("MaxPool", (c, 8, 8), (c, 4, 4), (2, 2), (2, 2)) for c in (8, 16, 32, 64)]
        times = model().measured | {pool: true_ms(pool) for pool in pools[: MIN_FOR_MODEL - 1]}
        assert KernelModel(times).estimates(pools[-1:])[0].source == "formula"
        times |= {pool: true_ms(pool) for pool in pools[:MIN_FOR_MODEL]}
        assert KernelModel(times).estimates(pools[-1:])[0].source == "model"

    @pytest.mark.parametrize("grown", ["c_in", "c_out", "side"])
    def test_beyond_what_was_measured_time_grows_as_work_does(self, grown: str) -> None:
        start = {"c_in": 128, "c_out": 128, "side": 56}
        kernels = [conv(**(start | {grown: start[grown] * 2**i}), kernel=3) for i in range(6)]
        ms = model().times_ms(kernels)
        assert ms == sorted(ms)
        growth = np.log2(ms[-1] / ms[0]) / np.log2(true_ms(kernels[-1]) / true_ms(kernels[0]))
        assert 0.65 < growth < 1.25

    def test_nothing_measured_answers_nothing(self) -> None:
        assert KernelModel({}).times_ms([]) == []
        with pytest.raises(ValueError, match="no measured kernels"):
            KernelModel({}).times_ms(every_kernel()[:1])

    def test_the_order_of_the_table_does_not_matter(self) -> None:
        turned = KernelModel(dict(reversed(model().measured.items())))
        assert turned.estimates(every_kernel()) == model().estimates(every_kernel())

    @pytest.mark.parametrize("threads", ["1", "2"])
    def test_another_process_answers_the_same_and_without_scipy(self, threads: str) -> None:
        program = (
            "import sys\n"
            "from tests.test_kernel_model import every_kernel, true_ms\n"
            "for name in [n for n in sys.modules if n.startswith(('scipy', 'sklearn'))]: del sys.modules[name]\n"
            "from edgenas.latency.kernel_model import KernelModel\n"
            "model = KernelModel({k: true_ms(k) for i, k in enumerate(every_kernel()) if i % 3})\n"
            "print([g.hex() for g in model.times_ms(every_kernel())])\n"
            "print([n for n in sys.modules if n.startswith(('scipy', 'sklearn'))])"
        )
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
        )
        assert run.returncode == 0, run.stderr
        answers, slow = run.stdout.splitlines()
        assert answers == str([ms.hex() for ms in model().times_ms(every_kernel())])
        assert slow == "[]"


class TestFeatures:
    @given(kernel=KERNELS)
    def test_they_are_finite_and_as_many_as_their_names(self, kernel: Kernel) -> None:
        assert len(features(kernel, 8.0)) == len(LENGTHS)
        assert np.isfinite(features(kernel, 8.0)).all()
        assert np.isfinite(work(kernel, 8.0)).all()
        assert min(*work(kernel, 8.0), *plain_work(kernel)) >= 0

    @pytest.mark.parametrize(
        ("kernel", "expected"),
        [
            (conv(8, 8, 7), "1x1 convolution"),
            (conv(8, 8, 7, 3), "convolution"),
            (conv(8, 8, 7, 3, groups=2), "convolution"),
            (conv(8, 8, 7, 3, groups=8), "depthwise convolution"),
            (conv(8, 8, 1), "matrix product"),
            (Kernel("Gemm", (8,), (3,)), "matrix product"),
            (Kernel("HardSwish", (8, 3, 3), (8, 3, 3)), "elementwise"),
            (Kernel("Split", (8, 3, 3), (8, 3, 3)), "movement"),
            (Kernel("LRN", (8, 3, 3), (8, 3, 3)), "reduction"),
            (Kernel("ConvTranspose", (8, 3, 3), (8, 6, 6), (2, 2), (2, 2)), "ConvTranspose"),
            (Kernel("GridSample", (8, 3, 3), (8, 3, 3)), "GridSample"),
        ],
    )
    def test_families(self, kernel: Kernel, expected: str) -> None:
        assert family(kernel) == expected

    def test_what_changes_the_time_changes_a_feature(self) -> None:
        kernel = conv(64, 64, 56, 3)
        for other in (
            replace(kernel, dilation_hw=(2, 2)),
            replace(kernel, pads=(0, 1, 1, 1)),
            replace(kernel, groups=4),
            replace(kernel, layout="blocked"),
            replace(kernel, fused=("Add",)),
            replace(kernel, fused=("HardSwish",)),
        ):
            assert features(other, 8.0) != features(kernel, 8.0)


class TestRoofline:
    @given(
        rates=st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda r: max(r) > 0.01), seed=st.integers(0, 9)
    )
    def test_a_device_that_adds_up_is_recovered(self, rates: list[float], seed: int) -> None:
        table = np.random.default_rng(seed).lognormal(0, 1.5, (40, 3))
        ms = table @ np.array(rates)
        found = roofline.fit(table, ms)
        assert (found >= 0).all()
        assert np.allclose(np.exp(roofline.log_ms(found, table)), ms, rtol=0.02)

    def test_a_few_wild_measurements_do_not_count(self) -> None:
        table = np.random.default_rng(1).lognormal(0, 1, (60, 2))
        ms = table @ np.array([1.0, 2.0])
        ms[:5] *= 20
        assert np.allclose(roofline.fit(table, ms), [1, 2], rtol=0.1)


class TestGaussianProcess:
    def test_it_passes_near_its_points_and_returns_to_zero_far_off(self) -> None:
        x = np.linspace(0, 3, 25)[:, None]
        y = np.sin(2 * x[:, 0])
        process = GaussianProcess(x, y, np.array([1.0]), 0)
        assert all(abs(process.predict(row)[0] - value) < 0.05 for row, value in zip(x, y, strict=True))
        near, far = process.predict(np.array([1.03])), process.predict(np.array([60.0]))
        assert abs(near[0] - np.sin(2.06)) < 0.05
        assert abs(far[0]) < 0.05
        assert near[1] < 0.3 * far[1]

    def test_many_points_are_thinned_out(self) -> None:
        x = np.random.default_rng(0).uniform(0, 3, (1800, 2))
        process = GaussianProcess(x, np.sin(x[:, 0]), np.array([1.0, 1.0]), 1)
        assert abs(process.predict(np.array([1.0, 1.0]))[0] - np.sin(1)) < 0.05
