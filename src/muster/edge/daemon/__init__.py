"""`iotedged`: all parts of the edge runtime in one process."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

from muster.edge import extra

_ARENA_MAX: Final = -8
"""`M_ARENA_MAX` of mallopt(3)."""


def main() -> None:
    """Run the daemon and end the process with its exit code (edge.md 2.6)."""
    _save_memory()
    try:
        from muster.edge.daemon.command import iotedged  # noqa: PLC0415 - nothing else needs it

        iotedged(prog_name="iotedged")
    except ModuleNotFoundError as error:
        raise extra.missing(error) from None


def _save_memory() -> None:
    # structlog would load it to colour tracebacks: 3 MB of a device's memory, for no journal.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    # One heap for all threads, which share one interpreter anyway: a megabyte less.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
