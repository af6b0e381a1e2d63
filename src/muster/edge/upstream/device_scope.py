"""Who is in this device's scope: what the edge hub asks with its module's key (edge.md 6.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote

import msgspec
import structlog

from muster.edge.identity import HUB
from muster.edge.upstream.authentication import Authentication
from muster.edge.upstream.errors import NonsenseError, RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from muster.edge.upstream.http import Https
    from muster.edge.upstream.login import Login

PAGE: Final = 100
"""Devices of a page."""

MAX_DEPTH: Final = 5
"""Edge devices above each other, as the official runtime has it."""
API_VERSION: Final = "2020-06-30-preview"
"""Of what one device asks for another."""

_OK: Final = frozenset({200})
_MOST_PAGES: Final = 10_000
_log = structlog.get_logger(__name__)


class ScopeCapabilities(msgspec.Struct, rename="camel", frozen=True):
    """What a device is."""

    iot_edge: bool = False


class ScopeDevice(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """A device of the scope, or this one itself."""

    device_id: str
    generation_id: str = ""
    etag: str | None = None
    status: str = "enabled"
    device_scope: str | None = None
    parent_scopes: list[str] | None = None
    capabilities: ScopeCapabilities | None = None
    authentication: Authentication | None = None

    @property
    def is_edge(self) -> bool:
        """Whether it is an edge device."""
        return self.capabilities is not None and self.capabilities.iot_edge


class ScopeModule(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """A module of such a device."""

    device_id: str
    module_id: str
    generation_id: str = ""
    etag: str | None = None
    managed_by: str | None = None
    authentication: Authentication | None = None


class ScopePage(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Some of the scope."""

    devices: list[ScopeDevice] | None = None
    modules: list[ScopeModule] | None = None
    continuation_link: str | None = None


@final
class DeviceScope:
    """Asks the hub. Each call raises `UnreachableError`, `RefusedError` and `NonsenseError`.

    A chain is that of device IDs joined by `;`, from an edge device below this one, or this one
    itself, up to this one.

    Args:
        https: to the hub, or to the parent.
        edge_hub: the module `$edgeHub`, which calls.
    """

    def __init__(self, https: Https, edge_hub: Login) -> None:
        self._https = https
        self._login = edge_hub
        device = quote(edge_hub.device_id, safe="")
        self._base = f"/devices/{device}/modules/{quote(HUB, safe='')}"

    async def pages(
        self, auth_chain: str | None = None, page_size: int = PAGE
    ) -> AsyncIterator[ScopePage]:
        """Yield a whole scope: an edge device, its modules, those below it, and so on downwards.

        Args:
            auth_chain: of the edge device; `None` for this one.
            page_size: devices of a page.
        """
        top = auth_chain or self._login.device_id
        waiting, seen = [top], set(top.split(";"))
        while waiting:
            chain = waiting.pop(0)
            try:
                async for page in self._scope(chain, page_size):
                    yield page
                    below = [each.device_id for each in page.devices or () if each.is_edge]
                    if chain.count(";") < MAX_DEPTH - 1:
                        waiting += [f"{each};{chain}" for each in below if each not in seen]
                    seen.update(below)
            except RefusedError as error:
                if chain == top:
                    raise
                # It went meanwhile, or is disabled: the others do not wait for it.
                _log.info("scope of an edge device not told", chain=chain, reason=error.message)

    async def one(
        self, device_id: str, module_id: str | None = None, auth_chain: str | None = None
    ) -> ScopePage:
        """Return one identity; `RefusedError` where it is not there.

        Args:
            device_id: whom it is about.
            module_id: `None` for the device itself.
            auth_chain: of the edge device it belongs to; `None` for this one.
        """
        chain = auth_chain or self._login.device_id
        body = {"targetDeviceId": device_id, "authChain": chain}
        if module_id is not None:
            body["targetModuleId"] = module_id
        return await self._call("getDeviceAndModuleOnBehalfOf", body)

    async def _scope(self, chain: str, page_size: int) -> AsyncIterator[ScopePage]:
        body: dict[str, Any] = {"pageSize": page_size, "authChain": chain}
        seen = set[str]()
        while len(seen) < _MOST_PAGES:
            page = await self._call("devicesAndModulesInTargetDeviceScope", body)
            yield page
            link = page.continuation_link
            if not link:
                return
            if link in seen:
                break
            seen.add(link)
            body["continuationLink"] = link
        raise NonsenseError("the hub's pages of the device scope have no end")

    async def _call(self, name: str, body: dict[str, Any]) -> ScopePage:
        path = f"{self._base}/{name}?api-version={API_VERSION}"
        token = None if self._login.key is None else self._login.token
        answer = await self._https.call("POST", path, token, expect=_OK, body=body)
        return answer.read(ScopePage)
