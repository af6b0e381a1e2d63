"""What our own CLI asks beyond the official API: why, revoke, bulk, hubs, policies."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from muster.auth import connection_string
from muster.auth.access_policies import AccessPolicy, Right
from muster.auth.connection_string import ConnectionString
from muster.clock import format_time
from muster.decisions.explain import explain
from muster.decisions.log import DecisionLog
from muster.errors import InvalidArgumentError, NotFoundError, TooLargeError
from muster.model.decision import Decision
from muster.model.enrollment import IndividualEnrollment
from muster.model.paging import page_size
from muster.net.routing import Route, RouteGroup, decode_json, read_body
from muster.provisioning.endpoints import entry_json
from muster.provisioning.endpoints.access import Access
from muster.provisioning.endpoints.errors import JSON, official
from muster.provisioning.endpoints.service_http import bulk
from muster.provisioning.enrollments import Enrollments
from muster.provisioning.entries import MAX_IMPORT
from muster.provisioning.hubs import HubLink, LinkedHubs
from muster.provisioning.revocations import Revocations
from muster.provisioning.settings import ServiceSettings

_SMALL: Final = 64 * 1024
_IMPORT_LIMIT: Final = 16 * 1024 * 1024
_EXPLAINED: Final = 20
_MAX_EXPLAINED: Final = 100
_COUNT: Final = re.compile(r"[1-9][0-9]{0,8}")
_Call = Callable[[Request], Awaitable[Response]]
_encode = msgspec.json.Encoder().encode


class _Reason(msgspec.Struct):
    reason: str = ""


class _Import(msgspec.Struct):
    mode: str
    enrollments: list[Any]


class _DpsChange(msgspec.Struct, rename="camel"):
    allocation_policy: str


class _HubBody(msgspec.Struct, rename="camel"):
    allocation_weight: int | None = None
    apply_allocation_policy: bool | None = None
    connection_string: str | None = None


class _PolicyBody(msgspec.Struct, rename="camel"):
    rights: list[str]
    primary_key: str | None = None
    secondary_key: str | None = None


class AdminHttpEndpoint:
    """The `/admin/v1` calls of provisioning.

    Args:
        create_local_hub: makes a hub in this process.
        host_name: how services reach this one, with a port where it is not 443.
        device_host: how devices reach it.
    """

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        enrollments: Enrollments,
        revocations: Revocations,
        hubs: LinkedHubs,
        decisions: DecisionLog,
        access: Access,
        create_local_hub: Callable[[str], Awaitable[None]],
        host_name: str,
        device_host: str,
        group: RouteGroup,
    ) -> None:
        self._settings = settings
        self._enrollments = enrollments
        self._revocations = revocations
        self._hubs = hubs
        self._decisions = decisions
        self._access = access
        self._create_local_hub = create_local_hub
        self._host_name = host_name
        self._device_host = device_host
        self._group = group

    def routes(self) -> list[Route]:
        """Return all operations."""
        config, write = Right.SERVICE_CONFIG, Right.ENROLLMENT_WRITE
        hub, policy = "/admin/v1/hubs/{host}", "/admin/v1/policies/dps/{name}"
        table: list[tuple[str, str, Right, _Call]] = [
            (
                *("GET", "/admin/v1/explanations/{id}", Right.REGISTRATION_STATUS_READ),
                self._explain,
            ),
            ("POST", "/admin/v1/registrations/{id}/revoke", write, self._revoke),
            ("POST", "/admin/v1/registrations/{id}/restore", write, self._restore),
            ("GET", "/admin/v1/revocations", Right.ENROLLMENT_READ, self._list_revocations),
            ("POST", "/admin/v1/enrollments/import", write, self._import),
            ("GET", "/admin/v1/enrollments/export", write, self._export),
            ("GET", "/admin/v1/dps", config, self._get_dps),
            ("PATCH", "/admin/v1/dps", config, self._patch_dps),
            ("GET", "/admin/v1/hubs", config, self._list_hubs),
            ("GET", hub, config, self._get_hub),
            ("PUT", hub, config, self._put_hub),
            ("DELETE", hub, config, self._delete_hub),
            ("GET", "/admin/v1/policies/dps", config, self._list_policies),
            ("GET", policy, config, self._get_policy),
            ("PUT", policy, config, self._put_policy),
            ("DELETE", policy, config, self._delete_policy),
        ]
        return [
            Route(method, pattern, self._guarded(call, right), self._group)
            for method, pattern, right, call in table
        ]

    def authorize(self, request: Request) -> None:
        """Let a call of another administrative endpoint through that carries `ServiceConfig`."""
        self._access.check(request, Right.SERVICE_CONFIG)

    def _guarded(self, call: _Call, right: Right) -> _Call:
        async def guarded(request: Request) -> Response:
            self._access.check(request, right)
            return await call(request)

        return guarded

    # Why.

    async def _explain(self, request: Request) -> Response:
        limit = request.query_params.get("limit", "")
        size = min(int(limit), _MAX_EXPLAINED) if _COUNT.fullmatch(limit) else _EXPLAINED
        found = await self._decisions.find(request.path_params["id"], size)
        return _json([_explained(decision) for decision in found])

    # One device.

    async def _revoke(self, request: Request) -> Response:
        body = await read_body(request, _SMALL)
        reason: _Reason = decode_json(body, _Reason) if body.strip() else _Reason()
        return _json(await self._revocations.revoke(request.path_params["id"], reason.reason))

    async def _restore(self, request: Request) -> Response:
        return _json(await self._revocations.restore(request.path_params["id"]))

    async def _list_revocations(self, request: Request) -> Response:
        return _json(await self._revocations.all())

    # Many devices.

    async def _import(self, request: Request) -> Response:
        body: _Import = decode_json(await read_body(request, _IMPORT_LIMIT), _Import)
        if len(body.enrollments) > MAX_IMPORT:
            raise TooLargeError(
                f"One call takes {MAX_IMPORT} enrollments at most", code="bulk-too-large"
            )
        shown = [
            {"registrationId": each.entry_id, "ok": True}
            if each.error is None
            else {
                "registrationId": each.entry_id,
                "ok": False,
                "errorCode": official(each.error).error_code,
                "error": each.error.message,
            }
            for each in await bulk(
                self._enrollments, IndividualEnrollment, body.mode, body.enrollments
            )
        ]
        return _json({"results": shown})

    async def _export(self, request: Request) -> Response:
        headers = request.headers
        page = await self._enrollments.query(
            headers.get("x-ms-continuation"),
            page_size(headers.get("x-ms-max-item-count")),
        )
        shown = [entry_json.entry_json(stored, with_keys=True) for stored, _ in page.items]
        more = {"x-ms-continuation": page.continuation} if page.continuation else {}
        return Response(_encode(shown), 200, more, media_type=JSON)

    # The service.

    async def _get_dps(self, request: Request) -> Response:
        return _json(self._dps())

    async def _patch_dps(self, request: Request) -> Response:
        change: _DpsChange = decode_json(await read_body(request, _SMALL), _DpsChange)
        await self._settings.set_allocation_policy(change.allocation_policy)
        return _json(self._dps())

    def _dps(self) -> dict[str, str]:
        return {
            "idScope": self._settings.id_scope,
            "deviceHost": self._device_host,
            "serviceHost": self._host_name,
            "allocationPolicy": self._settings.allocation_policy,
        }

    async def _list_hubs(self, request: Request) -> Response:
        return _json([_hub_json(link) for link in self._hubs.all()])

    async def _get_hub(self, request: Request) -> Response:
        return _json(_hub_json(self._hubs.link(request.path_params["host"])))

    async def _put_hub(self, request: Request) -> Response:
        host = request.path_params["host"].lower()
        content = await read_body(request, _SMALL)
        body: _HubBody = decode_json(content, _HubBody) if content.strip() else _HubBody()
        known = next((link for link in self._hubs.all() if link.host == host), None)
        remote = body.connection_string
        if remote is not None and connection_string.parse(remote).host.lower() != host:
            raise InvalidArgumentError(
                "The connection string is for another host", code="invalid-connection-string"
            )
        if known is None and remote is None:
            await self._create_local_hub(host)
        base = known or HubLink(host, local=remote is None)
        link = HubLink(
            host,
            base.allocation_weight if body.allocation_weight is None else body.allocation_weight,
            base.apply_allocation_policy
            if body.apply_allocation_policy is None
            else body.apply_allocation_policy,
            base.local and remote is None,
        )
        await self._hubs.put(link, remote)
        return _json(_hub_json(link))

    async def _delete_hub(self, request: Request) -> Response:
        await self._hubs.unlink(request.path_params["host"])
        return Response(status_code=204)

    async def _list_policies(self, request: Request) -> Response:
        return _json([self._policy_json(policy) for policy in self._settings.policies()])

    async def _get_policy(self, request: Request) -> Response:
        name = request.path_params["name"]
        policy = self._settings.policy(name)
        if policy is None:
            raise NotFoundError(f"There is no policy '{name}'", code="policy-not-found")
        return _json(self._policy_json(policy))

    async def _put_policy(self, request: Request) -> Response:
        body: _PolicyBody = decode_json(await read_body(request, _SMALL), _PolicyBody)
        policy = await self._settings.save_policy(
            request.path_params["name"],
            [_right(each) for each in body.rights],
            body.primary_key,
            body.secondary_key,
        )
        return _json(self._policy_json(policy))

    async def _delete_policy(self, request: Request) -> Response:
        await self._settings.delete_policy(request.path_params["name"])
        return Response(status_code=204)

    def _policy_json(self, policy: AccessPolicy) -> dict[str, Any]:
        return {
            "name": policy.name,
            "rights": sorted(policy.rights),
            "primaryKey": policy.keys.primary,
            "secondaryKey": policy.keys.secondary,
            "connectionString": policy_connection_string(self._host_name, policy),
        }


def policy_connection_string(host_name: str, policy: AccessPolicy) -> str:
    """Write the connection string of a policy.

    Args:
        host_name: of the service, with a port where it is not 443.
        policy: whose primary key it carries.
    """
    host, _, port = host_name.partition(":")
    return connection_string.format(
        ConnectionString(
            host=host,
            port=int(port) if port else None,
            key_name=policy.name,
            key=policy.keys.primary,
        )
    )


def _right(name: str) -> Right:
    try:
        return Right(name)
    except ValueError:
        raise InvalidArgumentError(f"'{name[:64]}' is not a right", code="invalid-policy") from None


def _hub_json(link: HubLink) -> dict[str, Any]:
    return {
        "host": link.host,
        "local": link.local,
        "allocationWeight": link.allocation_weight,
        "applyAllocationPolicy": link.apply_allocation_policy,
    }


def _explained(decision: Decision) -> dict[str, Any]:
    explanation = explain(decision)
    return {
        "trackingId": decision.tracking_id,
        "time": format_time(decision.time),
        "service": decision.service,
        "operation": decision.operation,
        "subject": decision.subject,
        "outcome": decision.outcome,
        "check": decision.check,
        "title": explanation.title,
        "cause": explanation.cause,
        "remedy": explanation.remedy,
        "facts": {name: value for name, value in decision.facts.items() if value is not None},
    }


def _json(shown: Any) -> Response:
    return Response(_encode(shown), media_type=JSON)
