"""Several processes train what one would: gradients, losses, a killed process, and the whole command under torchrun."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional as F

from edgenas import device
from edgenas.data import Dataset, load
from edgenas.errors import InputError
from edgenas.nets.recipe import Recipe
from edgenas.nets.team import ALONE, Team
from edgenas.spaces.mobile import for_data
from edgenas.spaces.trainable import NAMES, space_for
from edgenas.supernet.launch import launched, opened_teams
from edgenas.supernet.train import new_supernet, train_supernet

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROOT = Path(__file__).resolve().parents[1]
SPACE = for_data(28, 1, 10)
EPOCHS = 8  # a set below 500 images gets four times the epochs of its recipe
# The command line, with an effort that is small. Budgets are far above what any network takes.
COMMAND = """
import sys

from edgenas.cli import main
from edgenas.latency.profile import ProfilePlan
from edgenas.nets.recipe import Recipe
from edgenas.pipeline.request import EFFORTS, Effort, Rung
from edgenas.search.strategy import SearchRule

EFFORTS["quick"] = Effort(
    plan=ProfilePlan(covering=6, odd=2, held_out=3),
    supernet=Recipe(epochs=2, batch_size=24),
    focus=Recipe(epochs=1, batch_size=24),
    fine_tune=(Rung(1, Recipe(epochs=1)),),
    after_pruning=Recipe(epochs=1),
    search=SearchRule(explored=8, neighbours=6, start=6, population=6, evaluations=8, patience=6),
    max_resolution_px=28,
    rounds=1,
)
main()
"""
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@pytest.fixture(scope="module")
def few_images() -> Dataset:
    dataset = load(None, sample_dir=device.shipped("datasets") / "fashion-mnist-sample")
    return replace(dataset, train=dataset.train.at(np.arange(384)))


@given(st.integers(1, 5), st.integers(1, 60))
def test_every_image_has_one_process_and_half_a_share_is_a_share_of_the_half(size: int, per_process: int) -> None:
    batch = torch.arange(2 * size * per_process)
    shares = [Team(rank, size).share(batch) for rank in range(size)]
    assert sorted(torch.cat(shares).tolist()) == batch.tolist()
    firsts = torch.cat([share[: len(share) // 2] for share in shares])
    assert sorted(firsts.tolist()) == batch[: len(batch) // 2].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_space_arrives_in_another_process_as_it_was(name: str) -> None:
    space = space_for(name, 28, 1, 10)
    arrived = pickle.loads(pickle.dumps(space))
    assert arrived.id == space.id
    assert arrived.network(arrived.largest()) == space.network(space.largest())


def regress(steps: list[int], team: Team) -> list[torch.Tensor]:
    """Gradients of a linear regression, step by step, on batches of these sizes."""
    torch.manual_seed(0)
    model, found = nn.Linear(5, 3).double(), []
    for count in steps:
        images, wanted = torch.randn(count, 5).double(), torch.randn(count, 3).double()
        share = team.share(images)
        loss = F.mse_loss(model(share), team.share(wanted))
        model.zero_grad()
        loss.backward()
        mean_loss = team.sum_gradients(model.parameters(), len(share) / count, loss.item())
        found += [torch.tensor(mean_loss), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return found


@pytest.mark.heavy
def test_summed_gradients_and_losses_are_those_of_the_whole_batch() -> None:
    steps = [2, 7, 64, 33]
    alone = regress(steps, ALONE)
    with launched(2) as team:
        team.told(partial(regress, steps))
        together = regress(steps, team)
    assert len(alone) == 3 * len(steps)
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.heavy
@pytest.mark.parametrize(("shrinking", "ema"), [(False, None), (True, 0.9)])
def test_two_processes_have_the_loss_curve_of_one(
    few_images: Dataset, tmp_path: Path, shrinking: bool, ema: float | None
) -> None:
    """Same batches, augmentation and subnets. What differs is BatchNorm, which sees half as many images at a time."""

    def losses(size: int) -> list[float]:
        found: list[float] = []
        with opened_teams(size) as teams, teams.for_training() as team:
            train_supernet(
                new_supernet(SPACE, 0),
                SPACE,
                SPACE.sample,
                few_images,
                Recipe(epochs=4 if shrinking else 3, batch_size=64, ema=ema),
                0,
                tmp_path / f"{size}.safetensors",
                shrinking=shrinking,
                on_epoch=lambda done, total, loss: found.append(loss),
                team=team,
            )
        return found

    one, two = losses(1), losses(2)
    assert one[0] - one[-1] > 0.3
    assert two == pytest.approx(one, rel=0.03)


def test_a_batch_too_small_to_share_is_refused(few_images: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a batch of 16 images is too small for 3 processes"):
        train_supernet(
            new_supernet(SPACE, 0),
            SPACE,
            SPACE.sample,
            few_images,
            Recipe(epochs=1, batch_size=16),
            0,
            tmp_path / "s.safetensors",
            team=Team(0, 3),
        )


def test_nproc_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(InputError, match="torchrun started 4 processes, and --nproc 2 asks for others"),
        opened_teams(2),
    ):
        pass


class Command:
    """Starts the build of one image folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.script = folder, folder / "command.py"
        self.script.write_text(COMMAND, encoding="utf-8")
        for label, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
            (folder / "photos" / label).mkdir(parents=True)
            for i in range(60):
                patch = photo[4 * i : 4 * i + 32, 5 * i : 5 * i + 32]
                Image.fromarray(patch).save(folder / "photos" / label / f"{i}.png")

    def start(self, *launcher: str, out: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        arguments = ["build", "--device", "host", "--effort", "quick", "--latency-ms", "50", "--out", out]
        return subprocess.Popen(
            [sys.executable, *launcher, str(self.script), *arguments, "--data", "photos", *options],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def take_measured(self, before: str, out: str) -> None:
        """What was measured of the space in the build `before` is known in `out`."""
        for name in ("feasibility", "profile"):
            for folder in (self.folder / before / "stages").glob(f"{name}-*"):
                shutil.copytree(folder, self.folder / out / "stages" / folder.name)

    def file(self, out: str, pattern: str) -> Path | None:
        return next((self.folder / out / "stages").glob(pattern), None)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("parallel"))


@pytest.fixture
def wait_until() -> Iterator[Callable[[Callable[[], object], subprocess.Popen[str]], None]]:
    """Waits for something while a process runs, which is gone when the test is over."""
    running: list[subprocess.Popen[str]] = []

    def wait(is_time: Callable[[], object], process: subprocess.Popen[str]) -> None:
        running.append(process)
        while not is_time():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)

    yield wait
    for process in running:
        process.kill()
        process.wait()


CHECKPOINT = "supernet-*/supernet.safetensors"


@pytest.mark.heavy
@needs_signals
def test_a_killed_process_ends_the_command_and_it_goes_on_from_the_last_epoch(
    command: Command, wait_until: Callable[[Callable[[], object], subprocess.Popen[str]], None]
) -> None:
    def checkpoint() -> Path | None:
        return command.file("killed", CHECKPOINT)

    process = command.start(out="killed", options=("--nproc", "2"))
    wait_until(checkpoint, process)
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert printed.endswith(
        "error: training process 1 was killed by SIGKILL\n"
        "  Run the same command again: training goes on from its last finished epoch.\n"
    )
    assert "Traceback" not in printed
    assert not is_running(worker)
    saved = checkpoint()
    assert saved is not None
    epoch, losses = epoch_of(saved), json.loads(saved.with_name("losses.json").read_text())
    assert 1 <= epoch < EPOCHS
    assert not command.file("killed", "supernet-*/done.json")

    again = command.start(out="killed", options=("--nproc", "2"))
    at_kill, seen = saved.stat().st_mtime_ns, set()

    def is_done() -> object:
        if saved.stat().st_mtime_ns != at_kill:
            seen.add(epoch_of(saved))
        return command.file("killed", "supernet-*/done.json")

    wait_until(is_done, again)
    assert seen, "the rest was trained"
    assert min(seen) > epoch, "an epoch that was saved was trained again"
    done = command.file("killed", "supernet-*/done.json")
    assert done is not None
    trained = json.loads(done.read_text())["losses"]
    assert trained[:epoch] == losses[:epoch]
    assert len(trained) == EPOCHS

    wait_until(lambda: workers_of(again.pid), again)  # the next training, around the best
    (worker,) = workers_of(again.pid)
    again.kill()
    deadline = time.monotonic() + 30
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(worker), "it ends with the process that started it"


def workers_of(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children += [int(child) for child in contents(task / "children").split()]
    return [child for child in children if b"edgenas.supernet.worker" in contents(Path(f"/proc/{child}/cmdline"))]


def is_running(pid: int) -> bool:
    status = contents(Path(f"/proc/{pid}/stat"))
    return bool(status) and status.rpartition(b")")[2].split()[0] != b"Z"


def contents(path: Path) -> bytes:
    """Of a file in /proc; empty once the process or thread is gone, which may be between any two looks at it."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def epoch_of(checkpoint: Path) -> int:
    with safe_open(checkpoint, "pt") as file:
        return int(json.loads(file.metadata()["epoch"]))


@pytest.mark.heavy
@needs_signals
def test_under_torchrun_the_command_runs_once_and_all_train_the_same(
    command: Command, wait_until: Callable[[Callable[[], object], subprocess.Popen[str]], None]
) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    printed = command.start(*torchrun, out="torchrun").communicate(timeout=300)[0]
    assert printed.count("Budget met: ") == 1, printed
    assert printed.count("Training the supernet") == 2, "the line when a stage starts and the one when it ends"
    command.take_measured("torchrun", "local")
    local = command.start(out="local", options=("--nproc", "2"))
    wait_until(lambda: command.file("local", "supernet-*/done.json"), local)
    one, other = (command.file(out, "supernet-*/done.json") for out in ("torchrun", "local"))
    assert one is not None
    assert other is not None
    assert len(json.loads(one.read_text())["losses"]) == EPOCHS
    assert one.read_text() == other.read_text()
    assert one.with_name("supernet.safetensors").read_bytes() == other.with_name("supernet.safetensors").read_bytes()
