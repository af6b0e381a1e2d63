"""What a supervisor writes is what the runtime reads: logs, records, orders."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.engine.base import LogRange
from muster.edge.engine.process import supervisor
from muster.edge.engine.process.log import LogReader, choose, chunks
from muster.edge.engine.process.supervisor import (
    LOG_FILES,
    LONGEST_LINE,
    RECORD_SIZE,
    Log,
    pack,
    read_record,
    unpack,
    write_record,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
keys = texts.filter(lambda text: "=" not in text)
pieces = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=60)), max_size=30)


def read(directory: Path, **wanted: object) -> list[tuple[int, bytes]]:
    found = chunks(choose(LogReader(directory).read(), LogRange(**wanted)), timestamps=False)  # type: ignore[arg-type]
    return [(chunk.stream, chunk.data) for chunk in found]


def stream_of(found: list[tuple[int, bytes]], stream: int) -> bytes:
    return b"".join(data for number, data in found if number == stream)


@given(pieces)
def test_what_is_written_is_read(written: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        log = Log(name, 10 << 20, 0)
        for stream, data in written:
            log.feed(stream, data)
        log.finish()
        found = read(Path(name))
        for stream in (1, 2):
            assert stream_of(found, stream) == stream_of(written, stream)


@given(
    st.lists(st.binary(max_size=20).filter(lambda line: b"\n" not in line), max_size=20),
    st.integers(0, 25),
)
def test_the_last_lines(lines: list[bytes], count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        log = Log(name, 10 << 20, 0)
        log.feed(1, b"".join(line + b"\n" for line in lines))
        log.finish()
        last = lines[max(0, len(lines) - count) :]
        assert stream_of(read(Path(name), tail=count), 1) == b"".join(line + b"\n" for line in last)


def test_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    log, reader = Log(str(tmp_path), LOG_FILES * LONGEST_LINE, 0), LogReader(tmp_path)
    said = 0
    for round_ in range(40):
        log.feed(1, b"".join(b"%d-%d\n" % (round_, n) for n in range(300)))
        log.feed(2, b"half of a ")
        texts = [entry.text for entry in reader.read() if entry.stream == 1]
        assert texts == [b"%d-%d" % (round_, n) for n in range(300)]
        said += len(texts)
    assert said == 12_000
    assert len(list(tmp_path.iterdir())) == LOG_FILES


def test_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(str(tmp_path), 1 << 20, 0)
    first = 1_767_225_600_000_000_999
    for n in range(4):
        monkeypatch.setattr(supervisor.time, "time_ns", lambda n=n: first + n * 10**9)
        log.feed(1, b"line %d\n" % n)

    def lines(**wanted: object) -> list[bytes]:
        return stream_of(read(tmp_path, **wanted), 1).splitlines()

    def second(number: int) -> datetime:
        return datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC)

    assert lines(since=second(1)) == [b"line 1", b"line 2", b"line 3"]
    assert lines(until=second(1)) == [b"line 0", b"line 1"]
    assert lines(since=second(1), until=second(2)) == [b"line 1", b"line 2"]
    assert lines(since=second(1), tail=1) == [b"line 3"]
    stamped = chunks(choose(LogReader(tmp_path).read(), LogRange(tail=1)), timestamps=True)
    assert [chunk.data for chunk in stamped] == [b"2026-01-01T00:00:03.000000999Z line 3\n"]


def test_what_was_torn_by_a_power_cut_is_left_out(tmp_path: Path) -> None:
    Log(str(tmp_path), 1 << 20, 0).feed(1, b"before\n")
    with (tmp_path / "00000000").open("ab") as file:
        file.write(b"2026-01-01T00:00:00.0000")
    Log(str(tmp_path), 1 << 20, 0).feed(1, b"after\n")
    assert read(tmp_path) == [(1, b"before\nafter\n")]


def test_some_linesthat_were_lost_are_told_of(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 1 << 20, 3)
    log.feed(1, b"again\n")
    assert log.lost == 0
    assert read(tmp_path) == [
        (2, b"muster: the log has lost 3 lines here\n"),
        (1, b"again\n"),
    ]


@given(
    st.dictionaries(keys, texts, max_size=5),
    st.lists(texts, max_size=5),
    st.dictionaries(keys, texts, max_size=5),
)
def test_orders(options: dict[str, str], command: list[str], env: dict[str, str]) -> None:
    assert unpack(pack(options, command, env)) == (options, command, env)


def test_records(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "run", os.O_RDWR | os.O_CREAT)
    try:
        write_record(fd, {"run": "a-b", "supervisor": "12 345", "error": "é" * RECORD_SIZE})
        assert os.fstat(fd).st_size == RECORD_SIZE
        write_record(fd, {"run": "c", "code": 0})
        data = os.pread(fd, 2 * RECORD_SIZE, 0)
    finally:
        os.close(fd)
    assert len(data) == RECORD_SIZE
    assert {key: value.strip() for key, value in read_record(data).items() if key} == {
        "run": "c",
        "code": "0",
    }
