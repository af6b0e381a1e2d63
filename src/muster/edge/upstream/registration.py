"""This device registers with the provisioning service over HTTPS (edge.md 2.3, dps.md 6.3)."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import quote, urlsplit

import msgspec

from muster.auth import sas_token
from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.settings import SymmetricKeyAttestation, TpmAttestation, X509Attestation
from muster.edge.upstream import trust
from muster.edge.upstream.errors import NonsenseError, RefusedError, UnreachableError
from muster.edge.upstream.http import Https
from muster.edge.upstream.login import HTTPS_PORT, Gateway
from muster.errors import InvalidArgumentError
from muster.ids import check_device_id, check_registration_id
from muster.net.tunnel import Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from muster.edge.settings import DpsProvisioning
    from muster.edge.upstream.http import Answer, Proof
    from muster.edge.upstream.hub_time import HubTime

_API_VERSION: Final = "2021-06-01"
_GOOD: Final = frozenset({200, 202})
_KEY_NAME: Final = "registration"
_POLL_S: Final = 5.0
"""Between polls, where the service does not say (edge.md 2.3)."""
_SHORTEST_POLL_S: Final = 0.5
_LONGEST_POLL_S: Final = 120.0
_PATIENCE_S: Final = 1800.0
"""For the whole registration; custom allocation may take its time."""
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(?=[^:]{{1,253}}(?::|\Z)){_LABEL}(?:\.{_LABEL})*(?::([0-9]{{1,5}}))?")
_LAST_PORT: Final = 65_535


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Where the provisioning service has put this device.

    Attributes:
        hub_host: `host[:port]` of its hub.
        device_id: its ID there.
        substatus: `initialAssignment`, `deviceDataMigrated`, `deviceDataReset`,
            `reprovisionedToInitialAssignment`; `''` where the service does not say.
    """

    hub_host: str
    device_id: str
    substatus: str = ""


class _State(msgspec.Struct, rename="camel"):
    assigned_hub: str = ""
    device_id: str = ""
    substatus: str | None = None
    error_code: int | None = None
    error_message: str | None = None


class _Operation(msgspec.Struct, rename="camel"):
    operation_id: str = ""
    status: str = ""
    registration_state: _State | None = None


@final
class Registrar:
    """Registers one device. Belongs to the running event loop.

    Args:
        provisioning: what the configuration says.
        trust_bundle: further CAs to trust.
        time: for tokens.
        environment: says the proxy, see `Proxy.of`.
        address: of the service, where its name is not to be resolved.

    Raises:
        InvalidArgumentError: it cannot be done as configured: codes `tpm-unsupported`,
            `invalid-endpoint`, `invalid-registration-id`, `invalid-certificate`, `invalid-proxy`.
    """

    def __init__(
        self,
        provisioning: DpsProvisioning,
        trust_bundle: Path | None,
        time: HubTime,
        *,
        environment: Mapping[str, str],
        address: str | None = None,
    ) -> None:
        attestation = provisioning.attestation
        certificate = key = None
        if isinstance(attestation, TpmAttestation):
            raise InvalidArgumentError(
                "provisioning.attestation: method 'tpm' is not supported by this runtime; use "
                "'symmetric_key' or 'x509'",
                code="tpm-unsupported",
            )
        if isinstance(attestation, X509Attestation):
            certificate, key = attestation.certificate, attestation.private_key
        self.registration_id = registration_id(provisioning)
        self._provisioning = provisioning
        self._trusted = trust_bundle, certificate, key
        try:
            trust.check(*self._trusted)
        except OSError as error:  # `ssl.SSLError` is one
            raise InvalidArgumentError(
                f"A certificate or key of the configuration cannot be used: {error}",
                code="invalid-certificate",
            ) from None
        self._gateway = _gateway(provisioning.endpoint, environment, address)
        self._time = time
        self._base = (
            f"/{quote(provisioning.id_scope, safe='')}"
            f"/registrations/{quote(self.registration_id, safe='')}"
        )

    async def register(self) -> Assignment:
        """Register, and wait until the device is assigned.

        Raises:
            UnreachableError: the service is out of reach, busy, or does not come to an end.
            RefusedError: it does not accept the device, for now at least.
            NonsenseError: its answers make no sense.
        """
        body: dict[str, Any] = {"registrationId": self.registration_id}
        if self._provisioning.payload is not None:
            body["payload"] = await asyncio.to_thread(_document, self._provisioning.payload)
        # Nothing is kept between registrations, which are years apart in a good life.
        try:
            context = await asyncio.to_thread(trust.context, *self._trusted)
        except OSError as error:
            raise UnreachableError(f"a certificate or key cannot be used: {error}") from None
        https = Https(self._gateway, context, self._time)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._register(https, body)
        except TimeoutError:
            raise UnreachableError("the provisioning service does not finish") from None
        finally:
            await https.close()

    async def _register(self, https: Https, body: dict[str, Any]) -> Assignment:
        # 202 is what the service answers; 200 would be one that is finished at once.
        answer = await self._call(https, "PUT", "register", body)
        operation = answer.read(_Operation)
        if not operation.operation_id:
            raise NonsenseError("the provisioning service names no operation")
        path = f"operations/{quote(operation.operation_id, safe='')}"
        while True:
            found = _assignment(operation)
            if found is not None:
                return found
            wait_s = _POLL_S if answer.retry_after_s is None else answer.retry_after_s
            await asyncio.sleep(min(max(wait_s, _SHORTEST_POLL_S), _LONGEST_POLL_S))
            answer = await self._call(https, "GET", path)
            operation = answer.read(_Operation)

    async def _call(self, https: Https, method: str, tail: str, body: Any = None) -> Answer:
        path = f"{self._base}/{tail}?api-version={_API_VERSION}"
        return await https.call(method, path, self._proof(), expect=_GOOD, body=body)

    def _proof(self) -> Proof:
        attestation = self._provisioning.attestation
        if not isinstance(attestation, SymmetricKeyAttestation):
            return None
        # Lower case, as the official daemons sign (edge.md 2.1).
        resource = f"{self._provisioning.id_scope}/registrations/{self.registration_id}".lower()
        return lambda expiry: sas_token.sign(resource, attestation.key, expiry, _KEY_NAME)


def registration_id(provisioning: DpsProvisioning) -> str:
    """Return the registration ID; of a certificate without one, its common name (edge.md 2.1).

    Raises:
        InvalidArgumentError: codes `invalid-registration-id`, `invalid-certificate`.
    """
    attestation = provisioning.attestation
    given = attestation.registration_id
    if given is None and isinstance(attestation, X509Attestation):
        given = _common_name(attestation.certificate)
    return check_registration_id(given or "", "registration_id")


def _common_name(certificate: Path) -> str:
    from cryptography import x509  # noqa: PLC0415 - 10 MB that only few devices need here
    from cryptography.x509.oid import NameOID  # noqa: PLC0415 - likewise

    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"The certificate {certificate} cannot be read: {error}", code="invalid-certificate"
        ) from None
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _gateway(endpoint: str, environment: Mapping[str, str], address: str | None) -> Gateway:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "https" or not host:
        raise InvalidArgumentError(
            "provisioning.global_endpoint must be https://HOST[:PORT]", code="invalid-endpoint"
        )
    try:
        proxy = Proxy.of(host, environment)
    except ValueError as error:
        raise InvalidArgumentError(f"https_proxy: {error}", code="invalid-proxy") from None
    return Gateway(host=host, https_port=port or HTTPS_PORT, address=address, proxy=proxy)


def _document(path: Path) -> Any:
    try:
        return foreign_json.decode(path.read_bytes())
    except (OSError, ForeignJsonError) as error:
        raise RefusedError(f"the payload {path} is not JSON: {error}", status=400) from None


def _assignment(operation: _Operation) -> Assignment | None:
    """Return the result of an operation; `None` while there is none.

    Raises:
        RefusedError: the result is that the device is not assigned.
        NonsenseError: there should be a result.
    """
    status, state = operation.status.lower(), operation.registration_state or _State()
    if status in {"failed", "disabled"}:
        words = state.error_message or f"the registration is {status}"
        raise RefusedError(words[:500], status=200, code=state.error_code or 0)
    if status != "assigned":
        return None
    try:
        check_device_id(state.device_id)
    except InvalidArgumentError:
        raise NonsenseError("the provisioning service assigns an impossible device ID") from None
    host = _HOST.fullmatch(state.assigned_hub)
    if host is None or not 0 < int(host[1] or 443) <= _LAST_PORT:
        raise NonsenseError("the provisioning service assigns an impossible hub")
    return Assignment(
        hub_host=state.assigned_hub, device_id=state.device_id, substatus=state.substatus or ""
    )
