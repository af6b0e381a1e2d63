"""The twin of `$edgeHub` itself: what it is to do, and what it says of itself (edge.md 6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import msgspec
import structlog
from msgspec import Struct

from muster import __version__
from muster.edge.hub import desired
from muster.edge.hub.database import SQL, decoded
from muster.edge.upstream.base import HubError, Link, NoLinkError
from muster.errors import InvalidArgumentError, MusterError, UnavailableError
from muster.model import twin as twin_rules
from muster.model.merge_patches import difference, merge
from muster.net.tasks import spawn
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.edge.hub.clients import Clients
    from muster.edge.hub.desired import Configuration
    from muster.edge.upstream.base import JsonObject, Message, Session
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine

REPORT_AFTER_S: Final = 2.0
"""Who comes and goes meanwhile is reported together."""

_SETTING: Final = "configuration"
_OF_EVERY_CONFIGURATION: Final = frozenset({"schemaVersion", "routes"})
_REFRESH: Final = "refreshdevicescopeidentitycache"
_NOT_FOUND: Final = 404
_log = structlog.get_logger(__name__)


class Hub(Protocol):
    """Does what the twin says."""

    def use(self, configuration: Configuration) -> None:
        """Work so from now on."""

    async def refresh_scope(self, device_ids: list[str]) -> None:
        """Ask for these devices and their modules, or with none for the whole scope."""

    def own_link_changed(self, *, up: bool) -> None:
        """Note whether the hub is in reach."""


class _Stored(Struct):
    """The last good configuration."""

    desired: dict[str, Any]
    version: int


@final
class OwnTwin:
    """An `Owner` of the session of `$edgeHub`. Watches `Clients`.

    Args:
        hub: does what is desired.
        clients: whose presence is reported.
        engine: keeps the last good configuration.
        device_id: of this device; others are leaf devices, of which only those are reported that
            are connected.
    """

    def __init__(self, hub: Hub, clients: Clients, engine: Engine, device_id: str) -> None:
        self._hub = hub
        self._clients = clients
        self._engine = engine
        self._device_id = device_id
        self.session: Session | None = None
        self._desired: JsonObject = {}
        self._version = 0
        self._status: JsonObject = {"code": 200, "description": ""}
        # What the hub has of it; `None` while that is not known.
        self._reported: JsonObject | None = None
        self._reading = False
        # A change that a twin which is being read may not have.
        self._missed = False
        self._changed = asyncio.Event()
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        clients.watch(self)

    async def load(self) -> None:
        """Use the last good configuration, so that everything works without the cloud."""
        rows = await self._engine.read(SQL["setting"], {"name": _SETTING})
        if not rows:
            return
        stored = decoded(rows[0][0], _Stored, "the last good configuration")
        if stored is None:
            return
        try:
            self._hub.use(desired.parse(stored.desired))
        except InvalidArgumentError as error:
            _log.warning("stored configuration not used", reason=error.message)

    def open(self, session: Session) -> None:
        """Begin."""
        self.session = session
        session.open()
        self._task = spawn(self._work(), "edge hub twin")

    async def close(self) -> None:
        """End in good order."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self.session is not None:
            await self.session.close()

    # -- Owner ---------------------------------------------------------------------------------

    def link_changed(self, link: Link, detail: str) -> None:
        """Note how the session stands."""
        up = link is Link.CONNECTED
        _log.info("edge hub upstream", link=link.value, detail=detail)
        if up:
            self._reported = None
            self._up.set()
            self._changed.set()
        else:
            self._up.clear()
        self._hub.own_link_changed(up=up)

    def desired_changed(self, patch: JsonObject) -> None:
        """Take a patch of the configuration."""
        change = twin_rules.without_service_members(patch)
        merged = merge(self._desired, change)
        whole = change.keys() >= _OF_EVERY_CONFIGURATION and merged != change
        if self._reading or whole or patch.get("$version") != self._version + 1:
            # Something was missed, or is about to be; or this may be a document that was put in
            # place of another and does not name what is gone: the whole twin is read again.
            self._missed = True
            self._changed.set()
            return
        self._desired = merged
        self._version += 1
        spawn(self._apply(), "edge hub configuration")

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        """Answer a direct method."""
        if name.lower() != _REFRESH:
            return _NOT_FOUND, {"message": f"Method {name} is not supported"}
        asked = payload.get("deviceIds") if isinstance(payload, dict) else None
        names = [each for each in asked if isinstance(each, str)] if type(asked) is list else []
        await self._hub.refresh_scope(names)
        return 200, None

    async def message(self, message: Message) -> None:
        """Nobody has anything to say to `$edgeHub` this way."""

    # -- Observer ------------------------------------------------------------------------------

    def came(self, ref: IdentityRef) -> None:
        """Report soon."""
        self._changed.set()

    def left(self, ref: IdentityRef) -> None:
        """Report soon; a leaf device that is gone is not reported at all."""
        if ref.device_id != self._device_id and self._clients.get(ref) is None:
            self._clients.presence.pop(ref, None)
        self._changed.set()

    # -- within --------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            await self._up.wait()
            self._changed.clear()
            try:
                if self._reported is None or self._missed:
                    await self._read()
                await self._report()
            except NoLinkError:
                self._changed.set()
            except (HubError, MusterError) as error:
                _log.warning("edge hub twin", reason=str(error))
                self._changed.set()
            await asyncio.sleep(REPORT_AFTER_S)

    async def _read(self) -> None:
        session = self.session
        if session is None:
            return
        self._reported, self._missed, self._reading = None, False, True
        try:
            found = await session.twin()
        finally:
            self._reading = False
        version = found["desired"]["$version"]
        self._reported = twin_rules.without_service_members(found["reported"])
        news = twin_rules.without_service_members(found["desired"])
        if (version, news) != (self._version, self._desired):
            self._version, self._desired = version, news
            await self._apply()

    async def _apply(self) -> None:
        """Do what is desired, if it can be done; else go on as before, and say so."""
        wanted, version_ = self._desired, self._version
        try:
            if wanted:
                self._hub.use(desired.parse(wanted))
                stored = _Stored(wanted, version_)
                await self._keep(stored)
            self._status = {"code": 200, "description": ""}
        except InvalidArgumentError as error:
            _log.warning("configuration refused", reason=error.message)
            self._status = {"code": 400, "description": error.message}
        self._changed.set()

    async def _keep(self, stored: _Stored) -> None:
        value = msgspec.json.encode(stored).decode()
        try:
            await self._engine.write(
                Statement(SQL["put_setting"], {"name": _SETTING, "value": value})
            )
        except UnavailableError as error:
            # It is in force all the same; a start without the hub would be with the one before.
            _log.error("configuration not kept", reason=error.message)

    async def _report(self) -> None:
        session, before = self.session, self._reported
        if session is None or before is None:
            return
        wanted: JsonObject = {
            "schemaVersion": "1.0",
            "version": {"version": __version__, "build": "", "commit": ""},
            "lastDesiredVersion": self._version,
            "lastDesiredStatus": self._status,
            "clients": {
                encode_name(ref.text): _without_nulls(presence.view())
                for ref, presence in self._clients.presence.items()
            },
        }
        patch = difference(before, wanted)
        if patch:
            await session.report(patch)
            self._reported = wanted


def encode_name(text: str) -> str:
    """Return the name of a client as a property's name may be (edge.md 11.14)."""
    return text.replace("%", "%25").replace(".", "%2E").replace("$", "%24").replace(" ", "%20")


def _without_nulls(view: JsonObject) -> JsonObject:
    return {name: value for name, value in view.items() if value is not None}
