"""Times of logs (edge.md 3.2, 5.4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from muster.edge.log_times import read_moment

NOW = datetime(2030, 6, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("1d", timedelta(days=1)),
        ("1 day", timedelta(days=1)),
        ("90m", timedelta(minutes=90)),
        ("90 min", timedelta(minutes=90)),
        ("2 days 3 hours 2 minutes", timedelta(days=2, hours=3, minutes=2)),
        ("1h30m", timedelta(minutes=90)),
        ("10s", timedelta(seconds=10)),
        ("2 Weeks", timedelta(days=14)),
        ("1M", timedelta(seconds=2_630_016)),
    ],
)
def test_how_long_ago(text: str, ago: timedelta) -> None:
    assert read_moment(text, NOW) == NOW - ago


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1907755200", NOW),
        ("2030-06-01T00:00:00Z", datetime(2030, 6, 1, tzinfo=UTC)),
        ("2030-06-01T02:00:00+02:00", datetime(2030, 6, 1, tzinfo=UTC)),
    ],
)
def test_when(text: str, moment: datetime) -> None:
    assert read_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "5 lightyears", "2030-06-01T00:00:00", "999999 years", "-1d"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_what_is_no_time_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: say RFC 3339"):
        read_moment(text, NOW)
