"""Lengths of time in words, as the official `iotedge list` says them (edge.md 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import timedelta

_EXACT_S: Final = 20
_MINUTE: Final = 60
_HOUR: Final = 3_600
_DAY: Final = 86_400

_ROUGH: Final = (
    (547 * _DAY, "years", 365 * _DAY),
    (345 * _DAY, "a year", 0),
    (45 * _DAY, "months", 30 * _DAY),
    (29 * _DAY, "a month", 0),
    (10 * _DAY, "weeks", 7 * _DAY),
    (6 * _DAY, "a week", 0),
    (36 * _HOUR, "days", _DAY),
    (22 * _HOUR, "a day", 0),
    (90 * _MINUTE, "hours", _HOUR),
    (45 * _MINUTE, "an hour", 0),
    (90, "minutes", _MINUTE),
    (45, "a minute", 0),
    (_EXACT_S, "seconds", 1),
)
"""Above so many seconds: the words, and the length of what they count; 0 for one."""


def span(length: timedelta) -> str:
    """Return a length in words: to the second up to twenty, roughly beyond."""
    seconds = max(int(length.total_seconds()), 0)
    for above, words, unit in _ROUGH:
        if seconds > above:
            return f"{max(seconds // unit, 2)} {words}" if unit else words
    return "1 second" if seconds == 1 else f"{seconds} seconds"
