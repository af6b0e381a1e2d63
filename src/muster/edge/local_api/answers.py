"""What both APIs have in common: versions, errors, bodies, limits (edge.md 3.2)."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from muster import errors
from muster.edge.engine.base import EngineError
from muster.edge.upstream.base import HubError, NoLinkError
from muster.errors import InvalidArgumentError, MusterError, NotFoundError
from muster.net.routing import Handler, Route, RouteGroup

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY: Final = 1024 * 1024
VERSIONS: Final = (
    "2018-06-28",
    "2019-01-30",
    "2019-10-22",
    "2019-11-05",
    "2020-07-07",
    "2021-12-07",
    "2022-08-03",
)
"""Of both APIs, oldest first; a route is served from the version that brought it on."""

Operation = Callable[[Request], Awaitable[Response]]

_STATUSES: Final[dict[type[MusterError], int]] = {
    errors.InvalidArgumentError: 400,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.AlreadyExistsError: 409,
    errors.ConflictError: 409,
    errors.TooLargeError: 413,
    errors.UnavailableError: 503,
}


def json_response(value: Any, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def no_content() -> Response:
    """Return an answer without a body."""
    return Response(status_code=204)


def on_error(_request: Request, error: Exception) -> Response:
    """Turn an error into its answer: a status, and its words as `message`."""
    status, message = 500, "internal error: the daemon's log has the reason"
    if isinstance(error, MusterError):
        status = _STATUSES.get(type(error), 500)
        message = error.message
    elif isinstance(error, EngineError):
        status, message = error.status, str(error)
    elif isinstance(error, HubError):
        message = f"the hub refuses: {error}"
    elif isinstance(error, NoLinkError):
        status, message = 503, f"the hub is out of reach: {error}"
    return json_response({"message": message}, status)


GROUP: Final = RouteGroup("local API", on_error)
_log = structlog.get_logger(__name__)


def route(method: str, pattern: str, since: str, operation: Operation) -> Route:
    """Return a route that knows the versions of the API it is part of."""
    return Route(method, pattern, _of_version(since, operation), GROUP)


def _of_version(since: str, operation: Operation) -> Handler:
    async def answer(request: Request) -> Response:
        version = request.query_params.get("api-version")
        if version is None:
            raise InvalidArgumentError("api-version not specified")
        if version not in VERSIONS:
            raise InvalidArgumentError(
                f"invalid api-version; this daemon knows {', '.join(VERSIONS)}"
            )
        if version < since:
            raise NotFoundError(f"there is no such thing before api-version {since}")
        try:
            return await operation(request)
        except (EngineError, HubError, NoLinkError) as error:
            # Not ours to mend, so the log needs no trace of where in the code it was met.
            _log.warning("request failed", path=request.scope["path"][:256], reason=str(error))
            return on_error(request, error)

    return answer


def parse_moment(text: str) -> dt.datetime:
    """Read an RFC 3339 time.

    Raises:
        InvalidArgumentError: it is none, or has no time zone.
    """
    with contextlib.suppress(ValueError, OverflowError):
        found = dt.datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(dt.UTC)
    raise InvalidArgumentError(f"{text[:64]!a} is no time in RFC 3339")


class Gate:
    """Lets so many requests of one socket be answered at a time; one more is turned away.

    A socket is one module's, or people's: nobody can take another one's turns.

    Args:
        app: what answers.
        most: requests at a time (`iotedge_max_requests`).
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._free = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if self._free <= 0 and scope["type"] == "http":
            refusal = json_response({"message": "too many requests at a time on this socket"}, 429)
            await refusal(scope, receive, send)
            return
        self._free -= 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._free += 1
