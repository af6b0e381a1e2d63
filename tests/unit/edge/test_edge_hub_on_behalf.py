"""Who speaks upstream for whom: the edge hub for those without a key, and edge hubs below it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, final

import pytest
import structlog

from muster.auth import sas_token
from muster.clock import ManualClock
from muster.edge.hub import upstreams
from muster.edge.hub.authentication import Admission, Authenticator, Proof
from muster.edge.hub.broker import Broker
from muster.edge.hub.clients import Clients
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.members import local
from muster.edge.hub.methods import Methods
from muster.edge.hub.queues import Queues
from muster.edge.hub.scope import Scope
from muster.edge.hub.twins import Twins
from muster.edge.hub.upstreams import Upstreams
from muster.edge.upstream.authentication import Authentication, Keys, Thumbprints
from muster.edge.upstream.base import Link
from muster.edge.upstream.device_scope import (
    ScopeCapabilities,
    ScopeDevice,
    ScopeModule,
    ScopePage,
)
from muster.edge.upstream.errors import RefusedError
from muster.edge.upstream.login import Login
from muster.errors import ForbiddenError, MusterError, UnauthorizedError
from muster.ids import Randomness
from muster.store.sqlite import SqliteEngine
from support.edge import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from muster.edge.upstream.base import Feature
    from muster.model.identity import IdentityRef

HOSTS = ("hub.example", "gateway")
EDGE_HUB, LOW_HUB, BELOW_HUB, LEAF = (name * 32 for name in (b"e", b"l", b"b", b"f"))
CERTIFIED = Authentication(type="selfSigned", x509_thumbprint=Thumbprints("AB" * 20))


def sas(key: bytes) -> Authentication:
    return Authentication(type="sas", symmetric_key=Keys.of(key, key[::-1] + b"2"))


def scope_of(device_id: str) -> str:
    return f"ms-azure-iot-edge://{device_id}-6389"


def edge_device(device_id: str, parent: str | None = None, **fields: Any) -> ScopeDevice:
    return ScopeDevice(
        device_id=device_id,
        device_scope=scope_of(device_id),
        parent_scopes=[scope_of(parent)] if parent else [],
        capabilities=ScopeCapabilities(True),
        authentication=sas(LEAF),
        **fields,
    )


def leaf_device(device_id: str, parent: str, **fields: Any) -> ScopeDevice:
    # A leaf's parent stands in its `deviceScope`, too, and older hubs say it there only.
    scopes = {"device_scope": scope_of(parent), "parent_scopes": fields.pop("parents", None)}
    return ScopeDevice(device_id=device_id, authentication=CERTIFIED, **scopes, **fields)


class Source:
    """edge — low — far; edge — near; and what belongs to nobody here."""

    def __init__(self) -> None:
        self.devices = {
            each.device_id: each
            for each in (
                edge_device("edge", "above"),
                edge_device("low", "edge"),
                leaf_device("near", "edge"),
                leaf_device("far", "low", parents=[scope_of("low")]),
                edge_device("below", "low"),
                leaf_device("deep", "below"),
                leaf_device("lost", "nowhere"),
                ScopeDevice(
                    device_id="keyed", device_scope=scope_of("edge"), authentication=sas(LEAF)
                ),
            )
        }
        self.modules = [
            ScopeModule(device_id="edge", module_id="$edgeHub", authentication=sas(EDGE_HUB)),
            ScopeModule(device_id="edge", module_id="m", authentication=CERTIFIED),
            ScopeModule(device_id="low", module_id="$edgeHub", authentication=sas(LOW_HUB)),
            ScopeModule(device_id="low", module_id="m", authentication=CERTIFIED),
            ScopeModule(device_id="below", module_id="$edgeHub", authentication=sas(BELOW_HUB)),
            ScopeModule(device_id="far", module_id="m", authentication=CERTIFIED),
        ]

    async def pages(self, auth_chain: str | None = None) -> AsyncIterator[ScopePage]:
        assert auth_chain is None
        yield ScopePage(devices=list(self.devices.values()), modules=self.modules)

    async def one(
        self, device_id: str, module_id: str | None = None, auth_chain: str | None = None
    ) -> ScopePage:
        raise RefusedError("not asked for here", status=500)


class Connected:
    """A client, as far as anybody asks here."""

    expires_at = 1 << 40
    over = ()

    def __init__(self, ref: IdentityRef) -> None:
        self.ref = ref

    def takes_desired(self) -> bool:
        return False

    def takes_methods(self) -> bool:
        return False

    def takes_messages(self) -> bool:
        return False


@final
class FakeSession:
    """A session that does what it is told."""

    def __init__(self, login: Login, owner: Any) -> None:
        self.login = login
        self.owner = owner
        self.link = Link.UNREACHABLE
        self.closed = False

    def want(self, features: frozenset[Feature]) -> None:
        """Nothing to do."""

    def open(self) -> None:
        return

    async def close(self) -> None:
        self.closed = True

    def become(self, link: Link, detail: str = "") -> None:
        self.link = link
        self.owner.link_changed(link, detail)


@final
class Parts:
    def __init__(self, engine: SqliteEngine, queues: Queues, clock: ManualClock) -> None:
        self.source = Source()
        self.clock = clock
        clients = self.clients = Clients(clock)
        self.scope = Scope("edge", engine, self.source, clock, self.gone)
        self.authenticator = Authenticator(self.scope, "edge", HOSTS, clock)
        self.sessions: dict[str, list[FakeSession]] = {}
        edge_hub = Login(
            hub_host="hub.example", device_id="edge", module_id="$edgeHub", key=EDGE_HUB
        )
        self.upstreams = Upstreams(
            edge_hub,
            self.open_session,
            scope=self.scope,
            queues=queues,
            twins=Twins(engine, clients, Broker(queues, "edge", clock, Randomness())),
            clients=clients,
            methods=Methods(clients, Randomness()),
            clock=clock,
        )

    def gone(self, ref: IdentityRef) -> None:
        self.upstreams.reset(ref)

    def open_session(self, login: Login, owner: Any) -> FakeSession:
        session = FakeSession(login, owner)
        self.sessions.setdefault(login.client_id, []).append(session)
        return session

    async def login(self, chain: str, key: bytes = LOW_HUB, **options: Any) -> int:
        device_id, _, module_id = options.get("who", chain.partition(";")[0]).partition("/")
        actor = options.get("actor", chain.rpartition(";")[2] + "/modules/$edgeHub")
        resource = f"{options.get('host', 'hub.example')}/devices/{actor}"
        expiry = int(self.clock.time()) + options.get("ttl_s", 60)
        token = sas_token.sign(resource, key, expiry)
        return await self.authenticator.login(
            local(device_id, module_id), Proof(token, auth_chain=chain)
        )


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    clock = ManualClock()
    engine = await SqliteEngine.open(tmp_path / FILE_NAME, PROFILE)
    queues = await Queues.open(engine, clock, max_bytes=1 << 20, ttl_s=7200)
    made = Parts(engine, queues, clock)
    await made.scope.refresh()
    made.upstreams.start()
    yield made
    await made.upstreams.stop()
    await engine.close()


# Upstream.


async def test_a_client_with_a_key_speaks_for_itself(parts: Parts) -> None:
    parts.upstreams.came(local("keyed"))
    (session,) = parts.sessions["keyed"]
    assert (session.login.key, session.login.chain) == (LEAF, None)


@pytest.mark.parametrize(
    ("name", "chain"),
    [("near", "near;edge"), ("edge/m", "edge/m;edge"), ("far/m", "far/m;far;low;edge")],
)
async def test_the_edge_hub_speaks_for_who_has_none(parts: Parts, name: str, chain: str) -> None:
    device_id, _, module_id = name.partition("/")
    parts.upstreams.came(local(device_id, module_id))
    (session,) = parts.sessions[name]
    assert session.login.key == EDGE_HUB
    assert session.login.chain is not None
    assert session.login.chain.text == chain


async def test_nobody_speaks_for_who_is_below_somebody_else(parts: Parts) -> None:
    with structlog.testing.capture_logs() as events:
        for _ in range(3):
            parts.upstreams.came(local("lost"))
    assert parts.sessions == {}
    (said,) = [each for each in events if each["log_level"] == "warning"]
    assert said["identity"] == "lost"


async def test_a_hub_that_does_not_let_it_speak_is_told_of_once(parts: Parts) -> None:
    with structlog.testing.capture_logs() as events:
        for name in ("near", "keyed"):
            for _ in range(3):
                parts.upstreams.came(local(name))
                parts.sessions[name][-1].become(Link.REFUSED, "CONNACK 5")
                parts.sessions[name][-1].become(Link.UNREACHABLE, "no route")
    warnings = [each for each in events if each["log_level"] == "warning"]
    # A client that has a key and is refused has nothing to do with it.
    assert [each["identity"] for each in warnings] == ["near"]
    assert "CONNACK 5" in warnings[0]["reason"]
    assert parts.upstreams.session(local("near")) is None
    # It may be allowed now.
    parts.sessions["near"][-1].become(Link.CONNECTED)
    assert parts.upstreams.session(local("near")) is not None


async def test_another_chain_is_another_session(parts: Parts) -> None:
    for name in ("far", "near", "keyed"):
        parts.upstreams.came(local(name))
    parts.source.devices["low"] = edge_device("low", "edge", generation_id="2")
    parts.source.devices["below"] = edge_device("below", "low", generation_id="2")
    await parts.scope.refresh()
    await asyncio.sleep(0.01)
    assert parts.sessions["far"][0].closed
    assert not parts.sessions["near"][0].closed
    assert not parts.sessions["keyed"][0].closed


async def test_who_is_connected_has_a_way_up_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells it that an edge device in between was changed; methods are to reach it still."""
    monkeypatch.setattr(upstreams, "LOOK_S", 0.01)
    parts.clients.attach(Connected(local("far")))
    parts.clients.attach(Connected(local("lost")))
    assert list(parts.sessions) == ["far"]
    parts.upstreams.reset(local("low"))
    parts.source.devices["lost"] = leaf_device("lost", "edge")
    await parts.scope.refresh()
    await until(lambda: len(parts.sessions["far"]) == 2 and "lost" in parts.sessions)
    assert parts.sessions["far"][0].closed


# From below.


@pytest.mark.parametrize(
    ("chain", "over"),
    [
        ("far;low", ("far", "low")),
        ("far/m;far;low", ("far", "low")),
        ("low/m;low", ("low",)),
        ("deep;below;low", ("deep", "below", "low")),
        ("deep;below", ("deep", "below", "low")),
    ],
)
async def test_an_edge_hub_below_speaks_for_those_below_it(
    parts: Parts, chain: str, over: tuple[str, ...]
) -> None:
    key = BELOW_HUB if chain.endswith("below") else LOW_HUB
    expected = Admission(int(parts.clock.time()) + 60, over)
    assert await parts.login(chain, key) == expected
    assert await parts.login(chain, key, host="gateway") == expected


async def test_it_proves_itself_as_anybody_does(parts: Parts) -> None:
    own = Admission(int(parts.clock.time()) + 60)
    assert await parts.login("low/$edgeHub;low") == own
    # Its own token counts, whatever chain comes with it.
    assert await parts.login("low/$edgeHub;low;nowhere", actor="low/modules/$edgeHub") == own


@pytest.mark.parametrize(
    ("chain", "options", "code"),
    [
        ("near;low", {}, "broken-auth-chain"),
        ("keyed;low", {}, "broken-auth-chain"),
        ("far;edge", {"key": EDGE_HUB}, "broken-auth-chain"),
        ("far;near;low", {}, "broken-auth-chain"),
        ("far;nobody", {}, "broken-auth-chain"),
        ("far;low", {"key": EDGE_HUB}, "wrong-key"),
        ("far;low", {"key": LEAF}, "wrong-key"),
        ("far;low", {"host": "elsewhere"}, "wrong-resource"),
        ("far;low", {"actor": "low/modules/m"}, "wrong-resource"),
        ("far;low", {"actor": "low", "key": LEAF}, "wrong-resource"),
        ("far;low", {"actor": "edge/modules/$edgeHub", "key": EDGE_HUB}, "wrong-resource"),
        ("far;low", {"ttl_s": -301}, "expired-token"),
        ("far;low", {"who": "far/m"}, "wrong-auth-chain"),
        ("far", {"actor": "low/modules/$edgeHub"}, "wrong-resource"),
        ("near;low", {"who": "far"}, "wrong-auth-chain"),
        ("unknown;low", {}, "scope-unknown"),
        ("far;low;far", {}, "broken-auth-chain"),
        ("far;" * 5_000 + "low", {}, "broken-auth-chain"),
    ],
)
async def test_and_for_nobody_else(
    parts: Parts, chain: str, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(MusterError) as caught:
        await parts.login(chain, **options)
    assert caught.value.code == code


@pytest.mark.parametrize("disabled", ["far", "low", "edge"])
async def test_everybody_between_is_to_be_enabled(parts: Parts, disabled: str) -> None:
    device = parts.source.devices[disabled]
    fields = {name: getattr(device, name) for name in device.__struct_fields__}
    parts.source.devices[disabled] = ScopeDevice(**{**fields, "status": "disabled"})
    await parts.scope.refresh()
    with pytest.raises((ForbiddenError, UnauthorizedError)):
        await parts.login("far;low")


async def test_without_its_edge_hub_nobody_speaks(parts: Parts) -> None:
    del parts.source.modules[2]
    await parts.scope.refresh()
    with pytest.raises(UnauthorizedError) as caught:
        await parts.login("far;low")
    assert caught.value.code == "unknown-edge-hub"
