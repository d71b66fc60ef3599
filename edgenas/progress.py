"""What the terminal shows while work goes on: the stage, what is done, the time left. To standard error, so results stay clean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StageTime:
    name: str
    seconds: float
    cached: bool


class Progress:
    """One stage at a time. On a terminal a live bar; elsewhere a line when a stage starts and when it ends."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.stages: list[StageTime] = []
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)

    @contextmanager
    def stage(self, name: str, title: str, *, cached: bool) -> Iterator[None]:
        """Times the stage; `update` moves its bar meanwhile."""
        start = time.monotonic()
        if cached:
            yield
        else:
            with self._live(title):
                yield
        seconds = time.monotonic() - start
        self.stages.append(StageTime(name, round(seconds, 2), cached))
        note = "cached" if cached else f"{seconds:.0f} s"
        self.console.print(f"  {title}  ({note})", style="dim" if cached else "green", markup=False)

    def update(self, done: float, total: float, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)

    @contextmanager
    def _live(self, title: str) -> Iterator[None]:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if not self.console.is_terminal:
            self.say(f"  {title} ...")
            yield
            return
        columns = [
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
        ]
        with Bar(*columns, console=self.console, transient=True) as bar:
            self._bar, self._task = bar, bar.add_task(title, total=None, note="")
            try:
                yield
            finally:
                self._bar = None
