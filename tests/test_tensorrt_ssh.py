"""A Jetson Nano over a real ssh connection, where a stand-in plays trtexec of TensorRT 8.2: from the probe to a whole build.

The stand-in times nothing and computes nothing; what is shown is that every step of the way runs, and with which commands.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.doctor import examine
from edgenas.errors import TargetError
from edgenas.measure import QUICK, reference_network, untrained
from edgenas.network.fuse import fuse
from edgenas.pipeline.build import build
from edgenas.pipeline.context import Machine, opened_machine
from edgenas.pipeline.request import BuildRequest
from edgenas.progress import Progress
from edgenas.targets.channel import AgentRefusal
from tests.ssh_device import MISSING, SSHD, SshDevice
from tests.test_build import EFFORT, write_photos

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason=MISSING)]
STAND_IN = Path(__file__).parent / "stand_in"
NANO = "jetson-nano"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshDevice]:
    folder = tmp_path_factory.mktemp("nano")
    environment = {
        "PATH": os.pathsep.join([str(STAND_IN), str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "HOME": str(folder / "home"),
        "TRT_STAND_IN_VERSION": "8201",
        "TRT_STAND_IN_LOG": str(folder / "starts"),
    }
    (folder / "home").mkdir()
    with SshDevice(folder / "sshd", environment=environment) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_SSH", found.client())
        yield found


def starts(nano: SshDevice, flag: str) -> int:
    """How often the stand-in was started with this flag."""
    log = nano.folder.parent / "starts"
    return sum(flag in line for line in log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture(scope="module")
def machine(nano: SshDevice) -> Iterator[Machine]:
    with opened_machine(NANO, nano.address, None) as found:
        yield found


def test_the_board_is_probed(machine: Machine) -> None:
    assert (machine.runtime.NAME, machine.version) == ("tensorrt", "8.2.1")
    assert machine.precisions == ["fp16"], "FP32 is worth nothing beside it, and INT8 is not fast"
    assert machine.judge is not machine.bench


def test_doctor_says_what_is_not_verified_of_that_version(nano: SshDevice) -> None:
    lines = {line.what: line for line in examine(nano.address)}
    assert lines["tensorrt"].found == "8.2.1"
    assert lines["tensorrt's formats"].state == "note"
    assert "trtexec 8.2.1 writes its times and profile is known from its source" in lines["tensorrt's formats"].remedy


def test_an_engine_is_built_once_and_kept_on_the_board(nano: SshDevice, machine: Machine) -> None:
    model = untrained(machine.runtime, reference_network(), "fp16", 8, seed=7)
    before = starts(nano, "--saveEngine")
    (first,) = machine.bench.time_models([model], QUICK, precisions=["fp16"])
    built = starts(nano, "--saveEngine") - before
    (again,) = machine.bench.time_models([model], QUICK, precisions=["fp16"], fresh_process=True)
    assert built in (1, 2), "and the reference model's"
    assert starts(nano, "--saveEngine") - before == built
    assert starts(nano, "--fp16") >= 1
    assert len(first.samples_ns) >= 50
    assert first.samples_ns == first.cpu_ns, "what an app waits for"
    assert again.p50_ms > 0


def test_layers_become_kernels(machine: Machine) -> None:
    network = reference_network()
    profile = machine.bench.profile_nodes(untrained(machine.runtime, network, "fp16", 8), precision="fp16", chunks=3)
    assert {len(node["us"]) for node in profile.nodes} == {3}
    assert (len(profile.reference_cpu_ns), profile.chunk) == (3, 1)
    times = machine.runtime.attribute(profile.nodes, fuse(network, machine.bench.fusion("fp16"), "fp16"))
    assert all(us is not None for us in times)


def test_images_go_through_an_engine_many_at_a_time(nano: SshDevice, machine: Machine) -> None:
    images = np.random.default_rng(0).standard_normal((300, 3, 28, 28), np.float32)
    before = starts(nano, "--loadInputs")
    found = machine.bench.infer(untrained(machine.runtime, reference_network(), "fp16", 8), images, "fp16")
    assert found.shape == (300, 10)
    assert starts(nano, "--loadInputs") - before == 2, "300 images are two batches of 256"


def test_int8_is_refused_there_in_tensorrts_own_words(machine: Machine) -> None:
    model = untrained(machine.runtime, reference_network(), "int8", 8)
    with pytest.raises(AgentRefusal, match="require hardware with Int8 support"):
        machine.bench.time_models([model], QUICK, precisions=["int8"])


def test_a_board_without_trtexec_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SshDevice(tmp_path / "sshd", environment={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}) as bare:
        monkeypatch.setenv("EDGENAS_SSH", bare.client())
        with (
            pytest.raises(TargetError, match="needs the runtime 'tensorrt', but the machine has") as error,
            opened_machine(NANO, bare.address, None),
        ):
            pass
        assert "trtexec" in error.value.hint


@pytest.fixture(scope="module")
def built(
    one_torch_thread: None, nano: SshDevice, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("build")
    write_photos(folder / "photos")
    request = BuildRequest(NANO, folder / "out", target=nano.address, data=str(folder / "photos"))
    return build(request, Progress(quiet=True), effort=EFFORT), folder / "out"


def test_a_build_is_profiled_searched_and_measured_there(built: tuple[dict[str, Any], Path], nano: SshDevice) -> None:
    result, out = built
    winner = result["winner"]
    assert (winner["precision"], winner["runtime"], result["runtime_version"]) == ("fp16", "tensorrt", "8.2.1")
    assert result["target"] == nano.address
    assert result["verdict"] == (
        "met" if winner["measured"]["p50_ms"] <= result["budgets"][0]["latency_ms"] else "not_met"
    )
    assert winner["accuracy"]["runtime"] == "tensorrt", "through the engine"
    others = {v["name"]: v for v in result["variants"]}
    assert others["int8"]["measured"] is None, "ONNX Runtime is not what was opened there"
    assert others["finetuned"]["accuracy"]["runtime"] == "onnxruntime"
    tables = list((out / "stages").glob("profile-*/tensorrt-fp16-t1.csv"))
    assert len(tables) == 1
    assert json.loads(tables[0].with_suffix(".meta.json").read_text())["runtime_version"] == "8.2.1"


def test_no_engine_was_built_for_a_kernel(built: tuple[dict[str, Any], Path], nano: SshDevice) -> None:
    """A few whole subnets: each engine is of a network, and they are far fewer than kernels in the table."""
    _, out = built
    (table,) = (out / "stages").glob("profile-*/tensorrt-fp16-t1.csv")
    kernels = len(table.read_text().splitlines()) - 1
    assert starts(nano, "--saveEngine") < kernels
