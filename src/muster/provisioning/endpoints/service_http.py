"""The service API over HTTPS: enrollments, groups and registration records (dps.md 3)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from muster.auth.access_policies import Right
from muster.errors import InvalidArgumentError, MusterError
from muster.ids import registration_key
from muster.model.enrollment import SYMMETRIC_KEY, EnrollmentGroup, IndividualEnrollment
from muster.model.paging import page_size
from muster.net.routing import Route, RouteGroup, decode_json, read_body, tracking_id
from muster.provisioning import paging
from muster.provisioning.endpoints import device_json, entry_json, errors
from muster.provisioning.endpoints.access import Access
from muster.provisioning.endpoints.errors import JSON
from muster.provisioning.enrollment_groups import EnrollmentGroups
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.entries import MAX_BULK, E, Entries, Stored
from muster.provisioning.registrations import Registrations

BODY_LIMIT: Final = 96 * 1024
"""dps.md 5, message size; a bulk call may have one for each of its entries."""
_READ_ONLY: Final = ("createdDateTimeUtc", "lastUpdatedDateTimeUtc", "registrationState")
"""Sent back by clients that update what they read, in whatever form they know it."""
_API_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_Call = Callable[[Request], Awaitable[Response]]
_encode = msgspec.json.Encoder().encode


class _Query(msgspec.Struct):
    query: str


class ServiceHttpEndpoint:
    """All operations of dps.md 3.1."""

    def __init__(
        self,
        *,
        enrollments: Enrollments,
        groups: EnrollmentGroups,
        registrations: Registrations,
        access: Access,
        group: RouteGroup,
    ) -> None:
        self._records = registrations.records
        self._enrollments = enrollments
        self._groups = groups
        self._access = access
        self._group = group
        self._individual = _EntryCalls(enrollments, IndividualEnrollment, "enrollments")
        self._grouped = _EntryCalls(groups, EnrollmentGroup, "enrollmentGroups")

    def routes(self) -> list[Route]:
        """Return all operations."""
        read, write = Right.ENROLLMENT_READ, Right.ENROLLMENT_WRITE
        state, drop = Right.REGISTRATION_STATUS_READ, Right.REGISTRATION_STATUS_WRITE
        individual, grouped = self._individual, self._grouped
        table: list[tuple[str, str, Right, _Call]] = [
            ("GET", "/enrollments/{id}", read, self._get_individual),
            ("PUT", "/enrollments/{id}", write, self._put_individual),
            ("DELETE", "/enrollments/{id}", write, individual.delete),
            ("POST", "/enrollments/query", read, self._query_individuals),
            ("POST", "/enrollments", write, individual.bulk),
            ("POST", "/enrollments/{id}/attestationmechanism", read, individual.attestation),
            ("GET", "/enrollmentGroups/{id}", read, grouped.get),
            ("PUT", "/enrollmentGroups/{id}", write, grouped.put),
            ("DELETE", "/enrollmentGroups/{id}", write, grouped.delete),
            ("POST", "/enrollmentGroups/query", read, self._query_groups),
            ("POST", "/enrollmentGroups", write, grouped.bulk),
            ("POST", "/enrollmentGroups/{id}/attestationmechanism", read, grouped.attestation),
            ("GET", "/registrations/{id}", state, self._get_record),
            ("DELETE", "/registrations/{id}", drop, self._delete_record),
            ("POST", "/registrations/{id}/query", state, self._query_records),
        ]
        return [
            Route(method, pattern, self._guarded(call, right), self._group)
            for method, pattern, right, call in table
        ]

    def _guarded(self, call: _Call, right: Right) -> _Call:
        async def guarded(request: Request) -> Response:
            self._access.check(request, right)
            version = request.query_params.get("api-version", "")
            if not _API_VERSION.fullmatch(version):
                raise InvalidArgumentError(
                    "The api-version query parameter is missing or malformed",
                    code="invalid-api-version",
                )
            response = await call(request)
            response.headers["x-ms-request-id"] = tracking_id(request)
            return response

        return guarded

    async def _get_individual(self, request: Request) -> Response:
        entry_id = request.path_params["id"]
        enrolled = await self._enrollments.for_registration(entry_id)
        if enrolled.stored is None:
            raise self._enrollments.not_found(entry_id)
        return _json(entry_json.individual_json(enrolled.stored, enrolled.record, with_keys=False))

    async def _put_individual(self, request: Request) -> Response:
        stored = await self._individual.write(request)
        record = await self._records.find(stored.entry.registration_id)
        return _json(entry_json.individual_json(stored, record, with_keys=True))

    async def _query_individuals(self, request: Request) -> Response:
        await _read_query(request)
        page = await self._enrollments.query(*_paging(request))
        items = [
            entry_json.individual_json(stored, record, with_keys=False)
            for stored, record in page.items
        ]
        return _page(items, page.continuation, request, "enrollment")

    async def _query_groups(self, request: Request) -> Response:
        await _read_query(request)
        page = await self._groups.query(*_paging(request))
        items = [entry_json.entry_json(stored, with_keys=False) for stored in page.items]
        return _page(items, page.continuation, request, "enrollmentGroup")

    async def _get_record(self, request: Request) -> Response:
        record = await self._records.get(request.path_params["id"])
        return _json(device_json.record_json(record, for_device=False))

    async def _delete_record(self, request: Request) -> Response:
        await self._records.delete(request.path_params["id"], request.headers.get("if-match"))
        return Response(status_code=204)

    async def _query_records(self, request: Request) -> Response:
        await _read_query(request)
        page = await self._records.query(request.path_params["id"], *_paging(request))
        items = [device_json.record_json(record, for_device=False) for record in page.items]
        return _page(items, page.continuation, request, "deviceRegistration")


class _EntryCalls(Generic[E]):
    """What is the same for individual enrollments and groups."""

    def __init__(self, entries: Entries[E], type_: type[E], collection: str) -> None:
        self._entries = entries
        self._type = type_
        self._collection = collection

    async def get(self, request: Request) -> Response:
        stored = await self._entries.get(request.path_params["id"])
        return _json(entry_json.entry_json(stored, with_keys=False))

    async def write(self, request: Request) -> Stored[E]:
        raw: dict[str, Any] = decode_json(await read_body(request, BODY_LIMIT), dict[str, Any])
        if raw.get(self._entries.id_field) is None:
            raw[self._entries.id_field] = request.path_params["id"]
        entry = convert(raw, self._type)
        if registration_key(entry.entry_id) != registration_key(request.path_params["id"]):
            raise InvalidArgumentError(
                f"The {self._entries.id_field} of the body is not the one of the address",
                code="invalid-registration-id",
            )
        return await self._entries.put(entry, request.headers.get("if-match"))

    async def put(self, request: Request) -> Response:
        return _json(entry_json.entry_json(await self.write(request), with_keys=True))

    async def delete(self, request: Request) -> Response:
        await self._entries.delete(request.path_params["id"], request.headers.get("if-match"))
        return Response(status_code=204)

    async def attestation(self, request: Request) -> Response:
        stored = await self._entries.get(request.path_params["id"])
        return _json(entry_json.attestation_json(stored.entry, stored.keys))

    async def bulk(self, request: Request) -> Response:
        body = await read_body(request, BODY_LIMIT * MAX_BULK)
        raw: dict[str, Any] = decode_json(body, dict[str, Any])
        items = raw.get(self._collection)
        if not isinstance(items, list) or not isinstance(raw.get("mode"), str):
            raise InvalidArgumentError(
                f"The body must have '{self._collection}' and 'mode'", code="invalid-bulk"
            )
        if len(items) > MAX_BULK:
            raise InvalidArgumentError(
                f"One call takes {MAX_BULK} entries at most", code="bulk-too-large"
            )
        failures = [
            {
                self._entries.id_field: each.entry_id,
                "errorCode": errors.official(each.error).error_code,
                "errorStatus": each.error.message,
            }
            for each in await bulk(self._entries, self._type, raw["mode"], items)
            if each.error is not None
        ]
        return _json({"isSuccessful": not failures, "errors": failures})


class BulkResult(msgspec.Struct, Generic[E]):
    """What became of one item of a bulk call."""

    entry_id: str
    entry: E | None = None
    error: MusterError | None = None


async def bulk(
    entries: Entries[E], type_: type[E], mode: str, items: list[Any]
) -> list[BulkResult[E]]:
    """Carry a bulk call out; an item that cannot be read fails by itself, too.

    Args:
        entries: what it changes.
        type_: of the entries.
        mode: what is done with each; for a deletion the ID is enough.
        items: as decoded from JSON.

    Raises:
        InvalidArgumentError: unknown mode.
    """
    results = []
    for item in items:
        given = item.get(entries.id_field) if isinstance(item, dict) else None
        result: BulkResult[E] = BulkResult(given[:128] if isinstance(given, str) else "")
        try:
            if isinstance(item, dict) and mode.lower() == "delete":
                item.setdefault("attestation", {"type": SYMMETRIC_KEY})
            result.entry = convert(item, type_)
        except MusterError as error:
            result.error = error
        results.append(result)
    readable = [each for each in results if each.entry is not None]
    outcomes = await entries.bulk(mode, [each.entry for each in readable if each.entry is not None])
    for each, outcome in zip(readable, outcomes, strict=True):
        each.error = outcome
    return results


def convert(item: Any, type_: type[E]) -> E:
    """Read an entry as clients write it.

    Raises:
        InvalidArgumentError: it is not of the right shape; the message says which field.
    """
    if isinstance(item, dict):
        item = {name: value for name, value in item.items() if name not in _READ_ONLY}
    try:
        return msgspec.convert(item, type_)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(str(error), code="invalid-json-value") from None


async def _read_query(request: Request) -> None:
    body = await read_body(request, BODY_LIMIT)
    if body.strip():
        query: _Query = decode_json(body, _Query)
        paging.check_query(query.query)


def _paging(request: Request) -> tuple[str | None, int]:
    headers = request.headers
    return headers.get("x-ms-continuation"), page_size(headers.get("x-ms-max-item-count"))


def _page(
    items: list[dict[str, Any]], continuation: str | None, request: Request, item_type: str
) -> Response:
    headers = {"x-ms-item-type": item_type, "x-ms-max-item-count": str(_paging(request)[1])}
    if continuation is not None:
        headers["x-ms-continuation"] = continuation
    return Response(_encode(items), 200, headers, media_type=JSON)


def _json(shown: Any) -> Response:
    return Response(_encode(shown), media_type=JSON)
