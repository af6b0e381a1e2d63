"""Lines of logs: taken apart, filtered, written (edge.md 5.4)."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.edge.agent.log_lines import (
    LONGEST_LINE,
    Lines,
    LogFilter,
    LogSource,
    Rendering,
    read_line,
)
from muster.edge.engine.base import LogChunk

SOURCE = LogSource(hub_host="hub.example", device_id="dev-1", module_id="a")


def rendered(
    chunks: list[tuple[int, bytes]],
    chosen: LogFilter | None = None,
    *,
    as_json: bool = False,
    compressed: bool = False,
) -> bytes:
    rendering = Rendering(SOURCE, chosen or LogFilter(), as_json=as_json, compressed=compressed)
    lines = Lines()
    parts = [
        rendering.add(line)
        for stream, data in chunks
        for line in lines.feed(LogChunk(stream, data))
    ]
    parts += [rendering.add(line) for line in lines.rest()]
    return b"".join([*parts, rendering.end()])


@pytest.mark.parametrize(
    ("line", "level", "at", "text"),
    [
        ("hello\n", 6, None, "hello"),
        ("<4> careful\r\n", 4, None, "careful"),
        (
            "<6> 2019-02-14 16:15:35.243 -08:00 [INF] [EdgeHub] - Version",
            6,
            "2019-02-15T00:15:35.243",
            "[INF] [EdgeHub] - Version",
        ),
        ("2030-01-31T12:00:00.123456789Z <3> oh", 3, "2030-01-31T12:00:00.123456", "oh"),
        ("2030-01-31T12:00:00Z oh", 6, "2030-01-31T12:00:00", "oh"),
        ("2030-13-31T12:00:00Z oh", 6, None, "oh"),
        ("<x> text", 6, None, "<x> text"),
    ],
)
def test_a_line_is_taken_apart(line: str, level: int, at: str | None, text: str) -> None:
    found = read_line(1, line.encode())
    assert (found.level, found.text, found.whole) == (level, text, line)
    moment = None if at is None else datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert found.at == moment


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=12))
def test_no_byte_is_lost_however_it_comes(chunks: list[tuple[int, bytes]]) -> None:
    lines = Lines()
    found = [line for stream, data in chunks for line in lines.feed(LogChunk(stream, data))] + list(
        lines.rest()
    )
    for stream in (1, 2):
        sent = b"".join(data for number, data in chunks if number == stream)
        seen = [line.whole for line in found if line.stream == stream]
        expected = [part.decode(errors="replace") for part in re.findall(rb"[^\n]*\n|[^\n]+", sent)]
        assert seen == expected


def test_a_line_without_an_end_is_cut() -> None:
    lines = Lines()
    found = list(lines.feed(LogChunk(1, b"x" * (2 * LONGEST_LINE + 5))))
    assert [len(line.whole) for line in found] == [LONGEST_LINE, LONGEST_LINE]
    assert [len(line.whole) for line in lines.rest()] == [5]


def test_text_is_as_it_was_written() -> None:
    assert rendered([(1, b"one\ntw"), (2, b"err\n"), (1, b"o\nthree")]) == b"one\nerr\ntwo\nthree"


def test_json_is_a_list_of_objects() -> None:
    chunks = [(2, b"2030-01-31T12:00:00.5Z <3> \xc3\xa4h\n"), (1, b"plain\n")]
    found: list[dict[str, Any]] = json.loads(rendered(chunks, as_json=True))
    assert found == [
        {
            "iothub": "hub.example",
            "device": "dev-1",
            "id": "a",
            "stream": "stderr",
            "loglevel": 3,
            "text": "äh",
            "timestamp": "2030-01-31T12:00:00.5Z",
        },
        {
            "iothub": "hub.example",
            "device": "dev-1",
            "id": "a",
            "stream": "stdout",
            "loglevel": 6,
            "text": "plain",
            "timestamp": None,
        },
    ]
    assert rendered([], as_json=True) == b"[]"


LOG = [(1, b"<6> one\n<3> two\n<3> three\n<6> four\n<3> five\n")]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (LogFilter(), ["one", "two", "three", "four", "five"]),
        (LogFilter(level=3), ["two", "three", "five"]),
        (LogFilter(tail=2), ["four", "five"]),
        (LogFilter(tail=2, level=3), ["three", "five"]),
        (LogFilter(tail=0), []),
        (LogFilter(level=6), ["one", "four"]),
        (LogFilter(level=9), []),
    ],
)
def test_filters(chosen: LogFilter, words: list[str]) -> None:
    found = json.loads(rendered(LOG, chosen, as_json=True))
    assert [one["text"] for one in found] == words
    text = rendered(LOG, chosen).decode()
    assert [line.split()[1] for line in text.splitlines()] == words


@pytest.mark.parametrize("as_json", [True, False])
def test_compressed_it_is_the_same(as_json: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    bare = rendered(LOG, as_json=as_json)
    packed = rendered(LOG, as_json=as_json, compressed=True)
    assert gzip.decompress(packed) == bare
