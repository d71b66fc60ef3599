"""Device files: what is shipped, what a user's own file may say, and what a probe fills in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from edgenas import device
from edgenas.artifacts.device_spec import DeviceSpec
from edgenas.errors import EdgenasError, InputError, TargetError

PROBE: dict[str, Any] = {
    "machine": "x86_64",
    "cpu_name": "A processor",
    "isa": ["avx2", "fma"],
    "cores": 2,
    "ram_mib": 7900,
    "runtime_versions": {"onnxruntime": "1.32.0"},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user folder, so that no test sees the developer's own devices."""
    monkeypatch.setenv("EDGENAS_HOME", str(tmp_path))
    folder = device.user_folder("devices")
    folder.mkdir()
    return folder


def host_text() -> str:
    return (device.shipped("devices") / "host.yaml").read_text(encoding="utf-8")


def test_names_are_the_shipped_devices_and_the_users_own(home: Path) -> None:
    assert device.names() == ["host", "jetson-nano", "raspberry-pi-4", "x86-64-avx512-vnni"]
    (home / "my-board.yaml").write_text(host_text().replace("id: host", "id: my-board"), encoding="utf-8")
    assert device.names() == ["host", "jetson-nano", "my-board", "raspberry-pi-4", "x86-64-avx512-vnni"]
    assert device.load("my-board").id == "my-board"


def test_the_users_own_file_wins(home: Path) -> None:
    (home / "host.yaml").write_text(host_text().replace("name: This machine", "name: My machine"), encoding="utf-8")
    assert device.load("host").name == "My machine"


@pytest.mark.parametrize("name", ["host", "jetson-nano", "raspberry-pi-4", "x86-64-avx512-vnni"])
def test_every_shipped_device_survives_json_and_names_its_sources(name: str) -> None:
    spec = device.load(name)
    assert DeviceSpec.model_validate_json(spec.model_dump_json()) == spec
    data = spec.model_dump()
    sections = [data["cpu"], data["peaks"], data["rules"], *data["facts"], *data["runtimes"].values()]
    sections += [precision for runtime in data["runtimes"].values() for precision in runtime["precisions"].values()]
    assert all(len(section["source"]) > 10 for section in sections)


def test_what_the_devices_are_known_for() -> None:
    nano, pi, host = (device.load(name) for name in ("jetson-nano", "raspberry-pi-4", "host"))
    assert nano.fast_precisions() == ("fp32", "fp16"), "its GPU has no fast INT8"
    assert nano.fast_precisions("onnxruntime") == ("fp32", "int8"), "its CPU has"
    assert (nano.runtime().qdq_flavour, nano.runtime().opset_max, nano.runtime().ir_version_max) == ("trt", 13, 7)
    assert "hard_swish" not in nano.rules.activations
    assert not nano.is_detected
    assert pi.weight_bits() == 8
    assert (host.target, host.is_detected) == ("local", True)
    assert "int8" in host.fast_precisions()


def test_a_device_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        device.load("host").threads = 2


def test_an_unknown_runtime_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"has no runtime 'tflite'.*\n.*tensorrt, onnxruntime"):
        device.load("jetson-nano").fast_precisions("tflite")


def test_an_unknown_device_is_refused_with_the_nearest_name_and_the_list() -> None:
    with pytest.raises(InputError) as error:
        device.load("jetson-nanu")
    assert error.value.message == "there is no device called 'jetson-nanu'"
    assert "Did you mean 'jetson-nano'?" in error.value.hint
    assert "host, jetson-nano, raspberry-pi-4" in error.value.hint
    with pytest.raises(InputError, match="no device called 'nosuch'"):
        device.load("nosuch")
    with pytest.raises(InputError, match="no device called"):
        device.load("../devices/host")


def test_user_folder_defaults_to_the_platforms_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGENAS_HOME")
    folder = device.user_folder("latency_tables")
    assert folder.is_absolute()
    assert folder.parts[-1] == "latency_tables"
    assert "edgenas" in folder.parts


def test_a_missing_shipped_folder_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "_PACKAGE", tmp_path / "site-packages" / "edgenas")
    (tmp_path / "site-packages" / "devices").mkdir(parents=True)  # some other package's: must not be taken for ours
    with pytest.raises(EdgenasError, match=r"neither .* is there\nInstall edgenas again"):
        device.shipped("devices")


@pytest.mark.parametrize(
    ("find", "replacement", "expected"),
    [
        ("opset_max: 21", "opset_max: many", r"line \d+, runtimes\.onnxruntime\.opset_max: .*integer.*but got 'many'"),
        ("threads: 1", "threads: 0", r"line \d+, threads: .*greater than or equal to 1, but got 0"),
        ("threads: 1", "thread: 1", r"line \d+, thread: there is no such key \(1 more wrong\)"),
        ("threads: 1\n", "", r"line 3, threads: this key is missing"),
        (
            "qdq_flavour: ort",
            "qdq_flavour: qoperator",
            r"line \d+, .*qdq_flavour: .*'ort' or 'trt', but got 'qoperator'",
        ),
        ("default_runtime: onnxruntime", "default_runtime: tvm", r"line 3: default_runtime must be one of"),
        ("fast: true", "fast: true\n        fast: false", r"line \d+, fast: the key is there twice"),
        ("id: host", "id: other", r"line 3, id: 'other' is not the file's name"),
        ("target: local", "target: [local", r"line \d+: not valid YAML"),
        ("version: detected", "version: 1.2", r"line \d+, runtimes\.onnxruntime\.version: .*string, but got 1\.2"),
        (
            "int8_weight_bits: detected",
            "int8_weight_bits: 4",
            r"line \d+, .*int8_weight_bits: .*7 or 8 or .*'detected'",
        ),
    ],
)
def test_a_broken_file_is_refused_with_line_and_key(home: Path, find: str, replacement: str, expected: str) -> None:
    text = host_text().split("\n", 1)[1].replace(find, replacement, 1)  # the first line is a comment
    (home / "host.yaml").write_text("\n\n" + text, encoding="utf-8")
    with pytest.raises(InputError, match=expected) as error:
        device.load("host")
    assert str(home / "host.yaml") in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


def test_the_line_in_the_message_is_the_keys(home: Path) -> None:
    lines = host_text().splitlines()
    row = next(number for number, line in enumerate(lines) if "opset_max" in line)
    lines[row] = "    opset_max: many"
    (home / "host.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=f"line {row + 1}, runtimes.onnxruntime.opset_max"):
        device.load("host")


@pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"just text\n", b"\xff\xfe\x00", b"a: \x00\n"])
def test_a_file_that_is_no_mapping_is_refused(home: Path, content: bytes) -> None:
    (home / "host.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"host\.yaml"):
        device.load("host")


def test_resolve_fills_every_detected_field() -> None:
    host = device.load("host")
    resolved = device.resolve(host, PROBE)
    assert resolved.detected_fields == ()
    assert host.is_detected, "the one that was given stays as it is"
    assert resolved.runtime().version == "1.32.0"
    assert resolved.cpu.model_dump(exclude={"source", "clock_mhz"}) == {
        "name": "A processor",
        "arch": "x86_64",
        "cores": 2,
        "isa": ("avx2", "fma"),
    }
    assert (resolved.ram_mib, resolved.rules.int8_channel_multiple) == (7900, 16)


@pytest.mark.parametrize(
    ("machine", "isa", "bits"),
    [
        ("x86_64", ["avx2"], 7),
        ("x86_64", ["avx2", "avx512f", "avx512bw"], 7),
        ("x86_64", ["avx2", "avx512_vnni"], 8),
        ("AMD64", ["avx2", "avx_vnni"], 8),
        ("x86_64", [], 7),
        ("aarch64", ["asimd"], 8),
        ("arm64", ["asimddp"], 8),
    ],
)
def test_weight_bits_follow_the_instructions(machine: str, isa: list[str], bits: int) -> None:
    assert device.resolve(device.load("host"), {**PROBE, "machine": machine, "isa": isa}).weight_bits() == bits


def test_weight_bits_before_a_probe_are_an_error() -> None:
    with pytest.raises(EdgenasError, match="before the device was probed"):
        device.load("host").weight_bits()


def test_resolve_refuses_a_machine_without_the_runtime() -> None:
    with pytest.raises(TargetError, match="needs the runtime 'onnxruntime', but the machine has none"):
        device.resolve(device.load("host"), {**PROBE, "runtime_versions": {}})


def test_resolve_says_which_key_the_probe_lacks() -> None:
    probe = {key: value for key, value in PROBE.items() if key != "isa"}
    with pytest.raises(TargetError, match="does not say 'isa'; it says cores, cpu_name"):
        device.resolve(device.load("host"), probe)


def test_resolve_refuses_other_machines() -> None:
    with pytest.raises(TargetError, match="x86-64 or a 64-bit ARM machine, but this one is 'riscv64'"):
        device.resolve(device.load("host"), {**PROBE, "machine": "riscv64"})


def test_memory_that_a_probe_cannot_tell_is_null() -> None:
    assert device.resolve(device.load("host"), {**PROBE, "ram_mib": None}).ram_mib is None


def test_a_probed_version_wins_and_absent_runtimes_are_left_out() -> None:
    nano = device.load("jetson-nano")
    found = device.resolve(nano, {"runtime_versions": {"tensorrt": "8.2.1"}})
    assert {name: runtime.version for name, runtime in found.runtimes.items()} == {"tensorrt": "8.2.1"}
    cpu_only = device.resolve(nano, {"runtime_versions": {"onnxruntime": "1.10.0"}}, runtime="onnxruntime")
    assert cpu_only.default_runtime == "onnxruntime"
    with pytest.raises(TargetError, match="needs the runtime 'tensorrt'"):
        device.resolve(nano, {"runtime_versions": {"onnxruntime": "1.10.0"}})


def test_a_field_that_cannot_be_detected_is_refused_when_loaded(home: Path) -> None:
    (home / "host.yaml").write_text(host_text().replace("threads: 1", "threads: detected"), encoding="utf-8")
    with pytest.raises(InputError, match=r"threads: .*integer.*but got 'detected'"):
        device.load("host")


def test_shipped_files_are_plain_data() -> None:
    for path in device.shipped("devices").glob("*.yaml"):
        json.dumps(yaml.safe_load(path.read_text(encoding="utf-8")))
