"""How far a long job is: a bar on a terminal, otherwise a line for each tenth. On stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final, Self, final

from muster.terminal.output import remark

if TYPE_CHECKING:
    from types import TracebackType

QUIET_BELOW: Final = 2000
"""Jobs of fewer items are over before a line about them is of use."""


@final
class Progress:
    """Shows the progress of one job while it is entered.

    Args:
        title: what is done.
        total: items to do.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._told = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
            from rich import progress  # noqa: PLC0415 - only on a terminal, and slow to import
            from rich.console import Console  # noqa: PLC0415 - slow to import

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Tell that `count` more items are done."""
        self._done += count
        if self._bar is not None:
            self._bar.advance(self._task, count)
            return
        tenths = self._done * 10 // self._total
        if self._total >= QUIET_BELOW and tenths > self._told:
            self._told = tenths
            remark(f"{self._title}: {tenths * 10} % ({self._done:,} of {self._total:,})")
