"""Android devices: the real `adb` client against a stand-in device that speaks the ADB protocol."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgenas.errors import DeviceAway, TargetError
from edgenas.runtimes import perf_test
from edgenas.targets import android_facts
from edgenas.targets.adb_client import Adb, devices, only_device, parse_devices
from tests.adb_device import NO_ADB, AdbDevice, adb_server

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("adb") is None, reason=NO_ADB),
]

BIG = 3_000_000
WORDS = st.text(
    st.one_of(st.sampled_from(" '\"\\;&|$()`<>*?[]~#!%{}\n\r\t-=é\N{SNOWMAN}"), st.characters(codec="utf-8")),
    max_size=30,
).map(lambda word: word.replace("\0", ""))
FILE_NAMES = WORDS.map(lambda name: name.replace("/", "")).filter(
    lambda name: name not in ("", ".", "..") and len(name.encode()) <= 255
)
# Hypothesis would rather have a fresh device per example; one that has seen many is the harder case.
on_one_device = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with adb_server(tmp_path_factory.mktemp("home")) as port:
        yield port


@pytest.fixture
def device(tmp_path: Path) -> Iterator[AdbDevice]:
    with AdbDevice(tmp_path) as started:
        yield started


@pytest.fixture
def adb(device: AdbDevice, server_port: int) -> Adb:
    client = Adb(device.serial, patience_s=10.0, server_port=server_port)
    client.connect()
    return client


def test_a_command_gives_its_exit_code_and_both_outputs_apart(adb: Adb) -> None:
    answer = adb.shell(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert answer == (7, b"out\n", b"err\n")
    assert adb.shell(["true"]) == (0, b"", b"")
    assert adb.shell(["no-such-command"]).code == 127
    assert adb.shell(["sh", "-c", "kill -9 $$"]).code == 137
    assert adb.shell(["--not-an-option"]).code == 127


def test_a_command_can_name_errors_of_adb_itself(adb: Adb) -> None:
    said = "error: device offline"
    assert adb.shell(["sh", "-c", f"echo '{said}' >&2; exit 1"]) == (1, b"", said.encode() + b"\n")


def test_the_device_names_its_folder(adb: Adb, device: AdbDevice) -> None:
    assert adb.shell(["sh", "-c", "echo ${TMPDIR:-/data/local/tmp}"]).stdout.decode().strip() == str(device.folder)


@given(st.lists(WORDS, max_size=5))
@example(["$(touch /tmp/oops)", "; exit 3", "a b", "'", '"', "\n", "\\", "", "-n", "é", "*", "~", "\r\n", "%s"])
@on_one_device
def test_words_arrive_as_they_are(adb: Adb, words: list[str]) -> None:
    answer = adb.shell(["printf", "%s\\0", *words])
    # without words, printf gives its format once
    assert answer == (0, b"".join(word.encode() + b"\0" for word in words or [""]), b"")


@given(st.binary(max_size=2000))
@example(b"~.\nline\r\n~?\x03\x04\x00\xff")
@example(b"")
@settings(on_one_device, max_examples=25)
def test_standard_input_and_output_are_bytes(adb: Adb, data: bytes) -> None:
    assert adb.shell(["cat"], stdin=data) == (0, data, b"")


def test_without_standard_input_a_command_that_reads_it_ends(adb: Adb) -> None:
    assert adb.shell(["cat"]) == (0, b"", b"")


def test_a_word_with_nul_is_refused(adb: Adb) -> None:
    with pytest.raises(ValueError, match="NUL"):
        adb.shell(["echo", "a\0b"])


@given(FILE_NAMES, st.binary(max_size=300))
@example("a b'$(x);\n,1", b"x")
@example("-rf", b"")
@example("é" * 127, b"x")
@on_one_device
def test_files_of_any_name_come_back(adb: Adb, device: AdbDevice, name: str, data: bytes) -> None:
    path = str(device.folder / name)
    adb.push(data, path)
    assert Path(path).read_bytes() == data
    assert adb.pull(path) == data
    Path(path).unlink()
    assert os.listdir(device.folder) == []  # noqa: PTH208


def test_a_big_file_and_one_that_replaces_another(adb: Adb, device: AdbDevice) -> None:
    path = str(device.folder / "model.onnx")
    for size in (BIG, 10):
        data = secrets.token_bytes(size)
        adb.push(data, path)
        assert adb.pull(path) == data


@pytest.mark.parametrize("after", [0, 1000, BIG // 2, BIG - 10])
def test_a_push_that_loses_the_connection_is_taken_up_again(adb: Adb, device: AdbDevice, after: int) -> None:
    data, path = secrets.token_bytes(BIG), device.folder / "model.onnx"
    path.write_bytes(b"the old one")
    seen = set()
    watched = threading.Event()

    def watch() -> None:
        while not watched.is_set():
            seen.add(path.read_bytes())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    device.disconnect_after(after)
    try:
        adb.push(data, str(path))
    finally:
        watched.set()
        watcher.join()
    assert path.read_bytes() == data
    assert seen <= {b"the old one", data}, "never a part of the file under its name"
    assert os.listdir(device.folder) == ["model.onnx"]  # noqa: PTH208


@pytest.mark.parametrize("after", [0, 1000, BIG // 2, BIG - 10])
def test_a_pull_that_loses_the_connection_is_taken_up_again(adb: Adb, device: AdbDevice, after: int) -> None:
    data, path = secrets.token_bytes(BIG), device.folder / "profile.json"
    path.write_bytes(data)
    device.disconnect_after(after)
    assert adb.pull(str(path)) == data


def test_a_command_that_loses_the_connection_is_run_again_only_if_it_may(adb: Adb, device: AdbDevice) -> None:
    count, prepared = device.folder / "count", device.folder / "prepared"
    wait = f"for i in $(seq 400); do [ -e '{prepared}' ] && break; sleep 0.05; done"
    command = ["sh", "-c", f"echo run >> '{count}'; {wait}; echo done"]

    def cut_off() -> None:
        deadline = time.monotonic() + 20
        while not (count.exists() and count.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        device.disconnect_after(1)
        prepared.touch()  # what the command says next is lost, and if it is run again, it does not wait

    for repeatable, runs in ((True, 2), (False, 1)):
        count.unlink(missing_ok=True)
        prepared.unlink(missing_ok=True)
        cutter = threading.Thread(target=cut_off, daemon=True)
        cutter.start()
        if repeatable:
            assert adb.shell(command, timeout_s=30.0, repeatable=True) == (0, b"done\n", b"")
        else:
            with pytest.raises(TargetError, match="was lost while it ran 'sh', and is back"):
                adb.shell(command, timeout_s=30.0)
        cutter.join()
        assert count.read_text().count("run") == runs


def test_a_device_that_is_away_for_a_while_is_waited_for(adb: Adb, device: AdbDevice) -> None:
    device.go_away()
    threading.Timer(2.0, device.come_back).start()
    assert adb.shell(["echo", "back"]).stdout == b"back\n"


@pytest.mark.parametrize("doing", ["shell", "push", "pull", "connect"])
def test_a_device_that_stays_away_ends_in_one_sentence_in_time(device: AdbDevice, server_port: int, doing: str) -> None:
    adb = Adb(device.serial, patience_s=3.0, server_port=server_port)
    adb.connect()
    path = device.folder / "file"
    path.write_bytes(bytes(BIG))
    calls = {
        "shell": lambda: adb.shell(["true"]),
        "push": lambda: adb.push(bytes(BIG), str(path)),
        "pull": lambda: adb.pull(str(path)),
        "connect": adb.connect,
    }
    device.disconnect_after(BIG // 2 if doing in ("push", "pull") else 0, stay_away=True)
    start = time.monotonic()
    with pytest.raises(DeviceAway, match=r"stays away: no connection within 3 s \(") as raised:
        calls[doing]()
    assert 3 <= time.monotonic() - start < 20
    assert "\n" not in raised.value.message
    assert f"adb connect {device.serial}" in raised.value.hint


def test_a_device_that_hangs_ends_in_time(device: AdbDevice, server_port: int) -> None:
    adb = Adb(device.serial, patience_s=2.0, server_port=server_port)
    adb.connect()
    device.hang()
    start = time.monotonic()
    with pytest.raises(TargetError, match="did not answer within 1 s"):
        adb.shell(["true"], timeout_s=1.0)
    with pytest.raises(TargetError, match="did not answer within 1 s"):
        adb.push(b"x", str(device.folder / "x"), timeout_s=1.0)
    assert time.monotonic() - start < 20
    device.come_back()
    assert adb.shell(["echo", "back"]).stdout == b"back\n"


def test_a_command_past_its_time_limit(adb: Adb) -> None:
    with pytest.raises(TargetError, match="did not answer within 1 s"):
        adb.shell(["sleep", "30"], timeout_s=1.0)


def test_what_the_device_refuses_is_said_in_one_sentence(adb: Adb, device: AdbDevice) -> None:
    missing = str(device.folder / "missing")
    with pytest.raises(TargetError, match=r"can't be read on the Android device .*: No such file or directory"):
        adb.pull(missing)
    with pytest.raises(TargetError, match=r"can't be read on .*: Is a directory"):
        adb.pull(str(device.folder))
    with pytest.raises(TargetError, match=r"can't be written on"):
        adb.push(b"x", "/proc/nowhere/file")
    with pytest.raises(TargetError, match=r"can't be written on .*: Is a directory"):
        adb.push(b"x", str(device.folder))


def test_a_device_without_exit_codes_gives_them_too(tmp_path: Path, server_port: int) -> None:
    with AdbDevice(tmp_path, features=()) as device:
        adb = Adb(device.serial, patience_s=5.0, server_port=server_port)
        adb.connect()
        assert adb.shell(["sh", "-c", "echo out; exit 7"]) == (7, b"out\n", b"")
        adb.push(b"data", str(tmp_path / "file"))
        assert adb.pull(str(tmp_path / "file")) == b"data"


def test_the_device_is_among_the_devices(adb: Adb, device: AdbDevice, server_port: int) -> None:
    assert devices(server_port=server_port)[device.serial] == "device"


def test_a_device_that_does_not_trust_this_computer(device: AdbDevice, server_port: int) -> None:
    device.demand_authorization()
    adb = Adb(device.serial, patience_s=10.0, server_port=server_port)
    start = time.monotonic()
    with pytest.raises(TargetError, match="is unauthorized") as raised:
        adb.connect()
    assert "Allow USB debugging" in raised.value.hint
    assert time.monotonic() - start < 8


def test_a_benchmark_is_driven_without_python(adb: Adb, device: AdbDevice) -> None:
    """A shell script takes the place of the executable and does with its last two words what that one does."""
    folder = device.folder / "a b"
    folder.mkdir()
    tool, model, result = (str(folder / name) for name in ("perf_test", "model.onnx", "result.csv"))
    script = """#!/bin/sh
for word; do model=$result; result=$word; done
[ -r "$model" ] || { echo "Load model from $model failed" >&2; exit 255; }
for run in 0 1 2; do echo "models,0.0012$run,4096,25,$run" >> "$result"; done
"""
    adb.push(script.encode(), tool)
    adb.shell(["chmod", "755", tool])
    words = perf_test.command(tool, model, result, threads=1, repeats=3)
    failed = adb.shell(words)
    assert failed.code == 255
    assert perf_test.problem((failed.stdout + failed.stderr).decode()) == f"Load model from {model} failed"
    adb.push(b"a model", model)
    assert adb.shell(words).code == 0
    assert perf_test.parse_result_file(adb.pull(result).decode()) == [1_200_000, 1_210_000, 1_220_000]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the stand-in device has /proc on Linux only")
def test_facts_are_read_through_the_shell(adb: Adb) -> None:
    cpu = android_facts.parse_cpuinfo(adb.shell(android_facts.CPUINFO).stdout.decode())
    assert cpu.core_count > 0
    assert android_facts.parse_meminfo(adb.shell(android_facts.MEMINFO).stdout.decode())["MemTotal"] > 0
    for command in (android_facts.CLOCKS, android_facts.ZONES, android_facts.BATTERY):
        assert adb.shell(command).code in (0, 1, 2, 127)  # this machine need not have them


def test_without_adb_the_hint_says_how_to_get_it() -> None:
    with pytest.raises(TargetError, match="'no-such-adb', which talks to Android devices, is not installed") as raised:
        Adb("x", executable="no-such-adb").connect()
    assert "apt install adb" in raised.value.hint


def test_the_one_device_is_found() -> None:
    listed = "List of devices attached\nABC123\tdevice\n10.0.0.7:5555\toffline\nXYZ\tunauthorized\n\n"
    found = parse_devices(listed)
    assert found == {"ABC123": "device", "10.0.0.7:5555": "offline", "XYZ": "unauthorized"}
    assert only_device(found) == "ABC123"
    with pytest.raises(TargetError, match="2 Android devices are connected"):
        only_device({"a": "device", "b": "device"})
    with pytest.raises(TargetError, match="no Android device can be used: XYZ is unauthorized"):
        only_device({"XYZ": "unauthorized"})
    with pytest.raises(TargetError, match="no Android device is connected"):
        only_device({})
