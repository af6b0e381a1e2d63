"""Jobs over devices: REST, the choice of devices, twins, methods (hub-service.md 1.8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from muster.hub import job_runner, job_work
from muster.hub.changes import TwinChanged
from muster.hub.endpoints.errors import job_error
from muster.hub.scheduling import Scheduling
from muster.hub.twin_batches import TwinBatches, TwinPatch
from muster.model.identity import IdentityRef
from muster.model.job import HISTORY_S
from muster.wire.mqtt.packets import Publish, Subscribe
from unit.hub.hub_rest import Rest
from unit.hub.test_hub_methods import answer, asked, subscribed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from unit.hub.hub_parts import Parts

UPDATE = {"type": "scheduleUpdateTwin", "updateTwin": {"etag": "*", "tags": {"wave": 1}}}
CALL = {"type": "scheduleDeviceMethod", "cloudToDeviceMethod": {"methodName": "reboot"}}


@pytest.fixture
async def _running(parts: Parts) -> AsyncIterator[None]:
    task = asyncio.ensure_future(parts.scheduling.run())
    yield
    await stopped(task)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def create(rest: Rest, job_id: str, body: dict[str, Any], condition: str = "*") -> Any:
    body = {"jobId": job_id, "queryCondition": condition, **body}
    return await rest.must("PUT", f"/jobs/v2/{job_id}", body)


async def job(
    rest: Rest, job_id: str, until: Callable[[dict[str, Any]], bool] | None = None
) -> dict[str, Any]:
    """Return a job as soon as it is over, or as something else holds."""
    async with asyncio.timeout(20):
        while True:
            found: dict[str, Any] = await rest.must("GET", f"/jobs/v2/{job_id}")
            over = found["status"] in {"completed", "failed", "cancelled"}
            if until(found) if until else over:
                return found
            await asyncio.sleep(0.002)


def counts(found: dict[str, Any]) -> tuple[int, ...]:
    """Return how many devices there are, succeeded, failed, running, pending."""
    shown = found["deviceJobStatistics"]
    names = ("deviceCount", "succeededCount", "failedCount", "runningCount", "pendingCount")
    return tuple(shown[name] for name in names)


async def rows(rest: Rest, condition: str) -> list[dict[str, Any]]:
    query = f"SELECT * FROM devices.jobs WHERE {condition}"
    reply = await rest.call("POST", "/devices/query", {"query": query})
    assert reply.status == 200, reply.body
    assert reply.headers["x-ms-item-type"] == "DeviceJob"
    return list(reply.json)


@pytest.mark.usefixtures("_running")
async def test_twins_of_all_that_match_are_updated(parts: Parts, rest: Rest) -> None:
    for name in ("d1", "d2", "d3"):
        await parts.device(name)
        site = "b" if name == "d3" else "a"
        await rest.must("PATCH", f"/twins/{name}", {"tags": {"site": site}})
    client = await parts.connect(IdentityRef(1, "d1"))
    client.send(Subscribe(1, [("$iothub/twin/PATCH/properties/desired/#", 0)]))
    await client.take()
    # The patch makes the condition false, which must not keep others from it.
    patch = {"tags": {"site": "c", "deviceId": "x"}, "properties": {"desired": {"level": 3}}}
    body = {"type": "scheduleUpdateTwin", "updateTwin": {"deviceId": None, "etag": "*", **patch}}
    created = await create(rest, "j1", body, "tags.site = 'a'")
    assert created["updateTwin"] == body["updateTwin"]
    assert created["maxExecutionTimeInSeconds"] == 3600
    found = await job(rest, "j1")
    assert (found["status"], counts(found)) == ("completed", (2, 2, 0, 0, 0))
    assert found["endTime"] >= found["startTime"] >= found["createdTime"]
    for name, site in (("d1", "c"), ("d2", "c"), ("d3", "b")):
        twin = await rest.must("GET", f"/twins/{name}")
        assert twin["tags"]["site"] == site
        assert twin["properties"]["desired"].get("level") == (None if name == "d3" else 3)
    (told,) = await client.take()
    assert isinstance(told, Publish)
    assert told.payload == b'{"level":3,"$version":2}'
    done = await rows(rest, "jobId = 'j1' AND deviceId = 'd2'")
    assert [(each["deviceId"], each["status"], each["jobType"]) for each in done] == [
        ("d2", "completed", "scheduleUpdateTwin")
    ]
    assert await rows(rest, "jobId = 'j1' AND status = 'failed'") == []


@pytest.mark.usefixtures("_running")
async def test_modules_are_chosen_by_their_collection(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.module("d1", "m1")
    await create(rest, "j1", UPDATE, "FROM devices.modules WHERE moduleId = 'm1'")
    assert counts(await job(rest, "j1")) == (1, 1, 0, 0, 0)
    assert (await rest.must("GET", "/twins/d1/modules/m1"))["tags"] == {"wave": 1}
    assert (await rest.must("GET", "/twins/d1"))["tags"] == {}
    (row,) = await rows(rest, "devices.jobs.moduleId = 'm1'")
    assert (row["deviceId"], row["moduleId"]) == ("d1", "m1")


@pytest.mark.usefixtures("_running")
async def test_what_a_twin_does_not_take_fails_for_that_device(parts: Parts, rest: Rest) -> None:
    await parts.device("full")
    await parts.device("other")
    big = {str(number): "x" * 3900 for number in range(2)}
    await rest.must("PATCH", "/twins/full", {"tags": big})
    await create(rest, "j1", {**UPDATE, "updateTwin": {"tags": {"more": "y" * 1000}}})
    found = await job(rest, "j1")
    assert (found["status"], counts(found)) == ("completed", (2, 1, 1, 0, 0))
    (row,) = await rows(rest, "error.code = 'ArgumentInvalid'")
    assert row["deviceId"] == "full"
    assert "tags would be" in row["error"]["description"]


@pytest.mark.usefixtures("_running")
async def test_a_job_starts_when_its_time_has_come(parts: Parts, rest: Rest) -> None:
    await parts.device()
    body = {**UPDATE, "startTime": "2023-11-14T23:00:00"}
    assert (await create(rest, "j1", body))["status"] == "scheduled"
    await create(rest, "j2", UPDATE)
    await job(rest, "j2")
    assert (await job(rest, "j1", bool))["status"] == "scheduled"
    # It finds devices that were not there when it was created.
    await parts.device("d2")
    parts.clock.advance(3600)
    parts.scheduling.jobs.wake.set()
    assert counts(await job(rest, "j1")) == (2, 2, 0, 0, 0)


@pytest.mark.usefixtures("_running")
async def test_methods_of_all_that_match_are_called(parts: Parts, rest: Rest) -> None:
    for name in ("d1", "d2", "d3"):
        await parts.device(name)
    clients = [await subscribed(parts, IdentityRef(1, name)) for name in ("d1", "d2")]
    call = {"methodName": "reboot", "payload": {"n": 1.0}, "responseTimeoutInSeconds": 20}
    await create(rest, "j1", {**CALL, "cloudToDeviceMethod": call}, "STARTSWITH(deviceId, 'd')")
    _, request_id, payload = await asked(clients[0])
    assert payload in {b'{"n":1.0}', b'{"n": 1.0}'}
    answer(clients[0], request_id, 200, b'{"ok":true}')
    found = await job(rest, "j1", lambda each: counts(each) == (3, 1, 1, 1, 0))
    assert found["status"] == "running"
    (row,) = await rows(rest, "jobId = 'j1' AND deviceId = 'd2'")
    assert (row["status"], "endTimeUtc" in row) == ("running", False)
    _, request_id, _ = await asked(clients[1])
    answer(clients[1], request_id, 500, b"[1]")
    found = await job(rest, "j1")
    assert (found["status"], counts(found)) == ("completed", (3, 2, 1, 0, 0))
    (row,) = await rows(rest, "outcome.deviceMethodResponse.status = 500")
    assert (row["deviceId"], row["outcome"]) == (
        "d2",
        {"deviceMethodResponse": {"status": 500, "payload": [1]}},
    )
    (row,) = await rows(rest, "is_defined(error)")
    assert (row["deviceId"], row["error"]["code"]) == ("d3", "DeviceNotOnline")


@pytest.mark.usefixtures("_running")
async def test_a_cancelled_job_begins_nothing_more(
    parts: Parts, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_work, "CALLS_AT_ONCE", 1)
    for name in ("d1", "d2"):
        await parts.device(name)
    clients = [await subscribed(parts, IdentityRef(1, name)) for name in ("d1", "d2")]
    await create(rest, "j1", CALL)
    _, request_id, _ = await asked(clients[0])
    cancelled = await rest.must("POST", "/jobs/v2/j1/cancel")
    assert (cancelled["status"], counts(cancelled)) == ("cancelled", (2, 0, 0, 1, 1))
    answer(clients[0], request_id)
    found = await job(rest, "j1", lambda each: counts(each)[3] == 0)
    # What was under way has its outcome; the rest never was.
    assert (found["status"], counts(found)) == ("cancelled", (2, 1, 0, 0, 1))
    statuses = {each["deviceId"]: each["status"] for each in await rows(rest, "jobId = 'j1'")}
    assert statuses == {"d1": "completed", "d2": "canceled"}
    assert (await rest.must("POST", "/jobs/v2/j1/cancel"))["status"] == "cancelled"
    assert clients[1].peer.packets == []


@pytest.mark.usefixtures("_running")
async def test_what_is_not_done_in_time_has_failed(
    parts: Parts, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_work, "CALLS_AT_ONCE", 1)
    for name in ("d1", "d2"):
        await parts.device(name)
    clients = [await subscribed(parts, IdentityRef(1, name)) for name in ("d1", "d2")]
    await create(rest, "j1", {**CALL, "maxExecutionTimeInSeconds": 10})
    _, request_id, _ = await asked(clients[0])
    parts.clock.advance(11)
    answer(clients[0], request_id)
    found = await job(rest, "j1")
    assert (found["status"], counts(found)) == ("failed", (2, 1, 0, 0, 1))
    assert found["failureReason"] == "The job has expired."
    (row,) = await rows(rest, "status = 'failed'")
    assert row["error"] == {
        "code": "JobRunPreconditionFailed",
        "description": "The job has expired.",
    }
    assert clients[1].peer.packets == []


async def test_a_twin_job_goes_on_where_it_was_cut_off(
    parts: Parts, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_work, "TWINS_AT_ONCE", 2)
    monkeypatch.setattr(job_runner, "PAGE", 2)
    for number in range(7):
        await parts.device(f"d{number}")
    await create(rest, "j1", UPDATE)
    seen: list[str] = []
    runners: list[asyncio.Task[None]] = []

    def cut(change: Any) -> None:
        if isinstance(change, TwinChanged):
            seen.append(change.ref.device_id)
            if len(seen) % 2 == 0:
                runners[-1].cancel()

    parts.changes.subscribe(cut)
    for _ in range(8):
        # Each runner is stopped after a batch or so, as a killed process would be.
        runners.append(asyncio.ensure_future(scheduling(parts).run()))
        await asyncio.wait([runners[-1]], timeout=0.2)
    await stopped(runners[-1])
    found = await job(rest, "j1")
    assert (found["status"], counts(found)) == ("completed", (7, 7, 0, 0, 0))
    assert sorted(seen) == [f"d{number}" for number in range(7)]
    for number in range(7):
        assert (await rest.must("GET", f"/twins/d{number}"))["version"] == 3


async def test_who_was_being_called_when_it_was_cut_off_is_not_called_again(
    parts: Parts, rest: Rest
) -> None:
    await parts.device()
    client = await subscribed(parts, IdentityRef(1, "d1"))
    await create(rest, "j1", CALL)
    first = asyncio.ensure_future(scheduling(parts).run())
    await asked(client)
    await stopped(first)
    second = asyncio.ensure_future(scheduling(parts).run())
    found = await job(rest, "j1")
    await stopped(second)
    assert (found["status"], counts(found)) == ("completed", (1, 0, 1, 0, 0))
    (row,) = await rows(rest, "jobId = 'j1'")
    assert row["error"]["code"] == "JobCancelled"
    assert client.peer.packets == []


async def test_a_twin_that_others_change_costs_the_others_nothing(parts: Parts, rest: Rest) -> None:
    refs = [await parts.device(f"d{number}") for number in range(5)]
    told: dict[IdentityRef, Any] = {}
    batches = TwinBatches(
        Meddling(parts, "d3"), parts.clock, parts.connections, parts.changes, parts.twin_catch_up
    )

    def note(outcomes: dict[IdentityRef, Any]) -> list[Any]:
        told.update(outcomes)
        return []

    await batches.patch(1, refs, TwinPatch({"wave": 1}, None), note)
    for ref in refs:
        twin = await rest.must("GET", f"/twins/{ref.device_id}")
        assert twin["tags"].get("wave") == (None if ref.device_id == "d3" else 1)
    assert [ref.device_id for ref, error in told.items() if error] == ["d3"]
    assert told[refs[3]].code == "concurrent-update"


class Meddling:
    """A store in which somebody else writes one twin after each read of it."""

    def __init__(self, parts: Parts, device_id: str) -> None:
        self._parts = parts
        self._device_id = device_id

    async def read(self, query: Any, params: Any) -> Any:
        found = await self._parts.engine.read(query, params)
        if query.name == "twins.some" and f'"{self._device_id}"' in params["refs"]:
            await self._parts.twins.report(IdentityRef(1, self._device_id), {"n": len(found)})
        return found

    async def write(self, *statements: Any) -> None:
        await self._parts.engine.write(*statements)

    async def close(self) -> None:
        await self._parts.engine.close()


@pytest.mark.usefixtures("_running")
async def test_an_etag_is_compared_and_absent_twins_are_told(parts: Parts, rest: Rest) -> None:
    ref = await parts.device()
    twins = TwinBatches(
        parts.engine, parts.clock, parts.connections, parts.changes, parts.twin_catch_up
    )
    outcomes: dict[IdentityRef, Any] = {}

    def note(found: dict[IdentityRef, Any]) -> list[Any]:
        outcomes.update(found)
        return []

    refs = [ref, ref._replace(device_id="no"), ref._replace(module_id="no")]
    await twins.patch(1, refs, TwinPatch({"a": 1}, None, "AAAAAAAAAAk="), note)
    codes = [outcomes[each].code for each in refs]
    assert codes == ["etag-mismatch", "device-not-found", "module-not-found"]
    assert (await rest.must("GET", "/twins/d1"))["tags"] == {}


@pytest.mark.usefixtures("_running")
async def test_no_more_jobs_run_than_may(
    parts: Parts, rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "MAX_RUNNING", 1)
    await parts.device()
    client = await subscribed(parts, IdentityRef(1, "d1"))
    await create(rest, "j1", CALL)
    _, request_id, _ = await asked(client)
    await create(rest, "j2", UPDATE)
    assert (await job(rest, "j2", bool))["status"] == "queued"
    answer(client, request_id)
    assert (await job(rest, "j2"))["status"] == "completed"


@pytest.mark.usefixtures("_running")
async def test_jobs_are_listed_the_newest_first(parts: Parts, rest: Rest) -> None:
    await parts.device()
    for number in range(5):
        await create(rest, f"j{number}", UPDATE if number % 2 else CALL)
        await job(rest, f"j{number}")
    later = {**UPDATE, "startTime": "2099-01-01T00:00:00Z"}
    await create(rest, "later", later)
    path = "/jobs/v2/query"

    async def listed(query: str = "", **headers: str) -> tuple[list[str], str | None]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await rest.call("GET", path, query=f"api-version=2021-04-12{query}", headers=names)
        assert reply.status == 200
        return [each["jobId"] for each in reply.json], reply.headers.get("x-ms-continuation")

    assert await listed() == (["later", "j4", "j3", "j2", "j1", "j0"], None)
    assert await listed("&jobType=scheduleDeviceMethod") == (["j4", "j2", "j0"], None)
    assert await listed("&jobStatus=scheduled&jobType=") == (["later"], None)
    first, token = await listed("&jobStatus=completed", x_ms_max_item_count="3")
    assert token is not None
    rest_of_them = await listed(
        "&jobStatus=completed", x_ms_max_item_count="3", x_ms_continuation=token
    )
    assert (first, rest_of_them) == (["j4", "j3", "j2"], (["j1", "j0"], None))


@pytest.mark.usefixtures("_running")
async def test_results_of_jobs_come_in_pages(parts: Parts, rest: Rest) -> None:
    for number in range(5):
        await parts.device(f"d{number}")
    await create(rest, "j1", UPDATE)
    await job(rest, "j1")
    names: list[str] = []
    headers = {"x-ms-max-item-count": "2"}
    body = {"query": "SELECT TOP 3 * FROM devices.jobs WHERE jobId='j1'"}
    while True:
        reply = await rest.call("POST", "/devices/query", body, headers=headers)
        names += [each["deviceId"] for each in reply.json]
        token = reply.headers.get("x-ms-continuation")
        if token is None:
            break
        headers["x-ms-continuation"] = token
    assert names == ["d0", "d1", "d2"]


@pytest.mark.usefixtures("_running")
async def test_history_ends(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await create(rest, "old", UPDATE)
    await job(rest, "old")
    parts.clock.advance(HISTORY_S - 100)
    await create(rest, "new", UPDATE)
    await job(rest, "new")
    parts.clock.advance(200)
    await parts.scheduling.jobs.forget_old()
    assert (await rest.call("GET", "/jobs/v2/old")).error == (404, "JobNotFound")
    assert [each["jobId"] for each in await rows(rest, "deviceId = 'd1'")] == ["new"]


@pytest.mark.usefixtures("_running")
async def test_refusals(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await create(rest, "j1", UPDATE)
    await job(rest, "j1")

    async def refused(body: dict[str, Any], job_id: str = "j9") -> tuple[int, str]:
        body = {"queryCondition": "*", **body}
        return (await rest.call("PUT", f"/jobs/v2/{job_id}", body)).error

    assert await refused(UPDATE, "j1") == (409, "JobAlreadyExists")
    assert await refused({**UPDATE, "jobId": "j2"}) == (400, "ArgumentInvalid")
    for body in (
        {**UPDATE, "queryCondition": "tags.a ="},
        {**UPDATE, "queryCondition": ""},
        {**UPDATE, "type": "rebootDevice"},
        {**UPDATE, "updateTwin": None},
        {**UPDATE, "updateTwin": {"etag": "*"}},
        {**UPDATE, "updateTwin": {"tags": {"a b": 1}}},
        {**UPDATE, "updateTwin": {"tags": []}},
        {**UPDATE, "startTime": "tomorrow"},
        # Their seconds are those of a year that cannot be written.
        {**UPDATE, "startTime": "9999-12-31T23:59:59.9999999Z"},
        {**UPDATE, "startTime": "9999-12-31T23:59:59-12:00"},
        {**UPDATE, "maxExecutionTimeInSeconds": -1},
        {"type": "scheduleDeviceMethod"},
        {**CALL, "cloudToDeviceMethod": {"methodName": "a b"}},
        {**CALL, "cloudToDeviceMethod": {"methodName": "a", "responseTimeoutInSeconds": 1}},
    ):
        assert await refused(body) == (400, "ArgumentInvalid"), body
    assert (
        await rest.call("PUT", "/jobs/v2/a%20b", {**UPDATE, "queryCondition": "*"})
    ).status == 400
    assert (await rest.call("GET", "/jobs/v2/no")).error == (404, "JobNotFound")
    assert (await rest.call("POST", "/jobs/v2/no/cancel")).error == (404, "JobNotFound")
    assert (await rest.call("POST", "/jobs/v2/j1/cancel")).error == (
        412,
        "JobRunPreconditionFailed",
    )
    listed = await rest.must("GET", "/jobs/v2/query")
    assert [each["jobId"] for each in listed] == ["j1"]
    reply = await rest.call("GET", "/jobs/v2/j1", policy="device")
    assert reply.status == 401
    query = "api-version=2021-04-12&jobStatus=no"
    assert (await rest.call("GET", "/jobs/v2/query", query=query)).status == 400


def scheduling(parts: Parts) -> Scheduling:
    """What a process that has just started makes."""
    return Scheduling(
        parts.engine,
        parts.clock,
        queries=parts.queries,
        twins=TwinBatches(
            parts.engine, parts.clock, parts.connections, parts.changes, parts.twin_catch_up
        ),
        methods=parts.methods,
        error_names=job_error,
        more={},
    )
