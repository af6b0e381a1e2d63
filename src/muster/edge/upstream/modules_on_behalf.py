"""Module identities of edge devices below this one, at the hub or the parent (edge.md 6.3).

What comes back is for the device below: it is passed on as it is, refusals included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote

from muster.edge.identity import HUB
from muster.edge.upstream.device_scope import API_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.edge.upstream.http import Answer, Https
    from muster.edge.upstream.login import Login

_PASSED_ON: Final = frozenset(range(200, 300)) | frozenset(range(400, 500)) - {429}


@final
class ModulesOnBehalf:
    """Asks the hub with the proof of `$edgeHub`.

    Each call raises `UnreachableError` and `NonsenseError`. A chain is that of device IDs joined by
    `;`, from the device whose modules they are up to this one.

    Args:
        https: to the hub, or to the parent.
        edge_hub: the module `$edgeHub`, which calls.
    """

    def __init__(self, https: Https, edge_hub: Login) -> None:
        self._https = https
        self._login = edge_hub
        device = quote(edge_hub.device_id, safe="")
        self._base = f"/devices/{device}/modules/{quote(HUB, safe='')}"

    async def all(self, auth_chain: str) -> Answer:
        """Ask for all modules of a device."""
        return await self._call("POST", "getModulesOnTargetDevice", {"authChain": auth_chain})

    async def get(self, auth_chain: str, module_id: str) -> Answer:
        """Ask for a module."""
        body = {"authChain": auth_chain, "targetModuleId": module_id}
        return await self._call("POST", "getModuleOnBehalfOf", body)

    async def put(self, auth_chain: str, module: Mapping[str, Any], if_match: str | None) -> Answer:
        """Make a module, or with `if_match` change one."""
        body = {"authChain": auth_chain, "module": module}
        headers = {} if if_match is None else {"If-Match": if_match}
        return await self._call("PUT", "putModuleOnBehalfOf", body, headers)

    async def delete(self, auth_chain: str, module_id: str) -> Answer:
        """Delete a module."""
        body = {"authChain": auth_chain, "moduleId": module_id}
        return await self._call("POST", "deleteModuleOnBehalfOf", body)

    async def _call(
        self,
        method: str,
        name: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return await self._https.call(
            method,
            f"{self._base}/{name}?api-version={API_VERSION}",
            None if self._login.key is None else self._login.token,
            expect=_PASSED_ON,
            body=body,
            headers=headers,
        )
