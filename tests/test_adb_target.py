"""`--target adb:SERIAL`: the real adb client, a stand-in device, and a stand-in for onnxruntime_perf_test that really runs models.

What every target promises is tested in tests/test_targets.py, which has an adb target among its members.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgenas import device as devices
from edgenas.errors import DeviceAway, InputError, TargetError
from edgenas.measure import Bench, SamplingRule, reference_network, untrained
from edgenas.pipeline.context import opened_machine
from edgenas.runtimes.runtime import load_runtime
from edgenas.targets.adb import open_link
from edgenas.targets.bootstrap import Via
from edgenas.targets.channel import AgentRefusal
from edgenas.targets.local import ProcessLink
from edgenas.targets.target import Target, TargetOptions, open_target
from tests.adb_device import NO_ADB, AdbDevice, adb_server

pytestmark = [pytest.mark.system, pytest.mark.skipif(shutil.which("adb") is None, reason=NO_ADB)]

ROOT = Path(__file__).resolve().parents[1]
ORT = load_runtime("onnxruntime")
RULE = SamplingRule(warmup_s=0.0, min_count=40, max_count=60, max_s=0.01, chunk=5)
IMAGE = np.zeros((1, 3, 28, 28), np.float32)
AWAY_S = 30  # how long adb_client waits for a device


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with adb_server(tmp_path_factory.mktemp("home")) as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        yield


@pytest.fixture
def empty_phone(tmp_path: Path) -> Iterator[AdbDevice]:
    (tmp_path / "phone").mkdir()
    with AdbDevice(tmp_path / "phone") as started:
        yield started


@pytest.fixture
def phone(empty_phone: AdbDevice) -> AdbDevice:
    empty_phone.install_perf_test()
    return empty_phone


@pytest.fixture
def bench(phone: AdbDevice) -> Iterator[Bench]:
    target = open_target(f"adb:{phone.serial}")
    yield Bench(target, ORT)
    target.close()


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return untrained(ORT, reference_network(), "fp32", 8)


@pytest.fixture
def file(model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def command(*words: str, **environment: str) -> subprocess.Popen[str]:
    """edgenas in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from edgenas.cli import main; main()", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=300)
    assert "Traceback" not in error
    return process.returncode, out, error


def error_lines(text: str) -> list[str]:
    """From the error on; above it stands what was being done."""
    lines = text.strip().splitlines()
    first = next(i for i, line in enumerate(lines) if line.lower().startswith("error"))
    return lines[first:]


class TestBenchCommand:
    def bench(self, file: Path, address: str, *words: str, **environment: str) -> subprocess.Popen[str]:
        return command("bench", str(file), "--device", "android-arm64", "--target", address, *words, **environment)

    def test_a_file_is_measured_on_the_device(self, phone: AdbDevice, file: Path) -> None:
        code, out, error = ended(self.bench(file, f"adb:{phone.serial}", "--json"))
        assert code == 0, error
        found = json.loads(out)
        assert (found["target"], found["device"]) == (f"adb:{phone.serial}", "android-arm64")
        measured = found["measured"]
        assert 0 < measured["p50_ms"] < 100
        assert measured["n"] >= 300
        assert measured["provenance"] == "measured"
        assert 10 < measured["process_peak_mib"] < 2000
        assert any("onnxruntime_perf_test" in line for line in phone.commands)
        assert not list(phone.folder.glob("*edgenas-*")), "nothing is left behind"

    def test_the_connection_may_break_in_the_middle(self, phone: AdbDevice, file: Path) -> None:
        running = self.bench(file, f"adb:{phone.serial}", "--json")
        for count in (2, 6):
            runs_of(phone, count)
            time.sleep(0.15)  # in the middle of it
            phone.disconnect_after(1)
        code, out, error = ended(running)
        assert code == 0, error
        assert json.loads(out)["measured"]["n"] >= 300

    def test_a_device_that_stays_away_is_one_error(self, phone: AdbDevice, file: Path) -> None:
        running = self.bench(file, f"adb:{phone.serial}")
        runs_of(phone, 3)
        start = time.monotonic()
        phone.go_away()
        code, out, error = ended(running)
        assert (code, out) == (1, "")
        assert time.monotonic() - start < AWAY_S + 25
        said = error_lines(error)
        assert re.search(rf"the Android device {phone.serial} stays away: no connection within {AWAY_S} s", said[0])
        assert f"adb connect {phone.serial}" in said[-1]
        assert len(said) <= 2

    def test_a_device_that_does_not_trust_this_computer_is_one_error(self, phone: AdbDevice, file: Path) -> None:
        phone.demand_authorization()
        code, _, error = ended(self.bench(file, f"adb:{phone.serial}"))
        assert code == 1
        said = error_lines(error)
        assert f"the Android device {phone.serial} is unauthorized" in said[0]
        assert "Allow USB debugging" in said[-1]
        assert len(said) <= 2

    def test_a_device_without_the_program_is_one_error_that_says_what_to_do(
        self, empty_phone: AdbDevice, file: Path
    ) -> None:
        for option in ("", "?perf_test=/nowhere/perf_test"):
            code, _, error = ended(self.bench(file, f"adb:{empty_phone.serial}{option}"))
            assert code == 1
            text = " ".join(" ".join(error_lines(error)).split())
            assert "needs the runtime 'onnxruntime', but the machine has none" in text
            assert "adb push onnxruntime_perf_test /data/local/tmp" in text
            assert "adb:SERIAL?perf_test=PATH" in text

    def test_without_adb_it_says_how_to_get_it(self, file: Path) -> None:
        code, _, error = ended(self.bench(file, "adb:ABC", PATH=str(file.parent)))
        assert code == 1
        assert "apt install adb" in " ".join(error_lines(error))


def runs_of(phone: AdbDevice, count: int) -> None:
    """Wait until the program was started so often."""
    for _ in range(3000):
        if sum("-m times" in line for line in list(phone.commands)) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"the program was not started {count} times: {phone.commands[-3:]}")


class TestMeasuring:
    def test_a_profile_has_every_run_of_every_node(self, bench: Bench, model: onnx.ModelProto) -> None:
        found = bench.profile_nodes(model, chunks=2, chunk=4)
        assert found.chunk == 20, "a process is worth so many"
        assert {len(node["us"]) for node in found.nodes} == {40}
        assert len(found.reference_cpu_ns) == 40
        assert "Conv" in {node["op"] for node in found.nodes}
        kernels = [tuple(node["shapes"][0]) for node in found.nodes]
        assert (1, 3, 28, 28) in kernels

    def test_several_models_are_measured_side_by_side(self, bench: Bench, model: onnx.ModelProto) -> None:
        int8 = untrained(ORT, reference_network(), "int8", 7)
        for measurement in bench.time_models([model, int8], RULE):
            assert 40 <= len(measurement.samples_ns) <= 60
            assert measurement.samples_ns == measurement.cpu_ns
            assert len(measurement.reference_cpu_ns) == len(measurement.samples_ns)

    def test_a_broken_model_is_refused_and_the_next_is_measured(self, bench: Bench, model: onnx.ModelProto) -> None:
        for ask in (lambda m: bench.time_models([m], RULE), bench.profile_nodes):
            with pytest.raises(AgentRefusal, match=r"the runtime refused '.*: RuntimeError: Load model from .* failed"):
                ask(onnx.ModelProto())
        assert bench.time_models([model], RULE)[0].samples_ns

    def test_a_program_that_lacks_its_library_is_refused_with_what_to_do(
        self, empty_phone: AdbDevice, model: onnx.ModelProto
    ) -> None:
        program = empty_phone.folder / "onnxruntime_perf_test"
        program.write_text('#!/bin/sh\necho \'CANNOT LINK EXECUTABLE "x": library "libonnxruntime.so"\' >&2\nexit 1\n')
        program.chmod(0o755)
        target = open_target(f"adb:{empty_phone.serial}")
        with pytest.raises(AgentRefusal, match=r"It lacks libonnxruntime\.so; push it to the same folder"):
            Bench(target, ORT).time_models([model], RULE)
        target.close()

    def test_the_program_finds_the_library_beside_it(self, empty_phone: AdbDevice, model: onnx.ModelProto) -> None:
        folder = empty_phone.folder / "a b"
        folder.mkdir()
        real = empty_phone.install_perf_test(folder)
        real.rename(folder / "real")
        real.write_text(f'#!/bin/sh\n[ "$LD_LIBRARY_PATH" = "{folder}" ] && exec "{folder}/real" "$@"\n')
        real.chmod(0o755)
        target = open_target(f"adb:{empty_phone.serial}?perf_test={real}")
        assert Bench(target, ORT).time_models([model], RULE)[0].samples_ns
        target.close()

    def test_what_a_lost_connection_left_running_is_ended(self, phone: AdbDevice, model: onnx.ModelProto) -> None:
        """A command that the device goes on with would disturb the one that takes its place."""
        program = phone.folder / "onnxruntime_perf_test"
        program.rename(phone.folder / "real")
        started = phone.folder / "started"
        program.write_text(
            f'#!/bin/sh\necho $$ >>"{started}"\n[ $(wc -l <"{started}") = 1 ] && exec sleep 300\nexec "{phone.folder}/real" "$@"\n'
        )
        program.chmod(0o755)

        def cut_off() -> None:
            while not started.exists() or not started.read_text().endswith("\n"):
                time.sleep(0.01)
            phone.disconnect_after(0)
            phone.go_away()
            phone.come_back()

        threading.Thread(target=cut_off, daemon=True).start()
        target = open_target(f"adb:{phone.serial}")
        assert Bench(target, ORT).time_models([model], RULE)[0].samples_ns
        target.close()
        first = int(started.read_text().split()[0])
        for _ in range(100):
            if is_gone(first):
                return
            time.sleep(0.05)
        raise AssertionError("the first run still sleeps")

    def test_inputs_cannot_be_given(self, bench: Bench, model: onnx.ModelProto) -> None:
        assert not bench.can_infer
        with pytest.raises(AgentRefusal, match="can't be given inputs"):
            bench.infer(model, IMAGE)

    def test_accuracy_is_judged_on_the_host(self, phone: AdbDevice, model: onnx.ModelProto) -> None:
        with opened_machine("android-arm64", f"adb:{phone.serial}", None) as machine:
            assert machine.bench.target.name == f"adb:{phone.serial}"
            assert machine.judge.target.name == "local"
            assert not machine.can_infer
            assert machine.judge.infer(model, IMAGE).shape == (1, 10)

    def test_tensorrt_is_not_for_android(self, phone: AdbDevice) -> None:
        target = open_target(f"adb:{phone.serial}")
        with pytest.raises(TargetError, match="the runtime 'tensorrt' isn't for Android"):
            Bench(target, load_runtime("tensorrt"))
        target.close()


def is_gone(pid: int) -> bool:
    """A process that nobody waits for stays as a zombie where there is no init."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


class TestProbe:
    def test_the_device_is_made_complete(self, bench: Bench) -> None:
        probe = bench.probe()
        found = devices.resolve(devices.load("android-arm64"), probe)
        assert found.detected_fields == ()
        assert found.cpu.cores == os.cpu_count()
        assert found.runtime().version == "unknown", "of a program that doesn't tell its own"
        assert probe["system"].startswith("Android")

    def test_the_version_is_that_of_the_librarys_symbols(self, phone: AdbDevice) -> None:
        folder = Path(onnxruntime.__file__).parent / "capi"
        library = next(iter(folder.glob("libonnxruntime.so*")), None)
        if library is None:
            pytest.skip("this ONNX Runtime's package has no libonnxruntime.so")
        shutil.copyfile(library, phone.folder / "libonnxruntime.so")
        target = open_target(f"adb:{phone.serial}")
        assert Bench(target, ORT).probe()["runtime_versions"] == {"onnxruntime": onnxruntime.__version__}
        target.close()

    def test_the_program_may_be_on_the_path_or_where_the_user_says(
        self, empty_phone: AdbDevice, tmp_path: Path
    ) -> None:
        named = empty_phone.install_perf_test(tmp_path).rename(tmp_path / "my perf,test")
        for query, expected in ((f"?perf_test={named}", {"onnxruntime": "unknown"}), ("", {})):
            target = open_target(f"adb:{empty_phone.serial}{query}")
            assert Bench(target, ORT).probe()["runtime_versions"] == expected
            target.close()

    @pytest.mark.parametrize("there", [True, False])
    def test_doctor_looks_at_the_device(self, empty_phone: AdbDevice, there: bool) -> None:
        if there:
            empty_phone.install_perf_test()
        code, out, error = ended(command("doctor", "--target", f"adb:{empty_phone.serial}"))
        assert code == 0, error
        _, _, said = out.partition(f"\nadb:{empty_phone.serial}\n")
        assert ("onnxruntime: unknown" in said) == there
        assert ("adb push onnxruntime_perf_test /data/local/tmp" in said) != there
        assert re.search(r"device: .*cores", said)
        assert "system: Android" in said
        assert "tensorrt" not in said
        assert "free space for files" in said

    def test_doctor_says_that_a_device_is_away(self) -> None:
        code, out, _ = ended(command("doctor", "--target", "adb:127.0.0.1:1"))
        assert code == 1
        assert "BAD   connection: the Android device 127.0.0.1:1 stays away" in out


class TestFiles:
    def test_what_somebody_left_days_ago_is_removed(self, phone: AdbDevice) -> None:
        old, new, other = (phone.folder / name for name in ("edgenas-old", "edgenas-new", "other"))
        for folder in (old, new, other):
            folder.mkdir()
            (folder / "file").write_text("x")
        part = phone.folder / ".edgenas-part"
        part.write_text("half a file")
        for path in (old, part, other):
            os.utime(path, (1e9, 1e9))
        target = open_target(f"adb:{phone.serial}")
        target.put(b"x", "file")
        assert (old.exists(), part.exists()) == (False, False)
        assert new.exists()
        assert other.exists()
        target.close()

    def test_a_file_arrives_though_the_connection_breaks(self, phone: AdbDevice) -> None:
        target = open_target(f"adb:{phone.serial}")
        data = os.urandom(3_000_000)
        path = target.path("data.bin")
        phone.disconnect_after(1_500_000)
        assert target.put(data, "data.bin") == path
        phone.disconnect_after(1_500_000)
        assert target.get(path) == data
        target.close()

    def test_a_device_that_stays_away_while_a_file_is_written(self, phone: AdbDevice) -> None:
        options = open_link(f"adb:{phone.serial}")[1]
        assert options.via is not None
        impatient: dict[str, Any] = {**options.via.arguments, "patience_s": 2.0}
        link, _ = open_link(f"adb:{phone.serial}")
        assert isinstance(link, ProcessLink)
        target = Target(link, TargetOptions(via=Via(options.via.module, impatient)))
        assert target.folder
        phone.disconnect_after(100_000, stay_away=True)
        with pytest.raises(DeviceAway, match="stays away: no connection within 2 s") as error:
            target.put(bytes(1_000_000), "data.bin")
        assert "adb connect" in error.value.hint
        phone.come_back()
        assert target.get(target.put(b"data", "data.bin")) == b"data"
        target.close()

    def test_a_folder_that_cannot_be_written_is_said(self, phone: AdbDevice, tmp_path: Path) -> None:
        phone.folder = Path("/proc/nowhere")
        with pytest.raises(TargetError, match=r"adb:.* has no place for the agent's files: .*(No such file|ermission)"):
            open_target(f"adb:{phone.serial}").put(b"x", "file")


class TestAddress:
    @pytest.mark.parametrize(
        "address", ["adb:X?python=/x", "adb:X?perf_test=relative", "adb:X?perf_test", "adb:X?=", "adb:X?perf_test="]
    )
    def test_a_wrong_one_is_refused_with_the_shape(self, address: str) -> None:
        with pytest.raises(InputError, match=r"Android devices look like adb:SERIAL"):
            open_target(address)

    def test_the_only_device_needs_no_name(self, phone: AdbDevice) -> None:
        with pytest.raises(TargetError, match="no Android device"):
            open_target("adb:")
        subprocess.run(["adb", "connect", phone.serial], capture_output=True, timeout=30, check=True)
        assert open_target("adb:").name == f"adb:{phone.serial}"
        subprocess.run(["adb", "disconnect", phone.serial], capture_output=True, timeout=30, check=True)
