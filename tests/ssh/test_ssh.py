"""A device over ssh, from the command line to the files on it: what works, connections that break, and what can go wrong."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from edgenas import device as devices
from edgenas.errors import DeviceAway, TargetError
from edgenas.latency import records
from edgenas.latency.profile import ProfilePlan, profile
from edgenas.measure import Bench
from edgenas.pipeline.build import build
from edgenas.pipeline.context import opened_machine
from edgenas.pipeline.measuring import work_folder
from edgenas.pipeline.profile_command import profile_device
from edgenas.pipeline.request import EFFORTS, BuildRequest
from edgenas.progress import Progress
from edgenas.targets import channel, ssh
from edgenas.targets.target import Target, open_target
from tests.ssh_board import BOARD, WITH_RUNTIME, assert_one_error, bench, edgenas, executable, save_model
from tests.ssh_device import MISSING, SSHD, SshDevice, free_port
from tests.test_build import EFFORT, write_photos
from tests.tiny_space import RUNTIME, SPACE

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason=MISSING)]


class TestBench:
    def test_a_model_is_measured_there(self, device: SshDevice, model: Path, work: Path) -> None:
        run = bench(model, device.address + WITH_RUNTIME)
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout)
        assert (found["device"], found["target"], found["runtime"]) == (BOARD, device.address, "onnxruntime")
        assert found["measured"]["provenance"] == "measured"
        assert 0 < found["measured"]["p50_ms"] <= found["measured"]["p90_ms"]
        assert list(work.iterdir()) == []

    def test_doctor_tells_of_the_device(self, device: SshDevice, work: Path) -> None:
        run = edgenas("doctor", "--target", device.address + WITH_RUNTIME)
        of_device = run.stdout.partition(f"\n{device.address}\n")[2]
        assert re.search(r"ok    onnxruntime: \d", of_device)
        assert "note  tensorrt: not there" in of_device
        assert re.search(r"ok    device: .*\d+ cores, \d+ MiB RAM", of_device)
        assert "ok    free space for files: " in of_device
        assert "BAD" not in of_device
        assert list(work.iterdir()) == []


@pytest.mark.usefixtures("one_torch_thread")
def test_from_a_profile_to_a_model_that_fits(
    device: SshDevice, folder: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`profile`, `build` and `bench` for a board of the user's own; the build takes what was profiled."""
    monkeypatch.setitem(EFFORTS, "quick", EFFORT)
    address, photos, out = device.address + WITH_RUNTIME, folder / "photos", folder / "out"
    write_photos(photos)
    profiled = profile_device(
        *(BOARD, Progress(quiet=True)),
        target=address,
        runtime=None,
        data=str(photos),
        space="mobile",
        effort="quick",
        threads=None,
        seed=0,
        minutes=0.1,
    )
    request = BuildRequest(device=BOARD, out=out, target=address, data=str(photos), effort="quick")
    build(request, Progress(quiet=True), effort=EFFORT)
    assert list(work.iterdir()) == []
    assert [Path(row["path"]).parent for row in profiled["tables"]] == 2 * [
        devices.user_folder("latency_tables") / BOARD
    ]
    assert profiled["failed"] == []
    (recorded,) = (out / "stages").glob("profile-*/records.jsonl")
    assert recorded.read_bytes() == (work_folder(BOARD) / recorded.relative_to(out)).read_bytes()

    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    winner = result["winner"]
    assert (result["device"], result["target"], result["runtime"]) == (BOARD, device.address, "onnxruntime")
    met = winner["measured"]["p50_ms"] <= result["budgets"][0]["latency_ms"]
    assert result["verdict"] == ("met" if met else "not_met")
    assert {variant["measured"]["provenance"] for variant in (winner, *result["variants"])} == {"measured"}
    assert winner["accuracy"]["runtime"] == "onnxruntime"
    assert address not in json.dumps(result)

    run = bench(out / winner["path"], address)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["sha256"] == hashlib.sha256((out / winner["path"]).read_bytes()).hexdigest()
    assert found["predicted"]["provenance"] in ("calibrated", "modelled"), "from the tables that were profiled"
    assert list(work.iterdir()) == []


PLAN = ProfilePlan(covering=2, odd=1, held_out=1, seed=4)
SHORT_S = (0.2, 0.4, 0.4)


def networks(path: Path) -> list[str]:
    return list(dict.fromkeys(record.name for record in records.read(path)))


class TestAConnectionThatBreaks:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Iterator[SshDevice]:
        """A device that may be stopped."""
        (tmp_path / "tmp").mkdir()
        sshd = SshDevice(tmp_path / "sshd", environment={"TMPDIR": str(tmp_path / "tmp")})
        with sshd as found, pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGENAS_SSH", found.client())
            yield found

    def test_a_profile_goes_on_by_itself(self, own: SshDevice, tmp_path: Path) -> None:
        target, cuts = open_target(own.address + WITH_RUNTIME), []

        def cut_soon(done: int, total: int, what: str) -> None:
            if 0 < done < total:
                cuts.append(threading.Timer(0.15, lambda: killed.append(own.cut())))
                cuts[-1].start()

        killed: list[int] = []
        found = profile(SPACE, Bench(target, RUNTIME), ("fp32", "int8"), PLAN, 7, tmp_path / "records", cut_soon)
        for each in cuts:
            each.join()
        assert len(killed) == 3
        assert min(killed) > 0
        assert [record.error for record in found] == [None] * 8
        assert len(list((tmp_path / "tmp").iterdir())) == 1, "the same work folder all the time"
        target.close()
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_a_device_that_stays_away_is_told_and_what_it_measured_is_kept(
        self, own: SshDevice, tmp_path: Path
    ) -> None:
        path, stops = tmp_path / "records", []

        def stop_soon(done: int, total: int, what: str) -> None:
            if done == 2:
                stops.append(threading.Timer(0.15, own.stop))
                stops[-1].start()

        link, options = ssh.open_link(own.address + WITH_RUNTIME)
        target = Target(link, options, pauses_s=SHORT_S)
        with pytest.raises(DeviceAway) as error:
            profile(SPACE, Bench(target, RUNTIME), ("fp32", "int8"), PLAN, 7, path, stop_soon)
        stops[0].join()
        assert re.fullmatch(
            rf"{own.address} is not to be reached any more, for \d+ s now: .*Connection refused", error.value.message
        )
        assert "run the same command again" in error.value.hint
        with mock.patch.object(link, "start", wraps=link.start) as starts:
            target.close()
        assert starts.call_count <= 2 < len(SHORT_S), "what is away is not waited for a second time"
        kept, before = networks(path), path.read_bytes()
        assert len(kept) == 2

        own.start()
        again, seen = open_target(own.address + WITH_RUNTIME), []
        found = profile(
            *(SPACE, Bench(again, RUNTIME), ("fp32", "int8"), PLAN, 7, path),
            lambda done, total, what: seen.append((what, networks(path))),
        )
        again.close()
        assert path.read_bytes().startswith(before)
        assert seen[2][1] == kept, "the first two are not measured again"
        assert networks(path) == [what for what, _ in seen if what]
        assert [record.error for record in found] == [None] * 8

    def test_a_device_that_was_never_there_is_not_waited_for(self, own: SshDevice) -> None:
        own.stop()
        start = time.monotonic()
        with pytest.raises(TargetError, match="Connection refused"), opened_machine(BOARD, own.address, None):
            pass
        assert time.monotonic() - start < 5

    def test_a_python_that_hangs_is_given_up(
        self, own: SshDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel, "START_TIMEOUT_S", 2.0)
        hanging = executable(tmp_path / "python", "exec sleep 20")
        start = time.monotonic()
        with (
            pytest.raises(TargetError, match="did not answer its start within 2 s") as error,
            opened_machine(BOARD, f"{own.address}?python={hanging}", None),
        ):
            pass
        assert error.value.exit_code == 1
        assert time.monotonic() - start < 10


class TestWhatCanGoWrong:
    def test_a_key_that_the_device_does_not_know(self, device: SshDevice, model: Path) -> None:
        config = device.client_config("wrong_user", "host_key", "other_key")
        run = bench(model, device.address, device.client(config))
        assert_one_error(run, r"refused the login: .*Permission denied \(publickey\)", "ssh-copy-id")

    def test_a_host_key_that_is_another(self, device: SshDevice, model: Path) -> None:
        config = device.client_config("wrong_host", "other_host_key", "user_key")
        run = bench(model, device.address, device.client(config))
        assert_one_error(run, "ssh does not trust the host's key", "compare the fingerprint")

    def test_a_host_that_is_not_found(self, model: Path) -> None:
        run = bench(model, "ssh://someone@no-such-host.invalid")
        assert_one_error(
            run, "ssh does not find its way to ssh://someone@no-such-host.invalid: ssh: Could not", "spelt right"
        )

    def test_a_port_where_nobody_listens(self, model: Path) -> None:
        run = bench(model, f"ssh://someone@127.0.0.1:{free_port()}")
        assert_one_error(run, r"ssh://someone@127\.0\.0\.1:\d+: .*Connection refused", "does ssh reach it by hand")

    def test_an_address_of_no_host(self, model: Path) -> None:
        assert_one_error(bench(model, "ssh://user@:22"), "not an address of a host", "ssh://user@host", code=2)

    def test_a_python_without_the_runtime(self, device: SshDevice, model: Path, tmp_path: Path) -> None:
        bare = executable(tmp_path / "python", f'exec {sys.executable} -S "$@"')
        run = bench(model, f"{device.address}?python={bare}")
        assert_one_error(run, "needs the runtime 'onnxruntime', but the machine has none", r"\?python=PATH")

    def test_a_python_that_is_not_there(self, device: SshDevice, model: Path) -> None:
        run = bench(model, f"{device.address}?python=/nowhere/python")
        assert_one_error(run, "died .* during its start", "no Python can be started at '/nowhere/python': No such file")

    def test_a_device_without_python(self, model: Path, tmp_path: Path) -> None:
        with SshDevice(tmp_path, environment={"PATH": "/nonexistent", "HOME": str(tmp_path)}) as bare:
            run = bench(model, bare.address, bare.client())
        assert_one_error(run, f"{bare.address} has no python3", "Install Python 3.6")

    @pytest.mark.parametrize("noise", ["Welcome to the board!", "42", '{"motd": "hi"}', "null"])
    def test_a_login_script_that_talks(self, model: Path, tmp_path: Path, noise: str) -> None:
        settings = f'ForceCommand echo {shlex.quote(noise)}; eval "$SSH_ORIGINAL_COMMAND"'
        with SshDevice(tmp_path, settings=settings) as talking:
            run = bench(model, talking.address, talking.client())
        assert_one_error(run, f"says '{re.escape(noise)}' where the agent's answer", "login script")

    def test_a_full_disk(self, folder: Path, model: Path, tmp_path: Path) -> None:
        large = save_model(tmp_path / "large.onnx", channels=300)
        full = SshDevice(
            tmp_path / "sshd", limits=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        )
        with full:
            assert bench(model, full.address + WITH_RUNTIME, full.client()).returncode == 0
            run = bench(large, full.address + WITH_RUNTIME, full.client())
        assert_one_error(run, r"'model0\.onnx' \(3\.1 MiB\) can't be written on ssh://.*: File too large", "Free some")

    def test_doctor_says_it_in_a_line(self, device: SshDevice) -> None:
        config = device.client_config("wrong_user", "host_key", "other_key")
        run = edgenas("doctor", "--target", device.address, ssh=device.client(config))
        assert run.returncode == 1
        assert re.search(r"BAD   connection: .*refused the login: .*\n +Log in by key", run.stdout)
        assert "Traceback" not in run.stderr
