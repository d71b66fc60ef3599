"""This machine as a target: the agent runs in a process of its own, so that what it measures is not our own interpreter."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Literal

from edgenas.errors import TargetError
from edgenas.targets.channel import Channel
from edgenas.targets.target import AGENT


class LocalTarget:
    name = "local"
    provenance: Literal["measured", "emulated"] = "measured"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgenas-")
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()

    def put(self, data: bytes, name: str) -> str:
        try:
            Path(self.path(name)).write_bytes(data)
        except OSError as error:
            raise TargetError(
                f"{name!r} can't be written on the target: {error.strerror}", "Free some space there."
            ) from error
        return self.path(name)

    def get(self, path: str) -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise TargetError(f"{path!r} can't be read on the target: {error.strerror}") from error

    def path(self, name: str) -> str:
        return str(Path(self._folder.name) / name)

    def agent(self, runtime_part: Path) -> Channel:
        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, str(AGENT), str(runtime_part)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )

        channel = Channel(start)
        self._channels.add(channel)
        return channel

    def close(self) -> None:
        for channel in list(self._channels):
            channel.close()
        self._folder.cleanup()
