"""A board of the user's own behind a real OpenSSH server on loopback.

The device's temporary folder is a folder of the test, so that what is left behind shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edgenas import device as devices
from tests.ssh_board import BOARD, save_model
from tests.ssh_device import SshDevice


@pytest.fixture(scope="module", autouse=True)
def board() -> Path:
    """A device of the user's own: what the host is, but somewhere else."""
    described = yaml.safe_load((devices.shipped("devices") / "host.yaml").read_text(encoding="utf-8"))
    path = devices.user_folder("devices") / f"{BOARD}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(described | {"id": BOARD, "name": "A board", "target": None}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ssh")


@pytest.fixture(scope="module")
def work(folder: Path) -> Path:
    """The device's temporary folder."""
    (folder / "device-tmp").mkdir()
    return folder / "device-tmp"


@pytest.fixture(scope="module")
def device(folder: Path, work: Path) -> Iterator[SshDevice]:
    (folder / "home").mkdir()
    with SshDevice(folder / "sshd", environment={"TMPDIR": str(work), "HOME": str(folder / "home")}) as found:
        yield found


@pytest.fixture(autouse=True)
def client(device: SshDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENAS_SSH", device.client())


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return save_model(folder / "model.onnx")
