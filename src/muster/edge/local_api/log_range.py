"""Which lines of a log a query asks for (edge.md 3.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from muster.edge.engine.base import LogRange
from muster.edge.log_times import read_moment
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

_FLAGS: Final = {"true": True, "false": False}
_LINES: Final = re.compile(r"[0-9]{1,7}").fullmatch


def log_range(query: Mapping[str, str], now: dt.datetime) -> LogRange:
    """Return what `follow`, `tail`, `since`, `until` and `timestamps` of a query say.

    Raises:
        InvalidArgumentError: one of them says nothing that can be understood.
    """
    return LogRange(
        follow=flag(query, "follow"),
        tail=_tail(query.get("tail", "all")),
        since=moment(query.get("since"), now),
        until=moment(query.get("until"), now),
        timestamps=flag(query, "timestamps"),
    )


def flag(query: Mapping[str, str], name: str) -> bool:
    """Return a boolean; false where it is not there.

    Raises:
        InvalidArgumentError: it is neither `true` nor `false`.
    """
    text = query.get(name, "false").lower()
    if text not in _FLAGS:
        raise InvalidArgumentError(f"{name} must be true or false")
    return _FLAGS[text]


def moment(text: str | None, now: dt.datetime) -> dt.datetime | None:
    """Return the time that a text names; 0 and nothing are none.

    Raises:
        InvalidArgumentError: it names none.
    """
    if text is None or text.strip() in ("", "0"):
        return None
    try:
        return read_moment(text, now)
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from None


def _tail(text: str) -> int | None:
    if text.lower() == "all":
        return None
    if _LINES(text) is None:
        raise InvalidArgumentError("tail must be a number of lines, or all")
    return int(text)
