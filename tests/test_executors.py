"""What every executor has to do, and what Ray does beyond it: it loses no task with a worker, and tells nobody of it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenas.cli import cli
from edgenas.errors import EdgenasError, InputError
from edgenas.executors.executor import Executor, Report, opened_executor
from tests.ssh_device import free_port

NO_RAY = "Ray is not installed (the extra `cluster`)"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=NO_RAY)
RAY = pytest.param("ray", marks=[pytest.mark.system, needs_ray])
ROOT = Path(__file__).resolve().parents[1]


def plus(shared: list[int], item: int, report: Report) -> int:
    report(0.5)
    return shared[0] + item


def threads_of_torch(shared: None, item: int, report: Report) -> int:
    import torch

    return torch.get_num_threads()


def refuse(shared: str, item: int, report: Report) -> int:
    if item == 1:
        raise InputError(f"{shared} {item}", "a hint")
    return item


def divide(shared: int, item: int, report: Report) -> float:
    return shared / item


def slow_once(shared: Path, item: int, report: Report) -> int:
    """Says who runs it; the first time it waits to be killed."""
    mark = shared / f"{item}"
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(60)
    return item


@pytest.fixture(scope="module", params=["local", RAY])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with opened_executor(request.param, threads=1) as opened:
        yield opened


class TestConformance:
    def test_results_come_in_the_order_of_the_items(self, executor: Executor) -> None:
        assert list(executor.map(plus, range(20), [100])) == [100 + item for item in range(20)]
        assert list(executor.map(plus, range(3), [7])) == [7, 8, 9]

    def test_nothing_to_do(self, executor: Executor) -> None:
        assert list(executor.map(plus, [], [1])) == []

    def test_what_is_not_asked_for_any_more_is_left(self, executor: Executor) -> None:
        results = executor.map(plus, range(50), [1])
        assert [next(results), next(results)] == [1, 2]
        results.close()  # type: ignore[attr-defined]
        assert list(executor.map(plus, range(2), [1])) == [1, 2]

    def test_a_task_has_the_threads_that_were_asked_for(self, executor: Executor) -> None:
        import torch

        before = torch.get_num_threads()
        assert list(executor.map(threads_of_torch, range(2), None)) == [1, 1]
        assert torch.get_num_threads() == before

    def test_an_error_of_ours_arrives_as_it_is(self, executor: Executor) -> None:
        results = executor.map(refuse, range(3), "no")
        assert next(results) == 0
        with pytest.raises(InputError) as refused:
            next(results)
        assert (refused.value.message, refused.value.hint) == ("no 1", "a hint")
        assert list(executor.map(plus, [1], [1])) == [2]

    def test_any_other_error_ends_the_batch(self, executor: Executor) -> None:
        with pytest.raises((ZeroDivisionError, EdgenasError), match="division by zero"):
            list(executor.map(divide, [1, 0], 1))


def test_what_runs_here_says_how_far_it_is() -> None:
    heard: list[tuple[int, float]] = []
    with opened_executor("local") as here:
        assert list(here.map(plus, [5, 6], [0], lambda index, done: heard.append((index, done)))) == [5, 6]
    assert heard == [(0, 0.5), (1, 0.5)]


@pytest.mark.parametrize("name", ["slurm", "executor", "local:8", "../ray", ""])
def test_an_executor_that_there_is_not(name: str) -> None:
    with pytest.raises(InputError, match=r"executor|address"), opened_executor(name):
        pass


def test_without_ray_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else found(name, *rest))
    with pytest.raises(InputError, match="Ray, which is not installed") as refused, opened_executor("ray"):
        pass
    assert refused.value.exit_code == 2
    assert "pip install 'edgenas[cluster]'" in refused.value.hint
    run = CliRunner().invoke(cli, ["search", "--device", "host", "--executor", "ray", "--out", str(tmp_path / "out")])
    assert isinstance(run.exception, InputError)
    assert not (tmp_path / "out").exists()


@needs_ray
@pytest.mark.parametrize("address", ["ray:nowhere", "ray:host:x", "ray::6379", "ray:host:99999"])
def test_what_is_no_address_of_a_cluster(address: str) -> None:
    with pytest.raises(InputError, match="no address of a Ray cluster"), opened_executor(address):
        pass


@pytest.mark.system
@needs_ray
class TestRay:
    def test_where_no_cluster_answers_it_says_so_at_once(self) -> None:
        with (
            opened_executor(f"ray:127.0.0.1:{free_port()}") as nobody,
            pytest.raises(EdgenasError, match="no Ray cluster answers") as refused,
        ):
            list(nobody.map(plus, [1], [1]))
        assert "ray start --head" in refused.value.hint

    @pytest.mark.parametrize("executor", ["ray"], indirect=True)
    def test_a_killed_worker_loses_nothing_but_its_task(self, executor: Executor, tmp_path: Path) -> None:
        def kill() -> None:
            for mark in (tmp_path / "0", tmp_path / "2"):
                while not (mark.exists() and mark.read_text()):
                    time.sleep(0.02)
                os.kill(int(mark.read_text()), signal.SIGKILL)

        (tmp_path / "1").touch()
        (tmp_path / "3").touch()
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        assert list(executor.map(slow_once, range(4), tmp_path)) == [0, 1, 2, 3]
        killer.join(timeout=10)
        assert not killer.is_alive()

    def test_it_talks_to_this_machine_alone(self, tmp_path: Path) -> None:
        """In a process of its own, so that the guard is there before Ray is."""
        run = subprocess.run(
            [sys.executable, "-c", GUARDED],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert "DONE [3, 4]" in run.stdout, run.stdout + run.stderr
        assert "CONNECTED" not in run.stdout
        assert run.stderr == ""
        assert "usage statistics" not in run.stdout


GUARDED = """
import socket

real = socket.socket.connect

def guarded(self, address, *rest):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
        print("CONNECTED", address, flush=True)
        raise OSError("no network in this test")
    return real(self, address, *rest)

socket.socket.connect = guarded
from edgenas.executors.executor import opened_executor
from tests.test_executors import plus

with opened_executor("ray") as executor:
    found = list(executor.map(plus, [1, 2], [2]))
    from ray._common.usage import usage_lib
    assert not usage_lib.usage_stats_enabled()
    print("DONE", found)
"""
