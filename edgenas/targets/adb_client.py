"""An Android device through the `adb` executable: files and commands that arrive as they were given, or an error of one sentence.

Every call has a time limit. A lost connection is taken up again (for an address such as 192.168.0.7:5555 with `adb connect`, for a
device on USB by waiting for it); a transfer that it cut short starts again, and a file is at its path only when all of it is there.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from edgenas.errors import DeviceAway, TargetError

QUICK_S = 15.0  # for what a device answers at once
CLEAN_UP_S = 3.0
BYTES_PER_S = 1 << 20  # the slowest transfer that is waited for
TRIES = 3  # of a transfer that fails for no reason that the device names
TEMPORARY = ".edgenas-"  # starts the name of what is on its way to the device

MOVE = 'if [ -d "$2" ]; then echo "Is a directory" >&2; exit 1; fi; mv -f "$1" "$2"'

# Of adb's messages, those of a connection that is gone or was never there; the command did not start.
NOT_STARTED = ("device offline", "not found", "no devices", "device still", "failed to get feature set")
# And what a device says when it won't, so that trying again is no use.
REFUSALS = (
    *("No such file or directory", "Permission denied", "Read-only file system", "No space left", "Is a directory"),
    *("Not a directory", "File name too long", "Operation not permitted", "Too many levels of symbolic links"),
)
INSTALL_HINT = "Install Android's platform tools (on Debian and Ubuntu: apt install adb), or put adb on the PATH."

T = TypeVar("T")


class Answer(NamedTuple):
    """What a command on the device left: its exit code and the bytes of both outputs."""

    code: int
    stdout: bytes
    stderr: bytes


class _Lost(Exception):
    """The connection broke, or there is none. `started` is False if the command surely did not run."""

    def __init__(self, said: str, started: bool = True) -> None:
        super().__init__(said)
        self.started = started


class Adb:
    """`serial` as `adb devices` lists it. `patience_s` is how long a device may be away before DeviceAway is raised;
    `server_port` that of an adb server other than the default."""

    def __init__(
        self, serial: str, *, patience_s: float = 30.0, executable: str = "adb", server_port: int | None = None
    ) -> None:
        self.serial = serial
        self._patience_s = patience_s
        self._adb = [executable] if server_port is None else [executable, "-P", str(server_port)]

    def connect(self) -> None:
        """Wait until the device answers. Raises DeviceAway after `patience_s`, TargetError at once if it is unauthorized."""
        self._run(["start-server"], QUICK_S)  # or the first call's messages would speak of that
        self._regain()

    def shell(
        self, argv: list[str], timeout_s: float = QUICK_S, stdin: bytes | None = None, *, repeatable: bool = False
    ) -> Answer:
        """Run a command; each of `argv` arrives as one word, whatever is in it but NUL. If the connection breaks while it runs,
        a `repeatable` one is run again and any other raises TargetError. Past the time limit it may still run on the device."""
        if any("\0" in word for word in argv):
            raise ValueError(f"a word of a command can't contain NUL: {argv!r}")

        def attempt() -> Answer:
            try:
                return self._shell_once(argv, timeout_s, stdin)
            except _Lost as lost:
                if lost.started and not repeatable:
                    self._regain()
                    raise TargetError(
                        f"{self._who} was lost while it ran {argv[0]!r}, and is back", str(lost)
                    ) from lost
                raise

        return self._persist(attempt, f"run {argv[0]!r}")

    def push(self, data: bytes, path: str, timeout_s: float | None = None) -> None:
        """Write a file. It arrives under another name beside `path` (absolute), has its size checked and is moved into place."""
        limit_s = timeout_s or QUICK_S + len(data) / BYTES_PER_S
        temporaries: list[str] = []
        with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
            local = Path(folder) / "data"
            local.write_bytes(data)

            def attempt() -> None:
                # of a length of its own, as the file's name may be as long as names can be; and of each attempt, as the device removes
                # what an earlier one left whenever it notices that the connection is gone
                temporary = posixpath.join(posixpath.dirname(path), TEMPORARY + secrets.token_hex(8))
                temporaries.append(temporary)
                self._transfer(["push", str(local), temporary], limit_s, f"{path!r} can't be written on")
                arrived = self._size(temporary)
                if arrived != len(data):
                    raise _Lost(f"{arrived} of {len(data)} bytes arrived")
                moved = self._shell_once(["sh", "-c", MOVE, "sh", temporary, path], QUICK_S, None)
                if moved.code:
                    raise TargetError(f"{path!r} can't be written on {self._who}: {_reason(moved)}")

            try:
                self._persist(attempt, f"write {path!r}")
            except DeviceAway:
                raise
            except BaseException:
                self._forget(temporaries)
                raise
            if lost := temporaries[:-1]:
                self._forget(lost)

    def pull(self, path: str, timeout_s: float | None = None) -> bytes:
        """A file's bytes."""
        with tempfile.TemporaryDirectory(prefix="edgenas-") as folder:
            local = Path(folder) / "data"

            def attempt() -> bytes:
                size = self._size(path)
                limit_s = timeout_s or QUICK_S + size / BYTES_PER_S
                self._transfer(["pull", path, str(local)], limit_s, f"{path!r} can't be read on")
                data = local.read_bytes()
                if len(data) < size:
                    raise _Lost(f"{len(data)} of {size} bytes arrived")
                return data

            return self._persist(attempt, f"read {path!r}")

    @property
    def _who(self) -> str:
        return f"the Android device {self.serial}" if self.serial else "the adb server"

    def _persist(self, attempt: Callable[[], T], doing: str) -> T:
        said = ""
        for _ in range(TRIES):
            try:
                return attempt()
            except _Lost as lost:
                said = str(lost)
            self._regain()
        raise TargetError(
            f"{self._who} lost the connection {TRIES} times trying to {doing}",
            f"Check the cable or the network. The last that adb said: {said}",
        )

    def _regain(self) -> None:
        """Until the device answers a command, for `patience_s` at most."""
        deadline = time.monotonic() + self._patience_s
        pause_s, said = 0.1, ""
        while True:
            try:
                self._shell_once(["true"], min(QUICK_S, max(1.0, deadline - time.monotonic())), None)
                return
            except _Lost as lost:
                said = str(lost)
            except TargetError as error:
                if not isinstance(error, TimedOut):
                    raise
                said = error.message
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DeviceAway(
                    f"{self._who} stays away: no connection within {self._patience_s:.0f} s ({said})", self._away_hint()
                )
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, 2.0)
            if self._has_address:
                # a server that holds a dead connection calls it connected, so let go first
                limit_s = max(1.0, deadline - time.monotonic())
                try:
                    self._run(["disconnect", self.serial], limit_s)
                    self._run(["connect", self.serial], limit_s)
                except TimedOut as error:
                    said = error.message

    @property
    def _has_address(self) -> bool:
        host, colon, port = self.serial.rpartition(":")
        return bool(host and colon and port.isdigit())

    def _away_hint(self) -> str:
        if self._has_address:
            return f"Is it on, and in the same network? Try: adb connect {self.serial}"
        return "Is it plugged in, on, and USB debugging enabled in its developer options? Try: adb devices"

    def _shell_once(self, argv: list[str], timeout_s: float, stdin: bytes | None) -> Answer:
        # An exit code from adb may be its own, and some versions give 0 for a connection that broke. So the device's shell itself
        # says at the end of the output what the command's was; and `:;` stands before a first word that may start with a dash.
        mark = secrets.token_hex(8)
        script = f":; {' '.join(map(shlex.quote, argv))}; printf '%s%s' {mark} $?"
        code, stdout, stderr = self._run(["-s", self.serial, "shell", script], timeout_s, stdin or b"")
        output, found, exit_code = stdout.rpartition(mark.encode())
        if found and exit_code.isdigit():
            return Answer(int(exit_code), output, stderr)
        said = _error_line(stderr + b"\n" + stdout) or f"it broke off, with exit code {code}"
        self._explain(said)
        raise _Lost(said, started=not any(text in said for text in NOT_STARTED))

    def _transfer(self, arguments: list[str], timeout_s: float, problem: str) -> None:
        code, stdout, stderr = self._run(["-s", self.serial, *arguments], timeout_s)
        if code == 0:
            return
        text = (stdout + b"\n" + stderr).decode(errors="replace")
        for reason in REFUSALS:
            if reason in text:
                raise TargetError(f"{problem} {self._who}: {reason}")
        said = _error_line(stdout + b"\n" + stderr)
        self._explain(said)
        raise _Lost(said)

    def _explain(self, said: str) -> None:
        """Raise TargetError for what waiting doesn't mend."""
        if "unauthorized" in said:
            raise TargetError(
                f"{self._who} is unauthorized: it has not agreed to this computer",
                "Unlock its screen and accept 'Allow USB debugging', then run the command again.",
            )
        if "no permissions" in said:
            raise TargetError(
                f"this user may not use {self._who}",
                "On Debian and Ubuntu: apt install android-sdk-platform-tools-common.",
            )

    def _size(self, path: str) -> int:
        """Bytes of a file."""
        answer = self._shell_once(["wc", "-c", path], QUICK_S, None)
        count = answer.stdout.split()[:1]
        if answer.code or not count or not count[0].isdigit():
            raise TargetError(f"{path!r} can't be read on {self._who}: {_reason(answer)}")
        return int(count[0])

    def _forget(self, paths: Sequence[str]) -> None:
        with contextlib.suppress(TargetError, _Lost):
            self._shell_once(["rm", "-f", *paths], CLEAN_UP_S, None)

    def _run(self, arguments: list[str], timeout_s: float, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        try:
            run = subprocess.run([*self._adb, *arguments], input=stdin, capture_output=True, timeout=timeout_s)
        except FileNotFoundError:
            raise TargetError(
                f"{self._adb[0]!r}, which talks to Android devices, is not installed", INSTALL_HINT
            ) from None
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{self._who} did not answer within {timeout_s:.0f} s") from None
        return run.returncode, run.stdout, run.stderr


class TimedOut(TargetError):
    """The device did not answer in time; what was asked of it may go on there."""


def devices(executable: str = "adb", server_port: int | None = None) -> dict[str, str]:
    """{serial: state} of what this computer's adb server knows; "device" is the state of one that can be used."""
    adb = Adb("", executable=executable, server_port=server_port)
    return parse_devices(adb._run(["devices"], QUICK_S)[1].decode(errors="replace"))


def parse_devices(text: str) -> dict[str, str]:
    """The output of `adb devices`."""
    rows = (line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    return {serial: state.strip() for serial, state in rows}


def only_device(found: dict[str, str]) -> str:
    """The serial of the one device that can be used. Raises TargetError if there is none, or more than one."""
    usable = [serial for serial, state in found.items() if state == "device"]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise TargetError(f"{len(usable)} Android devices are connected", f"Name one of: {', '.join(sorted(usable))}.")
    if found:
        listed = ", ".join(f"{serial} is {state}" for serial, state in sorted(found.items()))
        raise TargetError(
            f"no Android device can be used: {listed}", "Unlock its screen and accept 'Allow USB debugging'."
        )
    raise TargetError(
        "no Android device is connected",
        "Plug one in with USB debugging enabled, or connect one: adb connect HOST:PORT",
    )


def _reason(answer: Answer) -> str:
    """The end of "mv: bad 'a': Permission denied"."""
    return _error_line(answer.stderr).rpartition(": ")[2] or f"exit code {answer.code}"


def _error_line(output: bytes) -> str:
    """adb's own message, which advice may follow; else the last line."""
    lines = output.decode(errors="replace").strip().splitlines() or [""]
    line = next((line for line in lines if line.startswith(("error: ", "adb: error: "))), lines[-1])
    return line.removeprefix("adb: ").removeprefix("error: ").rstrip(".")
