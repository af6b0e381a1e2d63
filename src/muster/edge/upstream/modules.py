"""The module identities of this device at its hub, over HTTPS (edge.md 2.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote

import msgspec

from muster.edge.upstream.authentication import Authentication
from muster.edge.upstream.errors import NonsenseError, RefusedError

if TYPE_CHECKING:
    from muster.edge.upstream.authentication import Keys
    from muster.edge.upstream.http import Answer, Https
    from muster.edge.upstream.login import Login

MANAGED_BY: Final = "IotEdge"
"""What a module that this device has made says of that (edge.md 5.3)."""

_API_VERSION: Final = "2017-11-08-preview"
_OK: Final = frozenset({200})
_GONE: Final = frozenset({204})
_ANY: Final = {"If-Match": "*"}
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class RemoteModule(msgspec.Struct, rename="camel", frozen=True):
    """A module identity as the hub says it."""

    module_id: str
    device_id: str
    generation_id: str = ""
    managed_by: str | None = None
    authentication: Authentication | None = None

    @property
    def keys(self) -> Keys | None:
        """Its keys, `None` where it has none."""
        return None if self.authentication is None else self.authentication.symmetric_key


@final
class HubModules:
    """Calls the hub with the device's own proof.

    Each call raises `UnreachableError`, `RefusedError` and `NonsenseError`.

    Args:
        https: to the hub, or to the parent.
        device: who calls.
    """

    def __init__(self, https: Https, device: Login) -> None:
        self._https = https
        self._device = device
        self._base = f"/devices/{quote(device.device_id, safe='')}/modules"

    async def all(self) -> list[RemoteModule]:
        """Return all modules of the device."""
        answer = await self._call("GET", "", _OK)
        return [self._checked(module) for module in answer.read(list[RemoteModule])]

    async def get(self, module_id: str) -> RemoteModule | None:
        """Return a module, `None` where there is none."""
        try:
            answer = await self._call("GET", module_id, _OK)
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return self._module(answer, module_id)

    async def create(self, module_id: str) -> RemoteModule:
        """Make a module without keys, for they are derived of its generation; or find it there."""
        body = {**self._names(module_id), "managedBy": MANAGED_BY}
        try:
            answer = await self._call("PUT", module_id, _OK, body)
        except RefusedError as error:
            if error.status != _CONFLICT:
                raise
            # Made meanwhile, or by a call whose answer was lost.
            found = await self.get(module_id)
            if found is None:
                raise
            return found
        return self._module(answer, module_id)

    async def set_keys(self, module: RemoteModule, keys: Keys) -> RemoteModule:
        """Give a module keys."""
        body: dict[str, Any] = {
            **self._names(module.module_id),
            "authentication": {"type": "sas", "symmetricKey": keys},
        }
        if module.managed_by is not None:
            body["managedBy"] = module.managed_by
        answer = await self._call("PUT", module.module_id, _OK, body, _ANY)
        return self._module(answer, module.module_id)

    async def delete(self, module_id: str) -> None:
        """Delete a module; nothing where there is none."""
        try:
            await self._call("DELETE", module_id, _GONE, headers=_ANY)
        except RefusedError as error:
            if error.status != _NOT_FOUND:
                raise

    async def _call(
        self,
        method: str,
        module_id: str,
        expect: frozenset[int],
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        tail = f"/{quote(module_id, safe='')}" if module_id else ""
        return await self._https.call(
            method,
            f"{self._base}{tail}?api-version={_API_VERSION}",
            None if self._device.key is None else self._device.token,
            expect=expect,
            body=body,
            headers=headers,
        )

    def _names(self, module_id: str) -> dict[str, Any]:
        return {"moduleId": module_id, "deviceId": self._device.device_id}

    def _module(self, answer: Answer, module_id: str) -> RemoteModule:
        found = self._checked(answer.read(RemoteModule))
        if found.module_id != module_id or not found.generation_id:
            raise NonsenseError("the hub answers with another module than the one asked for")
        return found

    def _checked(self, module: RemoteModule) -> RemoteModule:
        if module.device_id != self._device.device_id:
            raise NonsenseError("the hub answers with a module of another device")
        return module
