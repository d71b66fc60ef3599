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
    """One stage at a time. On a terminal a live bar, with what `watch` was given below it; elsewhere a line when a stage starts and
    when it ends, and those of `note`. With a `label`, one of several that run at once: lines alone, each with the label before it."""

    def __init__(self, quiet: bool = False, label: str = "") -> None:
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self._label = f"{label}: " if label else ""
        self.stages: list[StageTime] = []
        self._bar: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        self.console.print(f"{self._label}{text}", markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"{self._label}warning: {text}", style="yellow", markup=False)

    def labelled(self, label: str) -> Progress:
        """Another, for what runs at the same time as others."""
        return Progress(self.console.quiet, label)

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
        self.console.print(f"{self._label}  {title}  ({note})", style="dim" if cached else "green", markup=False)

    def update(self, done: float, total: float, note: str = "") -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)

    def watch(self, below: Any) -> None:
        """Something that rich can draw, drawn again all the time until the stage ends."""
        if self._bar is not None:
            self._bar.below = below

    def note(self, text: str) -> None:
        """A line for those who can't see what is drawn live."""
        if not self.console.is_terminal:
            self.console.print(f"{self._label}    {text}", markup=False, soft_wrap=True)

    @contextmanager
    def _live(self, title: str) -> Iterator[None]:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._label or not self.console.is_terminal:
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

        class BarAndBelow(Bar):
            below: Any = None

            def get_renderables(self) -> Iterator[Any]:
                yield from super().get_renderables()
                if self.below is not None:
                    yield self.below

        with BarAndBelow(*columns, console=self.console, transient=True) as bar:
            self._bar, self._task = bar, bar.add_task(title, total=None, note="")
            try:
                yield
            finally:
                self._bar = None
