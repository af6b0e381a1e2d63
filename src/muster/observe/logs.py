"""Structured logs on stderr: readable on a terminal, JSON lines otherwise.

In systemd's journal a line has its level in front as sd-daemon(3) says, so that `journalctl -p` and
its colours work.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final, TextIO

import structlog

SEVERITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Levels by the numbers of syslog."""


def configure(
    level: str = "info", *, as_json: bool | None = None, file: TextIO | None = None
) -> None:
    """Set up logging for the process.

    Args:
        level: least severity written: debug, info, warning or error.
        as_json: JSON lines or readable text; `None` chooses by whether stderr is a terminal.
        file: where lines go; `None` for stderr.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors.append(structlog.dev.ConsoleRenderer())
    libraries = "%(levelname)s %(name)s %(message)s"
    if _is_journal(sys.stderr):
        processors.append(_Prefixed(processors.pop()))
        libraries = f"<{SEVERITIES['warning']}>{libraries}"
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(file or sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that use the standard module speak only when something is wrong.
    logging.basicConfig(level=logging.WARNING, format=libraries)


def _is_journal(stream: TextIO) -> bool:
    """Tell whether a stream leads to the journal (`JOURNAL_STREAM`, systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is no file
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Prefixed:
    """A renderer whose lines begin with their level.

    Args:
        render: makes the line.
    """

    def __init__(self, render: Any) -> None:
        self._render = render

    def __call__(self, logger: Any, name: str, event: Any) -> str:
        severity = SEVERITIES.get(event.get("level", ""), SEVERITIES["info"])
        return f"<{severity}>{self._render(logger, name, event)}"
