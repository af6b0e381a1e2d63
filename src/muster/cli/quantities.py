"""Times and sizes as people write them: `90s`, `12h`, `2026-01-31T12:00:00Z`; `64MiB`, `10GB`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final, final

import click

_NUMBER: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES: Final = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}


@final
class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """Seconds from a number with a unit."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        seconds = _read(str(value), _SECONDS)
        if seconds is None:
            self.fail(f"{value!r} is no time like 90s, 15m, 12h or 7d.", param, ctx)
        return seconds


@final
class Moment(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A point in time from a date, with or without a time of day."""

    name = "TIME"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read it."""
        moment = value if isinstance(value, datetime) else read_moment(str(value))
        if moment is None:
            self.fail(f"{value!r} is no time like 2026-01-31T12:00:00Z.", param, ctx)
        return moment


@final
class Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """Bytes from a number with a unit."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        size = _read(str(value), _BYTES)
        if size is None:
            self.fail(f"{value!r} is no size like 500MB, 64MiB or 10GiB.", param, ctx)
        return int(size)


DURATION: Final = Duration()
MOMENT: Final = Moment()
SIZE: Final = Size()


def read_moment(text: str) -> datetime | None:
    """Return a time in ISO 8601, UTC unless it says otherwise; `None` if it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _read(text: str, units: dict[str, int]) -> float | None:
    found = _NUMBER.fullmatch(text.strip())
    unit = units.get(found[2].lower()) if found else None
    return None if found is None or unit is None else float(found[1]) * unit


def duration_text(seconds: float) -> str:
    """Write seconds in the largest unit that leaves a whole number."""
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"


def size_text(size: int) -> str:
    """Write bytes in the largest unit that leaves a whole number."""
    for power, prefix in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if size >= 1024**power and size % 1024**power == 0:
            return f"{size // 1024**power}{prefix}B"
    return f"{size}B"
