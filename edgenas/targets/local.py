"""This machine as a target: the agent runs in a process of its own, so that what it measures is not our own interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from edgenas.errors import InputError, TargetError
from edgenas.targets.bootstrap import PROGRAM
from edgenas.targets.channel import Link
from edgenas.targets.target import TargetOptions


def open_link(address: str) -> tuple[Link, TargetOptions]:
    if address != "local":
        raise InputError(f"no target understands {address!r}", "This machine is --target local.")
    return ProcessLink("local", [sys.executable, "-u", "-c", PROGRAM]), TargetOptions()


class ProcessLink:
    """A command on this machine."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self.command = name, list(command)

    def start(self) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise TargetError(f"{self.command[0]} can't be started: {error.strerror}") from error

    def ended(self, code: int | None, said: Sequence[str]) -> TargetError | None:
        return None
