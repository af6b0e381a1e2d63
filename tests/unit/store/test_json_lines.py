"""Files of JSON Lines: whole lines, closed when large or old, whatever happened to them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from muster.clock import ManualClock
from muster.errors import UnavailableError
from muster.store.json_lines import CURRENT, JsonLinesFiles


def opened(directory: Path, clock: ManualClock, **limits: float) -> JsonLinesFiles:
    values = {"max_bytes": 1000, "max_age_s": 60.0, **limits}
    return JsonLinesFiles(directory, clock, **values)  # type: ignore[arg-type]


def finished(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in sorted(directory.glob("2*.jsonl"))}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000.0)


async def test_lines(tmp_path: Path, clock: ManualClock) -> None:
    directory = tmp_path / "a" / "b"
    files = opened(directory, clock)
    await files.tend()
    assert not directory.exists()
    await files.deliver([b'{"a":1}', b'{"a":2}'])
    await files.deliver([b'{"a":3}'])
    assert (directory / CURRENT).read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'
    await files.close()
    await files.close()


async def test_a_file_is_closed_when_it_is_large(tmp_path: Path, clock: ManualClock) -> None:
    files = opened(tmp_path, clock, max_bytes=10)
    for number in b"012":
        await files.deliver([bytes([number]) * 4, b"-"])
    assert finished(tmp_path) == {"20231114T221320Z-0000.jsonl": b"0000\n-\n1111\n-\n"}
    assert (tmp_path / CURRENT).read_bytes() == b"2222\n-\n"
    await files.close()


async def test_a_file_is_closed_when_it_is_old(tmp_path: Path, clock: ManualClock) -> None:
    files = opened(tmp_path, clock)
    await files.deliver([b"1"])
    clock.advance(59)
    await files.tend()
    assert finished(tmp_path) == {}
    clock.advance(1)
    await files.tend()
    assert finished(tmp_path) == {"20231114T221320Z-0000.jsonl": b"1\n"}
    assert not (tmp_path / CURRENT).exists()
    await files.deliver([b"2"])
    clock.advance(60)
    await files.deliver([b"3"])
    assert finished(tmp_path) == {
        "20231114T221320Z-0000.jsonl": b"1\n",
        "20231114T221420Z-0000.jsonl": b"2\n",
    }
    assert (tmp_path / CURRENT).read_bytes() == b"3\n"
    await files.close()


async def test_files_of_one_second_do_not_replace_each_other(
    tmp_path: Path, clock: ManualClock
) -> None:
    files = opened(tmp_path, clock, max_bytes=1)
    for number in range(4):
        await files.deliver([b"%d" % number])
    assert list(finished(tmp_path).values()) == [b"0\n", b"1\n", b"2\n"]
    await files.close()


@pytest.mark.parametrize("torn", [b"", b'{"half', b"x" * 200_000])
async def test_the_next_start_closes_the_file_and_cuts_half_a_line(
    tmp_path: Path, clock: ManualClock, torn: bytes
) -> None:
    (tmp_path / CURRENT).write_bytes(b"1\n2\n" + torn)
    os.utime(tmp_path / CURRENT, (1_700_000_000, 1_700_000_000))
    files = opened(tmp_path, clock)
    await files.deliver([b"3"])
    assert list(finished(tmp_path).values()) == [b"1\n2\n"]
    assert (tmp_path / CURRENT).read_bytes() == b"3\n"
    await files.close()


async def test_only_half_a_line_leaves_nothing(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / CURRENT).write_bytes(b"half")
    files = opened(tmp_path, clock)
    await files.deliver([b"1"])
    assert finished(tmp_path) == {}
    assert (tmp_path / CURRENT).read_bytes() == b"1\n"
    await files.close()


async def test_a_file_that_was_taken_away_is_begun_again(
    tmp_path: Path, clock: ManualClock
) -> None:
    files = opened(tmp_path, clock)
    await files.deliver([b"1"])
    (tmp_path / CURRENT).rename(tmp_path / "mine")
    await files.deliver([b"2"])
    assert (tmp_path / "mine").read_bytes() == b"1\n"
    assert (tmp_path / CURRENT).read_bytes() == b"2\n"
    (tmp_path / CURRENT).unlink()
    clock.advance(60)
    await files.tend()
    await files.deliver([b"3"])
    assert (tmp_path / CURRENT).read_bytes() == b"3\n"
    await files.close()


async def test_a_directory_that_cannot_be_made(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    files = opened(tmp_path / "file" / "x", clock)
    with pytest.raises(UnavailableError) as caught:
        await files.deliver([b"1"])
    assert caught.value.code == "endpoint-unavailable"


async def test_a_full_disk_leaves_no_half_line(tmp_path: Path, clock: ManualClock) -> None:
    import resource
    import signal

    files = opened(tmp_path, clock, max_bytes=1 << 30)
    await files.deliver([b"1" * 99])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, limits[1]))
    try:
        with pytest.raises(UnavailableError):
            await files.deliver([b"2" * 99])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / CURRENT).read_bytes() == b"1" * 99 + b"\n"
    await files.deliver([b"2" * 99])
    assert list(finished(tmp_path).values()) == [b"1" * 99 + b"\n"]
    assert (tmp_path / CURRENT).read_bytes() == b"2" * 99 + b"\n"
    await files.close()


async def test_who_is_cancelled_leaves_whole_lines(tmp_path: Path, clock: ManualClock) -> None:
    files = opened(tmp_path, clock, max_bytes=1 << 30)
    await files.deliver([b"-"])
    writing = asyncio.ensure_future(files.deliver([b"x" * 999] * 50_000))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait([writing])
    await files.close()
    assert (tmp_path / CURRENT).stat().st_size == 2 + 50_000_000
