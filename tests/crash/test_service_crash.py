"""What a running service acknowledged before a kill -9 is there afterwards, and it is there whole.

Devices register, report properties and send telemetry while the service is killed at a random
moment, again and again, and each time started on what the last one left.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any, Final

from service_load import FILTERS, Load, Reporter, Sender, body_of

from muster.wire.mqtt.packets import Publish
from support.device import unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance

    NewInstance = Callable[..., Instance]

KILLS: Final = 4
GROUP: Final = "crash"
TAGS: Final = {"site": "north", "line": {"number": 7}}
DESIRED: Final = {"interval": 30, "limits": {"high": 80, "low": 5}}
EDGE_MODULES: Final = ["$edgeAgent", "$edgeHub"]


async def test_kill_9_under_load(new_instance: NewInstance) -> None:
    seed = random.randrange(1 << 32)
    # Seen when the test fails.
    print(f"seed {seed}")
    moments = random.Random(seed)
    instance = new_instance()
    host = instance.place.hubs[0]
    group_keys = instance.dps.enroll_group(
        GROUP,
        capabilities={"iotEdge": True},
        allocationPolicy="static",
        iotHubs=[host],
        initialTwin={"tags": TAGS, "properties": {"desired": DESIRED}},
    )
    load = Load(
        instance,
        group_keys,
        [Reporter(name, new_device(instance, name)) for name in names("reporter", 4)],
        [Sender(name, new_device(instance, name)) for name in names("sender", 4)],
    )
    for life in range(KILLS):
        await load.live(life, moments.uniform(0.4, 1.6), registrars=6)
        await asyncio.to_thread(instance.start)
        await asyncio.to_thread(check_registrations, instance, load)
    check_telemetry(instance, load)
    check_reported(instance, load)
    await check_subscriptions(instance, load)
    # Whoever was interrupted tries again, and then everything is there.
    for registration_id in load.begun - load.assigned.keys():
        await load.register(registration_id)
    assert load.assigned.keys() == load.begun
    check_identities(instance, load)
    print(
        f"{len(load.assigned)} registrations, "
        f"{sum(each.acknowledged for each in load.reporters)} reports, "
        f"{sum(sum(each.acknowledged) for each in load.senders)} messages"
    )
    assert len(load.assigned) > 20
    assert all(each.acknowledged > 5 for each in load.reporters)
    assert all(sum(each.acknowledged) > 100 for each in load.senders)
    assert "Traceback" not in instance.log_text()


def names(kind: str, count: int) -> list[str]:
    return [unique(f"{kind}-{number}") for number in range(count)]


def new_device(instance: Instance, device_id: str) -> str:
    return instance.hub().create_device(device_id)[0]


def records_of(instance: Instance) -> dict[str, dict[str, Any]]:
    """Return the registration records of the group, all pages of them."""
    found: dict[str, dict[str, Any]] = {}
    headers = {"x-ms-max-item-count": "1000"}
    while True:
        reply = instance.dps.call("POST", f"/registrations/{GROUP}/query", headers=headers)
        assert reply.status == 200
        found |= {each["registrationId"]: each for each in reply.json}
        continuation = reply.headers.get("x-ms-continuation")
        if not continuation:
            return found
        headers["x-ms-continuation"] = continuation


def check_registrations(instance: Instance, load: Load) -> None:
    """Every registration a device saw finished has its record and its identity."""
    records = records_of(instance)
    assert len(load.assigned) < 950, "more than one page of identities: let fewer register"
    identities = {
        each["deviceId"]: each for each in instance.hub().must("GET", "/devices?top=1000")
    }
    for registration_id, told in load.assigned.items():
        record = records[registration_id]
        assert record["status"] == "assigned"
        for name in ("assignedHub", "deviceId", "createdDateTimeUtc", "lastUpdatedDateTimeUtc"):
            assert record[name] == told[name], f"{registration_id}: {name}"
        assert told["deviceId"] in identities
    # The other way round, a record never says more than the hub has.
    assigned = {each["deviceId"] for each in records.values() if each["status"] == "assigned"}
    assert assigned <= identities.keys()
    # Nor is an identity there by halves when nobody was told of it yet.
    for device_id in load.begun & identities.keys() - load.assigned.keys():
        check_identity(instance, identities[device_id])


def check_identities(instance: Instance, load: Load) -> None:
    """Each identity has its keys, its edge modules, and its initial twin."""
    hub = instance.hub()
    identities = {each["deviceId"]: each for each in hub.must("GET", "/devices?top=1000")}
    devices = [each.device_id for each in [*load.reporters, *load.senders]]
    assert identities.keys() == {*load.begun, *devices}
    for device_id in load.begun:
        check_identity(instance, identities[device_id])


def check_identity(instance: Instance, identity: dict[str, Any]) -> None:
    hub, device_id = instance.hub(), identity["deviceId"]
    assert identity["capabilities"] == {"iotEdge": True}
    assert identity["deviceScope"].startswith(f"ms-azure-iot-edge://{device_id}-")
    keys = identity["authentication"]["symmetricKey"]
    assert keys["primaryKey"]
    assert keys["secondaryKey"]
    modules = hub.must("GET", f"/devices/{device_id}/modules")
    assert sorted(each["moduleId"] for each in modules) == EDGE_MODULES
    for module in modules:
        assert module["authentication"]["symmetricKey"]["primaryKey"]
        assert module["generationId"]
    twin = hub.must("GET", f"/twins/{device_id}")
    assert twin["tags"] == TAGS
    desired = twin["properties"]["desired"]
    assert {name: desired[name] for name in DESIRED} == DESIRED
    assert desired["$version"] == 1


def check_telemetry(instance: Instance, load: Load) -> None:
    """The log has what each device sent: everything acknowledged, in order, no gap, no damage."""
    host = instance.place.hubs[0]
    path = f"/admin/v1/events?hub={host}&from=earliest&follow=false"
    reply = instance.dps.call("GET", path)
    assert reply.status == 200
    events = [json.loads(line) for line in reply.body.splitlines() if line.strip()]
    following: dict[int, int] = {}
    logged: dict[str, list[list[dict[str, Any]]]] = {
        each.device_id: [[] for _ in range(KILLS)] for each in load.senders
    }
    order: dict[str, int] = {}
    for event in events:
        partition, sequence = event["partition"], event["sequenceNumber"]
        assert sequence == following.get(partition, sequence), f"a gap in partition {partition}"
        following[partition] = sequence + 1
        device_id, body = event["deviceId"], event["body"]
        assert event["bodyEncoding"] == "json"
        assert event["systemProperties"]["content-type"] == "application/json"
        assert body["life"] >= order.get(device_id, 0)
        order[device_id] = body["life"]
        logged[device_id][body["life"]].append(body)
    for sender in load.senders:
        for life, bodies in enumerate(logged[sender.device_id]):
            expected = [body_of(sender.device_id, life, number) for number in range(len(bodies))]
            assert bodies == expected, f"{sender.device_id} in life {life}"
            assert sender.acknowledged[life] <= len(bodies) <= sender.sent[life]


def check_reported(instance: Instance, load: Load) -> None:
    """Each twin has what was acknowledged, or the report after it, and that as a whole."""
    for reporter in load.reporters:
        reported = instance.hub().must("GET", f"/twins/{reporter.device_id}")["properties"][
            "reported"
        ]
        number = reported["n"]
        assert reporter.acknowledged <= number <= reporter.sent
        assert reported["same"]["n"] == number
        assert reported["same"][f"at{number % 7}"] == number
        # A report that was never answered may be missing, at most one for each kill.
        assert reporter.sent - KILLS <= reported["$version"] - 1 <= reporter.sent


async def check_subscriptions(instance: Instance, load: Load) -> None:
    """A device that does not subscribe again hears of a change made after the last kill."""
    assert len(FILTERS) == 2
    for number, reporter in enumerate(load.reporters):
        assert reporter.subscribed
        wire = await load.reconnect(reporter)
        try:
            patch = {"properties": {"desired": {"wanted": number}}}
            path = f"/twins/{reporter.device_id}"
            await asyncio.to_thread(instance.hub().must, "PATCH", path, patch)
            change = await wire.receive(Publish)
            assert change.topic == "$iothub/twin/PATCH/properties/desired/?$version=2"
            assert json.loads(change.payload) == {"wanted": number, "$version": 2}
        finally:
            wire.close()
