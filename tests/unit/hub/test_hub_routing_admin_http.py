"""Message routing as our own CLI sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import JSONResponse

from muster.errors import MusterError, UnauthorizedError
from muster.hub.consumer_groups import ConsumerGroups
from muster.hub.endpoints.routing_admin_http import RoutingAdminEndpoint
from muster.hub.hubs import Hubs, Retention
from muster.hub.sender_twins import SenderTwins
from muster.hub.twins import TwinRequest
from muster.net.routing import RouteGroup
from unit.hub.hub_parts import HOST
from unit.hub.hub_rest import Rest

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from unit.hub.hub_parts import Parts

BASE = f"/admin/v1/routing/hubs/{HOST}"
GROUPS = f"/admin/v1/consumer-groups/hubs/{HOST}"
RETENTION = f"/admin/v1/retention/hubs/{HOST}"
FALLBACK = {
    "name": "$fallback",
    "source": "DeviceMessages",
    "condition": "true",
    "endpointNames": ["events"],
    "isEnabled": True,
}
STATUS = {"delivered": 0, "waiting": 0, "lost": 0, "failingSince": None, "lastError": None}


def default_retention(wanted: Retention) -> tuple[float, int]:
    return wanted.max_age_s or 700.0, wanted.max_bytes or 7 << 20


class Admin(Rest):
    """Calls with the right to make them."""

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        return await self.must(method, path, body, authorization="admin")

    async def code(self, method: str, path: str, body: Any = None) -> str:
        """Return the code of the error that it must be."""
        reply = await self.call(method, path, body, authorization="admin")
        assert reply.status == 400, reply.body
        return str(reply.json["code"])


@pytest.fixture
async def rest(parts: Parts) -> Admin:
    def on_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, MusterError):
            raise error
        return JSONResponse({"code": error.code}, 401 if "unauth" in error.code else 400)

    def authorize_admin(request: Request) -> None:
        if request.headers.get("authorization") != "admin":
            raise UnauthorizedError("no")

    group = RouteGroup("admin", on_error)
    endpoint = RoutingAdminEndpoint(
        hubs=parts.hubs,
        routing=parts.routing,
        consumer_groups=ConsumerGroups(parts.engine, parts.clock),
        telemetry=parts.telemetry,
        twins=SenderTwins(parts.engine, parts.changes),
        default_retention=default_retention,
        clock=parts.clock,
        authorize_admin=authorize_admin,
        group=group,
    )
    return Admin(parts, endpoint.routes(), group)


async def test_routes(rest: Admin) -> None:
    assert await rest.ask("GET", f"{BASE}/routes") == [FALLBACK]
    body = {"condition": "a = '1'", "endpointNames": ["events"], "name": "ignored"}
    made = await rest.ask("PUT", f"{BASE}/routes/r", body)
    assert made == {
        "name": "r",
        "source": "DeviceMessages",
        "condition": "a = '1'",
        "endpointNames": ["events"],
        "isEnabled": True,
    }
    assert await rest.ask("GET", f"{BASE}/routes") == [made, FALLBACK]
    assert await rest.ask("GET", f"{BASE}/routes/r") == made
    await rest.ask("DELETE", f"{BASE}/routes/r")
    assert await rest.code("GET", f"{BASE}/routes/r") == "route-not-found"
    assert await rest.code("PUT", f"{BASE}/routes/r", {"condition": "("}) == "invalid-query"


async def test_the_fallback_route(rest: Admin) -> None:
    path = f"{BASE}/routes/$fallback"
    assert await rest.ask("GET", path) == FALLBACK
    off = {**FALLBACK, "isEnabled": False}
    assert await rest.ask("PUT", path, {"isEnabled": False}) == off
    assert await rest.ask("GET", f"{BASE}/routes") == [off]
    assert await rest.code("DELETE", path) == "invalid-route"


async def test_endpoints_keep_their_secrets(rest: Admin) -> None:
    body = {"kind": "webhook", "url": "https://x", "auth": "hmac", "secret": "geheim"}
    made = await rest.ask("PUT", f"{BASE}/endpoints/hook", body)
    assert made == {
        "name": "hook",
        "kind": "webhook",
        "url": "https://x",
        "auth": "hmac",
        "maxBatchEvents": 200,
        "timeoutS": 30.0,
        "hasSecret": True,
        "status": STATUS,
    }
    files = await rest.ask("PUT", f"{BASE}/endpoints/files", {"kind": "file"})
    assert (files["kind"], files["hasSecret"]) == ("file", False)
    listed = await rest.ask("GET", f"{BASE}/endpoints")
    assert listed == [{"name": "events", "kind": "built-in"}, made, files]
    assert await rest.ask("GET", f"{BASE}/endpoints/hook") == made
    for wrong in ({}, {"kind": "queue"}, {"kind": "webhook"}, {"kind": "file", "secret": 1}):
        assert await rest.code("PUT", f"{BASE}/endpoints/w", wrong) == "invalid-endpoint"
    await rest.ask("DELETE", f"{BASE}/endpoints/hook")
    assert await rest.code("DELETE", f"{BASE}/endpoints/hook") == "endpoint-not-found"


async def test_enrichments(rest: Admin) -> None:
    made = await rest.ask("PUT", f"{BASE}/enrichments/site", {"value": "$twin.tags.site"})
    assert made == {"key": "site", "value": "$twin.tags.site", "endpointNames": ["events"]}
    assert await rest.ask("GET", f"{BASE}/enrichments") == [made]
    assert await rest.ask("GET", f"{BASE}/enrichments/site") == made
    wrong = {"value": "x", "endpointNames": ["none"]}
    assert await rest.code("PUT", f"{BASE}/enrichments/site", wrong) == "endpoint-not-found"
    await rest.ask("DELETE", f"{BASE}/enrichments/site")
    assert await rest.code("GET", f"{BASE}/enrichments/site") == "enrichment-not-found"


async def test_a_question_is_answered_without_sending(rest: Admin, parts: Parts) -> None:
    await rest.ask("PUT", f"{BASE}/endpoints/files", {"kind": "file"})
    route = {"condition": "$body.t > 80 AND $twin.tags.site = 'a'", "endpointNames": ["files"]}
    await rest.ask("PUT", f"{BASE}/routes/hot", route)
    enrichment = {"value": "$twin.tags.site", "endpointNames": ["files"]}
    await rest.ask("PUT", f"{BASE}/enrichments/site", enrichment)
    ref = await parts.device("d1")
    await parts.twins.change(ref, TwinRequest({"site": "a"}))
    found = await rest.ask("POST", f"{BASE}/test", {"body": {"t": 90}, "deviceId": "d1"})
    assert found["endpoints"] == [{"name": "files", "enrichments": {"site": "a"}}]
    assert [(each["name"], each["matches"]) for each in found["routes"]] == [
        ("hot", True),
        ("$fallback", False),
    ]
    twin = {"tags": {"site": "b"}}
    found = await rest.ask(
        "POST", f"{BASE}/test", {"body": {"t": 90}, "deviceId": "d1", "twin": twin}
    )
    assert found["endpoints"] == [{"name": "events", "enrichments": {}}]
    assert '$twin.tags.site is the string "b"' in found["routes"][0]["reasons"][0]
    assert await parts.events() == []


async def test_consumer_groups(rest: Admin, parts: Parts) -> None:
    default = {"name": "$Default", "createdTime": None, "isDefault": True}
    made = await rest.ask("PUT", f"{GROUPS}/dash", {})
    time = parts.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
    assert made == {"name": "dash", "createdTime": time, "isDefault": False}
    assert await rest.ask("GET", GROUPS) == [default, made]
    assert await rest.code("PUT", f"{GROUPS}/DASH", {}) == "consumer-group-exists"
    await rest.ask("DELETE", f"{GROUPS}/dash")
    assert await rest.code("DELETE", f"{GROUPS}/$Default") == "invalid-consumer-group"


async def test_retention(rest: Admin, parts: Parts) -> None:
    unset = {
        "maxAgeS": None,
        "maxBytes": None,
        "effective": {"maxAgeS": 700.0, "maxBytes": 7 << 20},
    }
    assert await rest.ask("GET", RETENTION) == unset
    found = await rest.ask("PUT", RETENTION, {"maxAgeS": 3600})
    assert found == {
        "maxAgeS": 3600.0,
        "maxBytes": None,
        "effective": {"maxAgeS": 3600.0, "maxBytes": 7 << 20},
    }
    again = Hubs(parts.engine, parts.keyring, parts.clock, parts.randomness)
    await again.open()
    assert again.get(HOST).retention == Retention(3600.0, None)
    for wrong in ({"maxAgeS": 1}, {"maxBytes": 1}, {"maxAgeS": 1e12}):
        assert await rest.code("PUT", RETENTION, wrong) == "invalid-retention"
    assert await rest.ask("PUT", RETENTION, {}) == unset


async def test_all_of_it_is_for_administrators(rest: Admin) -> None:
    for method, path in (
        ("GET", f"{BASE}/routes"),
        ("POST", f"{BASE}/test"),
        ("PUT", f"{BASE}/endpoints/x"),
        ("GET", GROUPS),
        ("PUT", RETENTION),
    ):
        assert (await rest.call(method, path, {})).status == 401
