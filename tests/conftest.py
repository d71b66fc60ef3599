"""What holds for every test: no time limit per example, a user folder of its own, and one core where others run beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before anything, or a process that a test starts, loads a library with threads
    os.environ["OMP_NUM_THREADS"] = "1"

# machines that run tests are noisy, and what most of them measure is judged by nothing
os.environ["EDGENAS_TRIES"] = "1"

settings.register_profile("edgenas", deadline=None)  # machines that run tests are slow now and then
settings.load_profile("edgenas")


@pytest.fixture(scope="session", autouse=True)
def edgenas_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the developer's own devices and tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """For trainings with a few images: a second thread gains nothing, and beside other work the two wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine was too busy for is measured again, as for users: where a test asks what a measurement led to."""
    monkeypatch.delenv("EDGENAS_TRIES")


@pytest.fixture
def larger_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supernet trained for one epoch ranks by chance, and by chance a small network is the best. Here candidates are ranked by MACs,
    as if training had gone on, and no more are measured than can be finalists; all else is real."""
    from edgenas.network.costs import macs
    from edgenas.pipeline import searching, training

    def judged(build: Any, supernet: Any) -> Callable[[Any], list[float]]:
        return lambda subnets: [1 - 1 / (1 + macs(build.space.network(subnet)) / 1e6) for subnet in subnets]

    monkeypatch.setattr(training, "_judged", judged)
    monkeypatch.setattr(searching, "CHECKED", 1)
