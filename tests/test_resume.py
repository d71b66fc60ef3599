"""A build that is killed goes on where it was: SIGKILL in profiling, in both trainings of the supernet, search and fine-tuning.

The reference is killed while it profiles, then runs to the end in one go. Latencies differ from one measurement to the next,
so the other build gets the reference's measurements and nothing else that the reference made; it is killed in each
stage that trains or searches, and has to end with the same networks, bit by bit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_sample_images

from edgenas.latency import records
from edgenas.latency.profile import ProfilePlan
from edgenas.store import key_of

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL"),
]

ROOT = Path(__file__).resolve().parents[1]
PLAN = ProfilePlan(covering=6, odd=2, held_out=3)
EPOCHS = 4  # a set below 500 images gets four times the epochs of its recipe
# Far above what any network takes, so that what is measured decides nothing. One thread: beside other work two wait for each other.
DRIVER = """
import sys
from pathlib import Path

import torch

from edgenas.latency.profile import ProfilePlan
from edgenas.nets.recipe import Recipe
from edgenas.pipeline.build import build
from edgenas.pipeline.request import BuildRequest, Effort, Rung
from edgenas.progress import Progress
from edgenas.search.strategy import SearchRule

torch.set_num_threads(1)
recipe = Recipe(epochs=1, batch_size=24)
effort = Effort(
    plan=ProfilePlan(covering=6, odd=2, held_out=3),
    supernet=recipe,
    focus=recipe,
    fine_tune=(Rung(1, recipe),),
    after_pruning=Recipe(epochs=1),
    search=SearchRule(explored=8, neighbours=6, start=6, population=6, evaluations=14, patience=12),
    max_resolution_px=28,
    rounds=1,
)
request = BuildRequest(device="host", out=Path(sys.argv[1]), data=sys.argv[2], latency_ms=50.0, effort="quick")
build(request, Progress(quiet=True), effort=effort)
"""
# What was measured, and the decisions that follow from it under the same inputs; everything else is made again.
KEPT = ("feasibility", "profile", "check", "prune")
CHECKPOINTS = {
    "supernet": "supernet-*/supernet.safetensors",
    "focus": "focus-*/supernet.safetensors",
    "fine-tune": "finalist-*/trained.safetensors",
}


@dataclass(frozen=True)
class Killed:
    """One build folder, and what its files held when the build was killed (by stage)."""

    out: Path
    at_kill: dict[str, Any] = field(default_factory=dict)
    new_epochs: dict[str, list[int]] = field(default_factory=dict)

    def file(self, pattern: str) -> Path:
        (found,) = (self.out / "stages").glob(pattern)
        return found

    def has(self, pattern: str) -> bool:
        return any((self.out / "stages").glob(pattern))

    def accuracies(self, trained: str) -> str:
        """The log of what was evaluated with the weights of a training stage, by whose key it is named."""
        return f"accuracy-{key_of(self.file(f'{trained}-*').name.split('-')[-1])}/evaluations.jsonl"

    def read(self, name: str) -> Any:
        return json.loads((self.out / name).read_text(encoding="utf-8"))


class Driver:
    """Starts builds of one image folder in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.photos, self.log = folder / "photos", folder / "log.txt"
        self.temporary = folder / "tmp"  # a killed process can't remove its own temporary files
        self.temporary.mkdir()
        write_photos(self.photos)

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)}
        with self.log.open("wb") as log:
            command = [sys.executable, "-c", DRIVER, str(out), str(self.photos)]
            return subprocess.Popen(command, env=environment, cwd=self.temporary, stdout=log, stderr=log)

    def kill_when(self, out: Path, is_time: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        process = self.start(out)
        while not is_time():
            meanwhile()
            assert process.poll() is None, f"ended before it could be killed: {self.log.read_text()}"
            time.sleep(0.002)
        process.kill()
        assert process.wait() == -9

    def finish(self, out: Path, meanwhile: Callable[[], None] = lambda: None) -> None:
        process = self.start(out)
        while process.poll() is None:
            meanwhile()
            time.sleep(0.002)
        assert process.returncode == 0, self.log.read_text()
        assert self.log.read_text() == "", "a quiet build prints nothing"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def reference(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    build = Killed(tmp_path_factory.mktemp("reference") / "out")
    driver.kill_when(build.out, lambda: line_count(build, "profile-*/records.jsonl") >= 3)
    build.at_kill["profile"] = whole_lines(build.file("profile-*/records.jsonl"))
    assert not build.has("profile-*/done.json")
    driver.finish(build.out)
    return build


@pytest.fixture(scope="module")
def survivor(driver: Driver, reference: Killed, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Killed four times on its way from the reference's measurements to the end."""
    build = Killed(tmp_path_factory.mktemp("survivor") / "out")
    for folder in (reference.out / "stages").iterdir():
        if folder.name.startswith(tuple(f"{name}-" for name in KEPT)):
            shutil.copytree(folder, build.out / "stages" / folder.name)

    def kill_while_training(stage: str, meanwhile: Callable[[], None] = lambda: None) -> Callable[[], None]:
        driver.kill_when(build.out, lambda: build.has(CHECKPOINTS[stage]), meanwhile)
        assert not build.has(f"{stage}-*/done.json")
        build.at_kill[stage] = epoch_of(build.file(CHECKPOINTS[stage]))
        return watch_epochs(build, stage)

    def is_searching() -> bool:
        return build.has("focus-*/done.json") and line_count(build, build.accuracies("focus")) >= 3

    watch_supernet = kill_while_training("supernet")
    watch_focus = kill_while_training("focus", watch_supernet)
    driver.kill_when(build.out, is_searching, watch_focus)
    assert not build.has("search-*/done.json")
    build.at_kill["search"] = whole_lines(build.file(build.accuracies("focus")))
    watch_fine_tune = kill_while_training("fine-tune")
    driver.finish(build.out, watch_fine_tune)
    return build


def test_profiling_measures_nothing_twice(reference: Killed) -> None:
    path = reference.file("profile-*/records.jsonl")
    before = reference.at_kill["profile"]
    assert before.count(b"\n") >= 3
    assert path.read_bytes().startswith(before)
    measured = [(record.name, record.precision) for record in records.read(path)]
    assert len(measured) == len(set(measured)) == 2 * (PLAN.covering + PLAN.odd + PLAN.held_out)


@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_training_loses_at_most_the_epoch_it_was_in(survivor: Killed, stage: str) -> None:
    epoch = survivor.at_kill[stage]
    assert 1 <= epoch < EPOCHS
    assert survivor.new_epochs[stage], "the rest was trained after the kill"
    assert min(survivor.new_epochs[stage]) > epoch, "an epoch that was saved was trained again"


@pytest.mark.parametrize("stage", ["supernet", "focus"])
def test_the_supernet_is_the_same(reference: Killed, survivor: Killed, stage: str) -> None:
    assert survivor.file(CHECKPOINTS[stage]).read_bytes() == reference.file(CHECKPOINTS[stage]).read_bytes()
    ours, theirs = (json.loads(build.file(f"{stage}-*/done.json").read_text()) for build in (survivor, reference))
    assert len(theirs["losses"]) == EPOCHS
    assert ours == theirs


def test_the_search_evaluates_nothing_twice_and_takes_the_same_path(reference: Killed, survivor: Killed) -> None:
    before = survivor.at_kill["search"]
    assert before.count(b"\n") >= 3
    assert survivor.file(survivor.accuracies("focus")).read_bytes().startswith(before)
    for name in ("explore-*/done.json", "search-*/done.json", *map(survivor.accuracies, ("supernet", "focus"))):
        assert survivor.file(name).read_bytes() == reference.file(name).read_bytes(), name


def test_the_fine_tuned_network_is_the_same(reference: Killed, survivor: Killed) -> None:
    for pattern in ("finalist-*/inherited.safetensors", "finalist-*/trained.safetensors", "fine-tune-*/done.json"):
        assert survivor.file(pattern).read_bytes() == reference.file(pattern).read_bytes(), pattern


def test_what_is_exported_is_the_same(reference: Killed, survivor: Killed) -> None:
    """Every file, and with it every figure that doesn't come from a clock."""
    ours, theirs = survivor.read("result.json"), reference.read("result.json")
    assert ours["front"] == theirs["front"]
    assert ours["architecture"] == theirs["architecture"]
    assert survivor.read("edgenas.lock.json")["files"] == reference.read("edgenas.lock.json")["files"]
    for mine, other in zip(ours["variants"], theirs["variants"], strict=True):
        for key in ("name", "precision", "accuracy", "params", "macs", "size_bytes", "activation_peak_mib"):
            assert mine[key] == other[key], (mine["name"], key)
    cached = {stage["name"] for stage in ours["stages"] if stage["cached"]}
    assert cached >= set(KEPT), "the same inputs find the same measurements"
    assert "export" not in cached


def write_photos(root: Path) -> None:
    """Two classes: small patches of the two photos that scikit-learn ships."""
    rng = np.random.default_rng(0)
    for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (root / label).mkdir(parents=True)
        for i in range(60):
            top, left = (int(rng.integers(side - 32)) for side in photo.shape[:2])
            Image.fromarray(photo[top : top + 32, left : left + 32]).save(root / label / f"{i}.png")


def line_count(build: Killed, pattern: str) -> int:
    return whole_lines(build.file(pattern)).count(b"\n") if build.has(pattern) else 0


def whole_lines(path: Path) -> bytes:
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def epoch_of(checkpoint: Path) -> int:
    with safe_open(checkpoint, "pt") as file:
        return int(json.loads(file.metadata()["epoch"]))


def watch_epochs(build: Killed, stage: str) -> Callable[[], None]:
    """Notes the epoch of every checkpoint that is saved from now on."""
    path = build.file(CHECKPOINTS[stage])
    last = [path.stat().st_mtime_ns]
    seen = build.new_epochs.setdefault(stage, [])

    def look() -> None:
        now = path.stat().st_mtime_ns
        if now != last[0]:
            last[0] = now
            seen.append(epoch_of(path))

    return look
