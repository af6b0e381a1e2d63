"""A linked hub somewhere else: another Muster or a real Azure IoT Hub, by its public REST API."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from muster.auth import connection_string, sas_token, symmetric_keys
from muster.auth.symmetric_keys import SymmetricKeys
from muster.clock import Clock
from muster.errors import InvalidArgumentError, MusterError, UnavailableError
from muster.provisioning.hubs import DeviceSnapshot, ModuleSnapshot, ProvisionedDevice

_API_VERSION: Final = "2021-04-12"
_TIMEOUT_S: Final = 15.0
_ATTEMPTS: Final = 3
_TOKEN_S: Final = 3_600
_SYSTEM_MODULES: Final = ("$edgeAgent", "$edgeHub")


class HubRefusedError(MusterError):
    """The remote hub answered with an error."""

    default_code = "IotHubError"


class RemoteHub:
    """Implements `provisioning.hubs.LinkedHub` over HTTPS (hub-service.md 1).

    Args:
        text: connection string with RegistryWrite and ServiceConnect.
        clock: for tokens.
        context: what to trust; the system's certificates when `None`.
    """

    local = False

    def __init__(self, text: str, clock: Clock, context: ssl.SSLContext | None = None) -> None:
        found = connection_string.parse(text)
        if not found.key or not found.key_name:
            raise InvalidArgumentError(
                "A hub's connection string has HostName, SharedAccessKeyName and SharedAccessKey",
                code="invalid-connection-string",
            )
        self.host = found.host.lower()
        self._base = f"https://{found.host_name}"
        self._resource = found.host_name
        self._key = symmetric_keys.decode(found.key)
        self._key_name = found.key_name
        self._clock = clock
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def provision(self, device: ProvisionedDevice) -> bool:
        """Create the device, or bring its keys and capability up to date."""
        path = f"/devices/{quote(device.device_id, safe='')}"
        present = await self._call("GET", path)
        wanted: dict[str, Any] = {
            "deviceId": device.device_id,
            "status": "enabled",
            "authentication": _authentication(device.keys),
            "capabilities": {"iotEdge": device.iot_edge},
        }
        if present is None:
            await self._call("PUT", path, wanted)
            await self._write_twin(device.device_id, None, device.tags, device.desired)
            return True
        same = (
            present.get("authentication", {}).get("symmetricKey")
            == wanted["authentication"]["symmetricKey"]
            and bool(present.get("capabilities", {}).get("iotEdge")) == device.iot_edge
        )
        if not same:
            update = {**present, **wanted, "status": present.get("status", "enabled")}
            await self._call("PUT", path, update, if_match=f'"{present["etag"]}"')
        return False

    async def export(self, device_id: str) -> DeviceSnapshot | None:
        """Return what a migration takes along."""
        twin = await self._call("GET", f"/twins/{quote(device_id, safe='')}")
        if twin is None:
            return None
        listed = await self._call("GET", f"/devices/{quote(device_id, safe='')}/modules") or []
        modules = []
        for module in listed:
            module_id = module["moduleId"]
            own = await self._call("GET", _twin_path(device_id, module_id)) or {}
            keys = module["authentication"]["symmetricKey"]
            modules.append(
                ModuleSnapshot(
                    module_id,
                    module.get("managedBy"),
                    SymmetricKeys(keys["primaryKey"], keys["secondaryKey"]),
                    own.get("tags") or {},
                    _plain(own),
                )
            )
        return DeviceSnapshot(twin.get("tags") or {}, _plain(twin), modules)

    async def restore(self, device: ProvisionedDevice, snapshot: DeviceSnapshot) -> None:
        """Create the device with what it brings along."""
        await self.provision(device)
        await self._write_twin(device.device_id, None, snapshot.tags, snapshot.desired)
        for module in snapshot.modules:
            path = (
                f"/devices/{quote(device.device_id, safe='')}"
                f"/modules/{quote(module.module_id, safe='')}"
            )
            if module.module_id not in _SYSTEM_MODULES:
                await self._call(
                    "PUT",
                    path,
                    {
                        "deviceId": device.device_id,
                        "moduleId": module.module_id,
                        "managedBy": module.managed_by,
                        "authentication": _authentication(module.keys),
                    },
                )
            await self._write_twin(device.device_id, module.module_id, module.tags, module.desired)

    async def delete(self, device_id: str) -> None:
        """Delete the device if it is there."""
        await self._call("DELETE", f"/devices/{quote(device_id, safe='')}", if_match="*")

    async def set_enabled(self, device_id: str, *, enabled: bool, reason: str) -> int | None:
        """Enable or disable the device; how many sessions that drops, the API does not tell."""
        path = f"/devices/{quote(device_id, safe='')}"
        present = await self._call("GET", path)
        if present is None:
            return None
        present["status"] = "enabled" if enabled else "disabled"
        present["statusReason"] = reason or None
        await self._call("PUT", path, present, if_match="*")
        return 0

    async def close(self) -> None:
        """Close the HTTP session."""
        if self._session is not None:
            await self._session.close()

    async def _write_twin(
        self, device_id: str, module_id: str | None, tags: Any, desired: Any
    ) -> None:
        if tags or desired:
            patch = {"tags": tags, "properties": {"desired": desired}}
            await self._call("PATCH", _twin_path(device_id, module_id), patch)

    async def _call(
        self, method: str, path: str, body: Any = None, if_match: str | None = None
    ) -> Any:
        """Call the hub; `None` for 404 and for answers without a body.

        Raises:
            HubRefusedError: it answered with another error.
            UnavailableError: it cannot be reached, or stays busy.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
                connector=aiohttp.TCPConnector(ssl=self._context or True, limit=32),
            )
        reason = "no answer"
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(2.0**attempt / 2)
            headers = {"Authorization": self._token()}
            if if_match is not None:
                headers["If-Match"] = if_match
            try:
                async with self._session.request(
                    method,
                    f"{self._base}{path}",
                    params={"api-version": _API_VERSION},
                    json=body,
                    headers=headers,
                ) as answer:
                    if answer.status == 404:
                        return None
                    if answer.status < 300:
                        return await answer.json() if answer.status != 204 else None
                    reason = await _message(answer)
                    if answer.status != 429 and answer.status < 500:
                        raise HubRefusedError(reason)
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
        raise UnavailableError(f"The hub {self.host} does not answer: {reason}")

    def _token(self) -> str:
        expiry = int(self._clock.time()) + _TOKEN_S
        return sas_token.sign(self._resource, self._key, expiry, self._key_name)


def _authentication(keys: SymmetricKeys) -> dict[str, Any]:
    return {
        "type": "sas",
        "symmetricKey": {"primaryKey": keys.primary, "secondaryKey": keys.secondary},
    }


def _twin_path(device_id: str, module_id: str | None) -> str:
    path = f"/twins/{quote(device_id, safe='')}"
    return path if module_id is None else f"{path}/modules/{quote(module_id, safe='')}"


def _plain(twin: dict[str, Any]) -> dict[str, Any]:
    desired = twin.get("properties", {}).get("desired", {})
    return {name: value for name, value in desired.items() if not name.startswith("$")}


async def _message(answer: aiohttp.ClientResponse) -> str:
    try:
        shown = await answer.json(content_type=None)
        return str(shown["Message"])[:512]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"
