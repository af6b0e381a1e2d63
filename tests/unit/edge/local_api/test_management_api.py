from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
from typing import Any

import pytest

from muster.edge.engine.base import EngineError, LogChunk, LogRange, Module, Status
from muster.edge.upstream.base import HubError, NoLinkError
from muster.net.tasks import spawn
from unit.edge.local_api.conftest import START, Answer, Apis, ask


def _json(answer: Answer, status: int = 200) -> Any:
    assert answer.status == status, answer.body
    return json.loads(answer.body)


async def test_modules(apis: Apis) -> None:
    apis.runtime.found = [
        Module(
            name="temperature",
            status=Status.FAILED,
            description="Exited (3) 2 minutes ago",
            exit_code=3,
            started_at=START,
            exited_at=START + dt.timedelta(seconds=5),
            settings={"image": "i:1", "imageHash": "sha256:1", "createOptions": "{secret}"},
        ),
        Module(name="new", status=Status.UNKNOWN),
    ]
    found = _json(await apis.manage("GET", "/modules"))["modules"]
    assert [module["name"] for module in found] == ["edgeAgent", "edgeHub", "new", "temperature"]
    assert found[3] == {
        "id": "id",
        "name": "temperature",
        "type": "docker",
        "config": {"settings": {"image": "i:1", "imageHash": "sha256:1"}, "env": []},
        "status": {
            "startTime": "2026-11-25T12:00:00Z",
            "exitStatus": {"exitTime": "2026-11-25T12:00:05Z", "statusCode": "3"},
            "runtimeStatus": {"status": "failed", "description": "Exited (3) 2 minutes ago"},
        },
    }
    assert found[2]["status"] == {"runtimeStatus": {"status": "unknown", "description": ""}}
    assert _json(await apis.manage("GET", "/modules/temperature")) == found[3]
    assert "there is no module 'x'" in _json(await apis.manage("GET", "/modules/x"), 404)["message"]


async def test_start_stop_restart(apis: Apis) -> None:
    apis.runtime.found = [Module(name="m", status=Status.RUNNING)]
    for verb in ("start", "stop", "restart"):
        assert (await apis.manage("POST", f"/modules/m/{verb}")).status == 204
    assert apis.runtime.calls == [("start", "m"), ("stop", "m"), ("stop", "m"), ("start", "m")]
    assert (await apis.manage("POST", "/modules/edgeHub/restart")).status == 204
    assert apis.built_in.restarts == 1
    refused = _json(await apis.manage("POST", "/modules/edgeAgent/restart"), 409)
    assert refused["message"].endswith("use `iotedge system restart`")
    assert (await apis.manage("POST", "/modules/x/stop")).status == 404


async def test_logs_are_framed_as_the_engine_does(apis: Apis) -> None:
    apis.runtime.found = [Module(name="m", status=Status.RUNNING)]
    apis.runtime.lines = [LogChunk(1, b"out\n"), LogChunk(2, b"wrong\n")]
    answer = await apis.manage(
        "GET", "/modules/m/logs?follow=true&tail=7&since=2%20hours&until=1764072000&timestamps=true"
    )
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body == b"\1\0\0\0\0\0\0\4out\n" + b"\2\0\0\0\0\0\0\6wrong\n"
    assert apis.runtime.wanted == [
        LogRange(
            follow=True,
            tail=7,
            since=START - dt.timedelta(hours=2),
            until=dt.datetime.fromtimestamp(1764072000, dt.UTC),
            timestamps=True,
        )
    ]
    await apis.manage("GET", "/modules/m/logs?since=0&tail=all")
    assert apis.runtime.wanted[1] == LogRange()
    assert b"daemon" in (await apis.manage("GET", "/modules/edgeAgent/logs")).body


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("tail=-1", "tail must be a number of lines, or all"),
        (f"tail={'9' * 5000}", "tail must be a number of lines, or all"),
        ("since=soon", "'soon' is no time"),
        ("follow=1", "follow must be true or false"),
    ],
)
async def test_bad_log_queries(query: str, said: str, apis: Apis) -> None:
    apis.runtime.found = [Module(name="m", status=Status.RUNNING)]
    answer = await apis.manage("GET", f"/modules/m/logs?{query}")
    assert said in _json(answer, 400)["message"]


async def test_an_engine_that_is_away(apis: Apis) -> None:
    apis.runtime.failure = EngineError("the engine does not answer", 503)
    for target in ("/modules", "/modules/m/logs"):
        answer = await apis.manage("GET", target)
        assert _json(answer, 503) == {"message": "the engine does not answer"}


async def test_identities(apis: Apis) -> None:
    found = _json(await apis.manage("GET", "/identities/"))
    assert found == {
        "identities": [
            {
                "moduleId": "temperature",
                "managedBy": "iotedge",
                "generationId": "g1",
                "authType": "sas",
            }
        ]
    }
    apis.identities.failure = HubError("no", 401)
    assert _json(await apis.manage("GET", "/identities/"), 500)["message"].endswith("refuses: no")
    apis.identities.failure = NoLinkError("away")
    assert (await apis.manage("GET", "/identities/")).status == 503


async def test_system_info(apis: Apis) -> None:
    found = _json(await apis.manage("GET", "/systeminfo?api-version=2018-06-28"))
    assert found["osType"] == "linux"
    assert found["architecture"] == os.uname().machine
    assert found["server_version"] == "27.1"
    assert found["site"] == "plant 7"
    assert found["cpus"] == os.cpu_count()
    assert found["total_memory"] > 1 << 20
    assert found["provisioning"] == {
        "type": "manual",
        "dynamicReprovisioning": True,
        "alwaysReprovisionOnStartup": False,
    }


async def test_resources(apis: Apis) -> None:
    apis.clock.advance(7)
    found = _json(await apis.manage("GET", "/systeminfo/resources"))
    assert found["process_uptime"] == 7
    assert found["host_uptime"] > 0
    assert 0 <= found["used_cpu"] <= 100
    assert 0 < found["used_ram"] < found["total_ram"]
    assert json.loads(found["docker_stats"]) == [{"name": "temperature"}]
    for disk in found["disks"]:
        assert set(disk) == {
            *("name", "available_space", "total_space", "file_system", "file_type")
        }
    answer = await apis.manage("GET", "/systeminfo/resources?api-version=2019-10-22")
    assert answer.status == 404


async def test_a_support_bundle_is_sent_once(apis: Apis) -> None:
    answer = await apis.manage("GET", "/systeminfo/supportbundle?since=1d&edge_runtime_only=true")
    assert answer.body == b"PK"
    assert answer.headers["content-type"] == "application/zip"
    assert apis.bundles == [(START - dt.timedelta(days=1), None, True)]
    assert not (apis.directory / "bundle.zip").exists()


async def test_reprovision(apis: Apis) -> None:
    assert (await apis.manage("POST", "/device/reprovision")).status == 200
    assert apis.reprovisions == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_reprovision_is_for_root_and_our_own_user(apis: Apis) -> None:
    apis.directory.chmod(0o711)
    apis.management.chmod(0o666)
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'POST /device/reprovision?api-version=2022-08-03 HTTP/1.1\\r\\n'\n"
        "  b'host: x\\r\\nconnection: close\\r\\ncontent-length: 0\\r\\n\\r\\n')\n"
        "sys.stdout.buffer.write(s.recv(100))\n"
    )
    child = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "python3", "-c", code, str(apis.management)),
        stdout=asyncio.subprocess.PIPE,
        user=65_534,
        group=65_534,
        extra_groups=[],
    )
    out, _ = await child.communicate()
    assert out.startswith(b"HTTP/1.1 403 ")
    assert apis.reprovisions == 0


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/modules"),
        ("PUT", "/modules/m"),
        ("DELETE", "/modules/m"),
        ("POST", "/modules/m/prepareupdate"),
        ("POST", "/identities/"),
        ("PUT", "/identities/m"),
        ("DELETE", "/identities/m"),
    ],
)
async def test_what_is_for_the_agent_alone(method: str, target: str, apis: Apis) -> None:
    assert _json(await apis.manage(method, target, "{}"), 403) == {"message": "forbidden"}


async def test_what_is_not_there(apis: Apis) -> None:
    answer = await ask(apis.management, "PATCH", "/modules?api-version=2018-06-28")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, POST"


async def test_what_the_agent_is_changing_is_waited_for(apis: Apis) -> None:
    apis.runtime.found = [Module(name="m", status=Status.RUNNING)]
    async with apis.locks.hold("m"):
        waiting = spawn(apis.manage("POST", "/modules/m/restart"), "a call of somebody's")
        await asyncio.sleep(0.1)
        assert apis.runtime.calls == []
        # Gone meanwhile: what counts is what is there afterwards.
        apis.runtime.found = []
    assert (await waiting).status == 404
    assert apis.runtime.calls == []
