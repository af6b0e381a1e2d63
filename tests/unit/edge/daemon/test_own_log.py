from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from muster.clock import ManualClock
from muster.edge.daemon.own_log import KEPT, OwnLog
from muster.edge.engine.base import LogRange
from muster.observe.logs import configure


async def _read(log: OwnLog, **wanted: object) -> list[str]:
    chunks = log.logs("edgeAgent", LogRange(**wanted))  # type: ignore[arg-type]
    return [chunk.data.decode() async for chunk in chunks]


async def test_lines_are_kept_with_their_level(capsys: pytest.CaptureFixture[str]) -> None:
    clock = ManualClock()
    log = OwnLog(clock)
    before = structlog.get_config()
    try:
        for as_json in (True, False):
            configure("info", as_json=as_json, file=log)
            logger = structlog.get_logger()
            logger.info("first")
            logger.error("second")
            logger.debug("not at this level")
    finally:
        structlog.configure(**before)
    lines = await _read(log)
    assert [line[:3] for line in lines] == ["<6>", "<3>", "<6>", "<3>"]
    assert "first" in lines[0]
    assert lines[0][4:] in capsys.readouterr().err


async def test_which_lines() -> None:
    clock = ManualClock(1000.0)
    log = OwnLog(clock)
    for number in range(3):
        log.write(f"line {number}\nno level {number}\n")
        clock.advance(10)
    assert len(await _read(log)) == 6
    assert await _read(log, tail=1) == ["<6> no level 2\n"]
    at = dt.datetime.fromtimestamp(1010, dt.UTC)
    assert await _read(log, since=at, until=at) == ["<6> line 1\n", "<6> no level 1\n"]
    assert (await _read(log, tail=1, timestamps=True))[0].startswith(
        "1970-01-01T00:17:00+00:00 <6>"
    )
    assert await _read(log, tail=0) == []


async def test_only_so_much_is_kept() -> None:
    log = OwnLog(ManualClock())
    for number in range(KEPT // 50):
        log.write(f"{number:0100}\n")
    lines = await _read(log)
    assert sum(map(len, lines)) <= KEPT + 2 * len(lines)
    assert lines[-1].endswith(f"{KEPT // 50 - 1:0100}\n")


async def test_following() -> None:
    log = OwnLog(ManualClock())
    log.write("before\n")
    chunks = log.logs("edgeHub", LogRange(follow=True))
    assert (await anext(chunks)).data == b"<6> before\n"
    coming = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    log.write("aft")
    log.write("er\n")
    async with asyncio.timeout(30):
        assert (await coming).data == b"<6> after\n"


def test_it_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    OwnLog(ManualClock()).write("a\nb")
    assert capsys.readouterr().err == "a\nb"
    assert sys.stderr


def test_in_the_journal_a_line_has_its_level_once(tmp_path: Path) -> None:
    script = (
        "import logging, structlog\n"
        "from muster.clock import ManualClock\n"
        "from muster.edge.daemon.own_log import OwnLog\n"
        "from muster.observe.logs import configure\n"
        "log = OwnLog(ManualClock())\n"
        "configure('info', file=log)\n"
        "structlog.get_logger().error('second')\n"
        "logging.getLogger('library').warning('third')\n"
        "print(log._lines[0].text)\n"
    )
    for level in ("<3>", ""):
        with (tmp_path / f"stderr{level}").open("w") as stderr:
            found = os.fstat(stderr.fileno())
            journal = f"{found.st_dev}:{found.st_ino}" if level else "1:2"
            kept = subprocess.check_output(
                [sys.executable, "-c", script],
                stderr=stderr,
                env={**os.environ, "JOURNAL_STREAM": journal},
                text=True,
            )
        assert kept.startswith('<3> {"event')
        written = (tmp_path / f"stderr{level}").read_text().splitlines()
        assert written[0].startswith(f'{level}{{"event": "second"')
        assert written[1] == f"{'<4>' if level else ''}WARNING library third"
