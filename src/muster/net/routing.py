"""From an HTTP request to its handler, by the rules all our REST surfaces share.

Azure's clients are careless about paths: literal segments come in any case
(`/enrollmentgroups/…`), with or without a trailing slash, and IDs percent-encoded (dps.md 0.15,
8). The router forgives all that and leaves what an error looks like to each family of endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import quote, unquote

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from muster.errors import (
    InvalidArgumentError,
    MethodNotAllowedError,
    MusterError,
    NotFoundError,
    TooLargeError,
)
from muster.model.nesting import MAX_DEPTH, is_too_deep
from muster.net.stream import PEER_CERTIFICATE, reset

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from muster.ids import Randomness

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request; `request.path_params` holds the decoded path parameters."""

HEADER_NAMES: Final = "muster.header_names"
"""Key of an ASGI scope: the header names as they were sent, in the order of `headers`."""
TRANSPORT: Final = "muster.transport"
"""Key of an ASGI scope: the transport of the connection."""

_RANDOMNESS: Final = "muster.randomness"
# Words in quotes that are nothing or no number for msgspec, and what could spell them.
_NO_VALUE: Final = re.compile(rb'"\s*[+-]?(?:null|nan|inf|infinity)\s*"|\\u', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RouteGroup:
    """Routes that report errors alike.

    Attributes:
        name: for logs.
        on_error: turns any exception, expected (`MusterError`) or not, into a response. May use
            `tracking_id(request)`, which the log line of an unexpected one carries too.
    """

    name: str
    on_error: Callable[[Request, Exception], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation.

    Attributes:
        method: upper-case HTTP method. A `GET` route answers `HEAD` too.
        pattern: such as `/enrollments/{id}`; a parameter is a whole segment and never empty. The
            last one may be `{name*}`: all segments that are left, at least one.
        handler: what answers.
        group: the family it belongs to.
    """

    method: str
    pattern: str
    handler: Handler
    group: RouteGroup


@dataclass(frozen=True, slots=True)
class _Leaf:
    route: Route
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Match:
    """Where a path leads: to a leaf with the values of its parameters, or to none.

    Without a leaf, `allowed` are the methods that the path does offer.
    """

    leaf: _Leaf | None
    values: tuple[str, ...]
    group: RouteGroup
    allowed: list[str]


@dataclass(slots=True)
class _Node:
    """One segment of the tree of patterns."""

    group: RouteGroup
    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    tail: _Node | None = None
    leaves: dict[str, _Leaf] = field(default_factory=dict)


class CasedName(bytes):
    """The name of a header field of a response that goes out in its own case.

    Names have no case (RFC 9110 5.1), so uvicorn lowers them. The C SDK compares them byte by byte.
    """

    def lower(self) -> bytes:
        """Return the name as it is: this is what uvicorn calls."""
        return self


class Router:
    """An ASGI application that finds the handler of a request.

    Literal segments win over parameters. An unknown path is reported to the group of the routes
    that share its first literal segments, or to the default group, as `NotFoundError` with code
    `path-not-found`; a known path with another method as `MethodNotAllowedError`.

    Args:
        routes: all operations.
        default: the group for what belongs to none.
        randomness: where tracking ids come from.
        websockets: ASGI applications by literal path, compared like the routes' literals.

    Raises:
        ValueError: two routes have the same method and pattern.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        default: RouteGroup,
        randomness: Randomness,
        websockets: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        self._root = _Node(default)
        self._randomness = randomness
        self._websockets = {
            tuple(segment.lower() for segment in path.strip("/").split("/")): endpoint
            for path, endpoint in (websockets or {}).items()
        }
        for route in routes:
            self._add(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or WebSocket (ASGI)."""
        if scope["type"] == "http":
            scope[_RANDOMNESS] = self._randomness
            await self._serve(Request(scope, receive, send), send)
        elif scope["type"] == "websocket":
            await self._connect(scope, receive, send)

    async def _serve(self, request: Request, send: Send) -> None:
        try:
            match = self._find(_segments(request.scope), request.method)
        except InvalidArgumentError as error:
            group = self._root.group
            await _respond(request, send, group, _report(request, group, error))
            return
        if match.leaf is None:
            missing = "" in _segments(request.scope)[1:-1]
            response = _report(request, match.group, _no_route(match.allowed, missing=missing))
        else:
            request.scope["path_params"] = dict(
                zip(match.leaf.parameters, match.values, strict=True)
            )
            try:
                response = await match.leaf.route.handler(request)
            except ClientDisconnect:
                return
            except Exception as error:  # noqa: BLE001 - answered by the group, and logged there
                response = _report(request, match.group, error)
        await _respond(request, send, match.group, response)

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path = tuple(segment.lower() for segment in _segments(scope))
        except InvalidArgumentError:
            path = ()
        endpoint = self._websockets.get(path)
        if endpoint is None:
            await refuse_websocket(send, 404, "There is no WebSocket here.")
        else:
            await endpoint(scope, receive, send)

    def _add(self, route: Route) -> None:
        node = self._root
        parameters = []
        for segment in route.pattern.strip("/").split("/"):
            if segment.endswith("*}"):
                parameters.append(segment[1:-2])
                node.tail = node.tail or _Node(node.group)
                node = node.tail
            elif segment.startswith("{"):
                parameters.append(segment[1:-1])
                node.parameter = node.parameter or _Node(node.group)
                node = node.parameter
            else:
                node = node.literals.setdefault(segment.lower(), _Node(route.group))
        if route.method in node.leaves:
            raise ValueError(f"two routes for {route.method} {route.pattern}")
        node.leaves[route.method] = _Leaf(route, tuple(parameters))

    def _find(self, segments: list[str], method: str) -> _Match:
        allowed: list[str] = []
        group = self._root.group
        # Depth first, the literal before the parameter.
        waiting: list[tuple[_Node, tuple[str, ...], int]] = [(self._root, (), 0)]
        deepest = 0
        while waiting:
            node, values, depth = waiting.pop()
            if depth > deepest:
                deepest, group = depth, node.group
            if depth == len(segments):
                leaf = node.leaves.get(method)
                if leaf is None and method == "HEAD":
                    leaf = node.leaves.get("GET")
                if leaf is not None:
                    return _Match(leaf, values, leaf.route.group, [])
                allowed.extend(node.leaves)
                continue
            segment = segments[depth]
            if node.tail is not None:
                rest = "/".join(segments[depth:])
                waiting.append((node.tail, (*values, rest), len(segments)))
            if node.parameter is not None and segment:
                waiting.append((node.parameter, (*values, segment), depth + 1))
            literal = node.literals.get(segment.lower())
            if literal is not None:
                waiting.append((literal, values, depth + 1))
        return _Match(None, (), group, sorted(set(allowed)))


def tracking_id(request: Request) -> str:
    """Return the GUID by which an answer, its log line and its decision record are one.

    Made on first use, so a request that needs none pays for none.
    """
    state = request.scope.setdefault("state", {})
    known: str | None = state.get("tracking_id")
    if known is None:
        randomness: Randomness = request.scope[_RANDOMNESS]
        known = state["tracking_id"] = randomness.uuid()
    return known


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request body of at most `limit` bytes; what is over the limit is not kept.

    Raises:
        TooLargeError: the body is larger; code `body-too-large`.
    """
    check_declared_size(request, limit)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_declared_size(request: Request, limit: int) -> None:
    """Refuse a body that is too large by what its header says, before any of it is read.

    Raises:
        TooLargeError: it is larger than `limit` bytes; code `body-too-large`.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)


async def break_off(request: Request) -> NoReturn:
    """Break the connection of a request off instead of answering."""
    reset(request.scope[TRANSPORT])
    while (await request.receive())["type"] != "http.disconnect":
        """What is left of the body."""
    raise ClientDisconnect


def original_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """Return the header fields with their names as they were sent.

    Header names have no case, but what devices put behind a prefix of one may (hub-device.md 4).
    """
    headers = request.headers.raw
    names: list[bytes] = request.scope.get(HEADER_NAMES) or [name for name, _ in headers]
    return [(name, value) for name, (_, value) in zip(names, headers, strict=True)]


def client_certificate(request: Request) -> bytes | None:
    """Return the certificate whose key the client has (DER), `None` when it presented none."""
    certificate: bytes | None = request.scope.get(PEER_CERTIFICATE)
    return certificate


def decode_json(body: bytes, type_: type[_T] | Any = Any) -> _T:
    """Decode a JSON body.

    Args:
        body: UTF-8; a byte order mark in front is forgiven.
        type_: what it must be, anything msgspec understands. A number or boolean in quotes is one,
            as for the serialiser of the official services: `az iot` sends time-outs like that.

    Raises:
        InvalidArgumentError: with code `malformed-json` when it is no JSON or nested deeper than
            any document of the services, with code `invalid-json-value` when a value is not of the
            type asked for; the message says where.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        # msgspec does not look into the strings it skips.
        body.decode()
        if is_too_deep(body):
            raise InvalidArgumentError(
                f"The body is nested deeper than {MAX_DEPTH} levels.", code="malformed-json"
            )
        strict = _NO_VALUE.search(body) is not None
        decoded: _T = msgspec.json.decode(body, type=type_, strict=strict)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(str(error), code="invalid-json-value") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError("The body is not UTF-8.", code="malformed-json") from None
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(
            f"The body is not JSON: {error}", code="malformed-json"
        ) from None
    return decoded


async def refuse_websocket(send: Send, status: int, message: str) -> None:
    """Answer a WebSocket handshake with an HTTP error and a small JSON body."""
    await send(
        {
            "type": "websocket.http.response.start",
            "status": status,
            "headers": [(b"content-type", b"application/json; charset=utf-8")],
        }
    )
    body = msgspec.json.encode({"Message": message})
    await send({"type": "websocket.http.response.body", "body": body})


def _segments(scope: Scope) -> list[str]:
    """Split the path as it was sent and decode each segment, so that `%2F` stays inside one."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    path = raw.split(b"?", 1)[0].decode("ascii", "replace")
    try:
        return [
            unquote(segment, errors="strict") if "%" in segment else segment
            for segment in path.removeprefix("/").removesuffix("/").split("/")
        ]
    except UnicodeDecodeError:
        raise InvalidArgumentError("The path is not UTF-8.", code="malformed-path") from None


async def _respond(request: Request, send: Send, group: RouteGroup, response: Response) -> None:
    try:
        await response(request.scope, request.receive, send)
    except (ClientDisconnect, OSError):
        return
    except Exception:  # noqa: BLE001 - there is nobody left to tell
        # The connection is closed in mid-response, which tells the client that it is not whole.
        _log.exception("response failed", group=group.name, tracking_id=tracking_id(request))


def _no_route(allowed: list[str], *, missing: bool) -> MusterError:
    if missing:
        # An ID left out of the middle of a path (dps.md 3.6).
        return MethodNotAllowedError("An ID is missing from the path.", allowed=[])
    if allowed:
        return MethodNotAllowedError(
            f"The method is not allowed here, only {', '.join(allowed)}.", allowed=allowed
        )
    return NotFoundError("There is nothing at this path.", code="path-not-found")


def _report(request: Request, group: RouteGroup, error: Exception) -> Response:
    if not isinstance(error, MusterError):
        _log.error(
            "request failed",
            group=group.name,
            method=request.method,
            path=request.scope["path"][:256],
            tracking_id=tracking_id(request),
            exc_info=error,
        )
    try:
        response = group.on_error(request, error)
    except Exception:  # noqa: BLE001 - the client gets an answer in any case
        _log.exception("error response failed", group=group.name, tracking_id=tracking_id(request))
        return Response(
            b'{"Message":"Internal error."}', status_code=500, media_type="application/json"
        )
    if isinstance(error, MethodNotAllowedError):
        response.headers.setdefault("allow", ", ".join(error.allowed))
    return response


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than {limit} bytes.", code="body-too-large")
