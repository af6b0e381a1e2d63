"""`iotedge list`, `logs`, `restart` against the management API on a real socket."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import Result

from muster.clock import ManualClock, SystemClock
from muster.edge.cli.spans import span
from muster.edge.engine.base import EngineError, LogChunk, LogRange, Module, Status
from unit.edge.cli.conftest import Run
from unit.edge.local_api.conftest import Apis, short_path

__all__ = ["short_path"]
NOW = SystemClock().now()


@pytest.fixture
async def apis(short_path: Path) -> AsyncIterator[Apis]:
    made = Apis(short_path, ManualClock(NOW.timestamp()))
    await made.start()
    yield made
    await made.stop()


async def _run(run: Run, apis: Apis, *arguments: str) -> Result:
    return await asyncio.to_thread(run, "-H", f"unix://{apis.management}", *arguments)


def _module(name: str, status: Status, age_s: float = 0, **fields: object) -> Module:
    ended = SystemClock().now() - dt.timedelta(seconds=age_s)
    return Module(
        name=name,
        status=status,
        started_at=ended,
        exited_at=None if status is Status.RUNNING else ended,
        **fields,  # type: ignore[arg-type]
    )


async def test_list(run: Run, apis: Apis) -> None:
    apis.runtime.found = [
        _module("temperature", Status.RUNNING, 5 * 3600, settings={"image": "reg/t:1"}),
        _module("a-module-with-a-long-name", Status.FAILED, 7200, exit_code=3),
        _module("program", Status.STOPPED, 200, settings={"command": ["sleep", "9"]}),
        Module(name="u", status=Status.UNKNOWN),
    ]
    done = await _run(run, apis, "list")
    assert done.exit_code == 0, done.output
    rows = done.stdout.splitlines()
    assert rows[0] == "NAME                       STATUS           DESCRIPTION             Config"
    assert rows[1] == "a-module-with-a-long-name  failed           Failed (3) 2 hours ago  "
    assert rows[4] == "program                    stopped          Stopped 3 minutes ago   sleep 9"
    assert rows[5] == "temperature                running          Up 5 hours              reg/t:1"
    assert rows[6].split() == ["u", "unknown", "Unknown"]
    apis.runtime.found = [_module("gone", Status.DEAD, 120)]
    assert (await _run(run, apis, "list")).stdout.splitlines()[-1].split()[:2] == ["gone", "dead"]
    assert "Stopped 2 minutes ago" in (await _run(run, apis, "list")).stdout


async def test_columns_are_as_wide_as_the_official_ones(run: Run, apis: Apis) -> None:
    """Fifteen characters and a gap of two, as scripts that cut columns know them."""
    apis.runtime.found = []
    rows = (await _run(run, apis, "list")).stdout.splitlines()
    assert rows[0] == "NAME             STATUS           DESCRIPTION      Config"
    assert rows[1].startswith("edgeAgent        running          Up ")


async def test_names_cannot_steer_a_terminal(run: Run, apis: Apis) -> None:
    apis.runtime.found = [_module("m", Status.RUNNING, settings={"image": "\x1b[2J"})]
    assert "\x1b" not in (await _run(run, apis, "list")).stdout


async def test_logs(run: Run, apis: Apis) -> None:
    apis.runtime.found = [_module("m", Status.RUNNING)]
    apis.runtime.lines = [LogChunk(1, b"out\n"), LogChunk(2, b"err\n")]
    done = await _run(run, apis, "logs", "m", "--tail", "5", "--since", "1 day")
    assert (done.stdout, done.stderr) == ("out\nerr\n", "")
    assert apis.runtime.wanted == [LogRange(tail=5, since=NOW - dt.timedelta(days=1))]
    await _run(run, apis, "logs", "m", "--until", "1h")
    assert apis.runtime.wanted[1:] == [
        LogRange(since=NOW - dt.timedelta(days=1), until=NOW - dt.timedelta(hours=1))
    ]
    bad = await _run(run, apis, "logs", "m", "--since", "soon")
    assert bad.exit_code == 1
    assert bad.stderr.startswith("Could not retrieve logs of m\n\tcaused by: 'soon' is no time")


async def test_restart(run: Run, apis: Apis) -> None:
    apis.runtime.found = [_module("m", Status.RUNNING)]
    assert (await _run(run, apis, "restart", "m")).stdout == "Restarted m\n"
    assert apis.runtime.calls == [("stop", "m"), ("start", "m")]
    bad = await _run(run, apis, "restart", "nothing")
    assert bad.stderr == (
        "Could not restart nothing\n\tcaused by: there is no module 'nothing'\n\n"
    )


async def test_what_the_daemon_says_is_passed_on(run: Run, apis: Apis) -> None:
    apis.runtime.failure = EngineError("the engine does not answer", 503)
    done = await _run(run, apis, "list")
    assert done.exit_code == 1
    assert done.stderr == ("Could not list modules\n\tcaused by: the engine does not answer\n\n")


def test_no_daemon(run: Run, tmp_path: Path) -> None:
    done = run("-H", f"unix://{tmp_path}/none.sock", "list")
    assert done.exit_code == 1
    assert done.stderr == (
        "Could not list modules\n\tcaused by: The daemon does not answer\n"
        f"\tcaused by: nobody listens on {tmp_path}/none.sock\n"
        "\tcaused by: see whether it runs: iotedge system status\n\n"
    )
    assert "must be unix:///path" in run("-H", "http://localhost:1", "list").stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (12, "12 seconds"),
        (20, "20 seconds"),
        (21, "21 seconds"),
        (46, "a minute"),
        (91, "2 minutes"),
        (300, "5 minutes"),
        (2701, "an hour"),
        (5401, "2 hours"),
        (80_000, "a day"),
        (172_800, "2 days"),
        (7 * 86_400, "a week"),
        (20 * 86_400, "2 weeks"),
        (30 * 86_400, "a month"),
        (90 * 86_400, "3 months"),
        (350 * 86_400, "a year"),
        (800 * 86_400, "2 years"),
        (-5, "0 seconds"),
    ],
)
def test_spans(seconds: int, words: str) -> None:
    assert span(dt.timedelta(seconds=seconds)) == words
