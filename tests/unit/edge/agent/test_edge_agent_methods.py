"""Direct methods of `$edgeAgent` (edge.md 5.4), answered over a runtime in memory."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from muster.clock import ManualClock
from muster.edge.agent import blob_upload
from muster.edge.agent.errands import Errands
from muster.edge.agent.identities import KnownIdentities
from muster.edge.agent.inventory import Inventory
from muster.edge.agent.making import DeviceFacts
from muster.edge.agent.memory import Memory
from muster.edge.agent.methods import Methods
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.reconciler import Reconciler
from muster.edge.agent.store import AgentStore
from muster.edge.engine.base import EngineError, LogChunk, Module, Status
from muster.edge.engine.module_locks import ModuleLocks
from muster.ids import Randomness
from unit.edge.agent.agent_fakes import (
    PATIENCE_S,
    MemoryBundles,
    MemoryEngine,
    MemoryHub,
    MemoryIdentities,
    MemoryLogs,
    MemoryWorkload,
)

VERSION = {"schemaVersion": "1.0"}


class Device:
    def __init__(self, home: Path) -> None:
        self.clock = ManualClock()
        self.metrics = AgentMetrics("hub.example", "dev-1", "1", "0")
        self.engine = MemoryEngine(self.clock)
        for name in ("temperature", "humidity"):
            self.engine.present[name] = Module(name=name, status=Status.RUNNING)
        self.hub = MemoryHub()
        self.restarts: list[str] = []
        self.bundles = MemoryBundles(home)
        inventory = Inventory([self.engine])
        reconciler = Reconciler(
            inventory,
            KnownIdentities(MemoryIdentities()),
            MemoryWorkload(),
            Memory(AgentStore(home), self.clock),
            facts=DeviceFacts(hub_host="hub.example", device_id="dev-1", hostname="gate"),
            locks=ModuleLocks(),
            metrics=self.metrics,
            clock=self.clock,
            changed=lambda: None,
        )
        self.methods = Methods(
            reconciler,
            inventory,
            hub=self.hub,
            restart=lambda: self.restarts.append("agent"),
            own_logs=MemoryLogs(),
            bundles=self.bundles,
            errands=Errands(Randomness()),
            hub_host="hub.example",
            device_id="dev-1",
            trust=ssl.create_default_context,
            metrics=self.metrics,
            timeout_s=lambda: 60,
            clock=self.clock,
        )

    async def call(self, name: str, **payload: Any) -> tuple[int, Any]:
        return await self.methods.answer(name, payload)

    async def outcome(self, correlation_id: str) -> dict[str, Any]:
        """Return the status of an errand when it is over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                payload = {**VERSION, "correlationId": correlation_id}
                _, found = await self.methods.answer("GetTaskStatus", payload)
                if found["status"] != "Running":
                    return dict(found)
                await asyncio.sleep(0.005)


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    one = Device(tmp_path)
    yield one
    await one.methods.close()


async def test_ping(device: Device) -> None:
    for name in ("ping", "PING", "Ping"):
        assert await device.methods.answer(name, None) == (200, None)


async def test_what_there_is_not(device: Device) -> None:
    assert await device.call("FormatDisk") == (
        400,
        {
            "message": "Command 'FormatDisk' not found. The supported commands are - ping,"
            "RestartModule,GetModuleLogs,UploadModuleLogs,UploadSupportBundle,GetTaskStatus"
        },
    )


METHODS = [
    "RestartModule",
    "GetModuleLogs",
    "UploadModuleLogs",
    "UploadSupportBundle",
    "GetTaskStatus",
]


@pytest.mark.parametrize("name", METHODS)
async def test_no_payload(device: Device, name: str) -> None:
    found = await device.methods.answer(name, None)
    assert found == (400, {"message": "Request payload not found"})


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("payload", ["text", [], 3])
async def test_an_odd_payload(device: Device, name: str, payload: Any) -> None:
    status, answer = await device.methods.answer(name, payload)
    assert status == 400
    assert answer["message"].startswith("Error parsing command payload because of error - ")


@pytest.mark.parametrize("name", METHODS)
async def test_schema_versions(device: Device, name: str) -> None:
    status, answer = await device.call(name, id="a")
    assert (status, answer["message"]) == (
        400,
        "Error parsing command payload because of error - schemaVersion is null or whitespace.",
    )
    status, answer = await device.call(name, schemaVersion="2.0")
    assert status == 500
    assert "version 2.0 is not compatible with the expected version 1.0" in answer["message"]
    status, answer = await device.call(name, schemaVersion="two")
    assert status == 500
    assert answer["message"].startswith("Invalid ")


# Restarts.


async def test_a_module_is_restarted(device: Device) -> None:
    assert await device.call("restartmodule", SchemaVersion="1.0", ID="humidity") == (200, None)
    assert device.engine.calls == ["stop humidity", "start humidity"]


async def test_the_edge_hub_is_restarted(device: Device) -> None:
    assert await device.call("RestartModule", **VERSION, id="edgeHub") == (200, None)
    assert device.hub.restarts == 1


async def test_the_agent_itself_is_restarted(device: Device) -> None:
    assert await device.call("RestartModule", **VERSION, id="edgeAgent") == (200, None)
    assert device.restarts == ["agent"]


async def test_restarts_that_cannot_be(device: Device) -> None:
    assert await device.call("RestartModule", **VERSION, id="pressure") == (
        500,
        {"message": "Module pressure not found in the current environment"},
    )
    device.engine.present["fallen"] = Module(name="fallen", status=Status.FAILED)
    assert await device.call("RestartModule", **VERSION, id="fallen") == (
        500,
        {"message": "Module fallen cannot be restarted since it is not running"},
    )
    device.engine.failing["start humidity"] = EngineError("port is already allocated")
    assert await device.call("RestartModule", **VERSION, id="humidity") == (
        500,
        {"message": "port is already allocated"},
    )


# Logs.


async def test_logs_as_text(device: Device) -> None:
    device.engine.lines = {
        "temperature": [LogChunk(1, b"<6> warm\n"), LogChunk(2, b"<3> hot\n")],
        "humidity": [LogChunk(1, b"wet\n")],
    }
    assert await device.call("GetModuleLogs", **VERSION, items=[{"id": "temp"}]) == (
        200,
        [{"id": "temperature", "payload": "<6> warm\n<3> hot\n"}],
    )
    everything = await device.call("GetModuleLogs", **VERSION, items={"id": "ALL"})
    assert everything == (
        200,
        [
            {"id": "edgeAgent", "payload": "<6> edgeAgent speaks\n"},
            {"id": "edgeHub", "payload": "<6> edgeHub speaks\n"},
            {"id": "humidity", "payload": "wet\n"},
            {"id": "temperature", "payload": "<6> warm\n<3> hot\n"},
        ],
    )


async def test_the_first_item_that_matches_counts(device: Device) -> None:
    device.engine.lines = {"temperature": [LogChunk(1, b"<6> warm\n<3> hot\n")]}
    items = [{"id": "^temp", "filter": {"loglevel": 3}}, {"id": "ture$"}]
    _, answer = await device.call("GetModuleLogs", **VERSION, items=items)
    assert answer == [{"id": "temperature", "payload": "<3> hot\n"}]


async def test_logs_as_json_and_compressed(device: Device) -> None:
    device.engine.lines = {"temperature": [LogChunk(2, b"2030-01-31T12:00:00Z <3> hot\n")]}
    _, answer = await device.call(
        "GetModuleLogs",
        **VERSION,
        items=[{"id": "temperature", "filter": {"regex": "h.t"}}],
        encoding="gzip",
        contentType="json",
    )
    packed = base64.b64decode(answer[0]["payloadBytes"])
    (line,) = json.loads(gzip.decompress(packed))
    assert (line["text"], line["stream"], line["timestamp"]) == (
        *("hot", "stderr"),
        "2030-01-31T12:00:00Z",
    )
    assert device.engine.wanted["temperature"].timestamps


async def test_what_a_runtime_can_choose_it_chooses(device: Device) -> None:
    filters = {"tail": 5, "since": "1h", "until": "2023-11-14T22:00:00Z", "includeTimestamp": True}
    await device.call("GetModuleLogs", **VERSION, items=[{"id": "temperature", "filter": filters}])
    wanted = device.engine.wanted["temperature"]
    assert wanted.tail == 5
    assert wanted.since == device.clock.now() - timedelta(hours=1)
    assert wanted.until == datetime(2023, 11, 14, 22, tzinfo=UTC)
    assert wanted.timestamps
    assert not wanted.follow


async def test_too_much_is_refused(device: Device) -> None:
    device.engine.lines = {
        "temperature": [LogChunk(1, b"x" * 99 + b"\n")] * 1269,
        "humidity": [LogChunk(1, b"y" * 99 + b"\n")] * 2,
    }
    status, _ = await device.call("GetModuleLogs", **VERSION, items=[{"id": "temperature"}])
    assert status == 200
    status, answer = await device.call("GetModuleLogs", **VERSION, items=[{"id": "e|u"}])
    assert status == 400
    assert "GetModuleLogs supports up to 127000 bytes" in answer["message"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"items": None}, "items is missing"),
        ({"items": [{"filter": {}}]}, "id is null or whitespace."),
        ({"items": [{"id": "("}]}, "id is not a regular expression"),
        ({"items": [{"id": "a", "filter": {"regex": "["}}]}, "regex is not a regular expression"),
        ({"items": [{"id": "a{99999999999}"}]}, "id is not a regular expression"),
        ({"items": [{"id": "(" * 500 + ")" * 500}]}, "id is not a regular expression"),
        ({"items": [{"id": "a", "filter": {"tail": -1}}]}, "tail is not a whole number"),
        ({"items": [{"id": "a", "filter": {"tail": 10**30}}]}, "tail is not a whole number"),
        (
            {"items": [{"id": "a", "filter": {"since": "0001-01-01T00:00:00+14:00"}}]},
            "is no time",
        ),
        ({"items": [{"id": "a", "filter": {"loglevel": "3"}}]}, "loglevel is not a whole number"),
        ({"items": [{"id": "a", "filter": {"since": 7}}]}, "since is not a string"),
        ({"items": [{"id": "a", "filter": {"since": "noon"}}]}, "since: 'noon' is no time"),
        ({"encoding": "zip"}, "encoding is none of none, gzip"),
        ({"contentType": "xml"}, "contentType is none of text, json"),
    ],
)
async def test_odd_requests_for_logs(device: Device, change: dict[str, Any], words: str) -> None:
    payload = {**VERSION, "items": [{"id": "temperature"}], **change}
    status, answer = await device.methods.answer("GetModuleLogs", payload)
    assert status == 400
    assert words in answer["message"]


async def test_a_runtime_that_cannot_tell(device: Device) -> None:
    device.engine.failing["logs temperature"] = EngineError("the log driver cannot read")
    found = await device.call("GetModuleLogs", **VERSION, items=[{"id": "temperature"}])
    assert found == (500, {"message": "the log driver cannot read"})


# Uploads. The container is a small server here, because it has to refuse on demand.


class Storage:
    """A blob container that keeps what it is sent, or refuses."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.blocks: dict[str, bytes] = {}
        self.status = 201

    async def put(self, request: web.Request) -> web.Response:
        assert request.query["sig"] == "secret+/="
        if self.status != 201:
            return web.Response(status=self.status, headers={"x-ms-error-code": "NoMercy"})
        name = unquote(request.match_info["name"])
        body = await request.read()
        part = request.query.get("comp")
        if part == "block":
            self.blocks[request.query["blockid"]] = body
        elif part == "blocklist":
            ids = [str(each.text) for each in ET.fromstring(body)]
            self.blobs[name] = b"".join(self.blocks[each] for each in ids)
        else:
            assert request.headers["x-ms-blob-type"] == "BlockBlob"
            self.blobs[name] = body
        self.headers[name] = dict(request.headers)
        return web.Response(status=201)


@pytest.fixture
async def storage() -> AsyncIterator[tuple[Storage, str]]:
    one = Storage()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_put("/logs/{name:.*}", one.put)
    async with TestServer(app) as server:
        yield one, f"http://{server.host}:{server.port}/logs?sv=2021&sig=secret%2B%2F%3D"


async def test_logs_are_uploaded(device: Device, storage: tuple[Storage, str]) -> None:
    there, url = storage
    device.engine.lines = {"temperature": [LogChunk(1, b"<6> warm\n")]}
    status, answer = await device.call(
        "UploadModuleLogs",
        **VERSION,
        items={"id": "temperature"},
        encoding="gzip",
        contentType="json",
        sasUrl=url,
    )
    assert status == 200
    assert answer["status"] == "Running"
    assert answer["message"] == ""
    assert (await device.outcome(answer["correlationId"]))["status"] == "Completed"
    name = "hub.example/dev-1/temperature-2023-11-14--22-13-20.json.gz"
    assert json.loads(gzip.decompress(there.blobs[name]))[0]["text"] == "warm"
    assert there.headers[name]["x-ms-blob-content-type"] == "application/json"
    assert there.headers[name]["x-ms-blob-content-encoding"] == "gzip"


async def test_long_logs_are_uploaded_in_blocks(
    device: Device, storage: tuple[Storage, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, url = storage
    monkeypatch.setattr(blob_upload, "BLOCK_SIZE", 1000)
    lines = [LogChunk(1, f"line {number}\n".encode()) for number in range(500)]
    device.engine.lines = {"temperature": lines}
    _, answer = await device.call(
        "UploadModuleLogs", **VERSION, items={"id": "temperature"}, sasUrl=url
    )
    assert (await device.outcome(answer["correlationId"]))["status"] == "Completed"
    (content,) = there.blobs.values()
    assert content == b"".join(chunk.data for chunk in lines)
    assert len(there.blocks) == -(-len(content) // 1000)
    (name,) = there.blobs
    assert name.endswith(".log")


async def test_a_support_bundle_is_uploaded(device: Device, storage: tuple[Storage, str]) -> None:
    there, url = storage
    _, answer = await device.call(
        "UploadSupportBundle", **VERSION, sasUrl=url, since="2d", edgeRuntimeOnly=True
    )
    assert (await device.outcome(answer["correlationId"]))["status"] == "Completed"
    name = "hub.example/dev-1/support-bundle-2023-11-14--22-13-20.zip"
    assert there.blobs[name][:2] == b"PK"
    assert device.bundles.asked == [(device.clock.now() - timedelta(days=2), None, True)]
    assert not (device.bundles.directory / "bundle.zip").exists()


async def test_an_upload_that_is_refused_is_said_without_the_key(
    device: Device, storage: tuple[Storage, str]
) -> None:
    there, url = storage
    there.status = 403
    _, answer = await device.call(
        "UploadModuleLogs", **VERSION, items={"id": "temperature"}, sasUrl=url
    )
    found = await device.outcome(answer["correlationId"])
    assert found["status"] == "Failed"
    assert found["message"] == (
        "Task upload logs failed because of error 127.0.0.1 answers 403 NoMercy"
    )


async def test_an_upload_is_tried_three_times(
    device: Device, storage: tuple[Storage, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, url = storage
    there.status = 503
    monkeypatch.setattr(blob_upload, "_PAUSES_S", (0.01, 0.01))
    _, answer = await device.call("UploadSupportBundle", **VERSION, sasUrl=url)
    found = await device.outcome(answer["correlationId"])
    assert found["status"] == "Failed"
    assert "503" in found["message"]
    assert not (device.bundles.directory / "bundle.zip").exists()


async def test_a_url_that_is_none(device: Device) -> None:
    for url in ("logs", "ftp://a/b", "https://[", "https:///x"):
        status, answer = await device.call("UploadSupportBundle", **VERSION, sasUrl=url)
        assert (status, answer["message"]) == (400, "the SAS URL is no URL of a container")


async def test_a_task_that_nobody_knows(device: Device) -> None:
    assert await device.call("GetTaskStatus", **VERSION, correlationId="x") == (
        200,
        {"status": "Unknown", "message": "", "correlationId": "x"},
    )
