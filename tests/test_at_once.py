"""Several devices at once: which are different machines, what waits for what, and what one that fails does to the others."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner
from rich.console import Console

from edgenas.cli import cli
from edgenas.errors import InputError, TargetError
from edgenas.pipeline.at_once import HERE, at_once, machine_of
from edgenas.progress import Progress

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ssh://me@nano", "ssh://you@NANO:22?python=/usr/bin/python3", True),
        ("ssh://me@localhost:2201", "ssh://me@localhost:2202", False),
        ("ssh://nano", "ssh://pi", False),
        ("adb:1234", "adb:5678", False),
        ("adb:1234", "adb:1234", True),
        ("local", "emulated:aarch64", True),
        ("local", "ssh://nano", False),
    ],
)
def test_which_addresses_are_one_machine(one: str, other: str, same: bool) -> None:
    assert (machine_of(one) == machine_of(other)) is same
    assert machine_of("local") == HERE


def test_different_machines_work_at_the_same_time() -> None:
    """Each waits for the others: one after the other, none would ever end."""
    together = threading.Barrier(3, timeout=60)
    jobs = [(f"ssh://board{number}", together.wait) for number in range(3)]
    assert sorted(at_once(jobs)) == [0, 1, 2]  # type: ignore[type-var]


def test_one_machine_does_one_thing_at_a_time_and_this_one_comes_first() -> None:
    running: set[str] = set()
    order: list[str] = []

    def job(name: str, machine: str) -> Callable[[], str]:
        def run() -> str:
            assert machine not in running
            assert HERE not in running
            running.add(machine)
            order.append(name)
            time.sleep(0.02)
            running.remove(machine)
            return name

        return run

    jobs = [
        ("ssh://a", job("a1", "a")),
        ("local", job("here1", HERE)),
        ("ssh://b", job("b1", "b")),
        ("ssh://a", job("a2", "a")),
        ("emulated:aarch64", job("here2", HERE)),
    ]
    assert at_once(jobs) == ["a1", "here1", "b1", "a2", "here2"]
    assert order[:2] == ["here1", "here2"]
    assert order.index("a1") < order.index("a2")


def test_one_that_fails_stops_no_other() -> None:
    def fail() -> str:
        raise TargetError("away")

    found = at_once([("ssh://a", fail), ("ssh://a", lambda: "a"), ("ssh://b", lambda: "b"), ("local", lambda: "here")])
    assert isinstance(found[0], TargetError)
    assert found[1:] == ["a", "b", "here"]


def test_lines_say_whose_they_are() -> None:
    progress = Progress().labelled("pi")
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=100, no_color=True)
    with progress.stage("profile", "Profiling", cached=False):
        progress.update(1, 2, "half")
        progress.warn("noisy")
    assert isinstance(progress.console.file, io.StringIO)
    lines = progress.console.file.getvalue()
    assert "pi:   Profiling ..." in lines
    assert "pi: warning: noisy" in lines
    assert "half" not in lines, "no bar: others have lines too"
    assert Progress(quiet=True).labelled("pi").console.quiet


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--device host --device host", "--device host is given twice"),
        ("--device host --device jetson-nano", "there is no --target to measure it on"),
        ("--device host --device nosuch", "no device called 'nosuch'"),
        ("--device host --device jetson-nano --target ssh://nano", "doesn't say for which of the 2 devices"),
        ("--device host --device jetson-nano --target jetson-nano=ssh://n --threads 2", "--threads is for one device"),
    ],
)
def test_what_can_not_be_profiled_is_refused_before_anything_is_measured(options: str, said: str) -> None:
    run = CliRunner().invoke(cli, ["profile", *options.split()])
    assert isinstance(run.exception, InputError)
    assert said in run.exception.message
    assert "Reading images" not in run.stderr
