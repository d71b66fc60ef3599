"""Talking to a running agent: one JSON line out, one JSON line back, with a time limit."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgenas.errors import DeviceAway, TargetError
from edgenas.targets.bootstrap import PROGRAM

START_TIMEOUT_S = 60.0
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)  # before each further try to reach a device that was there


class AgentRefusal(TargetError):
    """The agent lives and answered that a request failed: that one model is at fault, the device is not. `kind`: its exception."""

    def __init__(self, message: str, kind: str, error: str) -> None:
        super().__init__(message)
        self.kind, self.error = kind, error


class ConnectionLost(TargetError):
    """The way to the agent broke; the device may be there again in a moment."""


class Link(Protocol):
    """How a target starts an agent's process, and what its end means."""

    name: str

    def start(self) -> subprocess.Popen[str]:
        """A process that runs bootstrap.PROGRAM, with pipes."""
        ...

    def ended(self, code: int | None, said: Sequence[str]) -> TargetError | None:
        """Why the way to it ended, from its exit code and its last lines on standard error; None if the agent itself died."""
        ...


@dataclass(frozen=True)
class Started:
    """A process, and what it says."""

    process: subprocess.Popen[str]
    lines: queue.Queue[str | None]
    stderr: list[str]


class Channel:
    """A started agent. Dead or silent, it is restarted for the next request, so that one bad model ends nothing else. Where the
    connection broke, the request is made again: every request may be made twice."""

    def __init__(self, link: Link, preamble: Sequence[str], token: str, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._link, self._preamble, self._token, self._pauses_s = link, tuple(preamble), token, tuple(pauses_s)
        self._started: Started | None = None
        self._was_there = False
        self.folder = ""

    def request(
        self, message: dict[str, Any], timeout_s: float = START_TIMEOUT_S, *, tries: int | None = None
    ) -> dict[str, Any]:
        """The agent's answer. Raises AgentRefusal if it says no, TargetError if it died or did not answer in time, and DeviceAway
        if the connection broke and could not be made again, in that many `tries` or within the channel's patience."""
        pauses = iter(self._pauses_s[: None if tries is None else tries - 1])
        start = time.monotonic()
        while True:
            try:
                return self._once(message, timeout_s)
            except ConnectionLost as lost:
                pause = next(pauses, None) if self._was_there else None
                if pause is None:
                    if not self._was_there:
                        raise
                    raise DeviceAway(
                        f"{self._link.name} is not to be reached any more, for {time.monotonic() - start:.0f} s now: {lost.message}",
                        "What was measured so far is kept: run the same command again when the device is back.",
                    ) from None
                time.sleep(pause)

    def close(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            process = started.process
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def _once(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        started = self._started or self._start()
        answer = self._exchange(started, message, timeout_s, repr(message["do"]))
        if not answer["ok"]:
            kind, error = answer["kind"], answer["error"]
            raise _own(answer) or AgentRefusal(f"the runtime refused {message['do']!r}: {kind}: {error}", kind, error)
        return answer

    def _exchange(self, started: Started, message: dict[str, Any], timeout_s: float, what: str) -> dict[str, Any]:
        assert started.process.stdin is not None
        try:
            started.process.stdin.write(json.dumps(message) + "\n")
            started.process.stdin.flush()
            line = started.lines.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            raise TargetError(
                f"the agent on {self._link.name} did not answer {what} within {timeout_s:.0f} s",
                "Something hangs there: a command, a model or the connection.",
            ) from None
        except (BrokenPipeError, OSError):
            line = None
        if line is None:
            raise self._ended(started, what)
        answer: Any = None
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
        if not isinstance(answer, dict) or "ok" not in answer:
            self.close()
            raise TargetError(
                f"{self._link.name} says {line.strip()[:80]!r} where the agent's answer was expected",
                "A login script there prints to standard output; let it print nothing when it isn't run by a person.",
            )
        self._was_there = True
        found: dict[str, Any] = answer
        return found

    def _start(self) -> Started:
        started = Started(self._link.start(), queue.Queue(), [])
        self._started = started
        for pump in (_pump_answers, _pump_errors):
            threading.Thread(target=pump, args=(started,), daemon=True).start()
        assert started.process.stdin is not None
        with contextlib.suppress(OSError):  # its end is noticed at the first answer
            for line in self._preamble:
                started.process.stdin.write(line + "\n")
            started.process.stdin.flush()
        hello = self._exchange(started, {"do": "hello", "token": self._token}, START_TIMEOUT_S, "its start")
        if not hello["ok"]:
            self.close()
            raise _own(hello) or TargetError(f"{self._link.name} has no place for the agent's files: {hello['error']}")
        self.folder = hello["folder"]
        return started

    def _ended(self, started: Started, what: str) -> TargetError:
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its output but lives on
            code = started.process.wait(timeout=5)
        time.sleep(0.05)  # its last words
        self.close()
        if (error := self._link.ended(code, tuple(started.stderr))) is not None:
            return error
        # a shell on the way repeats the whole command when it was killed
        said = [line for line in started.stderr if PROGRAM not in line]
        return TargetError(
            f"the agent on {self._link.name} died (exit code {code}) during {what}", " ".join(said[-3:]).strip()
        )


def _own(answer: dict[str, Any]) -> TargetError | None:
    """An error of edgenas itself, such as of a device that an agent on the host can't reach."""
    if "hint" not in answer:
        return None
    return (DeviceAway if answer["kind"] == "DeviceAway" else TargetError)(answer["error"], answer["hint"])


def _pump_answers(started: Started) -> None:
    assert started.process.stdout is not None
    with contextlib.suppress(ValueError):  # closed while it was read
        for line in started.process.stdout:
            started.lines.put(line)
    started.lines.put(None)


def _pump_errors(started: Started) -> None:
    assert started.process.stderr is not None
    with contextlib.suppress(ValueError):
        for line in started.process.stderr:
            started.stderr.append(line.strip())
            del started.stderr[:-20]
