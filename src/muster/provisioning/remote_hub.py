"""A linked hub somewhere else: another Muster or a real Azure IoT Hub, by its public REST API.

Calls are repeated while the hub is busy or does not answer, with growing pauses, and each of them
may be: what a lost answer has done already is found done. All calls to one hub share a session.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec
import structlog

from muster.auth import connection_string, sas_token, symmetric_keys
from muster.auth.symmetric_keys import SymmetricKeys
from muster.clock import Clock
from muster.errors import InvalidArgumentError, MusterError, UnavailableError
from muster.ids import Randomness
from muster.model.enrollment import JsonObject
from muster.model.identity import Thumbprints
from muster.provisioning.hubs import DeviceSnapshot, ModuleSnapshot, ProvisionedDevice
from muster.store.engine import Statement

_API_VERSION: Final = "2021-04-12"
_TIMEOUT_S: Final = 15.0
_ATTEMPTS: Final = 3
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_TOKEN_S: Final = 3_600
_MAX_CONNECTIONS: Final = 32
_SYSTEM_MODULES: Final = ("$edgeAgent", "$edgeHub")
_CONFLICT: Final = 409
_BUSY: Final = 429

_Json: TypeAlias = Any
_log = structlog.get_logger(__name__)


class HubRefusedError(MusterError):
    """The remote hub answered with an error.

    Args:
        message: the hub's own words.
        status: HTTP status.
        code: the hub's name of the error, such as `IotHubUnauthorizedAccess`.
    """

    default_code = "IotHubError"

    def __init__(self, message: str, status: int, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


class RemoteHub:
    """Implements `provisioning.hubs.LinkedHub` over HTTPS (hub-service.md 1).

    Args:
        text: connection string with RegistryWrite and ServiceConnect.
        clock: for tokens.
        context: what to trust; the system's certificates when `None`.
        randomness: for keys of migrating modules that have none (X.509).
        first_pause_s: pause before the first repetition, doubled for each further one.
    """

    local = False

    def __init__(
        self,
        text: str,
        clock: Clock,
        context: ssl.SSLContext | None = None,
        randomness: Randomness | None = None,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
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
        self._randomness = randomness or Randomness()
        self._first_pause_s = first_pause_s
        self._session: aiohttp.ClientSession | None = None

    async def provision(
        self, device: ProvisionedDevice, also: Sequence[Statement] = (), *, known: bool = True
    ) -> bool:
        """Create the device, or bring its keys and capability up to date."""
        path = _device_path(device.device_id)
        present = await self._call("GET", path)
        if present is None:
            if await self._create(device):
                await self._begin_twin(device)
                return False
            present = await self._call("GET", path) or {}
        wanted = _identity(device)
        if not _same(present, wanted):
            status = present.get("status") or "enabled"
            await self._call("PUT", path, {**present, **wanted, "status": status}, if_match="*")
        return False

    async def export(self, device_id: str) -> DeviceSnapshot | None:
        """Return what a migration takes along."""
        twin = await self._call("GET", _twin_path(device_id, None))
        if twin is None:
            return None
        modules = []
        for module in await self._call("GET", f"{_device_path(device_id)}/modules") or []:
            module_id = str(module["moduleId"])
            own = await self._call("GET", _twin_path(device_id, module_id)) or {}
            proof = module.get("authentication") or {}
            keys = proof.get("symmetricKey") or {}
            modules.append(
                ModuleSnapshot(
                    module_id,
                    module.get("managedBy"),
                    SymmetricKeys(
                        keys.get("primaryKey") or self._randomness.key(),
                        keys.get("secondaryKey") or self._randomness.key(),
                    ),
                    own.get("tags") or {},
                    _desired(own),
                    _thumbprints(proof),
                )
            )
        return DeviceSnapshot(twin.get("tags") or {}, _desired(twin), modules)

    async def restore(self, device: ProvisionedDevice, snapshot: DeviceSnapshot) -> None:
        """Create the device with what it brings along; what had its name is gone afterwards."""
        await self.delete(device.device_id)
        await self._create(device)
        await self._replace_twin(device.device_id, None, snapshot.tags, snapshot.desired)
        for module in snapshot.modules:
            system = module.module_id in _SYSTEM_MODULES
            if system and not device.iot_edge:
                continue
            if not system:
                path = f"{_device_path(device.device_id)}/modules/{quote(module.module_id, '')}"
                body = {
                    "deviceId": device.device_id,
                    "moduleId": module.module_id,
                    "managedBy": module.managed_by,
                    "authentication": _module_authentication(module),
                }
                await self._make(path, body)
            await self._replace_twin(
                device.device_id, module.module_id, module.tags, module.desired
            )

    async def delete(self, device_id: str) -> None:
        """Delete the device if it is there."""
        await self._call("DELETE", _device_path(device_id), if_match="*")

    async def is_enabled(self, device_id: str) -> bool | None:
        """Tell whether the device is enabled; `None` when there is no such device."""
        present = await self._call("GET", _device_path(device_id))
        return None if present is None else present.get("status") != "disabled"

    async def set_enabled(self, device_id: str, *, enabled: bool, reason: str) -> int | None:
        """Enable or disable the device; how many sessions that drops, the API does not tell."""
        path = _device_path(device_id)
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

    async def _create(self, device: ProvisionedDevice) -> bool:
        body = {**_identity(device), "status": "enabled"}
        return await self._make(_device_path(device.device_id), body)

    async def _make(self, path: str, body: JsonObject) -> bool:
        """Create an identity; returns whether it is as wanted, made now or by a lost answer."""
        try:
            await self._call("PUT", path, body)
        except HubRefusedError as error:
            if error.status != _CONFLICT:
                raise
            return _same(await self._call("GET", path) or {}, body)
        return True

    async def _begin_twin(self, device: ProvisionedDevice) -> None:
        """Write the initial twin; without it the identity is taken back, to be made again."""
        if not device.tags and not device.desired:
            return
        try:
            patch = {"tags": device.tags, "properties": {"desired": device.desired}}
            await self._call("PATCH", _twin_path(device.device_id, None), patch)
        except MusterError:
            try:
                await self.delete(device.device_id)
            except MusterError as error:
                _log.warning(
                    "device left without its initial twin",
                    hub=self.host,
                    device_id=device.device_id,
                    reason=error.message,
                )
            raise

    async def _replace_twin(
        self, device_id: str, module_id: str | None, tags: JsonObject, desired: JsonObject
    ) -> None:
        twin = {"tags": tags, "properties": {"desired": desired}}
        await self._call("PUT", _twin_path(device_id, module_id), twin, if_match="*")

    async def _call(
        self, method: str, path: str, body: _Json = None, if_match: str | None = None
    ) -> _Json:
        """Call the hub; `None` for 404 and for answers without a body.

        Raises:
            HubRefusedError: it answered with another error, or with something that is no JSON.
            UnavailableError: it cannot be reached, or stays busy.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
                connector=aiohttp.TCPConnector(ssl=self._context or True, limit=_MAX_CONNECTIONS),
            )
        reason, pause_s = "no answer", self._first_pause_s
        for left in reversed(range(_ATTEMPTS)):
            headers = {"Authorization": self._token(), "Content-Type": "application/json"}
            if if_match is not None:
                # Quoted, as the SDKs send it (hub-service.md 1.1).
                headers["If-Match"] = f'"{if_match}"'
            wait_s = pause_s
            try:
                async with self._session.request(
                    method,
                    f"{self._base}{path}",
                    params={"api-version": _API_VERSION},
                    data=None if body is None else msgspec.json.encode(body),
                    headers=headers,
                ) as answer:
                    content = await answer.read()
                    if answer.status == 404:
                        return None
                    if answer.status < 300:
                        return _decoded(content, answer.status) if content.strip() else None
                    code, reason = _error(content, answer.status)
                    if answer.status != _BUSY and answer.status < 500:
                        raise HubRefusedError(reason, answer.status, code)
                    asked = answer.headers.get("Retry-After", "")
                    wait_s = max(pause_s, float(asked)) if asked.isdecimal() else pause_s
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
            if left:
                await asyncio.sleep(min(wait_s, _LONGEST_PAUSE_S))
                pause_s *= 2
        raise UnavailableError(f"The hub {self.host} does not answer: {reason}")

    def _token(self) -> str:
        expiry = int(self._clock.time()) + _TOKEN_S
        return sas_token.sign(self._resource, self._key, expiry, self._key_name)


def _identity(device: ProvisionedDevice) -> JsonObject:
    return {
        "deviceId": device.device_id,
        "authentication": _authentication(device.keys),
        "capabilities": {"iotEdge": device.iot_edge},
    }


def _same(present: JsonObject, wanted: JsonObject) -> bool:
    """Tell whether an identity has the wanted keys and capability."""

    def proof(identity: JsonObject) -> tuple[_Json, bool]:
        keys = (identity.get("authentication") or {}).get("symmetricKey")
        return keys, bool((identity.get("capabilities") or {}).get("iotEdge"))

    return proof(present) == proof(wanted)


def _authentication(keys: SymmetricKeys) -> JsonObject:
    return {
        "type": "sas",
        "symmetricKey": {"primaryKey": keys.primary, "secondaryKey": keys.secondary},
    }


def _module_authentication(module: ModuleSnapshot) -> JsonObject:
    if module.thumbprints is None:
        return _authentication(module.keys)
    return {"type": "selfSigned", "x509Thumbprint": msgspec.to_builtins(module.thumbprints)}


def _thumbprints(proof: JsonObject) -> Thumbprints | None:
    if proof.get("type") != "selfSigned":
        return None
    return msgspec.convert(proof.get("x509Thumbprint") or {}, Thumbprints)


def _device_path(device_id: str) -> str:
    return f"/devices/{quote(device_id, safe='')}"


def _twin_path(device_id: str, module_id: str | None) -> str:
    path = f"/twins/{quote(device_id, safe='')}"
    return path if module_id is None else f"{path}/modules/{quote(module_id, safe='')}"


def _desired(twin: JsonObject) -> JsonObject:
    desired = (twin.get("properties") or {}).get("desired") or {}
    return {name: value for name, value in desired.items() if not name.startswith("$")}


def _decoded(content: bytes, status: int) -> _Json:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        raise HubRefusedError("The answer is not JSON", status) from None


def _error(content: bytes, status: int) -> tuple[str | None, str]:
    """Take `ErrorCode:Name;text` apart (hub-service.md 2); without it the status has to do."""
    try:
        text = str(msgspec.json.decode(content)["Message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None, f"HTTP {status}"
    name, _, rest = text.removeprefix("ErrorCode:").partition(";")
    if not text.startswith("ErrorCode:") or not rest:
        return None, text[:512]
    return name[:64], rest[:512]
