"""The seam *where*: a place that holds files and runs an agent. One file per kind of target."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from edgenas.errors import InputError
from edgenas.targets.channel import Channel

AGENT = Path(__file__).with_name("agent.py")


class Target(Protocol):
    """Paths given to and by a target are strings on the device."""

    name: str
    provenance: Literal["measured", "emulated"]

    def put(self, data: bytes, name: str) -> str:
        """Write a file into the target's own work folder and return its path there."""
        ...

    def get(self, path: str) -> bytes: ...

    def path(self, name: str) -> str:
        """Where a file of this name lies, or will lie, in the work folder."""
        ...

    def agent(self, runtime_part: Path) -> Channel:
        """A channel to an agent with this on-device part of a runtime; it starts at the first request."""
        ...

    def close(self) -> None:
        """Stop what runs and remove the work folder."""
        ...


def open_target(address: str) -> Target:
    """`local`, or an address of another kind. Raises InputError for an address that no target understands."""
    if address == "local":
        from edgenas.targets.local import LocalTarget

        return LocalTarget()
    raise InputError(f"no target understands {address!r}", "Use --target local: the machine that edgenas runs on.")
