"""Configurations and deployments over REST (hub-service.md 1.1 rows 18-23).

One operation is ours: the explanation of what a deployment is to a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct
from starlette.responses import Response

from muster.hub.endpoints.service_access import (
    READ_OR_CONNECT,
    WRITE_OR_CONNECT,
    check_same,
    entity,
    json_response,
    read_json,
)
from muster.model.configuration import ConfigurationRequest, Content

if TYPE_CHECKING:
    from starlette.requests import Request

    from muster.hub.configuration_views import ConfigurationViews
    from muster.hub.configurations import Configurations
    from muster.hub.deployer import Deployer
    from muster.hub.deployment_explanations import DeploymentExplanations
    from muster.hub.endpoints.service_access import ServiceAccess
    from muster.hub.hubs import Hub
    from muster.hub.targets import Targets
    from muster.net.routing import Route

CONTENT_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a configuration: fifty modules with twins, formatting included."""


class TestRequest(Struct, rename="camel"):
    """The body of a test of queries."""

    target_condition: str | None = None
    custom_metric_queries: dict[str, str] | None = None


class TestResponse(Struct, rename="camel"):
    """What is wrong with each; nothing where nothing is."""

    target_condition_error: str | None
    custom_metric_query_errors: dict[str, str]


@final
class ConfigurationsHttpEndpoint:
    """The operations on configurations; see `routes`."""

    def __init__(
        self,
        access: ServiceAccess,
        *,
        configurations: Configurations,
        views: ConfigurationViews,
        targets: Targets,
        deployer: Deployer,
        explanations: DeploymentExplanations,
    ) -> None:
        self._access = access
        self._configurations = configurations
        self._views = views
        self._targets = targets
        self._deployer = deployer
        self._explanations = explanations

    def routes(self) -> list[Route]:
        """Return all operations."""
        route, read, write = self._access.route, READ_OR_CONNECT, WRITE_OR_CONNECT
        one = "/configurations/{id}"
        return [
            route("GET", "/configurations", self._list, read),
            route("POST", "/configurations/testQueries", self._test, read),
            route("GET", one, self._get, read),
            route("PUT", one, self._put, write),
            route("DELETE", one, self._delete, write),
            route("GET", f"{one}/explanations/{{device}}", self._explain, read),
            route("POST", "/devices/{id}/applyConfigurationContent", self._apply, write),
        ]

    async def _list(self, hub: Hub, request: Request) -> Response:
        found = self._configurations.all(hub.id)
        top = request.query_params.get("top", "")
        if top.isascii() and top.isdigit() and len(top) < 9 and int(top):
            found = found[: int(top)]
        return json_response(await self._views.show_all(hub.id, found))

    async def _get(self, hub: Hub, request: Request) -> Response:
        found = self._configurations.get(hub.id, request.path_params["id"])
        return entity(await self._views.show(hub.id, found))

    async def _put(self, hub: Hub, request: Request) -> Response:
        configuration_id = request.path_params["id"]
        body: ConfigurationRequest = await read_json(request, ConfigurationRequest, CONTENT_LIMIT)
        check_same(body.id, configuration_id, "id")
        if_match = request.headers.get("if-match")
        if if_match is None:
            saved = await self._configurations.create(hub, configuration_id, body)
        else:
            saved = await self._configurations.update(hub, configuration_id, body, if_match)
        return entity(await self._views.show(hub.id, saved))

    async def _delete(self, hub: Hub, request: Request) -> Response:
        if_match = request.headers.get("if-match")
        await self._configurations.delete(hub, request.path_params["id"], if_match)
        return Response(status_code=204)

    async def _test(self, hub: Hub, request: Request) -> Response:
        body: TestRequest = await read_json(request, TestRequest)
        condition = self._targets.condition_error(body.target_condition or "")
        metrics = {
            name: error
            for name, text in (body.custom_metric_queries or {}).items()
            if (error := self._targets.metric_error(text)) is not None
        }
        return json_response(TestResponse(condition, metrics))

    async def _explain(self, hub: Hub, request: Request) -> Response:
        name, device_id = request.path_params["id"], request.path_params["device"]
        return json_response(await self._explanations.explain(hub.id, name, device_id))

    async def _apply(self, hub: Hub, request: Request) -> Response:
        content: Content = await read_json(request, Content, CONTENT_LIMIT)
        await self._deployer.apply_content(hub.id, request.path_params["id"], content)
        return Response(status_code=204)
