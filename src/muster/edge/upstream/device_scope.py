"""Who is in this device's scope: what the edge hub asks with its module's key (edge.md 6.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote, urlsplit

import msgspec

from muster.edge.identity import HUB
from muster.edge.upstream.authentication import Authentication
from muster.edge.upstream.errors import NonsenseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from muster.edge.upstream.http import Https
    from muster.edge.upstream.login import Login

PAGE: Final = 100
"""Devices of a page."""

_API_VERSION: Final = "2018-08-30-preview"
_NESTED_API_VERSION: Final = "2020-06-30-preview"
_OK: Final = frozenset({200})
_MOST_PAGES: Final = 10_000


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

    Args:
        https: to the hub, or to the parent.
        edge_hub: the module `$edgeHub`, which calls.
    """

    def __init__(self, https: Https, edge_hub: Login) -> None:
        self._https = https
        self._login = edge_hub
        device = quote(edge_hub.device_id, safe="")
        self._base = f"/devices/{device}/modules/{quote(HUB, safe='')}"

    async def pages(self, page_size: int = PAGE) -> AsyncIterator[ScopePage]:
        """Yield the whole scope, page by page: this device, its modules, those below it."""
        path = (
            f"{self._base}/devicesAndModulesInDeviceScope?deviceCount={page_size}"
            f"&continuationToken=&api-version={_API_VERSION}"
        )
        seen = set[str]()
        while path not in seen and len(seen) < _MOST_PAGES:
            seen.add(path)
            page = await self._call("GET", path)
            yield page
            if not page.continuation_link:
                return
            path = self._followed(page.continuation_link)
        raise NonsenseError("the hub's pages of the device scope have no end")

    async def one(self, device_id: str, module_id: str | None = None) -> ScopePage:
        """Return one identity of the scope; `RefusedError` 404 where it is not there."""
        module = "" if module_id is None else quote(module_id, safe="")
        return await self._call(
            "GET",
            f"{self._base}/deviceAndModuleInDeviceScope?targetDeviceId={quote(device_id, safe='')}"
            f"&targetModuleId={module}&api-version={_API_VERSION}",
        )

    async def nested_pages(
        self, auth_chain: str, page_size: int = PAGE
    ) -> AsyncIterator[ScopePage]:
        """Yield the scope of an edge device below this one.

        Args:
            auth_chain: device IDs joined by `;`, from that device up to this one.
            page_size: devices of a page.
        """
        body: dict[str, Any] = {"pageSize": page_size, "authChain": auth_chain}
        seen = set[str]()
        while len(seen) < _MOST_PAGES:
            page = await self._nested("devicesAndModulesInTargetDeviceScope", body)
            yield page
            link = page.continuation_link
            if not link:
                return
            if link in seen:
                break
            seen.add(link)
            body["continuationLink"] = link
        raise NonsenseError("the hub's pages of the device scope have no end")

    async def on_behalf_of(
        self, auth_chain: str, device_id: str, module_id: str | None = None
    ) -> ScopePage:
        """Return one identity below this device.

        Args:
            auth_chain: device IDs joined by `;`, from that device up to this one.
            device_id: whom it is about.
            module_id: `None` for the device itself.
        """
        body: dict[str, Any] = {"targetDeviceId": device_id, "authChain": auth_chain}
        if module_id is not None:
            body["targetModuleId"] = module_id
        return await self._nested("getDeviceAndModuleOnBehalfOf", body)

    async def _nested(self, name: str, body: dict[str, Any]) -> ScopePage:
        path = f"{self._base}/{name}?api-version={_NESTED_API_VERSION}"
        return await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: Any = None) -> ScopePage:
        token = None if self._login.key is None else self._login.token
        answer = await self._https.call(method, path, token, expect=_OK, body=body)
        return answer.read(ScopePage)

    def _followed(self, link: str) -> str:
        """Return where a link leads: an address at this very place, or nonsense."""
        parts = urlsplit(link)
        path = f"{parts.path}?{parts.query}"
        start = f"{self._base}/devicesAndModulesInDeviceScope"
        if parts.path.lower().replace("$", "%24") != start.lower().replace("$", "%24"):
            raise NonsenseError("the hub's page of the device scope leads somewhere else")
        return path
