"""Progress with an estimate of the time left, for anything that takes over two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 15.0


class Report(Protocol):
    """What a long piece of work calls as it goes: report(done, total, {"loss": 0.3})."""

    def __call__(self, done: int, total: int, info: dict[str, Any] | None = None) -> None:
        """Say how far the work has come."""


class ProgressBars:
    """Bars on a terminal; on anything else one line every 15 seconds. Always on stderr."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.console = Console(stderr=True)
        self._bars: Progress | None = None

    @contextmanager
    def task(self, description: str) -> Iterator[Report]:
        """A bar for one piece of work; it shows itself only when the work takes long enough."""
        if not self.enabled:
            yield lambda done, total, info=None: None
            return
        show = self._bar if self.console.is_terminal else self._line
        with show(description) as report:
            yield report

    @contextmanager
    def _bar(self, description: str) -> Iterator[Report]:
        outermost = self._bars is None
        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[info]}"),
            )
            self._bars = Progress(*columns, console=self.console, transient=True)
            self._bars.start()
        bars = self._bars
        identifier = bars.add_task(description, total=None, visible=False, info="")
        started = time.monotonic()

        def report(done: int, total: int, info: dict[str, Any] | None = None) -> None:
            visible = time.monotonic() - started > _QUIET_SECONDS
            bars.update(identifier, completed=done, total=total, visible=visible, info=_show(info))

        try:
            yield report
        finally:
            bars.remove_task(identifier)
            if outermost:
                bars.stop()
                self._bars = None

    @contextmanager
    def _line(self, description: str) -> Iterator[Report]:
        started = last = time.monotonic()

        def report(done: int, total: int, info: dict[str, Any] | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            if done and now - last > _LINE_SECONDS:
                last = now
                left = (now - started) * (total - done) / done
                print(
                    f"{description}: {done}/{total}, {left:.0f} s left {_show(info)}".rstrip(),
                    file=sys.stderr,
                    flush=True,
                )

        yield report


def _show(info: dict[str, Any] | None) -> str:
    return " ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in (info or {}).items()
    )
