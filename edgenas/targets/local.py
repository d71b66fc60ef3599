"""This machine as a target: the agent runs in a process of its own, so that what it measures is not our own interpreter."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from edgenas.targets.channel import Channel
from edgenas.targets.target import AGENT


class LocalTarget:
    name = "local"
    provenance: Literal["measured", "emulated"] = "measured"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgenas-")
        self._channels: list[Channel] = []

    def put(self, data: bytes, name: str) -> str:
        Path(self.path(name)).write_bytes(data)
        return self.path(name)

    def get(self, path: str) -> bytes:
        return Path(path).read_bytes()

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
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._folder.cleanup()
