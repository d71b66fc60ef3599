"""What every target and every runtime promises: one class for each kind, run over all members with real agents and models."""

from __future__ import annotations

import os
import re
import shutil
import signal
import string
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgenas.errors import InputError, TargetError
from edgenas.measure import NAMES, Bench, SamplingRule, reference_network
from edgenas.network.builder import INPUT, Builder
from edgenas.network.fuse import FusionRules
from edgenas.onnxio.random_weights import random_ranges, random_weights
from edgenas.runtimes import runtime as runtimes
from edgenas.runtimes.runtime import Runtime, load_runtime
from edgenas.targets.channel import AgentRefusal, Channel
from edgenas.targets.target import Target, open_target
from tests.adb_device import NO_ADB, AdbDevice, adb_server
from tests.ssh_device import MISSING, SSHD, SshDevice

pytestmark = pytest.mark.alone

TARGETS = ("local", pytest.param("ssh", marks=pytest.mark.system), pytest.param("adb", marks=pytest.mark.system))
RUNTIMES = ("onnxruntime",)
ON_BOARDS = ("tensorrt",)  # no machine that runs these tests has it: tests/test_tensorrt.py has a stand-in

# A runtime's on-device part whose models are text files that say what happens when they are opened.
PART = """
import os, signal, sys, time
from timing import InProcess
def versions():
    return {"pid": str(os.getpid())}
def open_model(path, options):
    with open(path) as file:
        what = file.read()
    if what == "die":
        sys.stderr.write("out of memory\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(60)
    print("a runtime that talks")
    return InProcess(lambda: None, options["threads"])
"""
PROBE_KEYS = {
    *("machine", "system", "python", "cpu_name", "isa", "cores", "ram_mib", "temperature_c", "governor", "clock_mhz"),
    *("load", "runtime_versions", "ok", "disk_free_mib", "model", "power_mode", "tegrastats", "battery"),
}
FILE_NAMES = st.text(string.ascii_letters + string.digits + " ._-+é", min_size=1, max_size=40).filter(
    lambda name: name.strip(" .") != ""
)
needs_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@pytest.fixture(scope="module", params=TARGETS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "local":
        yield request.param
        return
    if request.param == "adb":
        if shutil.which("adb") is None:
            pytest.skip(NO_ADB)
        with (
            adb_server(tmp_path_factory.mktemp("home")) as port,
            AdbDevice(tmp_path_factory.mktemp("android")) as phone,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
            yield f"adb:{phone.serial}"
        return
    if SSHD is None:
        pytest.skip(MISSING)
    with SshDevice(tmp_path_factory.mktemp("sshd")) as device, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_SSH", device.client())
        yield device.address


@pytest.fixture(scope="module")
def target(address: str) -> Iterator[Target]:
    opened = open_target(address)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("part") / "stub_agent.py"
    path.write_text(PART, encoding="utf-8")
    return path


@pytest.fixture
def agent(target: Target, part: Path) -> Iterator[Channel]:
    channel = target.agent(part)
    yield channel
    channel.close()


def bench_request(target: Target, what: str | None) -> dict[str, Any]:
    """A request to time a model that does `what` when it is opened; None for one that isn't there."""
    model = target.path("missing.onnx") if what is None else target.put(what.encode(), f"{what}.onnx")
    reference = target.put(b"run", "run.onnx")
    rule = {"warmup_s": 0.0, "min_count": 1, "max_count": 2, "max_s": 0.0, "chunk": 1}
    options = {"threads": 1, "precision": "fp32"}
    models = [{"path": model, "options": options}]
    return {"do": "bench", "models": models, "reference": {"path": reference, "options": options}, **rule}


def process_id(agent: Channel) -> int:
    return int(agent.request({"do": "probe"})["runtime_versions"]["pid"])


class TestEveryTarget:
    @given(name=FILE_NAMES, data=st.binary(max_size=3000))
    @example(name="model.onnx", data=bytes(range(256)) * 4000)
    def test_files_come_back_as_they_were_put(self, target: Target, name: str, data: bytes) -> None:
        path = target.put(data, name)
        assert path == target.path(name)
        assert target.get(path) == data

    def test_a_file_may_be_put_again(self, target: Target) -> None:
        target.put(b"a long first version", "again.bin")
        assert target.get(target.put(b"short", "again.bin")) == b"short"

    def test_a_probe_has_the_documented_keys(self, agent: Channel) -> None:
        answer = agent.request({"do": "probe"})
        assert answer.keys() == PROBE_KEYS
        assert answer["cores"] >= 1
        assert isinstance(answer["isa"], list)
        assert {"machine", "system"} <= {key for key, value in answer.items() if value}

    def test_what_a_runtime_prints_does_not_reach_the_protocol(self, target: Target, agent: Channel) -> None:
        assert len(agent.request(bench_request(target, "run"))["samples_ns"][0]) == 1

    def test_a_refused_request_leaves_the_agent_alive(self, target: Target, agent: Channel) -> None:
        before = process_id(agent)
        with pytest.raises(AgentRefusal, match="refused 'bench': FileNotFoundError: No such file"):
            agent.request(bench_request(target, None))
        with pytest.raises(AgentRefusal, match="unknown request: 'dance'"):
            agent.request({"do": "dance"})
        assert process_id(agent) == before

    @needs_sigkill
    def test_an_agent_that_dies_is_one_error_and_starts_anew(self, target: Target, agent: Channel) -> None:
        before = process_id(agent)
        with pytest.raises(TargetError, match="died") as error:
            agent.request(bench_request(target, "die"))
        assert not isinstance(error.value, AgentRefusal)
        assert "'bench'" in error.value.message
        assert error.value.hint.endswith("out of memory"), "the last that it said on standard error"
        assert process_id(agent) != before
        assert agent.request(bench_request(target, "run"))["ok"]

    def test_a_part_that_cannot_be_loaded_is_an_error_with_its_reason(self, target: Target, tmp_path: Path) -> None:
        (tmp_path / "broken_agent.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
        with pytest.raises(
            TargetError, match=r"died \(exit code [19]\) during its start\n.*No module named 'nothing_of"
        ):
            target.agent(tmp_path / "broken_agent.py").request({"do": "probe"})

    @needs_sigkill
    def test_an_agent_that_was_killed_between_requests_is_one_error(self, target: Target, agent: Channel) -> None:
        os.kill(process_id(agent), signal.SIGKILL)  # every target of these tests is this machine
        with pytest.raises(TargetError, match=r"died \(exit code (-9|9)\) during 'probe'"):
            agent.request({"do": "probe"})
        assert agent.request({"do": "probe"})["ok"]

    def test_a_silent_agent_is_given_up_in_time(self, target: Target, agent: Channel) -> None:
        before = process_id(agent)
        with pytest.raises(TargetError, match="did not answer 'bench' within 1 s") as error:
            agent.request(bench_request(target, "sleep"), timeout_s=1)
        assert not isinstance(error.value, AgentRefusal)
        assert process_id(agent) != before, "the silent one is gone, and its late answer with it"

    def test_agents_are_processes_of_their_own(self, target: Target, part: Path, agent: Channel) -> None:
        other = target.agent(part)
        assert len({process_id(agent), process_id(other), os.getpid()}) == 3
        other.close()
        assert agent.request({"do": "probe"})["ok"]

    def test_closing_removes_the_work_folder_and_stops_the_agents(self, address: str, part: Path) -> None:
        opened = open_target(address)
        path = opened.put(b"data", "file.bin")
        running = process_id(opened.agent(part))
        assert Path(path).read_bytes() == b"data", "the targets of these tests are all this machine"
        opened.close()
        assert not Path(path).parent.exists()
        if sys.platform != "win32":
            assert gone_soon(running)
        with pytest.raises((OSError, TargetError)):
            opened.get(path)
        opened.close()

    def test_provenance_says_whether_it_is_the_real_thing(self, target: Target) -> None:
        assert target.provenance in ("measured", "emulated")
        assert target.name


def gone_soon(pid: int) -> bool:
    """Over a connection the end of an agent takes a moment."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("address", ["serial:1", "local:1", "", "LOCAL", "channel:1", "on_device", "../local"])
def test_an_unknown_address_is_refused_with_what_there_is(address: str) -> None:
    with pytest.raises(InputError, match=f"no target understands '{re.escape(address)}'\n.*local"):
        open_target(address)


RULE = SamplingRule(warmup_s=0.0, min_count=4, max_count=12, max_s=0.001, chunk=4)


@pytest.fixture(scope="module", params=RUNTIMES)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A runtime on this machine."""
    opened = open_target("local")
    yield Bench(opened, load_runtime(request.param))
    opened.close()


def models(runtime: Runtime, seed: int = 0) -> dict[str, onnx.ModelProto]:
    network = reference_network()
    weights, ranges = random_weights(network, seed), random_ranges(network, seed)
    return {
        "fp32": runtime.fp32_model(network, weights),
        "int8": runtime.int8_model(network, weights, ranges, weight_bits=7),
    }


class TestEveryRuntime:
    def test_it_has_what_the_protocol_asks_for(self, bench: Bench) -> None:
        runtime = bench.runtime
        assert load_runtime(runtime.NAME) is runtime
        assert runtime.AGENT_PART.is_file()
        assert isinstance(bench.fusion("fp32"), FusionRules)
        assert isinstance(bench.fusion("int8"), FusionRules)
        members = [name for name in vars(Runtime) if not name.startswith("_")] + list(Runtime.__annotations__)
        assert [name for name in members if not hasattr(runtime, name)] == []

    def test_the_probe_has_its_version(self, bench: Bench) -> None:
        assert bench.probe()["runtime_versions"][bench.runtime.NAME]

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_it_computes_what_onnx_runtime_computes_here(self, bench: Bench, precision: str) -> None:
        model = models(bench.runtime)[precision]
        images = np.random.default_rng(0).standard_normal((5, 3, 28, 28)).astype(np.float32)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])
        found = bench.infer(model, images)
        assert found.shape == (5, 10)
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_it_gives_as_many_wall_as_cpu_times(self, bench: Bench) -> None:
        found = bench.time_models(list(models(bench.runtime).values()), RULE)
        assert len(found) == 2
        for measurement in found:
            counts = {len(measurement.samples_ns), len(measurement.cpu_ns), len(measurement.reference_cpu_ns)}
            assert len(counts) == 1
            assert RULE.min_count <= len(measurement.samples_ns) <= RULE.max_count
            assert min(*measurement.samples_ns, *measurement.cpu_ns, *measurement.reference_cpu_ns) > 0
            assert (measurement.chunk, measurement.threads, measurement.error) == (RULE.chunk, 1, None)
            assert measurement.warmup_count >= 3
            assert measurement.provenance == bench.target.provenance
        assert bench.quiet_reference_ms == min(measurement.reference_ms for measurement in found)

    def test_many_models_are_each_measured_themselves(self, bench: Bench) -> None:
        b = Builder((1, 3, 96, 96))
        slow = b.finish(b.conv("conv2", b.conv("conv1", INPUT, 64, 3), 64, 3))
        quick = models(bench.runtime)["fp32"]
        many = [bench.runtime.fp32_model(slow, random_weights(slow)), *[quick] * (NAMES + 1)]
        first, *others = bench.time_models(many, SamplingRule(warmup_s=0, min_count=5, max_count=5, chunk=5))
        assert first.p50_ms > 3 * max(other.p50_ms for other in others)

    def test_a_fresh_process_measures_as_well(self, bench: Bench) -> None:
        (found,) = bench.time_models([models(bench.runtime)["fp32"]], RULE, fresh_process=True)
        assert found.samples_ns

    def test_a_profile_has_every_run_of_every_node(self, bench: Bench) -> None:
        for model in models(bench.runtime).values():
            profile = bench.profile_nodes(model, chunks=2, chunk=3)
            assert profile.nodes
            assert {len(node["us"]) for node in profile.nodes} == {6}
            assert len(profile.reference_cpu_ns) == 6
            assert all(node["name"] and node["op"] for node in profile.nodes)

    def test_a_broken_model_is_refused_and_the_next_is_measured(self, bench: Bench) -> None:
        good = models(bench.runtime)["fp32"]
        for ask in (lambda m: bench.time_models([good, m], RULE), bench.profile_nodes, lambda m: bench.infer(m, IMAGE)):
            with pytest.raises(AgentRefusal, match="the runtime refused"):
                ask(onnx.ModelProto())
        assert bench.time_models([good], RULE)[0].samples_ns


def test_a_build_without_xnnpack_says_what_it_has() -> None:
    if "XnnpackExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has XNNPACK")
    opened = open_target("local")
    runtime = load_runtime("onnxruntime")
    with pytest.raises(
        AgentRefusal, match=r"was built without XnnpackExecutionProvider; it has .*CPUExecutionProvider"
    ):
        Bench(opened, runtime, provider="xnnpack").time_models([models(runtime)["fp32"]], RULE)
    opened.close()


IMAGE = np.zeros((1, 3, 28, 28), np.float32)


def test_every_runtime_of_the_folder_is_tested_here() -> None:
    folder = Path(runtimes.__file__).parent
    assert sorted(path.name.removesuffix("_agent.py") for path in folder.glob("*_agent.py")) == sorted(
        RUNTIMES + ON_BOARDS
    )


def test_an_unknown_runtime_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no runtime is called 'tflite'\nRuntimes: .*onnxruntime"):
        load_runtime("tflite")
    with pytest.raises(InputError, match="no runtime is called"):
        load_runtime("../targets/agent")
