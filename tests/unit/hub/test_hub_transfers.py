"""Imports and exports of identities (hub-service.md 1.3, 1.8)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.errors import UnavailableError
from muster.hub import import_work, job_runner
from muster.hub.blobs import IDENTITY_FILES, BlobRef
from unit.hub.hub_parts import KEY
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unit.hub.hub_parts import Parts

OVER = {"completed", "failed", "cancelled"}


@pytest.fixture(autouse=True)
async def _running(parts: Parts) -> AsyncIterator[None]:
    task = asyncio.ensure_future(parts.scheduling.run())
    yield
    task.cancel()
    await asyncio.wait([task])


async def container(rest: Rest) -> str:
    uri: str = (await rest.must("POST", "/admin/v1/identity-files"))["containerUri"]
    assert uri.startswith(f"https://hub.example/{IDENTITY_FILES}?sv=")
    return uri


async def over(rest: Rest, created: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            job: dict[str, Any] = await rest.must("GET", f"/jobs/{created['jobId']}")
            if job["status"] in OVER:
                return job
            await asyncio.sleep(0.002)


async def export(rest: Rest, **options: Any) -> dict[str, Any]:
    body = {"type": "export", "outputBlobContainerUri": await container(rest), **options}
    return await over(rest, await rest.must("POST", "/jobs/create", body))


async def put(parts: Parts, content: bytes, name: str = "devices.txt") -> None:
    async def once() -> AsyncIterator[bytes]:
        yield content

    await parts.blobs.put(BlobRef(1, IDENTITY_FILES, name), once())


async def read(parts: Parts, name: str) -> list[dict[str, Any]]:
    chunks = [chunk async for chunk in parts.blobs.content(BlobRef(1, IDENTITY_FILES, name))]
    return [json.loads(line) for line in b"".join(chunks).splitlines()]


async def imported(
    parts: Parts, rest: Rest, *lines: dict[str, Any] | str, **options: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Import; return the job and its errors."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    await put(parts, "\n".join(texts).encode())
    uri = await container(rest)
    body = {"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri}
    job = await over(rest, await rest.must("POST", "/jobs/create", {**body, **options}))
    return job, await read(parts, "importErrors.log")


async def test_what_was_exported_can_be_imported(parts: Parts, rest: Rest) -> None:
    await parts.device("edge", edge=True)
    for number in range(250):
        await parts.device(f"d{number:03}")
    await parts.module("d007", "m1")
    scope = (await rest.must("GET", "/devices/edge"))["deviceScope"]
    await parts.device("child", edge=True, parent_scopes=[scope])
    own = (await rest.must("GET", "/devices/child"))["deviceScope"]
    await parts.device("a-leaf", device_scope=own)
    await rest.must(
        "PATCH", "/twins/d007", {"tags": {"a": 1}, "properties": {"desired": {"b": [2]}}}
    )
    await rest.must("PATCH", "/twins/edge/modules/$edgeHub", {"properties": {"desired": {"c": 3}}})
    job = await export(rest)
    assert (job["status"], job["progress"], job["type"]) == ("completed", 100, "export")
    assert job["outputBlobName"] == "devices.txt"
    assert "sig=" not in job["outputBlobContainerUri"]
    lines = await read(parts, "devices.txt")
    assert len(lines) == 258
    by_name = {(each["id"], each.get("moduleId")): each for each in lines}
    line = by_name["d007", None]
    assert line["authentication"]["symmetricKey"]["primaryKey"] == KEY
    assert (line["tags"], line["properties"]["desired"]["b"]) == ({"a": 1}, [2])
    assert line["capabilities"] == {"iotEdge": False}
    assert by_name["edge", None]["deviceScope"].startswith("ms-azure-iot-edge://edge-")
    hub_keys = by_name["edge", "$edgeHub"]["authentication"]["symmetricKey"]

    for device_id in ("a-leaf", "child", "edge", "d007"):
        await rest.must("DELETE", f"/devices/{device_id}", if_match="*")
    uri = await container(rest)
    body = {"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri}
    job = await over(rest, await rest.must("POST", "/jobs/create", body))
    assert (job["status"], await read(parts, "importErrors.log")) == ("completed", [])
    twin = await rest.must("GET", "/twins/d007")
    assert (twin["tags"], twin["properties"]["desired"]["b"]) == ({"a": 1}, [2])
    edge, child, leaf = [
        await rest.must("GET", f"/devices/{name}") for name in ("edge", "child", "a-leaf")
    ]
    assert edge["deviceScope"] != scope
    assert child["parentScopes"] == [edge["deviceScope"]]
    assert leaf["deviceScope"] == child["deviceScope"]
    module = await rest.must("GET", "/devices/d007/modules/m1")
    assert module["authentication"]["symmetricKey"]["primaryKey"] == KEY
    module = await rest.must("GET", "/devices/edge/modules/$edgeHub")
    assert module["authentication"]["symmetricKey"] == hub_keys
    twin = await rest.must("GET", "/twins/edge/modules/$edgeHub")
    assert twin["properties"]["desired"]["c"] == 3


async def test_an_export_without_keys(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await export(rest, excludeKeysInExport=True, outputBlobName="lists/1.txt")
    (line,) = await read(parts, "lists/1.txt")
    assert line["authentication"]["symmetricKey"] is None
    assert KEY not in json.dumps(line)


async def test_modes_and_errors(parts: Parts, rest: Rest) -> None:
    await parts.device("there")
    await parts.device("gone")
    job, errors = await imported(
        parts,
        rest,
        # Some editors begin a file with this mark.
        '\ufeff{"id": "there", "importMode": "create"}',
        {"id": "new", "importMode": "create", "status": "disabled"},
        {"id": "new", "moduleId": "m1"},
        {"id": "new", "importMode": "updateTwin", "tags": {"a": 1}},
        {"id": "new", "importMode": "update", "status": "enabled"},
        "",
        "{not json",
        {"id": "gone", "importMode": "delete"},
        {"id": "no such", "importMode": "update"},
        {"id": "there", "importMode": "nonsense"},
    )
    assert (job["status"], job["inputBlobName"]) == ("completed", "devices.txt")
    codes = sorted((each["deviceId"], each["errorCode"]) for each in errors)
    assert codes == [
        ("", "IotHubFormatError"),
        ("no such", "ArgumentInvalid"),
        ("there", "ArgumentInvalid"),
        ("there", "DeviceAlreadyExists"),
    ]
    assert "Line 7" in next(each["errorStatus"] for each in errors if not each["deviceId"])
    assert (await rest.must("GET", "/devices/new"))["status"] == "enabled"
    assert (await rest.must("GET", "/twins/new"))["tags"] == {"a": 1}
    assert (await rest.must("GET", "/devices/new/modules/m1"))["moduleId"] == "m1"
    assert (await rest.call("GET", "/devices/gone")).status == 404
    # These are not what a job has done to devices.
    query = {"query": "SELECT * FROM devices.jobs"}
    assert await rest.must("POST", "/devices/query", query) == []


async def test_an_import_goes_on_after_the_window_it_has_noted(
    parts: Parts, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_work, "WINDOW", 2)
    seen: list[str] = []
    parts.changes.subscribe(lambda change: seen.append(change.ref.device_id))
    original = parts.bulk.run
    monkeypatch.setattr(job_runner, "RETRY_S", 0.0)
    failures = [UnavailableError("The disk is tired.")]

    async def run(hub: int, entries: list[Any]) -> Any:
        if any(each.id == "d4" for each in entries) and failures:
            raise failures.pop()
        return await original(hub, entries)

    monkeypatch.setattr(type(parts.bulk), "run", lambda _self, hub, entries: run(hub, entries))
    lines = [{"id": f"d{number}", "importMode": "create"} for number in range(7)]
    job, errors = await imported(parts, rest, *lines)
    assert (job["status"], errors) == ("completed", [])
    assert not failures
    assert seen == [f"d{number}" for number in range(7)]


async def test_refusals_and_lists(rest: Rest) -> None:
    uri = await container(rest)

    async def refused(**body: Any) -> tuple[int, str]:
        return (await rest.call("POST", "/jobs/create", body)).error

    wrong = (400, "BlobContainerValidationError")
    for bad in (
        None,
        "https://account.blob.core.windows.net/container?sig=x",
        uri.replace(IDENTITY_FILES, "device-files"),
        uri.partition("?")[0],
        uri.replace("sp=rcwdl", "sp=rw"),
        "https://[",
    ):
        assert await refused(type="export", outputBlobContainerUri=bad) == wrong, bad
        assert (
            await refused(type="import", inputBlobContainerUri=bad, outputBlobContainerUri=uri)
            == wrong
        )
    assert await refused(type="backup", outputBlobContainerUri=uri) == (400, "ArgumentInvalid")
    assert await refused(type="export", outputBlobContainerUri=uri, includeConfigurations=True) == (
        400,
        "ArgumentInvalid",
    )
    assert (
        await rest.call("POST", "/admin/v1/identity-files", policy="registryRead")
    ).status == 401
    await export(rest)
    body = {"type": "import", "inputBlobContainerUri": uri, "outputBlobContainerUri": uri}
    created = await rest.must("POST", "/jobs/create", {**body, "inputBlobName": "none.txt"})
    job = await over(rest, created)
    assert (job["status"], job["failureReason"]) == (
        "failed",
        "The specified blob does not exist.",
    )
    listed = await rest.must("GET", "/jobs")
    assert [each["type"] for each in listed] == ["import", "export"]
    assert (await rest.call("GET", f"/jobs/v2/{job['jobId']}")).error == (404, "JobNotFound")
    assert (await rest.call("GET", "/jobs/no")).error == (404, "JobNotFound")
    assert (await rest.call("DELETE", f"/jobs/{job['jobId']}")).error == (
        412,
        "JobRunPreconditionFailed",
    )
