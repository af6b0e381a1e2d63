"""The workload API: what modules ask of their device (edge.md 3.3)."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING, Final, Protocol, final

import msgspec

from muster.clock import format_time
from muster.edge.local_api.answers import MAX_BODY, json_response, parse_moment, route
from muster.errors import InvalidArgumentError, NotFoundError
from muster.net.routing import decode_json, read_body

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from muster.edge.certificates.issuance import CertificateIssuer, IssuedCertificate
    from muster.edge.certificates.sealing import Sealer
    from muster.edge.identity import ModuleIdentity
    from muster.edge.local_api.callers import Callers
    from muster.edge.local_api.modules import Modules
    from muster.net.routing import Route

_FIRST: Final = "2018-06-28"


class KnownModules(Protocol):
    """The identities of modules, without a question to anybody."""

    def known(self, module_id: str) -> ModuleIdentity | None:
        """Return an identity; `None` where none is known."""


class _Sign(msgspec.Struct):
    data: str


class _Encrypt(msgspec.Struct, rename="camel"):
    plaintext: str
    initialization_vector: str


class _Decrypt(msgspec.Struct, rename="camel"):
    ciphertext: str
    initialization_vector: str


class _IdentityCertificate(msgspec.Struct):
    expiration: str | None = None


class _ServerCertificate(msgspec.Struct, rename="camel"):
    common_name: str
    expiration: str


@final
class WorkloadApi:
    """Answers modules.

    Args:
        callers: who is who.
        identities: whose keys sign.
        certificates: issues them.
        sealer: encrypts.
        modules: what runs.
    """

    def __init__(
        self,
        callers: Callers,
        identities: KnownModules,
        certificates: CertificateIssuer,
        sealer: Sealer,
        modules: Modules,
    ) -> None:
        self._callers = callers
        self._identities = identities
        self._certificates = certificates
        self._sealer = sealer
        self._modules = modules

    def routes(self) -> list[Route]:
        """Return its operations."""
        keyed = "/modules/{module}/genid/{generation}"
        return [
            route("GET", "/modules", _FIRST, self._list),
            route("POST", f"{keyed}/sign", _FIRST, self._sign),
            route("POST", f"{keyed}/encrypt", _FIRST, self._encrypt),
            route("POST", f"{keyed}/decrypt", _FIRST, self._decrypt),
            route("POST", f"{keyed}/certificate/server", _FIRST, self._server_certificate),
            route(
                "POST", "/modules/{module}/certificate/identity", _FIRST, self._identity_certificate
            ),
            route("GET", "/trust-bundle", _FIRST, self._trust_bundle),
            route("GET", "/manifest-trust-bundle", "2020-07-07", self._manifest_trust_bundle),
        ]

    async def _list(self, _request: Request) -> Response:
        return json_response({"modules": await self._modules.details()})

    async def _sign(self, request: Request) -> Response:
        module_id = await self._caller(request)
        asked: _Sign = decode_json(await read_body(request, MAX_BODY), _Sign)
        identity = self._identities.known(module_id)
        if identity is None:
            raise NotFoundError(f"there is no identity of module {module_id}")
        digest = hmac.digest(identity.key, _bytes("data", asked.data), "sha256")
        return json_response({"digest": _text(digest)})

    async def _encrypt(self, request: Request) -> Response:
        module_id = await self._caller(request)
        asked: _Encrypt = decode_json(await read_body(request, MAX_BODY), _Encrypt)
        vector = _bytes("initializationVector", asked.initialization_vector)
        sealed = self._sealer.seal(
            module_id,
            request.path_params["generation"],
            vector,
            _bytes("plaintext", asked.plaintext),
        )
        return json_response({"ciphertext": _text(sealed)})

    async def _decrypt(self, request: Request) -> Response:
        module_id = await self._caller(request)
        asked: _Decrypt = decode_json(await read_body(request, MAX_BODY), _Decrypt)
        vector = _bytes("initializationVector", asked.initialization_vector)
        plaintext = self._sealer.open(
            module_id,
            request.path_params["generation"],
            vector,
            _bytes("ciphertext", asked.ciphertext),
        )
        return json_response({"plaintext": _text(plaintext)})

    async def _server_certificate(self, request: Request) -> Response:
        module_id = await self._caller(request)
        asked: _ServerCertificate = decode_json(
            await read_body(request, MAX_BODY), _ServerCertificate
        )
        until = parse_moment(asked.expiration)
        return _certificate(self._certificates.server(module_id, asked.common_name, until))

    async def _identity_certificate(self, request: Request) -> Response:
        module_id = await self._caller(request)
        body = await read_body(request, MAX_BODY)
        asked = _IdentityCertificate()
        if body:
            asked = decode_json(body, _IdentityCertificate)
        until = None if asked.expiration is None else parse_moment(asked.expiration)
        return _certificate(self._certificates.identity(module_id, until))

    async def _trust_bundle(self, _request: Request) -> Response:
        return json_response({"certificate": self._certificates.trust_bundle()})

    async def _manifest_trust_bundle(self, _request: Request) -> Response:
        # Manifests are not signed here.
        return json_response({"certificate": ""})

    async def _caller(self, request: Request) -> str:
        module_id: str = request.path_params["module"]
        await self._callers.must_be_module(request, module_id)
        return module_id


def _certificate(issued: IssuedCertificate) -> Response:
    return json_response(
        {
            "privateKey": {"type": "key", "bytes": issued.key},
            "certificate": issued.chain,
            "expiration": format_time(issued.expires),
        },
        201,
    )


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgumentError(f"{name} is not base64") from None


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
