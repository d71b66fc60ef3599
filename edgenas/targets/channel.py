"""Talking to a running agent: one JSON line out, one JSON line back, with a time limit."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from edgenas.errors import TargetError

START_TIMEOUT_S = 60.0


class AgentRefusal(TargetError):
    """The agent lives and answered that a request failed: that one model is at fault, the device is not."""


class Channel:
    """A started agent. Dead or silent, it is restarted for the next request, so that one bad model ends nothing else."""

    def __init__(self, start: Callable[[], subprocess.Popen[str]]) -> None:
        self._start = start
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stderr: list[str] = []

    def request(self, message: dict[str, Any], timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
        """The agent's answer. Raises AgentRefusal if it says no, TargetError if it died or did not answer in time."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            raise TargetError(f"the device's agent did not answer {message['do']!r} within {timeout_s:.0f} s") from None
        except (BrokenPipeError, OSError):
            line = None
        if line is None:
            code = self._exit_code()
            said = " ".join(self._stderr[-3:]).strip()
            raise TargetError(f"the device's agent died (exit code {code}) during {message['do']!r}", said)
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise AgentRefusal(f"the runtime refused {message['do']!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _exit_code(self) -> int | None:
        process = self._process
        code = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it closed its output but lives on
                code = process.wait(timeout=5)
        self.close()
        return code

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = self._start()
            self._lines = queue.Queue()
            self._stderr = []
            for pump in (self._pump_answers, self._pump_errors):
                threading.Thread(target=pump, args=(self._process,), daemon=True).start()
        return self._process

    def _pump_answers(self, process: subprocess.Popen[str]) -> None:
        lines = self._lines
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.put(line)
        except ValueError:
            pass  # closed while it was read
        lines.put(None)

    def _pump_errors(self, process: subprocess.Popen[str]) -> None:
        kept = self._stderr
        assert process.stderr is not None
        try:
            for line in process.stderr:
                kept.append(line.strip())
                del kept[:-20]
        except ValueError:
            pass
