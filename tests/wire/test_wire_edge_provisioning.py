"""How an edge device comes by its identity and its modules, against a running service."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from muster.edge.identity import HUB, DeviceIdentity
from muster.edge.provisioning.module_identities import RememberedModules
from muster.edge.provisioning.provisioner import Origin, Provisioner
from muster.edge.settings import (
    DpsProvisioning,
    Reprovisioning,
    SymmetricKeyAttestation,
)
from muster.edge.state import StateDirectory
from muster.edge.upstream import hub as upstream_hub
from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.base import HubError, Link, NoLinkError
from muster.edge.upstream.errors import RefusedError, UnreachableError
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.registration import Registrar
from muster.ids import Randomness
from support.certificates import ClientCertificate, self_signed
from support.device import unique
from support.edge import ProvisioningOwner, SessionOwner, ShiftedClock, gateway, until
from support.secrets import derive, new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from muster.edge.upstream.login import Gateway
    from support.instance import Instance

SOON = Backoff(first_s=0.1, cap_s=0.3)
NOWHERE = "127.255.255.254"
"""Nobody listens there."""
EDGE = {"capabilities": {"iotEdge": True}}


class Place:
    """A device's part of the runtime that provisions it."""

    def __init__(
        self,
        instance: Instance,
        directory: Path,
        registration_id: str,
        key: str,
        **options: Any,
    ) -> None:
        self.owner = ProvisioningOwner()
        self.state = StateDirectory(directory)
        self.time = HubTime(ShiftedClock(options.pop("clock_shift_s", 0.0)))
        place = instance.place
        address = NOWHERE if options.pop("away", False) else place.address
        settings = DpsProvisioning(
            endpoint=f"https://{place.dps}:{place.https_port}",
            id_scope=options.pop("id_scope", instance.id_scope),
            attestation=SymmetricKeyAttestation(
                registration_id=registration_id, key=base64.b64decode(key)
            ),
            payload=options.pop("payload", None),
        )
        self.registrar = Registrar(
            settings, instance.ca_file, self.time, environment={}, address=address
        )
        self.provisioner = Provisioner(
            settings,
            options.pop("mode", Reprovisioning.DYNAMIC),
            self.state,
            self.registrar,
            owner=self.owner,
            randomness=Randomness(),
            unreachable=SOON,
            refused=SOON,
            **options,
        )

    async def close(self) -> None:
        await self.provisioner.close()


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Callable[..., Place]]:
    """Return a function that puts a device together; all share one directory of state."""
    places: list[Place] = []

    def make(instance: Instance, registration_id: str, key: str, **options: Any) -> Place:
        places.append(Place(instance, tmp_path / "state", registration_id, key, **options))
        return places[-1]

    yield make
    for place in places:
        await place.close()


async def in_time(waiting: Any) -> Any:
    async with asyncio.timeout(50):
        return await waiting


async def test_an_individual_enrollment(
    instance: Instance, device: Callable[..., Place], tmp_path: Path
) -> None:
    registration_id = unique("Edge.Prov")
    key, _ = instance.dps.enroll(registration_id, **EDGE)
    payload = tmp_path / "payload.json"
    payload.write_text('{"site": 7}')
    first = device(instance, registration_id, key, payload=payload)
    found = await in_time(first.provisioner.start())
    assert found.origin is Origin.REGISTERED
    assert found.substatus == "initialAssignment"
    assert not found.moved
    assert found.identity.hub_host in instance.place.hubs
    assert found.identity.device_id == registration_id
    assert found.identity.key == base64.b64decode(key)
    # Nothing of this says the key, neither here nor on the disk.
    assert key not in repr(found)
    assert key not in (tmp_path / "state" / "provisioning.json").read_text()

    # The next start asks nobody.
    again = await in_time(device(instance, registration_id, key, away=True).provisioner.start())
    assert (again.origin, again.identity) == (Origin.BACKUP, found.identity)


async def test_a_device_of_a_group(instance: Instance, device: Callable[..., Place]) -> None:
    group_key, _ = instance.dps.enroll_group(unique("edge-group"), **EDGE)
    registration_id = unique("edge-of-group")
    key = derive(group_key, registration_id)
    found = await in_time(device(instance, registration_id, key).provisioner.start())
    assert found.identity.device_id == registration_id
    assert found.identity.key == base64.b64decode(key)


async def test_another_registration_id_is_another_device(
    instance: Instance, device: Callable[..., Place]
) -> None:
    ids = [unique("edge-one"), unique("edge-two")]
    keys = [instance.dps.enroll(each, **EDGE)[0] for each in ids]
    await in_time(device(instance, ids[0], keys[0]).provisioner.start())
    # The file was edited and the device started: nothing else is to be done (pain 9).
    second = device(instance, ids[1], keys[1])
    found = await in_time(second.provisioner.start())
    assert (found.origin, found.identity.device_id) == (Origin.REGISTERED, ids[1])
    assert found.moved
    # It says so until modules of the first one are gone, also after a crash.
    found = await in_time(device(instance, ids[1], keys[1]).provisioner.start())
    assert found.moved
    await second.provisioner.settled()
    found = await in_time(device(instance, ids[1], keys[1]).provisioner.start())
    assert not found.moved


async def test_a_rejected_device_comes_up_when_it_is_let_in(
    instance: Instance, device: Callable[..., Place]
) -> None:
    registration_id = unique("edge-rejected")
    key, _ = instance.dps.enroll(registration_id, provisioningStatus="disabled", **EDGE)
    place = device(instance, registration_id, key)
    starting = asyncio.ensure_future(place.provisioner.start())
    await until(lambda: len(place.owner.waits) >= 3)
    assert not starting.done()
    assert "refuses" in place.owner.waits[0][0] or "disabled" in place.owner.waits[0][0]
    entry = await asyncio.to_thread(instance.dps.must, "GET", f"/enrollments/{registration_id}")
    await asyncio.to_thread(
        instance.dps.must,
        "PUT",
        f"/enrollments/{registration_id}",
        {**entry, "provisioningStatus": "enabled"},
        if_match="*",
    )
    found = await in_time(starting)
    assert found.identity.device_id == registration_id


async def test_wrong_keys_are_refused_with_the_services_words(
    instance: Instance, device: Callable[..., Place]
) -> None:
    registration_id = unique("edge-wrong")
    instance.dps.enroll(registration_id, **EDGE)
    wrong = new_key()
    with pytest.raises(RefusedError) as refused:
        await in_time(device(instance, registration_id, wrong).registrar.register())
    assert refused.value.status == 401
    assert refused.value.is_final
    assert "tracking ID" in refused.value.message
    place = device(instance, registration_id, wrong, id_scope="0ne0FFFFFFFF")
    with pytest.raises(RefusedError) as refused:
        await in_time(place.registrar.register())
    assert refused.value.status == 401


async def test_nobody_there_and_nobody_to_trust(
    instance: Instance, device: Callable[..., Place]
) -> None:
    registration_id, key = unique("edge-alone"), new_key()
    with pytest.raises(UnreachableError) as nobody:
        await in_time(device(instance, registration_id, key, away=True).registrar.register())
    assert not nobody.value.is_final
    assert not nobody.value.untrusted
    place = instance.place
    settings = DpsProvisioning(
        endpoint=f"https://{place.dps}:{place.https_port}",
        id_scope=instance.id_scope,
        attestation=SymmetricKeyAttestation(
            registration_id=registration_id, key=base64.b64decode(key)
        ),
    )
    registrar = Registrar(
        settings, None, HubTime(ShiftedClock()), environment={}, address=place.address
    )
    with pytest.raises(UnreachableError) as stranger:
        await in_time(registrar.register())
    assert stranger.value.untrusted
    assert "certificate" in stranger.value.message


async def test_a_clock_that_is_hours_wrong(
    instance: Instance, device: Callable[..., Place]
) -> None:
    registration_id = unique("edge-clock")
    key, _ = instance.dps.enroll(registration_id, **EDGE)
    place = device(instance, registration_id, key, clock_shift_s=-7 * 3600.0)
    found = await in_time(place.provisioner.start())
    assert found.identity.device_id == registration_id
    assert abs(place.time.correction_s - 7 * 3600) < 60
    assert place.owner.waits == []


async def test_the_service_is_down_at_boot(
    new_instance: Callable[..., Instance], device: Callable[..., Place]
) -> None:
    instance = await asyncio.to_thread(new_instance)
    registration_id = unique("edge-boot")
    key, _ = await asyncio.to_thread(lambda: instance.dps.enroll(registration_id, **EDGE))
    mode = Reprovisioning.ALWAYS_ON_STARTUP
    first = device(instance, registration_id, key, mode=mode)
    known = await in_time(first.provisioner.start())
    later = device(instance, registration_id, key, mode=mode)
    stranger = device(instance, registration_id, key, id_scope="0ne0FFFFFFFF")
    await asyncio.to_thread(instance.kill9)

    # With a backup it starts, and asks on; another configuration has none.
    found = await in_time(later.provisioner.start())
    assert (found.origin, found.identity) == (Origin.BACKUP, known.identity)
    waiting = asyncio.ensure_future(stranger.provisioner.start())
    await until(lambda: len(later.owner.waits) >= 2 and bool(stranger.owner.waits))
    waiting.cancel()
    with pytest.raises(UnreachableError):
        await in_time(later.provisioner.reprovision())

    await asyncio.to_thread(instance.start)
    await until(lambda: bool(later.owner.answers))
    assert later.owner.answers[0].origin is Origin.REGISTERED
    assert later.owner.answers[0].identity == known.identity
    assert not later.owner.answers[0].moved


async def test_a_hub_that_refuses_makes_a_device_ask_again(
    instance: Instance, device: Callable[..., Place]
) -> None:
    registration_id = unique("edge-moved")
    key, _ = instance.dps.enroll(registration_id, iotHubs=[instance.place.hubs[0]], **EDGE)
    place = device(instance, registration_id, key)
    found = await in_time(place.provisioner.start())
    assert found.identity.hub_host == instance.place.hubs[0]
    entry = await asyncio.to_thread(instance.dps.must, "GET", f"/enrollments/{registration_id}")
    entry["iotHubs"] = [instance.place.hubs[1]]
    path = f"/enrollments/{registration_id}"
    await asyncio.to_thread(instance.dps.must, "PUT", path, entry, if_match="*")
    place.provisioner.hub_refused()
    await until(lambda: bool(place.owner.answers))
    answer = place.owner.answers[0]
    assert answer.identity.hub_host == instance.place.hubs[1]
    assert answer.moved
    # Of its own accord it does not, where the file says so.
    quiet = device(instance, registration_id, key, mode=Reprovisioning.ON_ERROR_ONLY)
    await in_time(quiet.provisioner.start())
    quiet.provisioner.hub_refused()
    assert quiet.provisioner._asking is None
    quiet.provisioner.hub_refused(starting=True)
    await until(lambda: bool(quiet.owner.answers))


# Module identities.


class EdgeDevice:
    """An edge device that has its identity."""

    def __init__(
        self, instance: Instance, identity: DeviceIdentity, where: Gateway, directory: Path
    ) -> None:
        self.state = StateDirectory(directory)
        self.hub = upstream_hub.Hub(
            identity,
            trust_bundle=instance.ca_file,
            parent_hostname=None,
            upstream_protocol=None,
            time=HubTime(ShiftedClock()),
            randomness=Randomness(),
            environment={},
            gateway=where,
        )
        self.refusals: list[str] = []
        self.modules = RememberedModules(
            identity,
            self.hub.modules(),
            state=self.state,
            master_key=self.state.master_key(Randomness()),
            refused=self.refusals.append,
        )


async def test_module_identities(
    instance: Instance, device: Callable[..., Place], tmp_path: Path
) -> None:
    registration_id = unique("edge-modules")
    key, _ = instance.dps.enroll(registration_id, **EDGE)
    found = await in_time(device(instance, registration_id, key).provisioner.start())
    identity = found.identity
    where = gateway(instance, identity.hub_host)
    edge = EdgeDevice(instance, identity, where, tmp_path / "state")

    assert {each.module_id for each in await edge.modules.all()} == {"$edgeAgent", "$edgeHub"}
    agent = await edge.modules.ensure("$edgeAgent")
    mine = await edge.modules.ensure("temperature")
    assert mine.managed_by == "IotEdge"
    assert await edge.modules.ensure("temperature") == mine
    assert len({agent.key, mine.key}) == 2

    # What the hub has is what the device derives: it logs in with it.
    owner = SessionOwner()
    session = edge.hub.module_session(agent, owner)
    session.open()
    await until(lambda: session.link is Link.CONNECTED)
    await session.report({"up": True})
    await session.close()

    # The scope that the edge hub asks for has the same keys, on however many pages.
    edge_hub = await edge.modules.ensure(HUB)
    keys = {}
    async for page in edge.hub.scope(edge_hub).pages(page_size=1):
        for module in page.modules or []:
            assert module.authentication is not None
            assert module.authentication.symmetric_key is not None
            keys[module.module_id] = module.authentication.symmetric_key.primary_key
    assert keys["temperature"] == base64.b64encode(mine.key).decode()
    one = await edge.hub.scope(edge_hub).one(registration_id, "temperature")
    assert [module.module_id for module in one.modules or []] == ["temperature"]
    with pytest.raises(RefusedError) as unknown:
        await edge.hub.scope(edge_hub).one("nobody")
    assert unknown.value.status == 404

    # While the hub is away they are known all the same.
    gone = EdgeDevice(instance, identity, _nowhere(where), tmp_path / "state")
    assert {each.module_id for each in await gone.modules.all()} == {
        *("$edgeAgent", "$edgeHub", "temperature")
    }
    assert await gone.modules.ensure("temperature") == mine
    with pytest.raises(NoLinkError):
        await gone.modules.ensure("new")
    with pytest.raises(NoLinkError):
        await gone.modules.remove("temperature")

    await edge.modules.remove("temperature")
    await edge.modules.remove("temperature")
    assert {each.module_id for each in await edge.modules.all()} == {"$edgeAgent", "$edgeHub"}
    again = await edge.modules.ensure("temperature")
    assert again.generation_id != mine.generation_id
    assert again.key != mine.key

    hub = instance.hub(identity.hub_host)
    disabled = await asyncio.to_thread(hub.must, "GET", f"/devices/{registration_id}")
    disabled["status"] = "disabled"
    path = f"/devices/{registration_id}"
    await asyncio.to_thread(hub.must, "PUT", path, disabled, if_match="*")
    with pytest.raises(HubError) as refused:
        await edge.modules.ensure("temperature")
    assert refused.value.status in {401, 403}
    assert edge.refusals == [str(refused.value)]
    await edge.hub.close()
    await gone.hub.close()


async def test_a_device_scope_of_many_pages(instance: Instance, tmp_path: Path) -> None:
    hub = instance.hub()
    edge_id = unique("edge-scope")
    parent = hub.must(
        "PUT", f"/devices/{edge_id}", {"deviceId": edge_id, "capabilities": {"iotEdge": True}}
    )
    leaves = [f"{edge_id}-leaf-{number}" for number in range(7)]
    for leaf in leaves:
        hub.create_device(leaf, deviceScope=parent["deviceScope"])
    identity = _manual(instance, edge_id, parent["authentication"]["symmetricKey"]["primaryKey"])
    edge = EdgeDevice(instance, identity, gateway(instance), tmp_path / "state")
    scope = edge.hub.scope(await edge.modules.ensure(HUB))
    pages = [page async for page in scope.pages(page_size=3)]
    found = [each.device_id for page in pages for each in page.devices or []]
    assert sorted(found) == sorted([edge_id, *leaves])
    assert len(pages) == 3
    one = await scope.one(leaves[0])
    assert [each.device_id for each in one.devices or []] == [leaves[0]]

    # Edge devices below this one are looked into, with their chain, disabled or not.
    below, off = f"{edge_id}-below", f"{edge_id}-off"
    for name in (below, off):
        body = {"capabilities": {"iotEdge": True}, "parentScopes": [parent["deviceScope"]]}
        made = hub.must("PUT", f"/devices/{name}", body)
    hub.create_device(
        f"{below}-leaf", deviceScope=hub.must("GET", f"/devices/{below}")["deviceScope"]
    )
    hub.must("PUT", f"/devices/{off}", {**made, "status": "disabled"}, if_match="*")
    found = [each.device_id async for page in scope.pages() for each in page.devices or []]
    assert set(found) == {edge_id, *leaves, below, off, f"{below}-leaf"}
    found = [
        each.device_id
        async for page in scope.pages(f"{below};{edge_id}")
        for each in page.devices or []
    ]
    assert sorted(found) == [below, f"{below}-leaf"]
    one = await scope.one(f"{below}-leaf", auth_chain=f"{below};{edge_id}")
    assert [each.device_id for each in one.devices or []] == [f"{below}-leaf"]
    with pytest.raises(RefusedError):
        await scope.one(f"{below}-leaf")
    await edge.hub.close()


def _nowhere(where: Gateway) -> Gateway:
    return msgspec.structs.replace(where, address=NOWHERE)


def _manual(instance: Instance, device_id: str, key: str) -> DeviceIdentity:
    return DeviceIdentity(
        hub_host=instance.place.hubs[0], device_id=device_id, key=base64.b64decode(key)
    )


async def test_a_device_with_a_certificate_makes_its_modules(
    instance: Instance, tmp_path: Path
) -> None:
    device_id = unique("edge-x509")
    made = ClientCertificate.make(tmp_path, device_id)
    body = {"deviceId": device_id, "authentication": self_signed(made.sha256), **EDGE}
    instance.hub().must("PUT", f"/devices/{device_id}", body)
    identity = DeviceIdentity(
        hub_host=instance.place.hubs[0],
        device_id=device_id,
        certificate=made.file,
        private_key=made.file,
    )
    edge = EdgeDevice(instance, identity, gateway(instance), tmp_path / "state")
    agent = await edge.modules.ensure("$edgeAgent")
    # Modules have keys all the same.
    session = edge.hub.module_session(agent, SessionOwner())
    session.open()
    await until(lambda: session.link is Link.CONNECTED)
    await session.close()
    await edge.modules.ensure("mine")
    await edge.modules.remove("mine")
    await edge.hub.close()
