"""What the agent finds out about the machine it runs on: energy, throttling, boards; from real files laid out as the kernel does."""

from __future__ import annotations

import importlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.artifacts.measurement import Measurement
from edgenas.measure import Bench, SamplingRule, reference_network, slowdown
from edgenas.onnxio.random_weights import random_weights
from edgenas.runtimes import onnxruntime
from edgenas.targets.bootstrap import ON_DEVICE
from edgenas.targets.target import open_target

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """The modules as a device has them."""
    names = ("place", "probes", "power")
    sys.path.insert(0, str(ON_DEVICE))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(ON_DEVICE))
    for name in names:
        del sys.modules[name]


def write(root: Path, files: dict[str, Any]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")


def wait_for_reading(meter: Any, watts: float) -> None:
    """Readings come one after the other: once this one is there, no earlier power is still to be noted."""
    deadline = time.monotonic() + 30
    while not any(watt == watts for _, watt in list(meter.readings)) and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def nothing(modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that shows no counter and no rail; each test adds its own."""
    for name in ("RAPL", "HWMON", "IIO", "SUPPLY"):
        monkeypatch.setattr(modules.power, name, str(tmp_path / name))
    return tmp_path


class TestEnergy:
    def test_a_machine_without_any_says_nothing(self, modules: SimpleNamespace, nothing: Path) -> None:
        meter = modules.power.Meter()
        assert meter.source is None
        meter.start()
        assert meter.stop() is None

    @pytest.mark.parametrize(("before", "after", "expected_mj"), [(5_000, 25_000, 20.0), (90_000, 10_000, 20.0)])
    def test_a_processors_counter_may_wrap(
        self, modules: SimpleNamespace, nothing: Path, before: int, after: int, expected_mj: float
    ) -> None:
        package = "RAPL/intel-rapl:0"
        write(
            nothing,
            {f"{package}/name": "package-0", f"{package}/energy_uj": before, f"{package}/max_energy_range_uj": 100_000},
        )
        meter = modules.power.Meter()
        meter.start()
        write(nothing, {f"{package}/energy_uj": after})
        assert meter.stop() == pytest.approx(expected_mj)
        assert meter.source == "package-0"

    def test_a_jetsons_input_rail_is_read_over_time(self, modules: SimpleNamespace, nothing: Path) -> None:
        chip = "IIO/6-0040/iio:device0"
        rails = {"POM_5V_IN": 4000, "POM_5V_GPU": 700, "POM_5V_CPU": 900}
        for i, (name, mw) in enumerate(rails.items()):
            write(nothing, {f"{chip}/rail_name_{i}": name, f"{chip}/in_power{i}_input": mw})
        meter = modules.power.Meter()
        assert meter.source == "POM_5V_IN"
        called = time.perf_counter()
        meter.start()
        started = time.perf_counter()
        wait_for_reading(meter, 4.0)
        time.sleep(0.25)
        slept_s = time.perf_counter() - started
        found_mj = meter.stop()
        assert 4000 * slept_s <= found_mj <= 4000 * (time.perf_counter() - called)

    def test_of_a_process_only_its_runs_count(self, modules: SimpleNamespace, nothing: Path) -> None:
        """It loads a model at 10 W first, then runs at 4 W."""
        chip = "IIO/6-0040/iio:device0"
        write(nothing, {f"{chip}/rail_name_0": "POM_5V_IN", f"{chip}/in_power0_input": 10_000})
        meter = modules.power.Meter()
        meter.start()
        wait_for_reading(meter, 10.0)
        write(nothing, {f"{chip}/in_power0_input": 4000})
        wait_for_reading(meter, 4.0)
        time.sleep(0.4)
        assert meter.stop(latest_s=0.35) == pytest.approx(4000 * 0.35)

    def test_a_counter_says_nothing_of_the_end_alone(self, modules: SimpleNamespace, nothing: Path) -> None:
        write(nothing, {"RAPL/intel-rapl:0/name": "package-0", "RAPL/intel-rapl:0/energy_uj": 5})
        meter = modules.power.Meter()
        meter.start()
        assert meter.stop(latest_s=0.1) is None

    def test_volts_and_amperes_of_a_newer_jetson(self, modules: SimpleNamespace, nothing: Path) -> None:
        chip = "HWMON/hwmon3"
        write(nothing, {f"{chip}/name": "ina3221", f"{chip}/in1_label": "VDD_GPU", f"{chip}/in1_input": 5000})
        write(nothing, {f"{chip}/curr1_input": 100, f"{chip}/in2_label": "VDD_IN", f"{chip}/in2_input": 5000})
        write(nothing, {f"{chip}/curr2_input": 1000})
        name, watts = modules.power.rail()
        assert (name, watts()) == ("VDD_IN", 5.0)

    def test_a_battery_only_counts_while_it_discharges(self, modules: SimpleNamespace, nothing: Path) -> None:
        write(nothing, {"SUPPLY/BAT0/type": "Battery", "SUPPLY/BAT0/status": "Charging", "SUPPLY/BAT0/power_now": 9e6})
        assert modules.power.rail() is None
        write(nothing, {"SUPPLY/BAT0/status": "Discharging", "SUPPLY/BAT0/power_now": 9_000_000})
        name, watts = modules.power.rail()
        assert (name, watts()) == ("battery BAT0", 9.0)


class TestProbes:
    def test_an_emulated_machine_is_not_called_what_its_host_is(
        self, modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(modules.place, "read", lambda path: "model name : AMD EPYC\nflags : avx2 avx512f")
        monkeypatch.setattr(modules.probes.platform, "machine", lambda: "aarch64")
        assert modules.probes.cpu_info()["isa"] == []
        assert modules.probes.cpu_info()["name"] != "AMD EPYC"
        monkeypatch.setattr(modules.probes.platform, "machine", lambda: "x86_64")
        assert modules.probes.cpu_info() == {"name": "AMD EPYC", "isa": ["avx2", "avx512f"]}

    def test_the_power_mode_of_a_jetson(
        self, modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tool = tmp_path / "nvpmodel"
        tool.write_text("#!/bin/sh\n[ \"$1\" = -q ] && printf 'NV Fan Mode:quiet\\nNV Power Mode: MAXN\\n0\\n'\n")
        tool.chmod(0o755)
        assert modules.probes.power_mode() is None
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert modules.probes.power_mode() == {"name": "MAXN", "number": 0}

    def test_tegrastats_gives_its_first_line_and_is_stopped(
        self, modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tool = tmp_path / "tegrastats"
        tool.write_text("#!/bin/sh\nwhile true; do echo 'RAM 1000/3956MB CPU@42C'; sleep 0.1; done\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        start = time.monotonic()
        assert modules.place.first_line(["tegrastats"]) == "RAM 1000/3956MB CPU@42C"
        assert time.monotonic() - start < 2

    def test_a_command_that_hangs_is_given_up(self, modules: SimpleNamespace) -> None:
        code, out, reason = modules.place.run(["sleep", "60"], timeout_s=0.3)
        assert (code, out) == (None, "")
        assert "did not end within 0.3 s" in reason


CALM = Measurement(
    samples_ns=(100,) * 30, cpu_ns=(100,) * 30, reference_cpu_ns=(50,) * 30, chunk=5, clock_mhz=(1400, 1400)
)


@pytest.mark.parametrize(
    ("clocks", "late_ns", "throttled"),
    [
        ((1400, 1400), 50, False),
        ((1400, 900), 80, True),
        ((1400, 900), 50, False),  # it clocked down after the runs
        ((1400, 1400), 80, False),  # something else has the core
        ((None, None), 80, False),  # not known
    ],
)
def test_throttling_is_a_lower_clock_and_slower_runs(
    clocks: tuple[int | None, int | None], late_ns: int, throttled: bool
) -> None:
    found = replace(CALM, clock_mhz=clocks, reference_cpu_ns=(50,) * 15 + (late_ns,) * 15)
    assert found.throttled is throttled


@pytest.mark.parametrize(
    ("reference_ns", "slower"),
    [
        ((50,) * 30, 1.0),
        ((50,) * 12 + (53,) * 18, 1.0),  # a median is a little over the p10 on any machine
        (
            (50,) * 12 + (65,) * 18,
            1.3,
        ),  # more than half of the run, in bursts: what is quick now and then hides it from a p10
        ((50,) * 20 + (65,) * 10, 1.0),
        ((60,) * 30, 1.2),
    ],
)
def test_bursts_that_reach_the_median_are_a_slow_machine(reference_ns: tuple[int, ...], slower: float) -> None:
    assert slowdown([CALM, replace(CALM, reference_cpu_ns=reference_ns)], 50e-6) == pytest.approx(slower)


# A runtime that heats the device: its clock falls as long as it runs, and recovers while it is left alone.
HOT_PART = """
import os, time
import probes
from timing import InProcess
STATE = {state!r}
probes.CPU = STATE

def versions():
    return {{"hot": "1"}}

def clock(mhz=None):
    path = STATE + "/cpu0/cpufreq/scaling_cur_freq"
    if mhz is not None:
        with open(path + ".new", "w") as file:
            file.write(str(int(mhz * 1000)))
        os.replace(path + ".new", path)  # whoever reads it sees the old clock or the new one
    with open(path) as file:
        return int(file.read()) / 1000

def open_model(path, options):
    def run():
        now = clock()
        start = time.thread_time()
        while time.thread_time() - start < 0.3 / now:
            pass
        if os.path.exists(STATE + "/hot"):
            clock(max(500, now - 4))
    return InProcess(run, 1)
"""


class HotRuntime:
    """ONNX Runtime's files, another part."""

    NAME, PRECISIONS, INFER_BATCH, OPENING_LIMIT_S = "hot", ("fp32",), 1, 60.0
    AGENT_MODULES: tuple[Path, ...] = ()
    fp32_model = staticmethod(onnxruntime.fp32_model)

    def __init__(self, part: Path) -> None:
        self.AGENT_PART = part


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[tuple[Bench, Path]]:
    write(tmp_path, {"cpu0/cpufreq/scaling_cur_freq": 1_400_000, "hot": ""})
    part = tmp_path / "hot_part.py"
    part.write_text(HOT_PART.format(state=str(tmp_path)))
    target = open_target("local")
    bench = Bench(target, HotRuntime(part))  # type: ignore[arg-type]
    yield bench, tmp_path
    target.close()


RULE = SamplingRule(warmup_s=0.0, min_count=40, max_count=40, max_s=1.0, chunk=5)


def test_a_device_that_throttles_is_given_time_and_measured_again(hot: tuple[Bench, Path]) -> None:
    bench, state = hot
    bench.cool_down_s = 0.5
    model = onnxruntime.fp32_model(reference_network(), random_weights(reference_network()))

    def cool_down() -> None:
        """While the bench waits: a fan is switched on."""
        clock = state / "cpu0/cpufreq/scaling_cur_freq"
        while int(clock.read_text()) > 1_100_000:
            time.sleep(0.01)
        (state / "hot").unlink()
        time.sleep(0.2)
        (state / "fresh").write_text("1400000")
        (state / "fresh").replace(clock)

    fan = threading.Thread(target=cool_down)
    fan.start()
    (found,) = bench.time_models([model], RULE, tries=4)
    fan.join()
    assert not found.throttled
    assert not any("throttles" in text for text in found.warnings)


def test_one_that_stays_hot_is_reported(hot: tuple[Bench, Path]) -> None:
    bench, state = hot
    bench.cool_down_s = 0.01
    model = onnxruntime.fp32_model(reference_network(), random_weights(reference_network()))
    for _ in range(5):  # other work on this machine may slow the early samples as much as the clock does the late ones
        (state / "cool").write_text("1400000")
        (state / "cool").replace(state / "cpu0/cpufreq/scaling_cur_freq")
        (found,) = bench.time_models([model], RULE)
        if found.throttled and len(found.warnings) == 1:
            break
    assert found.throttled
    (text,) = found.warnings
    assert re.match(r"the device throttles: its clock fell from 1\d{3} to \d+ MHz meanwhile, after 1 try$", text)
