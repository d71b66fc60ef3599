"""Device files: what is shipped, what a user's own file may say, and what a probe fills in."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from edgenas import cli, device
from edgenas.artifacts.device_spec import DeviceSpec, GpuSpec
from edgenas.errors import EdgenasError, InputError, TargetError
from edgenas.report.devices import describe_all

SHIPPED = (
    "android-arm64",
    "coral-edge-tpu",
    "emulated-aarch64",
    "host",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-tx2",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "x86-64-avx2",
    "x86-64-avx512-vnni",
)
# Where a figure may come from when no page says it: whoever measured it, or nowhere.
OWN_SOURCES = ("edgenas's own ", "detected ", "/proc/cpuinfo of the machine", "the definition of this device")
FLAVOURS = {"onnxruntime": "ort", "tensorrt": "trt"}
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
    assert device.names() == [*SHIPPED]
    (home / "my-board.yaml").write_text(host_text().replace("id: host", "id: my-board"), encoding="utf-8")
    assert device.names() == sorted([*SHIPPED, "my-board"])
    assert device.load("my-board").id == "my-board"
    assert (device.is_own("my-board"), device.is_own("host")) == (True, False)


def test_the_users_own_file_wins(home: Path) -> None:
    (home / "host.yaml").write_text(host_text().replace("name: This machine", "name: My machine"), encoding="utf-8")
    assert device.load("host").name == "My machine"


def sections(data: Any) -> Iterator[dict[str, Any]]:
    """Every part of a device's description that names its source."""
    if isinstance(data, dict):
        if "source" in data:
            yield data
        data = list(data.values())
    if isinstance(data, list | tuple):
        for inner in data:
            yield from sections(inner)


@pytest.mark.parametrize("name", SHIPPED)
class TestEveryShippedDevice:
    def test_survives_json(self, name: str) -> None:
        spec = device.load(name)
        assert DeviceSpec.model_validate_json(spec.model_dump_json()) == spec

    def test_names_a_page_or_who_measured_as_every_source(self, name: str) -> None:
        spec = device.load(name)
        for section in sections(spec.model_dump()):
            source = section["source"]
            figures = [value for key, value in section.items() if key != "source" and value is not None]
            assert "https://" in source or source.startswith(OWN_SOURCES) or not figures, f"{name}: {source}"

    def test_runs_runtimes_that_there_are_with_their_flavour(self, name: str) -> None:
        spec = device.load(name)
        if spec.predict_only is None:
            assert {key: runtime.qdq_flavour for key, runtime in spec.runtimes.items()} == {
                key: FLAVOURS[key] for key in spec.runtimes
            }
        assert (spec.gpu is not None) == ("tensorrt" in spec.runtimes), "TensorRT needs a GPU; nothing else uses one"

    def test_reads_the_ir_version_of_its_opset(self, name: str) -> None:
        """By the table in https://github.com/onnx/onnx/blob/main/docs/Versioning.md, which the onnx package holds."""
        from onnx.helper import VERSION_TABLE

        spec = device.load(name)
        for runtime in spec.runtimes.values():
            if runtime.opset_max is None:
                assert spec.predict_only is not None
                continue
            least = min(ir for _, ir, opset, *_ in VERSION_TABLE if opset == runtime.opset_max)
            assert runtime.ir_version_max is not None
            assert runtime.ir_version_max >= least
            assert "hard_swish" not in spec.rules.activations or runtime.opset_max >= 14, "HardSwish came with opset 14"

    def test_has_fast_precisions_and_int8_only_where_the_hardware_has_it(self, name: str) -> None:
        spec = device.load(name)
        for key, runtime in spec.runtimes.items():
            fast = spec.fast_precisions(key)
            assert fast
            if key == "tensorrt":
                assert isinstance(spec.gpu, GpuSpec)
                major, minor = map(int, spec.gpu.compute_capability.split("."))
                # https://www.mathworks.com/help/gpucoder/ref/datatypetensorrt.html
                assert ("int8" in fast) == (major >= 7 or (major, minor) == (6, 1))
                assert runtime.int8_weight_bits == 8

    def test_is_complete_or_completed_by_a_probe(self, name: str) -> None:
        spec = device.load(name)
        machine = "aarch64" if spec.cpu.arch == "aarch64" or "aarch64" in name else "x86_64"
        probe = PROBE | {"machine": machine, "runtime_versions": dict.fromkeys(spec.runtimes, "1.2.3")}
        found = device.resolve(spec, probe)
        assert not found.is_detected
        if found.cpu.arch == "aarch64":
            assert {found.weight_bits(key) for key in found.runtimes} == {8}


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
    avx2, tx2, orin = (device.load(name) for name in ("x86-64-avx2", "jetson-tx2", "jetson-orin-nano"))
    assert avx2.weight_bits() == 7
    assert (tx2.fast_precisions(), tx2.runtime().canonical_form) == (("fp32", "fp16"), "reachable")
    assert "int8" in orin.fast_precisions()
    assert {"asimddp"} <= set(device.load("raspberry-pi-5").cpu.isa) - set(pi.cpu.isa), "SDOT"
    emulated = device.load("emulated-aarch64")
    assert (emulated.target, emulated.runtime().version) == ("emulated:aarch64", "1.27.0")
    assert "never an ARM board's" in emulated.summary


def test_what_can_only_be_predicted_for_is_refused_before_anything_is_measured() -> None:
    from edgenas.pipeline.context import opened_machine

    device.load("host").refuse_if_predict_only()
    with (
        pytest.raises(
            InputError, match=r"nothing can be measured on device 'coral-edge-tpu': its runtime takes .*TensorFlow Lite"
        ),
        opened_machine("coral-edge-tpu", "local", None),
    ):
        raise AssertionError("it was opened")


def test_only_predict_only_devices_may_leave_the_opset_open(home: Path) -> None:
    text = host_text().replace("opset_max: 21", "opset_max: null")
    (home / "host.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"runtimes\.onnxruntime must say opset_max and ir_version_max"):
        device.load("host")
    (home / "host.yaml").write_text(text + "\npredict_only: it is in orbit\n", encoding="utf-8")
    assert device.load("host").predict_only == "it is in orbit"


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
    assert ", ".join(SHIPPED) in error.value.hint
    assert "edgenas devices --new ID" in error.value.hint
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


def keys_of(model: type[BaseModel]) -> set[str]:
    """The names of all fields of a model and of the models inside it."""
    keys = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        for inner in re.findall(r"device_spec\.(\w+)", repr(field.annotation)):
            kind = getattr(sys.modules[DeviceSpec.__module__], inner, None)
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys |= keys_of(kind)
    return keys


@pytest.mark.parametrize("name", ["my-board", "a", "7", "no", "null", "1e5"])
def test_a_new_device_is_valid_as_it_is(home: Path, name: str) -> None:
    path = device.create(name)
    assert path == home / f"{name}.yaml"
    spec = device.load(name)
    assert (spec.id, spec.name, spec.target) == (name, name, None), "a board isn't taken for this computer"
    assert device.resolve(spec, PROBE).weight_bits() == 7
    assert name in device.names()


def test_the_template_has_every_key(home: Path) -> None:
    text = device.create("my-board").read_text(encoding="utf-8")
    keys = keys_of(DeviceSpec)
    assert {"predict_only", "fast", "compute_capability", "what"} <= keys
    missing = {key for key in keys if re.search(rf"^[ #-]*{key}: ?", text, re.MULTILINE) is None}
    assert not missing
    assert "MY-DEVICE" not in text


def test_a_new_device_of_a_shipped_name_is_a_copy_that_wins(home: Path) -> None:
    path = device.create("jetson-nano")
    assert path.read_text(encoding="utf-8") == (device.shipped("devices") / path.name).read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace("name: NVIDIA", "name: My NVIDIA"), encoding="utf-8")
    assert device.load("jetson-nano").name.startswith("My NVIDIA")


@pytest.mark.parametrize("name", ["", "My_Board", "-a", "a--b", "a/b", "../a", "a.yaml", "a\n", "ä"])
def test_a_new_device_of_no_possible_name_is_refused(home: Path, name: str) -> None:
    with pytest.raises(InputError, match="can't be a device's id: expected lower-case letters"):
        device.create(name)
    assert not list(home.iterdir())


def test_a_new_device_replaces_nothing(home: Path) -> None:
    path = home / "my-board.yaml"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"my-board\.yaml is there already"):
        device.create("my-board")
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_user_folder_that_can_not_be_made_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("EDGENAS_HOME", str(tmp_path / "a-file"))
    with pytest.raises(InputError, match=r"my-board\.yaml can't be written: .*\nEDGENAS_HOME names another"):
        device.create("my-board")


def run(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    """`edgenas ARGUMENTS` in this process: its exit code."""
    monkeypatch.setattr(sys, "argv", ["edgenas", *arguments.split()])
    try:
        cli.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_the_command_writes_a_file_shows_it_and_refuses_a_second(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "devices --new my-board") == 0
    said = capsys.readouterr()
    assert said.out == f"{home / 'my-board.yaml'}\n", "the path alone, for a script"
    assert "edgenas devices my-board" in said.err
    assert run(monkeypatch, "devices my-board") == 0
    assert "my-board: my-board (your own file)" in capsys.readouterr().out
    assert run(monkeypatch, "devices --new my-board") == 2
    assert "is there already" in capsys.readouterr().err
    assert run(monkeypatch, "devices --new My_Board") == 2
    assert "can't be a device's id" in capsys.readouterr().err
    assert run(monkeypatch, "devices host --new other") == 2
    assert "--new stands alone" in capsys.readouterr().err
    assert [path.name for path in home.iterdir()] == ["my-board.yaml"]


def test_the_command_says_line_and_key_of_what_a_user_broke(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = device.create("my-board")
    lines = path.read_text(encoding="utf-8").replace("opset_max: 21", "opset_max: twenty").splitlines()
    path.write_text("\n".join(lines), encoding="utf-8")
    row = next(number for number, line in enumerate(lines, 1) if "opset_max: twenty" in line)
    assert run(monkeypatch, "devices my-board") == 2
    assert f"{path}, line {row}, runtimes.onnxruntime.opset_max: " in capsys.readouterr().err


def test_the_list_says_which_devices_are_the_users_and_which_can_not_be_measured(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device.create("my-board")
    assert run(monkeypatch, "devices") == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows.keys() == {"ID", "my-board", *SHIPPED}
    assert "(yours)" in rows["my-board"]
    assert "edgetpu (int8); predict only" in rows["coral-edge-tpu"]
    assert all(len(row) <= 160 for row in rows.values())


def test_one_broken_file_does_not_hide_the_other_devices(home: Path) -> None:
    path = device.create("my-board")
    path.write_text(path.read_text(encoding="utf-8").replace("threads: 1", "threads: none"), encoding="utf-8")
    lines = describe_all(as_json=False).splitlines()
    assert any(line.startswith("jetson-nano ") for line in lines)
    assert re.search(r"^my-board  can't be read: .*my-board\.yaml, line \d+, threads: ", lines[-1])
    assert json.loads(describe_all(as_json=True))[-1].keys() == {"id", "error"}
