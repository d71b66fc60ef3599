"""The seam *where*: a place that holds files and runs an agent. One file per kind of target.

All targets work alike: an agent (`on_device/`) is started there and everything else, files included, goes through its standard
input and output. A kind of target only says how a process is started there, and what its end means.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from edgenas.errors import InputError, TargetError
from edgenas.targets.bootstrap import Via, preamble
from edgenas.targets.channel import PAUSES_S, AgentRefusal, Channel, Link

FILES_PART = Path(__file__).with_name("files_agent.py")
PIECE_BYTES = 1 << 20
PIECE_TIMEOUT_S = 120.0
SLOWEST_BYTES_PER_S = 1 << 19
_NO_SPACE = ("ENOSPC", "No space left", "File too large", "quota")


class Opener(Protocol):
    """What a module of this package that is named like a kind of address provides."""

    def open_link(self, address: str) -> tuple[Link, TargetOptions]: ...


@dataclass(frozen=True)
class TargetOptions:
    """`python`: the interpreter on the device that has the runtime. `provenance`: what its timings are called. `via`: how the agent
    reaches a device that has no Python, and then runs on the host."""

    python: str | None = None
    provenance: Literal["measured", "emulated"] = "measured"
    via: Via | None = None


class Target:
    """Paths given to and by a target are strings on the device; all files lie in one work folder there."""

    def __init__(self, link: Link, options: TargetOptions | None = None, pauses_s: Sequence[float] = PAUSES_S) -> None:
        options = options or TargetOptions()
        self.name, self.provenance = link.name, options.provenance
        self.has_python = options.via is None
        self._link, self._options, self._pauses_s = link, options, pauses_s
        self._token = secrets.token_hex(8)
        self._channels: list[Channel] = []
        self._files = self.agent(FILES_PART)

    def put(self, data: bytes, name: str) -> str:
        """Write a file into the work folder and return its path there. Raises TargetError, such as for a full disk."""
        writing = secrets.token_hex(4)
        for offset in range(0, max(len(data), 1), PIECE_BYTES):
            piece = data[offset : offset + PIECE_BYTES]
            message = {
                "do": "write",
                "name": name,
                "token": writing,
                "offset": offset,
                "data": base64.b64encode(piece).decode(),
                "last": offset + PIECE_BYTES >= len(data),
            }
            problem = f"{name!r} ({len(data) / 2**20:.1f} MiB) can't be written on {self.name}"
            # where the agent is on the host, all of the file goes to the device with the last piece
            answer = self._ask(message, problem, PIECE_TIMEOUT_S + len(data) / SLOWEST_BYTES_PER_S)
        return str(answer["path"])

    def get(self, path: str) -> bytes:
        found, offset, more = [], 0, True
        while more:
            message = {"do": "read", "path": path, "offset": offset, "count": PIECE_BYTES}
            answer = self._ask(message, f"{path!r} can't be read on {self.name}")
            found.append(base64.b64decode(answer["data"]))
            offset, more = offset + len(found[-1]), answer["more"]
        return b"".join(found)

    def path(self, name: str) -> str:
        """Where a file of this name lies, or will lie."""
        return f"{self.folder}/{name}"

    @property
    def folder(self) -> str:
        if not self._files.folder:
            self._files.request({"do": "probe"})
        return self._files.folder

    def agent(self, part: Path, modules: Sequence[Path] = ()) -> Channel:
        """A channel to an agent with this on-device part of a runtime and what it imports; it starts at the first request."""
        lines = preamble(part, modules, self._options.python, self._options.via)
        channel = Channel(self._link, lines, self._token, self._pauses_s)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        """Stop what runs and remove the work folder."""
        if any(channel.folder for channel in self._channels):
            with contextlib.suppress(TargetError):  # it is away: the next agent there removes what is a day old
                self._files.request({"do": "remove"}, timeout_s=10, tries=2)
        for channel in self._channels:
            channel.close()
            channel.folder = ""

    def _ask(self, message: dict[str, Any], what: str, timeout_s: float = PIECE_TIMEOUT_S) -> dict[str, Any]:
        try:
            return self._files.request(message, timeout_s)
        except AgentRefusal as refusal:
            full = any(sign in refusal.error for sign in _NO_SPACE)
            raise TargetError(f"{what}: {refusal.error}", "Free some space there." if full else "") from None


def open_target(address: str) -> Target:
    """`local`, `ssh://user@host[:port]`, `adb:[SERIAL]` or `emulated:ARCH`. Raises InputError for what no target understands."""
    return Target(*link_of(address))


def link_of(address: str) -> tuple[Link, TargetOptions]:
    """How it is reached, without reaching out yet. Raises InputError as `open_target` does."""
    kind = address.partition(":")[0]
    found = kind.isidentifier() and Path(__file__).with_name(f"{kind}.py").is_file()
    module: Any = importlib.import_module(f"edgenas.targets.{kind}") if found else None
    if not hasattr(module, "open_link"):
        raise InputError(
            f"no target understands {address!r}",
            "Targets: local, ssh://user@host[:port], adb:SERIAL and emulated:aarch64.",
        )
    opener: Opener = module
    return opener.open_link(address)
