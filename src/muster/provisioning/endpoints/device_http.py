"""The device API over HTTPS (dps.md 1.2)."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from muster.errors import MusterError, NotFoundError
from muster.model.registration import ASSIGNING
from muster.net.routing import Route, RouteGroup, read_body, tracking_id
from muster.provisioning.authentication import Claim, RefusalError, RegisterRequest
from muster.provisioning.endpoints import device_json
from muster.provisioning.endpoints.errors import HSTS, JSON
from muster.provisioning.registrations import RETRY_AFTER_S, Registrations

BODY_LIMIT: Final = 96 * 1024
"""dps.md 5, message size."""


class DeviceHttpEndpoint:
    """Register, poll and look up."""

    def __init__(self, registrations: Registrations, group: RouteGroup) -> None:
        self._registrations = registrations
        self._group = group

    def routes(self) -> list[Route]:
        """Return all operations."""
        one = "/{idScope}/registrations/{registrationId}"
        return [
            Route("PUT", f"{one}/register", self._register, self._group),
            Route("GET", f"{one}/operations/{{operationId}}", self._poll, self._group),
            Route("POST", one, self._lookup, self._group),
        ]

    async def _register(self, request: Request) -> Response:
        operation = await self._registrations.register(await self._asked(request))
        return self._answer(request, 202, device_json.operation_json(operation), retry=True)

    async def _poll(self, request: Request) -> Response:
        asked = await self._asked(request)
        operation = await self._registrations.operation_status(
            asked, request.path_params["operationId"]
        )
        waiting = operation.status == ASSIGNING
        shown = device_json.polled_json(operation, asked.claim.registration_id)
        return self._answer(request, 202 if waiting else 200, shown, retry=waiting)

    async def _lookup(self, request: Request) -> Response:
        record = await self._registrations.lookup(await self._asked(request))
        shown = device_json.record_json(record, for_device=True)
        return self._answer(request, 200, device_json.encode(shown), retry=False)

    def _answer(self, request: Request, status: int, body: bytes, *, retry: bool) -> Response:
        headers = {"x-ms-request-id": tracking_id(request), "Strict-Transport-Security": HSTS}
        if retry:
            headers["Retry-After"] = str(RETRY_AFTER_S)
            path = "/".join(
                quote(request.path_params[name], safe="") if name else "registrations"
                for name in ("idScope", "", "registrationId")
            )
            host = request.headers.get("host", "")
            headers["Location"] = f"https://{host}/{path}/register"
        return Response(body, status, headers, media_type=JSON)

    async def _asked(self, request: Request) -> RegisterRequest:
        registration_id = request.path_params["registrationId"]
        client = request.client
        asked = RegisterRequest(
            claim=Claim(
                request.path_params["idScope"],
                registration_id,
                request.headers.get("authorization"),
            ),
            tracking_id=tracking_id(request),
            api_version=request.query_params.get("api-version", ""),
            transport="https",
            remote=f"{client.host}:{client.port}" if client else "",
        )
        try:
            body = await read_body(request, BODY_LIMIT)
            sent = device_json.check_registration(body, registration_id)
        except MusterError as error:
            await self._registrations.refusals.refuse(asked, error)
            raise
        if sent.tpm is not None and asked.claim.token is None:
            # The first of a TPM's two steps, which a token follows where its key is enrolled
            # (dps.md 4.8).
            await self._registrations.refusals.refuse(asked, RefusalError("tpm-not-enrolled"))
            raise NotFoundError("Enrollment not found", code="enrollment-not-found")
        return asked
