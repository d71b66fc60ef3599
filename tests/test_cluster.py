"""A search and the finalists' training by Ray's workers: the same as in one process, also when workers are killed on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgenas.nets.recipe import Recipe
from edgenas.pipeline.context import opened_build
from edgenas.pipeline.finalists import TRAINED, train_finalists
from edgenas.pipeline.front import write_front
from edgenas.pipeline.request import BuildRequest, Rung
from edgenas.pipeline.searching import prepare, search_and_measure
from edgenas.progress import Progress
from tests.test_build import EFFORT, write_photos

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("one_torch_thread"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (the extra `cluster`)"),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="workers are found in /proc"),
]

BUDGET_MS = 50.0  # far above what any network takes
TWO = replace(EFFORT, rounds=1, fine_tune=(Rung(2, Recipe(epochs=3)), Rung(1, Recipe(epochs=1), fresh=True)))
GIVEN = (
    "feasibility",
    "profile",
    "supernet",
    "check",
)  # measurements, which no two runs share, and what both start from
FILES = ("front.json", "evaluations.jsonl")


@dataclass(frozen=True)
class Made:
    standings: tuple[dict[str, Any], ...]
    weights: dict[str, bytes]
    files: dict[str, bytes]


def made(request: BuildRequest) -> Made:
    with opened_build(request, Progress(quiet=True), TWO) as build:
        ground = prepare(build)
        searched = search_and_measure(build, ground)
        write_front(build, ground, searched, searched.chosen.subnet)
        subnets = [candidate.subnet for candidate in searched.finalists]
        best = train_finalists(build, ground.focused.supernet, subnets, searched.predictor)
    trained = sorted(request.out.glob(f"stages/finalist-*/{TRAINED}"))
    return Made(
        best.standings,
        {path.parent.name: path.read_bytes() for path in trained},
        {name: (request.out / name).read_bytes() for name in FILES},
    )


def busy_workers() -> list[int]:
    """Process ids of Ray's workers that run a task of this process's Ray; Ray writes what they do into their title."""
    parents, found = {}, []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if (path / "cmdline").read_bytes().startswith(b"ray::_run"):
                    found.append(int(path.name))
            except OSError:  # it ended meanwhile
                continue

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return [pid for pid in found if is_ours(pid)]


class Killer(threading.Thread):
    """Kills one busy worker as soon as `when`, once for each of them."""

    def __init__(self, when: dict[str, Callable[[], bool]]) -> None:
        super().__init__(daemon=True)
        self.when, self.killed, self.over = when, [], False  # type: ignore[var-annotated]

    def run(self) -> None:
        for name, is_now in self.when.items():
            while not self.over:
                if is_now() and (busy := busy_workers()):
                    os.kill(busy[0], signal.SIGKILL)
                    self.killed.append(name)
                    break
                time.sleep(0.005)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> BuildRequest:
    folder = tmp_path_factory.mktemp("cluster")
    write_photos(folder / "photos")
    return BuildRequest(
        "host", folder / "local", data=str(folder / "photos"), latency_ms=BUDGET_MS, effort="quick", task_threads=1
    )


@pytest.fixture(scope="module")
def local(request_: BuildRequest) -> Made:
    return made(request_)


def test_with_killed_workers_the_front_and_the_finalists_are_those_of_one_process(
    local: Made, request_: BuildRequest, tmp_path: Path
) -> None:
    out = tmp_path / "ray"
    for folder in (request_.out / "stages").iterdir():
        if folder.name.startswith(tuple(f"{name}-" for name in GIVEN)):
            shutil.copytree(folder, out / "stages" / folder.name)

    def is_searching() -> bool:
        return any(path.stat().st_size for path in out.glob("stages/accuracy-*/evaluations.jsonl"))

    def is_training() -> bool:
        """A finalist's first epoch is over, and its last one isn't."""
        return any(not (path.parent / "done.json").exists() for path in out.glob(f"stages/finalist-*/{TRAINED}"))

    killer = Killer({"searching": is_searching, "training": is_training})
    killer.start()
    try:
        by_ray = made(replace(request_, out=out, executor="ray"))
    finally:
        killer.over = True
        killer.join()
    assert killer.killed == ["searching", "training"]
    assert by_ray.files == local.files
    assert by_ray.standings == local.standings
    assert by_ray.weights == local.weights
    assert len(json.loads(by_ray.files["front.json"])["candidates"]) > 0
    assert len(by_ray.weights) == 3, "two finalists' first training, and the better one's second"
