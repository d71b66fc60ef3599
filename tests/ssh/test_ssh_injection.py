"""Whatever a file, a device or a user is called: over ssh its name stays data, and no shell here or there reads it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import onnx
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgenas.errors import InputError, TargetError
from edgenas.measure import QUICK, Bench
from edgenas.pipeline.context import opened_machine
from edgenas.targets.target import Target, open_target
from tests.ssh_board import WITH_RUNTIME, bench, executable, save_model
from tests.ssh_device import MISSING, SSHD, SshDevice
from tests.tiny_space import RUNTIME

pytestmark = [pytest.mark.system, pytest.mark.skipif(SSHD is None, reason=MISSING)]

MARKER = "touched-by-an-injected-command"


def injections(marker: Path) -> list[str]:
    """Texts that make the file `marker` if a shell, here or there, ever reads them."""
    touch = f"touch {marker}"
    return [
        f"$({touch})",
        f"`{touch}`",
        f"; {touch};",
        f"' ; {touch} ; '",
        f'" ; {touch} ; "',
        f"\n{touch}\n",
        f"&& {touch}",
    ]


def strange(marker: Path, without: str) -> st.SearchStrategy[str]:
    """Any text with something in it that a shell would take for its own."""
    plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=f"\0{without}"), max_size=12)
    pieces = st.sampled_from([text.replace("/", "") if "/" in without else text for text in injections(marker)])
    marks = st.sampled_from([" ", "'", '"', ";", "$(", "`", "\\", "\n", "*", "é", "漢", "-o", "%h", "~", "\u202e"])
    return st.lists(st.one_of(plain, pieces, marks), min_size=1, max_size=5).map("".join).filter(bool)


@pytest.fixture(scope="module")
def target(device: SshDevice) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGENAS_SSH", device.client())
        found = open_target(device.address + WITH_RUNTIME)
        yield found
        found.close()


class TestWhatIsDataStaysData:
    """Commands in names would run here in this folder's directory, or there in the home folder: both are looked at."""

    @pytest.fixture(autouse=True)
    def marker(self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.chdir(tmp_path)
        yield tmp_path / MARKER
        for place in (tmp_path, folder, folder / "home", folder / "device-tmp"):
            assert not list(place.glob(f"{MARKER}*"))

    @settings(max_examples=150)
    @given(
        name=strange(Path(MARKER), "/").filter(lambda name: name not in (".", "..") and len(name.encode()) < 256),
        data=st.binary(max_size=100),
    )
    def test_names_of_files(self, target: Target, name: str, data: bytes) -> None:
        path = target.put(data, name)
        assert path == target.path(name)
        assert name in {entry.name for entry in Path(target.folder).iterdir()}
        assert Path(path).read_bytes() == target.get(path) == data

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "/etc/x", "a\0b"])
    def test_names_that_are_no_file_names_are_refused(self, target: Target, name: str) -> None:
        before = sorted(Path(target.folder).iterdir())
        with pytest.raises(TargetError, match="is not a file name"):
            target.put(b"data", name)
        assert sorted(Path(target.folder).iterdir()) == before

    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_names_inside_a_model(self, target: Target, marker: Path, data: st.DataObject) -> None:
        names = data.draw(st.tuples(*[strange(marker, "")] * 3).filter(lambda drawn: drawn[0] != drawn[1]))
        path = save_model(marker.with_name("model.onnx"), names=names[:2], graph=names[2])
        (measured,) = Bench(target, RUNTIME).time_models([onnx.load(path)], QUICK)
        assert measured.samples_ns

    def test_names_inside_a_model_and_its_own_through_the_command_line(
        self, device: SshDevice, marker: Path, tmp_path: Path
    ) -> None:
        names = injections(marker)
        path = save_model(
            tmp_path / f"$(touch {MARKER}); `touch {MARKER}`\n'é.onnx", names=(names[0], names[1]), graph=names[5]
        )
        run = bench(path, device.address + WITH_RUNTIME)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["model"] == str(path)

    @settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_texts_of_a_device_file(self, device: SshDevice, board: Path, marker: Path, data: st.DataObject) -> None:
        described = yaml.safe_load(board.read_text(encoding="utf-8"))
        name, summary = (data.draw(strange(marker, "").filter(_yaml_holds)) for _ in range(2))
        own = board.with_name("strange-board.yaml")
        own.write_text(
            yaml.safe_dump(described | {"id": "strange-board", "name": name, "summary": summary}), encoding="utf-8"
        )
        try:
            with opened_machine("strange-board", device.address + WITH_RUNTIME, None) as machine:
                assert (machine.spec.name, machine.spec.summary) == (name, summary)
        finally:
            own.unlink()

    @pytest.mark.parametrize("number", range(7))
    def test_ids_of_devices(self, device: SshDevice, board: Path, marker: Path, number: int) -> None:
        """Known by a file of that name or not: an id has to look like one."""
        name = injections(Path(MARKER))[number]
        own = board.with_name(f"{name}.yaml")
        described = yaml.safe_load(board.read_text(encoding="utf-8"))
        with pytest.raises(InputError, match="there is no device called"), opened_machine(name, device.address, None):
            pass
        own.write_text(yaml.safe_dump(described | {"id": name}), encoding="utf-8")
        try:
            with pytest.raises(InputError, match="id: "), opened_machine(name, device.address, None):
                pass
        finally:
            own.unlink()

    @settings(max_examples=40)
    @given(user=strange(Path(MARKER), ""))
    @example(user="a b")
    @example(user="%h-é")
    @example(user=f"-oProxyCommand=touch {MARKER}")
    def test_names_of_users(self, device: SshDevice, user: str) -> None:
        """A name reaches the server, which knows no such user, or ssh here refuses it."""
        seen = device.log.stat().st_size
        with pytest.raises(TargetError) as error:
            open_target(f"ssh://{quote(user, safe='')}@127.0.0.1:{device.port}").put(b"", "x")
        assert "\n" not in error.value.message
        if not re.search("username contains|invalid characters", error.value.message):
            assert "refused the login" in error.value.message
            log = device.log.read_bytes()[seen:].decode(errors="replace")
            assert f"Invalid user {user}" in log if re.fullmatch("[a-z -]+", user) else "Invalid user " in log

    @settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_paths_of_python(self, device: SshDevice, marker: Path, data: st.DataObject) -> None:
        """One that is there is started, one that isn't is named; nothing else happens."""
        name = data.draw(strange(Path(MARKER), "/").filter(lambda name: name not in (".", "..")))
        own = marker.with_name("bin")
        own.mkdir(exist_ok=True)
        address = f"{device.address}?python={quote(str(own / name), safe='')}"
        with pytest.raises(TargetError, match=r"died .* during its start\nno Python can be started at "):
            open_target(address).put(b"", "x")
        python = executable(own / name, f'exec {sys.executable} "$@"')
        target = open_target(address)
        try:
            assert target.get(target.put(b"data", "x")) == b"data"
        finally:
            target.close()
            python.unlink()


def _yaml_holds(text: str) -> bool:
    """Not every character can stand in YAML, and a name has to say something."""
    try:
        return yaml.safe_load(yaml.safe_dump(text)) == text
    except yaml.YAMLError:
        return False
