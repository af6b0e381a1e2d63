"""Edge hubs that speak for identities below them (edge.md 6.3 to 6.5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from muster.auth import sas_token, symmetric_keys
from muster.model import auth_chain
from muster.model.identity import (
    Authentication,
    BulkEntry,
    Capabilities,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
    SymmetricKey,
    Thumbprints,
)
from muster.wire.mqtt.packets import Puback
from unit.hub.hub_parts import HOST, KEY, KEY2, own_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muster.model.auth_chain import AuthChain
    from unit.hub.hub_parts import Client, Parts

EDGE_KEY = "ZWRnZS1odWIta2V5LWVkZ2UtaHViLWtleQ=="
EDGE_KEY2 = "b3RoZXItaHViLWtleS1vdGhlci1odWIta2V5"
CERTIFIED = Authentication(None, Thumbprints("AB" * 20, None), "selfSigned")


class Site:
    """top — low — leaf, and leaf's module; beside them another edge device with a leaf."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def edge(self, device_id: str, parent: str | None = None) -> None:
        await self.parts.device(device_id, edge=True, **await self.below(parent))
        await self.parts.modules.update(
            self.ref(f"{device_id}/$edgeHub"),
            ModuleRequest(authentication=Authentication(SymmetricKey(EDGE_KEY, EDGE_KEY2))),
            "*",
        )

    async def below(self, parent: str | None) -> dict[str, list[str]]:
        if parent is None:
            return {}
        shown = await self.parts.identities.get(self.parts.hub.id, parent)
        assert isinstance(shown.device_scope, str)
        return {"parent_scopes": [shown.device_scope]}

    async def build(self) -> Site:
        await self.edge("top")
        await self.edge("low", "top")
        await self.edge("other")
        await self.parts.device("leaf", authentication=CERTIFIED, **await self.below("low"))
        await self.parts.device("stray", authentication=CERTIFIED, **await self.below("other"))
        await self.parts.modules.create(self.ref("leaf/m"), ModuleRequest(authentication=CERTIFIED))
        return self

    def ref(self, text: str) -> IdentityRef:
        device_id, _, module_id = text.partition("/")
        return IdentityRef(self.parts.hub.id, device_id, module_id)

    def options(self, chain: str, key: str = EDGE_KEY, **more: Any) -> dict[str, Any]:
        """What an edge hub says that speaks over this chain."""
        identity, actor = chain.partition(";")[0], chain.rpartition(";")[2]
        actor = more.pop("actor", f"{actor}/$edgeHub")
        token = self.parts.token(self.ref(actor), key, **more)
        username = f"{HOST}/{identity}/?api-version=2021-04-12&auth-chain={chain}"
        return {"username": username, "password": token}

    async def connect(self, chain: str, **more: Any) -> Client:
        ref = self.ref(chain.partition(";")[0])
        return await self.parts.connect(ref, **self.options(chain, **more))

    async def refused(self, chain: str, *, who: str = "", **more: Any) -> tuple[int, str]:
        """Return the code, and the check of the newest decision."""
        ref = self.ref(who or chain.partition(";")[0])
        options = self.options(chain, **more)
        if who:
            options["username"] = f"{HOST}/{who}/?api-version=1&auth-chain={chain}"
        code = await self.parts.refused(ref, **options)
        return code, (await self.parts.checks(ref.text))[0]

    async def change(self, device_id: str, **fields: Any) -> None:
        await self.parts.identities.update(
            self.parts.hub.id, device_id, DeviceRequest(**fields), "*"
        )


@pytest.fixture
async def site(parts: Parts) -> Site:
    return await Site(parts).build()


GOOD = (
    "leaf;low",
    "leaf;low;top",
    "leaf/m;leaf;low",
    "leaf/m;leaf;low;top",
    "low;top",
    "low/$edgeHub;low;top",
    "low/$edgeAgent;low",
)


@pytest.mark.parametrize("chain", GOOD)
@pytest.mark.parametrize("key", [EDGE_KEY, EDGE_KEY2])
async def test_an_edge_hub_speaks_for_those_below_it(site: Site, chain: str, key: str) -> None:
    client = await site.connect(chain, key=key)
    identity = chain.partition(";")[0]
    ref = site.ref(identity)
    path = f"devices/{ref.device_id}" + (f"/modules/{ref.module_id}" if ref.module_id else "")
    client.publish(f"{path}/messages/events/", b"1")
    assert await client.take() == [Puback(1)]
    (event,) = await site.parts.events()
    assert (event.device_id, event.module_id or "") == (ref.device_id, ref.module_id)
    assert event.system_properties["iothub-connection-auth-method"] == (
        '{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'
    )
    if not ref.module_id:
        shown = await site.parts.identities.get(ref.hub, ref.device_id)
        assert shown.connection_state == "Connected"


async def test_a_chain_may_be_escaped(site: Site) -> None:
    options = site.options("leaf/m;leaf;low")
    options["username"] = f"{HOST}/leaf/m/?api-version=1&auth-chain=leaf%2Fm%3Bleaf%3Blow&x=y"
    await site.parts.connect(site.ref("leaf/m"), **options)


REFUSED = {
    "stray;low": "broken-auth-chain",
    "leaf;other": "broken-auth-chain",
    "leaf;top": "broken-auth-chain",
    "leaf;low;other": "broken-auth-chain",
    "leaf;nobody;top": "broken-auth-chain",
    "leaf;stray;other": "broken-auth-chain",
    "top;low": "broken-auth-chain",
    "leaf;low;nobody": "unknown-edge-hub",
    "stray;leaf": "unknown-edge-hub",
    "leaf;LOW": "unknown-edge-hub",
    "leaf;low;leaf": "malformed-auth-chain",
    "leaf;;low": "malformed-auth-chain",
    "leaf;low;": "malformed-auth-chain",
    "leaf;low;top;" + "low;" * 5_000 + "top": "malformed-auth-chain",
    "leaf/m;low": "malformed-auth-chain",
    "nobody;low": "unknown-device",
    "leaf/n;leaf;low": "unknown-module",
}


@pytest.mark.parametrize("chain", REFUSED)
async def test_chains_that_do_not_hold(site: Site, chain: str) -> None:
    assert await site.refused(chain) == (5, REFUSED[chain])


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": KEY},
        {"ttl_s": -301},
        {"host": "elsewhere"},
        {"actor": "low", "key": KEY},
        {"actor": "low/$edgeAgent"},
        {"actor": "top/$edgeHub"},
        {"actor": "other/$edgeHub"},
    ],
    ids=str,
)
async def test_the_token_is_to_be_that_of_the_last_edge_hub(
    site: Site, wrong: dict[str, Any]
) -> None:
    assert await site.refused("leaf;low", **wrong) == (5, "wrong-edge-hub-token")
    (decision,) = await site.parts.decisions.find("leaf")
    assert decision.facts["actor"] == "low/$edgeHub"
    assert decision.facts["expected"] == f"{HOST}/devices/low/modules/$edgeHub"


async def test_a_chain_is_for_who_connects(site: Site) -> None:
    assert await site.refused("stray;other", who="leaf") == (5, "wrong-auth-chain")
    assert await site.refused("leaf;low", who="leaf/m") == (5, "wrong-auth-chain")
    assert await site.refused("low", who="leaf") == (5, "wrong-auth-chain")


async def test_no_chain_no_speaking(site: Site) -> None:
    options = site.options("leaf;low")
    del options["username"]
    assert await site.parts.refused(site.ref("leaf"), **options) == 5


@pytest.mark.parametrize("disabled", ["leaf", "low", "top"])
async def test_everybody_in_the_chain_is_to_be_enabled(site: Site, disabled: str) -> None:
    await site.change(disabled, status="disabled")
    expected = "device-disabled" if disabled == "leaf" else "edge-device-disabled"
    assert await site.refused("leaf;low;top") == (5, expected)


async def test_the_own_proof_needs_no_chain(site: Site) -> None:
    """An edge hub that has the client's own token sends the chain all the same."""
    own = {"authentication": own_keys()}
    await site.change("leaf", **own)
    client = await site.connect("leaf;low", actor="leaf", key=KEY2)
    await site.change("leaf", parent_scopes=[])
    assert not client.peer.closed
    await site.connect("leaf;other", actor="leaf", key=KEY)
    policy = site.parts.hub.policies["device"]
    key = symmetric_keys.decode(policy.keys.primary)
    token = sas_token.sign(HOST, key, int(site.parts.clock.time()) + 60, "device")
    options = {**site.options("leaf;other"), "password": token}
    await site.parts.connect(site.ref("leaf"), **options)


# The end of the chain is the end of the session.


async def _disable(site: Site, device_id: str) -> None:
    await site.change(device_id, status="disabled")


async def _delete(site: Site, device_id: str) -> None:
    await site.parts.identities.delete(site.parts.hub.id, device_id, "*")


async def _no_edge(site: Site, device_id: str) -> None:
    await site.change("leaf", parent_scopes=[])
    await site.change(device_id, capabilities=Capabilities(False))


async def _move(site: Site, device_id: str) -> None:
    await site.change(device_id, **await site.below("other"))


async def _orphan(site: Site, device_id: str) -> None:
    await site.change(device_id, parent_scopes=[])


async def _move_in_bulk(site: Site, device_id: str) -> None:
    entry = BulkEntry(id=device_id, import_mode="update", **await site.below("other"))
    assert await site.parts.bulk.run(site.parts.hub.id, [entry]) == []


ENDS: list[tuple[Callable[[Site, str], Awaitable[None]], str]] = [
    (_disable, "leaf"),
    (_disable, "low"),
    (_disable, "top"),
    (_delete, "leaf"),
    (_delete, "low"),
    (_delete, "top"),
    (_no_edge, "low"),
    (_move, "leaf"),
    (_move, "low"),
    (_move_in_bulk, "leaf"),
    (_orphan, "leaf"),
    (_orphan, "low"),
]


@pytest.mark.parametrize(("end", "device_id"), ENDS)
async def test_what_ends_a_session(
    site: Site, end: Callable[[Site, str], Awaitable[None]], device_id: str
) -> None:
    device = await site.connect("leaf;low;top")
    module = await site.connect("leaf/m;leaf;low;top")
    beside = await site.connect("stray;other")
    attempt = site.parts.connections.begin(site.ref("leaf"), _chain("leaf;low;top"))
    await end(site, device_id)
    reasons = {await device.gone(), await module.gone()}
    if device_id != "leaf" and end in {_disable, _delete}:
        # The identity itself is as it was.
        assert all(each.startswith(f"'{device_id}', over which") for each in reasons)
    assert attempt.barred
    assert not beside.peer.closed
    code, _ = await site.refused("leaf;low;top")
    assert code == 5


async def test_an_edge_hub_that_goes_takes_with_it_whom_it_spoke_for(site: Site) -> None:
    """Also the modules of its own device, which stay."""
    ref = site.ref("low/m")
    await site.parts.modules.create(ref, ModuleRequest(authentication=CERTIFIED))
    beside = await site.parts.module("low", "keyed")
    module, keyed = await site.connect("low/m;low"), await site.parts.connect(beside)
    attempt = site.parts.connections.begin(ref, _chain("low/m;low"))
    await _no_edge(site, "low")
    await module.gone()
    assert attempt.barred
    assert not keyed.peer.closed


async def test_what_does_not_end_it(site: Site) -> None:
    client = await site.connect("leaf;low")
    own = await site.parts.device("own", **await site.below("low"))
    itself = await site.parts.connect(own)
    attempt = site.parts.connections.begin(site.ref("leaf"), _chain("leaf;low"))
    await site.change("low", **await site.below("other"))
    await site.change("stray", status="disabled")
    await site.change("leaf", status_reason="looked at")
    await site.change("own", **await site.below("top"))
    await asyncio.sleep(0)
    assert not client.peer.closed
    assert not itself.peer.closed
    assert not attempt.barred


async def test_sessions_are_those_of_the_identity(site: Site) -> None:
    """Whoever speaks: the newer one takes over, and the token's time counts."""
    parts = site.parts
    first = await site.connect("leaf;low")
    second = await site.connect("leaf;low;top", ttl_s=60)
    assert "taken over" in await first.gone()
    parts.clock.advance(60 + 301)
    await parts.connections.tick()
    assert await second.gone() == "the SAS token expired"
    assert await site.parts.checks("leaf") == ["connection-expired", "taken-over"]


async def test_nothing_is_kept_of_what_is_over(site: Site) -> None:
    connections = site.parts.connections
    client = await site.connect("leaf;low;top")
    await client.disconnect()
    await site.refused("leaf;other")
    for spoken_for in (connections._spoken_for, connections._spoken_for_soon):
        assert spoken_for._by_device == {}


def _chain(text: str) -> AuthChain:
    return auth_chain.parse(text)
