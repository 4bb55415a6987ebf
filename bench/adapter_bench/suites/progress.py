"""What a suite shows while it runs: a bar with the remaining time on a terminal, plain lines elsewhere.

Nothing is drawn while a row is measured: drawing takes time from a core.
"""

from __future__ import annotations

import sys
import time
from typing import IO, Any


class Progress:
    """Lines on `stream` (standard error); `terminal` None asks the stream what it is."""

    def __init__(self, stream: IO[str] | None = None, terminal: bool | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._total = self._finished = self._measured = 0
        self._seconds = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def begin(self, suite: str, rows: int, kept: int) -> None:
        self._total = rows
        self._say(f"suite {suite}: {rows} rows" + (f", {kept} of them done before" if kept else ""))
        if self._terminal:
            self._start(suite)

    def row(self, name: str) -> None:
        if self._bar is None:
            return
        self._bar.update(self._task, description=name, left=self._left())
        self._bar.refresh()

    def done(self, name: str, status: str, reason: str, seconds: float) -> None:
        self._measured += 1
        self._seconds += seconds
        self._advance()
        why = f" ({' '.join(reason.split())[:200]})" if reason else ""
        self._say(f"[{self._finished}/{self._total}] {name}: {status}{why}, {seconds:.1f} s{self._left()}")

    def skipped(self, name: str) -> None:
        self._advance()
        self._say(f"[{self._finished}/{self._total}] {name}: done before")

    def _advance(self) -> None:
        self._finished += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._finished, left=self._left())
            self._bar.refresh()

    def _left(self) -> str:
        """By the mean of the rows so far: rows differ, so it is said as what it is."""
        rest = self._total - self._finished
        if not rest or not self._measured:
            return ""
        seconds = rest * self._seconds / self._measured
        return f", about {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def _start(self, suite: str) -> None:
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}"),
        )
        self._bar = progress.Progress(*columns, console=Console(file=self._stream), auto_refresh=False, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(suite, total=self._total, left="")
