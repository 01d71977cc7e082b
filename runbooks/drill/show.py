"""A drill on the screen: one bar a drill on a terminal, one line a milestone elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Show:
    """The screen of all drills of one command. Context manager; may be called from several threads."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def drill(self, title: str, milestones: int) -> Line:
        """A new bar with so many milestones."""
        return Line(self, self._progress, self._progress.add_task(title, total=milestones, what=""), title)


class Line:
    """One drill's bar."""

    def __init__(self, show: Show, progress: Progress, task: TaskID, title: str) -> None:
        self._show, self._progress, self._task, self._title = show, progress, task, title
        self._begin, self._seen = time.monotonic(), set[str]()

    def reach(self, milestone: str) -> None:
        """Count a milestone, the first time that it is named."""
        if milestone in self._seen:
            return
        self._seen.add(milestone)
        self._progress.update(self._task, advance=1, what=milestone)
        if not self._show.console.is_terminal:
            self._show.console.print(
                f"{self._title}: {time.monotonic() - self._begin:5.0f} s {milestone}", highlight=False, markup=False
            )

    def say(self, text: str) -> None:
        """What goes on, on a terminal."""
        self._progress.update(self._task, what=text)

    def end(self, text: str, *, good: bool) -> None:
        """The drill's last word."""
        self._progress.remove_task(self._task)
        mark = "[green]✓[/]" if good else "[red]✗[/]"
        title = self._title.replace("[", r"\[")
        self._show.console.print(f"{mark} [bold]{title}[/] {text}", highlight=False, soft_wrap=True)
