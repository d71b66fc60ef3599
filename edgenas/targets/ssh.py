"""A device over OpenSSH's own client: the user's config, keys, agent and jump hosts all work as in a terminal.

`ssh://user@host[:port][?python=PATH]`. EDGENAS_SSH names another command, such as "ssh -F other_config" (as git's GIT_SSH_COMMAND
does). The remote command is one constant; user and host are arguments of the local ssh and never part of a shell's line.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote, urlsplit

from edgenas.errors import InputError, TargetError
from edgenas.targets.bootstrap import PROGRAM
from edgenas.targets.channel import ConnectionLost, Link
from edgenas.targets.local import ProcessLink
from edgenas.targets.target import TargetOptions

DIED = 9  # so that ssh's own 255 always means the connection
REMOTE = f"python3 -u -c '{PROGRAM}' || exit {DIED}"  # any POSIX shell, fish and csh read it alike
OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=3")
SHAPE = "Targets over ssh look like ssh://user@host or ssh://user@host:2222, with %20 for a space."
# as sh, bash and csh say it; zsh and fish
NO_PYTHON = re.compile(r"python3: (command )?not found|(command not found|unknown command): python3", re.IGNORECASE)
REFUSED = ("Permission denied", "Too many authentication failures", "no mutual signature")
UNKNOWN_HOST = ("Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED")
NO_SUCH = ("Could not resolve hostname", "Bad configuration option", "hostname contains invalid", "username contains")


def open_link(address: str) -> tuple[Link, TargetOptions]:
    """Raises InputError for an address that isn't of that shape."""
    try:
        parts = urlsplit(address)
        # a + is no space: it may well be in a path
        text = parts.query.replace("+", "%2B")
        port, query = parts.port, parse_qsl(text, strict_parsing=bool(text), keep_blank_values=True)
    except ValueError as error:
        raise InputError(f"{address!r} is not an address: {error}", SHAPE) from None
    host, user = _host(parts.netloc), unquote(parts.username) if parts.username is not None else None
    options = dict(query)
    if not host or host.startswith("-") or parts.path not in ("", "/") or parts.password is not None or parts.fragment:
        raise InputError(f"{address!r} is not an address of a host", SHAPE)
    if wrong := options.keys() - {"python"}:
        raise InputError(f"{address!r}: there is no option {', '.join(sorted(wrong))}", "?python=PATH is the only one.")
    if re.search(r"[\t\r\n]", address) or "\0" in (user or "") + host + options.get("python", ""):
        raise InputError(f"{address!r} has a character in it that no address has", SHAPE)
    command = shlex.split(os.environ.get("EDGENAS_SSH", "ssh"))
    for option in OPTIONS:
        command += ["-o", option]
    if port is not None:
        command += ["-p", str(port)]
    if user is not None:
        command += ["-l", user]
    name = f"ssh://{parts.netloc}"
    return SshLink(name, [*command, "--", host, REMOTE]), TargetOptions(options.get("python"))


def _host(netloc: str) -> str:
    """As the user wrote it: ssh's config may tell upper from lower case."""
    host = netloc.rpartition("@")[2]
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return unquote(host.rpartition(":")[0] if ":" in host else host)


class SshLink(ProcessLink):
    def ended(self, code: int | None, said: Sequence[str]) -> TargetError | None:
        last = next((line for line in reversed(said) if line and not line.startswith("Warning: Permanently")), "")
        everything = "\n".join(said)
        if code == DIED and NO_PYTHON.search(everything):
            return TargetError(
                f"{self.name} has no python3", "Install Python 3.6 or newer there; nothing else is needed to start."
            )
        if code != 255:
            return None
        if any(sign in everything for sign in UNKNOWN_HOST):
            return TargetError(
                f"{self.name}: ssh does not trust the host's key",
                "Connect once by hand and compare the fingerprint (ssh-keygen -R HOST removes an old key).",
            )
        if any(sign in everything for sign in REFUSED):
            return TargetError(
                f"{self.name} refused the login: {last}",
                "Log in by key: ssh-copy-id, or an IdentityFile in your ssh config. Passwords can't be asked for here.",
            )
        if any(sign in everything for sign in NO_SUCH):
            return TargetError(
                f"ssh does not find its way to {self.name}: {last}",
                "Is the address spelt right, and does ssh reach it by hand? Host names of your ssh config work as well.",
            )
        return ConnectionLost(
            f"{self.name}: {last or 'the connection was closed'}", "Is the device on, and does ssh reach it by hand?"
        )
