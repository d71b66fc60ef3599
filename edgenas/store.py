"""Stage folders keyed by what goes into them, with atomic writes and locks. Nothing else knows how a build is cached."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from edgenas.errors import EdgenasError, InputError

DONE = "done.json"


def key_of(inputs: Any) -> str:
    """A short hash of anything that JSON can hold; the order of keys doesn't matter."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Whole or not at all: readers see the old file or the new one."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise EdgenasError(
            f"{path} can't be written: {error.strerror}", "Free some space or name another --out."
        ) from error


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


class LineLog:
    """A file of JSON lines that only grows, each on the disk before anything is made of it. `entries`: what lay there when it was
    opened; a line that a killed process cut short is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[Any] = []
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            self.entries = [json.loads(line) for line in whole.splitlines()]

    def add(self, entry: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Stage:
    """One stage's folder. What lies in it before `finish` is work in progress that the stage itself may resume from."""

    def __init__(self, name: str, key: str, folder: Path) -> None:
        self.name, self.key, self.folder = name, key, folder
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def is_done(self) -> bool:
        return (self.folder / DONE).exists()

    def path(self, name: str) -> Path:
        return self.folder / name

    def finish(self, outcome: Any) -> Any:
        """Record `outcome` (JSON) as this stage's result; written last, so its presence means that all else is there."""
        write_json(self.folder / DONE, outcome)
        return self.outcome()

    def outcome(self) -> Any:
        return read_json(self.folder / DONE)


class Store:
    """The build directory. One process at a time works in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / "stages").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {root} can't be made: {error.strerror}", "Name a folder that can be written."
            ) from error
        from filelock import FileLock, Timeout

        self._lock = FileLock(root / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"another edgenas is building in {root}", "Wait for it, or name another --out.") from None
        except OSError as error:
            raise InputError(
                f"--out {root} can't be used: {error.strerror}", "Name a folder that can be written."
            ) from error

    def stage(self, name: str, inputs: Any) -> Stage:
        key = key_of(inputs)
        return Stage(name, key, self.root / "stages" / f"{name}-{key}")

    def close(self) -> None:
        self._lock.release()
