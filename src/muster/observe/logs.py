"""Structured logs on stderr: readable on a terminal, JSON lines otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog


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
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(file or sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that use the standard module speak only when something is wrong.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
