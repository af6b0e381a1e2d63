"""Metrics of the device over HTTP, where the official runtime has them (edge.md 5.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
from starlette.responses import Response

from muster.edge.agent.metrics import CONTENT_TYPE
from muster.edge.local_api.answers import GROUP
from muster.net.http import http_protocol_factory
from muster.net.listener import Listener
from muster.net.routing import Route, Router
from muster.net.stream import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request

    from muster.clock import Clock
    from muster.ids import Randomness

_ADDRESS: Final = "127.0.0.1"
_PORT: Final = 9600
_LIMITS: Final = Limits(connections=20)
_log = structlog.get_logger(__name__)


async def serve_metrics(
    read: Callable[[], Awaitable[bytes]],
    env: Mapping[str, str],
    *,
    clock: Clock,
    randomness: Randomness,
) -> Listener | None:
    """Answer `GET /metrics`.

    Args:
        read: returns them.
        env: of the agent: `metrics__enabled`, `metrics__listener__host`,
            `metrics__listener__port`.
        clock: for the `Date` of answers.
        randomness: for the IDs of requests.

    Returns:
        `None` where they are not wanted, or the port is taken: no device stands still for that.
    """
    if env.get("metrics__enabled", "true").lower() == "false":
        return None

    async def answer(_request: Request) -> Response:
        return Response(await read(), media_type=CONTENT_TYPE)

    app = Router([Route("GET", "/metrics", answer, GROUP)], GROUP, randomness)
    address = env.get("metrics__listener__host", _ADDRESS)
    port = env.get("metrics__listener__port", str(_PORT))
    try:
        factory = http_protocol_factory(app, clock)
        return await Listener.listen(address, int(port), None, factory, _LIMITS)
    except (OSError, ValueError) as error:
        _log.warning("metrics are not served", address=address, port=port, error=str(error))
        return None
