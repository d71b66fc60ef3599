"""Two boards behind two real OpenSSH servers, profiled at the same time, and a third that isn't there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from edgenas import device as devices
from edgenas.errors import TargetError
from edgenas.pipeline.profile_command import profile_devices
from edgenas.pipeline.request import EFFORTS
from edgenas.progress import Progress
from edgenas.targets import channel
from tests.ssh_board import BOARD, WITH_RUNTIME
from tests.ssh_device import MISSING, SSHD, SshDevice, free_port
from tests.test_build import EFFORT, write_photos

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason=MISSING)]

OTHER, GONE = "other-board", "board-that-is-gone"


@pytest.fixture(scope="module")
def second(device: SshDevice, folder: Path, board: Path) -> Iterator[SshDevice]:
    """Another board, with keys that the first one's client configuration trusts as well."""
    described = yaml.safe_load(board.read_text(encoding="utf-8"))
    for name in (OTHER, GONE):
        board.with_name(f"{name}.yaml").write_text(yaml.safe_dump(described | {"id": name}), encoding="utf-8")
    (folder / "second").mkdir()
    for key in device.folder.glob("*_key*"):
        shutil.copy(key, folder / "second" / key.name)
    (folder / "second-tmp").mkdir()
    with SshDevice(folder / "second", environment={"TMPDIR": str(folder / "second-tmp")}) as found:
        known = device.folder / "config.known_hosts"
        known.write_text(known.read_text() + (found.folder / "config.known_hosts").read_text())
        yield found


@pytest.mark.usefixtures("one_torch_thread")
def test_boards_are_profiled_at_once_and_one_that_is_gone_stops_no_other(
    device: SshDevice, second: SshDevice, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EFFORTS, "quick", EFFORT)
    monkeypatch.setattr(channel, "PAUSES_S", (0.1,))
    write_photos(folder / "several-photos")
    gone = f"ssh://127.0.0.1:{free_port()}"
    places = [(BOARD, device.address + WITH_RUNTIME), (GONE, gone), (OTHER, second.address + WITH_RUNTIME)]
    options = {"runtime": None, "space": "mobile", "threads": None, "minutes": 0.1}
    found = profile_devices(
        places, Progress(quiet=True), data=str(folder / "several-photos"), effort="quick", seed=0, **options
    )
    assert isinstance(found[1], TargetError)
    for result, name in ((found[0], BOARD), (found[2], OTHER)):
        assert not isinstance(result, Exception)
        assert (result["device"], result["failed"]) == (name, [])
        tables = [Path(row["path"]) for row in result["tables"]]
        assert {path.parent for path in tables} == {devices.user_folder("latency_tables") / name}
        assert len(tables) == 2
    assert list((folder / "second-tmp").iterdir()) == []
