"""Who may connect to the edge hub (edge.md 6.3), from the scope on disk."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from typing import TYPE_CHECKING

import pytest

from muster.auth import sas_token
from muster.clock import ManualClock
from muster.edge.hub.authentication import NEVER_EXPIRES, Admission, Authenticator, Proof
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.members import local
from muster.edge.hub.scope import Scope
from muster.edge.upstream.authentication import Authentication, Keys, Thumbprints
from muster.edge.upstream.device_scope import ScopeDevice, ScopeModule, ScopePage
from muster.edge.upstream.errors import RefusedError, UnreachableError
from muster.errors import ForbiddenError, UnauthorizedError, UnavailableError
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOSTS = ("plant-a.example", "gateway")
DEVICE, MODULE, LEAF, STRANGER = (name * 32 for name in (b"d", b"m", b"l", b"s"))


def sas(key: bytes) -> Authentication:
    second = hashlib.sha256(key).digest()
    return Authentication(type="sas", symmetric_key=Keys.of(key, second))


class Hub:
    """Says who is in the scope, as the real one would, or does not answer."""

    def __init__(self) -> None:
        self.reachable = True
        self.asked: list[str] = []
        self.devices = [
            ScopeDevice(device_id="edge", authentication=sas(DEVICE)),
            ScopeDevice(device_id="leaf", authentication=sas(LEAF)),
            ScopeDevice(device_id="off", status="disabled", authentication=sas(LEAF)),
            ScopeDevice(
                device_id="cert",
                authentication=Authentication(
                    type="selfSigned",
                    x509_thumbprint=Thumbprints(hashlib.sha1(b"der").hexdigest()),
                ),
            ),
        ]
        self.modules = [ScopeModule(device_id="edge", module_id="m", authentication=sas(MODULE))]

    async def pages(self, auth_chain: str | None = None) -> AsyncIterator[ScopePage]:
        assert auth_chain is None
        self.check()
        yield ScopePage(devices=self.devices[:1], modules=self.modules, continuation_link="x")
        yield ScopePage(devices=self.devices[1:])

    async def one(
        self, device_id: str, module_id: str | None = None, auth_chain: str | None = None
    ) -> ScopePage:
        assert auth_chain in (None, "edge")
        self.asked.append(local(device_id, module_id or "").text)
        self.check()
        devices = [each for each in self.devices if each.device_id == device_id]
        modules = [each for each in self.modules if each.module_id == module_id]
        if not devices or (module_id and not modules):
            raise RefusedError("not in the scope", status=404)
        return ScopePage(devices=devices, modules=modules)

    def check(self) -> None:
        if not self.reachable:
            raise UnreachableError("no link")


class Parts:
    def __init__(self, engine: SqliteEngine, hub: Hub, clock: ManualClock) -> None:
        self.gone: list[str] = []
        self.clock = clock
        self.scope = Scope("edge", engine, hub, clock, lambda ref: self.gone.append(ref.text))
        self.authenticator = Authenticator(self.scope, "edge", HOSTS, clock)


@contextlib.asynccontextmanager
async def parts(directory: Path, hub: Hub, clock: ManualClock) -> AsyncIterator[Parts]:
    engine = await SqliteEngine.open(directory / FILE_NAME, PROFILE)
    made = Parts(engine, hub, clock)
    await made.scope.load()
    yield made
    await engine.close()


def token(resource: str, key: bytes, clock: ManualClock, ttl_s: int = 60) -> Proof:
    return Proof(sas_token.sign(resource, key, int(clock.time()) + ttl_s))


M, L = local("edge", "m"), local("leaf")
MODULE_SR, LEAF_SR = "plant-a.example/devices/edge/modules/m", "plant-a.example/devices/leaf"


@pytest.mark.parametrize(
    ("ref", "resource", "key", "allowed"),
    [
        (M, MODULE_SR, MODULE, True),
        (M, MODULE_SR, hashlib.sha256(MODULE).digest(), True),
        (M, MODULE_SR.upper(), MODULE, True),
        (M, "gateway/devices/edge/modules/m", MODULE, True),
        (M, "elsewhere/devices/edge/modules/m", MODULE, False),
        (M, MODULE_SR, DEVICE, True),
        (M, "plant-a.example/devices/edge", DEVICE, True),
        (M, MODULE_SR, LEAF, False),
        (M, "plant-a.example/devices/edge/modules/n", MODULE, False),
        (M, LEAF_SR, MODULE, False),
        (L, LEAF_SR, LEAF, True),
        (L, LEAF_SR, DEVICE, False),
        (L, "plant-a.example/devices/edge", DEVICE, False),
        (L, "plant-a.example", LEAF, False),
        (local("Leaf"), LEAF_SR, LEAF, False),
        (local("edge", "n"), "plant-a.example/devices/edge/modules/n", DEVICE, False),
    ],
)
async def test_tokens_are_for_the_identity_and_by_its_keys(tmp_path, ref, resource, key, allowed):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        login = made.authenticator.login(ref, token(resource, key, clock))
        if allowed:
            assert await login == Admission(int(clock.time()) + 60)
        else:
            with pytest.raises(UnauthorizedError):
                await login


async def test_a_token_may_be_five_minutes_late(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        proof = token(MODULE_SR, MODULE, clock, ttl_s=0)
        clock.advance(300)
        await made.authenticator.login(M, proof)
        clock.advance(1)
        with pytest.raises(UnauthorizedError, match="expired 301 seconds ago"):
            await made.authenticator.login(M, proof)


async def test_without_the_hub_the_scope_on_disk_counts(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
    hub.reachable = False
    async with parts(tmp_path, hub, clock) as made:
        await made.authenticator.login(M, token(MODULE_SR, MODULE, clock))
        with pytest.raises(UnauthorizedError):
            await made.authenticator.login(M, token(MODULE_SR, STRANGER, clock))
        # Nobody can tell who that is: it is to come again, not to give up.
        with pytest.raises(UnavailableError):
            await made.authenticator.login(local("new"), token("gateway/devices/new", LEAF, clock))


async def test_who_came_later_is_asked_for_and_not_too_often(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        for _ in range(5):
            with pytest.raises((UnauthorizedError, UnavailableError)):
                await made.authenticator.login(
                    local("new"), token("gateway/devices/new", LEAF, clock)
                )
        assert hub.asked == ["new"]
        hub.devices.append(ScopeDevice(device_id="new", authentication=sas(LEAF)))
        clock.advance(10)
        await made.authenticator.login(local("new"), token("gateway/devices/new", LEAF, clock))


async def test_made_up_names_do_not_flood_the_hub(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        for number in range(200):
            with pytest.raises((UnauthorizedError, UnavailableError)):
                await made.authenticator.login(
                    local(f"x{number}"), token(f"gateway/devices/x{number}", LEAF, clock)
                )
        assert len(hub.asked) == 20
        clock.advance(5)
        await made.scope.ask(local("leaf"))
        assert len(hub.asked) == 21


async def test_new_keys_and_enabled_devices_are_found_by_asking(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        off = token("gateway/devices/off", LEAF, clock)
        with pytest.raises(ForbiddenError):
            await made.authenticator.login(local("off"), off)
        hub.devices[2] = ScopeDevice(device_id="off", authentication=sas(LEAF))
        hub.modules[0] = ScopeModule(device_id="edge", module_id="m", authentication=sas(STRANGER))
        clock.advance(10)
        await made.authenticator.login(local("off"), off)
        await made.authenticator.login(M, token(MODULE_SR, STRANGER, clock))
        # The key that was there before is no good any more, so whoever used it is told.
        assert "edge/m" in made.gone


async def test_deleted_identities_are_let_go(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        del hub.devices[1]
        await made.scope.refresh()
        assert made.gone == ["leaf"]
        with pytest.raises(UnauthorizedError):
            await made.authenticator.login(L, token(LEAF_SR, LEAF, clock))
    async with parts(tmp_path, hub, clock) as made:
        assert made.scope.find(L) is None


async def test_certificates_count_by_their_thumbprint(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        found = await made.authenticator.login(local("cert"), Proof(certificate=b"der"))
        assert found == Admission(NEVER_EXPIRES)
        for proof in (Proof(certificate=b"other"), Proof()):
            with pytest.raises(UnauthorizedError):
                await made.authenticator.login(local("cert"), proof)
        with pytest.raises(UnauthorizedError):
            await made.authenticator.login(L, Proof(certificate=b"der"))


async def test_a_scope_that_does_not_change_is_not_written_again(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        written = made.scope._engine._commits
        await made.scope.refresh()
        assert made.scope._engine._commits == written


async def test_keys_show_nowhere(tmp_path):
    hub, clock = Hub(), ManualClock()
    async with parts(tmp_path, hub, clock) as made:
        await made.scope.refresh()
        shown = repr(made.scope.find(M)) + repr(token(MODULE_SR, MODULE, clock))
        assert base64.b64encode(MODULE).decode() not in shown
        assert "sig=" not in shown
