"""How a build is kept: keys, files that are whole or not there, stages that resume, and one process at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.errors import EdgenasError, InputError
from edgenas.store import LineLog, Stage, Store, file_hash, key_of, read_json, write_bytes, write_json, write_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


class TestKeys:
    @settings(max_examples=40)
    @given(inputs=st.dictionaries(st.text(), JSON, min_size=2), data=st.data())
    def test_the_order_does_not_matter(self, inputs: dict[str, object], data: st.DataObject) -> None:
        shuffled = dict(data.draw(st.permutations(list(inputs.items()))))
        assert key_of(shuffled) == key_of(inputs)
        assert key_of({"nested": [shuffled]}) == key_of({"nested": [inputs]})

    def test_other_inputs_have_other_keys(self) -> None:
        inputs = [
            {},
            [],
            None,
            0,
            0.5,
            "0.5",
            {"a": 1},
            {"a": 2},
            {"b": 1},
            [1, 2],
            [2, 1],
            {"a": [1]},
            {"a": {"b": 1}},
        ]
        assert len({key_of(each) for each in inputs}) == len(inputs)

    def test_they_stay_as_they_are(self) -> None:
        # a build of yesterday is found by them
        assert key_of({"device": "host", "budgets": {"latency_ms": 0.8}, "seed": 0}) == "6b66118ee4eec834"
        assert len(key_of({})) == 16


class TestFiles:
    @settings(max_examples=30)
    @given(data=st.binary(max_size=2000))
    def test_what_is_written_is_read(self, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
        path = tmp_path_factory.getbasetemp() / "store" / "deeper" / "data.bin"
        write_bytes(path, data)
        assert path.read_bytes() == data
        assert [found.name for found in path.parent.iterdir()] == ["data.bin"]

    @settings(max_examples=40)
    @given(data=JSON)
    def test_json_comes_back(self, tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
        path = tmp_path_factory.getbasetemp() / "data.json"
        write_json(path, data)
        assert read_json(path) == data
        assert path.read_text(encoding="utf-8").endswith("\n")

    def test_text_is_utf_8(self, tmp_path: Path) -> None:
        write_text(tmp_path / "text", "höchstens 5 ms")
        assert (tmp_path / "text").read_bytes() == "höchstens 5 ms".encode()

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
    def test_a_write_that_fails_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "result.json"
        write_bytes(path, b"old")
        program = (
            "import resource, sys\nfrom pathlib import Path\nfrom edgenas.errors import EdgenasError\n"
            "from edgenas.store import write_bytes\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "try:\n    write_bytes(Path(sys.argv[1]), bytes(5000))\nexcept EdgenasError as error:\n    print(error.message)"
        )
        run = python(program, path)
        assert run.stdout == f"{path} can't be written: File too large\n"
        assert path.read_bytes() == b"old"
        assert [found.name for found in tmp_path.iterdir()] == ["result.json"]

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
    def test_a_writer_that_is_killed_leaves_the_old_or_the_new_file(self, tmp_path: Path) -> None:
        path = tmp_path / "result.json"
        program = (
            "import sys\nfrom pathlib import Path\nfrom edgenas.store import write_bytes\nprint('started', flush=True)\n"
            "while True:\n    for byte in (b'a', b'b'):\n        write_bytes(Path(sys.argv[1]), byte * 300_000)"
        )
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            for _ in range(50):
                content = path.read_bytes() if path.exists() else b""
                assert content in (b"", b"a" * 300_000, b"b" * 300_000)
            writer.kill()
        assert not path.exists() or path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)

    def test_what_stands_in_the_way_is_an_error_with_a_hint(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(EdgenasError, match=r"folder can't be written: .*\nFree some space or name another --out"):
            write_bytes(tmp_path / "folder", b"data")
        assert [found.name for found in tmp_path.iterdir()] == ["folder"]

    def test_a_folder_that_is_a_file_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(EdgenasError, match="can't be written"):
            write_bytes(tmp_path / "file" / "data.bin", b"data")

    def test_others_may_read_it(self, tmp_path: Path) -> None:
        write_bytes(tmp_path / "data.bin", b"data")
        if sys.platform != "win32":
            assert (tmp_path / "data.bin").stat().st_mode & 0o777 == 0o644

    def test_file_hash_is_sha256(self, tmp_path: Path) -> None:
        (tmp_path / "abc").write_bytes(b"abc")
        assert file_hash(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


class TestStage:
    def test_a_stage_resumes_until_it_is_finished_and_then_answers(self, tmp_path: Path) -> None:
        stage = Stage("train", "0123", tmp_path / "train-0123")
        assert not stage.is_done
        write_text(stage.path("epoch"), "3")
        again = Stage("train", "0123", tmp_path / "train-0123")
        assert not again.is_done
        assert again.path("epoch").read_text() == "3"
        outcome = {"top1": 0.9, "shapes": [[1, 2]], "error": None}
        assert again.finish(outcome) == outcome
        later = Stage("train", "0123", tmp_path / "train-0123")
        assert later.is_done
        assert later.outcome() == outcome

    def test_what_finish_returns_is_what_a_later_run_reads(self, tmp_path: Path) -> None:
        # tuples become lists at once, not only after a restart
        assert (
            Stage("s", "0", tmp_path / "s").finish({"shape": (1, 2)})
            == {"shape": [1, 2]}
            == Stage("s", "0", tmp_path / "s").outcome()
        )


class TestStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        opened = Store(tmp_path / "build")
        yield opened
        opened.close()

    def test_a_stage_is_found_by_its_name_and_inputs(self, store: Store) -> None:
        stage = store.stage("search", {"budget": 1.0, "seed": 0})
        stage.finish({"front": []})
        assert store.stage("search", {"seed": 0, "budget": 1.0}).is_done
        assert not store.stage("search", {"seed": 0, "budget": 1.5}).is_done
        assert not store.stage("train", {"seed": 0, "budget": 1.0}).is_done
        assert stage.folder.parent == store.root / "stages"

    def test_a_second_process_is_refused(self, store: Store) -> None:
        program = (
            "import sys\nfrom pathlib import Path\nfrom edgenas.errors import InputError\nfrom edgenas.store import Store\n"
            "try:\n    Store(Path(sys.argv[1])).close()\n    print('opened')\nexcept InputError as error:\n    print(error)"
        )
        run = python(program, store.root)
        assert run.stdout == f"another edgenas is building in {store.root}\nWait for it, or name another --out.\n"
        store.close()
        assert python(program, store.root).stdout == "opened\n"

    @pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
    def test_a_killed_process_leaves_no_lock(self, tmp_path: Path) -> None:
        program = (
            "import os, signal, sys\nfrom pathlib import Path\nfrom edgenas.store import Store\n"
            "store = Store(Path(sys.argv[1]))\nstore.stage('train', 1).finish('done')\nos.kill(os.getpid(), signal.SIGKILL)"
        )
        run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
        assert run.returncode == -9
        store = Store(tmp_path)
        assert store.stage("train", 1).outcome() == "done"
        store.close()

    def test_a_folder_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(InputError, match=r"--out .*build can't be made: .*\nName a folder that can be written"):
            Store(tmp_path / "file" / "build")


ROOT = Path(__file__).resolve().parents[1]


def python(program: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """What another process says; its errors are in the failure."""
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run


class TestLineLog:
    @settings(max_examples=30)
    @given(st.lists(JSON, max_size=5), st.lists(JSON, max_size=3), st.integers(0, 400))
    def test_what_a_kill_cut_short_is_dropped_and_the_rest_goes_on(
        self, tmp_path_factory: pytest.TempPathFactory, entries: list[object], more: list[object], kept: int
    ) -> None:
        path = tmp_path_factory.mktemp("log") / "log.jsonl"
        log = LineLog(path)
        for entry in entries:
            log.add(entry)
        data = path.read_bytes() if entries else b""
        path.write_bytes(data[:kept])
        whole = data[:kept].count(b"\n")
        again = LineLog(path)
        assert again.entries == entries[:whole]
        for entry in more:
            again.add(entry)
        assert LineLog(path).entries == [*entries[:whole], *more]
