from __future__ import annotations

import datetime as dt
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muster.clock import ManualClock
from muster.edge.daemon.support_bundle import SupportBundles, without_secrets
from muster.edge.engine.base import EngineError, LogChunk, LogRange, Module, Status
from muster.edge.local_api.machine import Machine
from unit.edge.local_api.conftest import START, Apis


class _Apis(Apis):
    def bundles_of(self) -> SupportBundles:
        return SupportBundles(self.modules, Machine(self.settings, self.clock), self.clock)


@pytest.fixture
def apis(tmp_path: Path) -> _Apis:
    made = _Apis(tmp_path, ManualClock(START.timestamp()))
    made.runtime.found = [Module(name="temperature", status=Status.RUNNING)]
    made.runtime.lines = [LogChunk(1, b"warm\n")]
    return made


async def _contents(apis: _Apis, **options: Any) -> dict[str, str]:
    since = START - dt.timedelta(days=1)
    path = await apis.bundles_of().make(since, None, **options)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name).decode() for name in archive.namelist()}
    finally:
        path.unlink()


async def test_what_is_in_it(apis: _Apis) -> None:
    found = await _contents(apis, runtime_only=False)
    assert found["logs/temperature_log.txt"] == "warm\n"
    assert found["logs/edgeAgent_log.txt"] == "daemon\n"
    assert json.loads(found["inspect/temperature.json"]) == {"Name": "temperature"}
    assert json.loads(found["runtimes.json"]) == {"docker": {"version": "27.1"}}
    assert json.loads(found["system.json"])["site"] == "plant 7"
    assert json.loads(found["network/plant.json"]) == {"Name": "plant", "Labels": {"token": "***"}}
    names = [module["name"] for module in json.loads(found["modules.json"])]
    assert names == ["edgeAgent", "edgeHub", "temperature"]
    assert apis.runtime.wanted == [LogRange(since=START - dt.timedelta(days=1), timestamps=True)]


@pytest.mark.parametrize(
    ("clock", "dated"),
    [
        (START, START.timetuple()[:6]),
        (dt.datetime(1970, 1, 1, tzinfo=dt.UTC), (1980, 1, 1, 0, 0, 0)),
        (dt.datetime(9999, 1, 1, tzinfo=dt.UTC), (2107, 12, 31, 23, 59, 58)),
    ],
)
async def test_entries_are_dated_by_whatever_clock_there_is(
    clock: dt.datetime, dated: tuple[int, ...], tmp_path: Path
) -> None:
    made = _Apis(tmp_path, ManualClock(clock.timestamp()))
    path = await made.bundles_of().make(None, None, runtime_only=False)
    try:
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist()
            assert {each.date_time for each in archive.infolist()} == {dated}
    finally:
        path.unlink()


async def test_only_the_runtime(apis: _Apis) -> None:
    found = await _contents(apis, runtime_only=True)
    assert sorted(name for name in found if name.startswith("logs/")) == [
        "logs/edgeAgent_log.txt",
        "logs/edgeHub_log.txt",
    ]


async def test_a_log_that_cannot_be_read(apis: _Apis) -> None:
    async def logs(_name: str, _wanted: LogRange) -> AsyncIterator[LogChunk]:
        yield LogChunk(1, b"some\n")
        raise EngineError("the engine is gone", 503)

    apis.runtime.logs = logs  # type: ignore[method-assign]
    found = await _contents(apis, runtime_only=False)
    assert found["logs/temperature_log.txt"] == "some\n\n(no more: the engine is gone)\n"


def test_secrets_stay_at_home() -> None:
    found = without_secrets(
        {
            "Env": ["PATH=/bin", "DB_PASSWORD=hunter2", "EdgeHubConnectionString=HostName=x"],
            "auth": {"username": "u", "password": "p", "SharedAccessKey": "k"},
            "keys": ["a"],
        }
    )
    assert found == {
        "Env": ["PATH=/bin", "DB_PASSWORD=***", "EdgeHubConnectionString=***"],
        "auth": {"username": "u", "password": "***", "SharedAccessKey": "***"},
        "keys": ["a"],
    }
