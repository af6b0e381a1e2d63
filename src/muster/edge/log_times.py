"""`since` and `until` of logs, as people write them (edge.md 3.2, 5.4)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_NUMBER: Final = re.compile(r"[0-9]{1,11}").fullmatch
_DURATION: Final = re.compile(r"(?:\s*[0-9]{1,9}\s*[a-zA-Z]+)+\s*").fullmatch
_PART: Final = re.compile(r"([0-9]{1,9})\s*([a-zA-Z]+)").findall

# What the official daemon understands. `m` is a minute and `M` a month, the only ones that differ
# by case.
_SECONDS: Final[dict[str, float]] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86_400),
    **dict.fromkeys(("M", "month", "months"), 2_630_016),
    **dict.fromkeys(("y", "year", "years"), 31_557_600),
}


def read_moment(text: str, now: datetime) -> datetime:
    """Return the moment a text names.

    Args:
        text: RFC 3339, unix seconds, or how long ago: `1d`, `90 min`, `2 days 3 hours`.
        now: what a duration counts back from.

    Raises:
        ValueError: it names none; the message says what can be said.
    """
    text = text.strip()
    try:
        if _NUMBER(text):
            return datetime.fromtimestamp(int(text), UTC)
        if _DURATION(text):
            return now - timedelta(seconds=sum(_seconds(*part) for part in _PART(text)))
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        f"{text[:64]!r} is no time: say RFC 3339 (2030-01-31T12:00:00Z), unix seconds, or how long "
        "ago (1d, 90 min, 2 days 3 hours)"
    )


def _seconds(number: str, unit: str) -> float:
    seconds = _SECONDS.get(unit) or _SECONDS.get(unit.lower())
    if seconds is None:
        raise ValueError(unit)
    return int(number) * seconds
