"""Where the processes that train together come from: this one alone, others that it starts, or those of an outer torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

from edgenas.errors import EdgenasError, InputError
from edgenas.nets.team import AGAIN, ALONE, Team, WorkerLost
from edgenas.supernet.torchrun import process_count

STALLED_AFTER = timedelta(minutes=10)  # a step takes seconds
LONGEST_BUILD = timedelta(days=60)  # in which other processes of an outer torchrun wait for the next training
READY = "ready"
GRACE_S = 5.0


@dataclass(frozen=True)
class Teams:
    """`for_training` opens a team of `size` processes."""

    size: int
    for_training: Callable[[], AbstractContextManager[Team]]


@contextmanager
def opened_teams(size: int) -> Iterator[Teams]:
    """Teams of `size` processes, or of all that torchrun started. Raises InputError if both say how many."""
    if process_count() == 1:
        yield Teams(size, lambda: launched(size) if size > 1 else nullcontext(ALONE))
        return
    if size > 1:
        raise InputError(
            f"torchrun started {process_count()} processes, and --nproc {size} asks for others",
            "Leave --nproc out: torchrun's --nproc-per-node says how many.",
        )
    with joined() as team:
        yield Teams(team.size, lambda: nullcontext(team))
        team.told(None)  # the others end


@contextmanager
def joined() -> Iterator[Team]:
    """This process as one of an outer torchrun's."""
    dist.init_process_group("gloo", timeout=LONGEST_BUILD)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), dist.new_group(timeout=STALLED_AFTER))
    finally:
        dist.destroy_process_group()


@contextmanager
def launched(size: int) -> Iterator[Team]:
    """This process as the first of `size`; the others are started, and gone afterwards whatever happens."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="edgenas-") as folder, ExitStack() as started:
        meeting = Path(folder) / "meeting"
        workers = [started.enter_context(_worker(rank, size, meeting, threads // size)) for rank in range(1, size)]
        torch.set_num_threads(max(1, threads // size))
        started.callback(torch.set_num_threads, threads)
        try:
            for process, _ in workers:
                if process.stdout is None or process.stdout.readline().strip() != READY:
                    raise WorkerLost("a training process did not start", AGAIN)
            with member(0, size, meeting) as team:
                yield team
                team.told(None)  # the others end
        except WorkerLost as error:
            raise _with_reason(error, workers) from error


@contextmanager
def member(rank: int, size: int, meeting: Path) -> Iterator[Team]:
    """This process as number `rank` of those that find each other through the file `meeting`."""
    dist.init_process_group("gloo", meeting.as_uri(), rank=rank, world_size=size, timeout=STALLED_AFTER)
    try:
        yield Team(rank, size)
    finally:
        dist.destroy_process_group()


Worker = tuple["subprocess.Popen[str]", IO[bytes]]


@contextmanager
def _worker(rank: int, size: int, meeting: Path, threads: int) -> Iterator[Worker]:
    """A process of edgenas.supernet.worker, and what it writes to standard error. It ends by itself when this process does."""
    command = [sys.executable, "-P", "-m", "edgenas.supernet.worker", str(rank), str(size), str(meeting)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(max(1, threads)),
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the first process alone
        )
        with process:
            try:
                yield process, errors
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)  # it was told to end
            finally:
                process.kill()


def _with_reason(error: WorkerLost, workers: list[Worker]) -> EdgenasError:
    """The same error with what became of the process that was lost."""
    for rank, (process, errors) in enumerate(workers, start=1):
        try:
            code = process.wait(GRACE_S / len(workers))
        except subprocess.TimeoutExpired:
            continue
        if code < 0:
            return EdgenasError(f"training process {rank} was killed by {signal.Signals(-code).name}", AGAIN)
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        if last:
            return EdgenasError(f"training process {rank} ended with exit code {code}: {last[0]}", AGAIN)
    return error
