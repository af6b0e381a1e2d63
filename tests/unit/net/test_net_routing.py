from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from muster.clock import ManualClock
from muster.errors import InvalidArgumentError, MusterError, TooLargeError
from muster.ids import Randomness
from muster.net.http import http_protocol_factory
from muster.net.routing import Route, RouteGroup, Router, decode_json, read_body, tracking_id
from unit.net.http_peers import read_response
from unit.net.loopback import connect, hang_up, read_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unit.net.net_fixtures import Listen

STATUSES = {"path-not-found": 404, "method-not-allowed": 405, "body-too-large": 413}


class CountingRandomness(Randomness):
    def token_bytes(self, size: int) -> bytes:
        return bytes(size)


def on_error(name: str) -> Any:
    def respond(request: Request, error: Exception) -> Response:
        code = error.code if isinstance(error, MusterError) else "unexpected"
        status = STATUSES.get(code, 400 if isinstance(error, MusterError) else 500)
        content = {"group": name, "code": code, "trackingId": tracking_id(request)}
        return JSONResponse(content, status_code=status)

    return respond


async def boom(_request: Request) -> Response:
    raise ZeroDivisionError


async def body(request: Request) -> Response:
    return Response(str(len(await read_body(request, 10_000))))


async def stream(_request: Request) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        yield b"one\n"
        yield b"two\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def broken_stream(_request: Request) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        yield b"one\n"
        raise ZeroDivisionError

    return StreamingResponse(lines())


OTHER = RouteGroup("other", on_error("other"))
ENROLLMENTS = RouteGroup("enrollments", on_error("enrollments"))
DEVICES = RouteGroup("devices", on_error("devices"))


def named(pattern: str) -> Any:
    async def handler(request: Request) -> Response:
        return JSONResponse({"pattern": pattern, "params": request.path_params})

    return handler


def route(method: str, pattern: str, group: RouteGroup) -> Route:
    return Route(method, pattern, named(pattern), group)


ROUTES = [
    route("GET", "/enrollments/{id}", ENROLLMENTS),
    route("PUT", "/enrollments/{id}", ENROLLMENTS),
    route("POST", "/enrollments", ENROLLMENTS),
    route("POST", "/enrollments/query", ENROLLMENTS),
    route("POST", "/enrollmentGroups/{id}/attestationmechanism", ENROLLMENTS),
    route("PUT", "/{idScope}/registrations/{registrationId}/register", DEVICES),
    route("POST", "/{idScope}/registrations/{registrationId}", DEVICES),
    route("GET", "/devices/{deviceId}/modules/{moduleId}", DEVICES),
    route("GET", "/files/{name*}", DEVICES),
    route("GET", "/files/{name}/size", DEVICES),
    Route("GET", "/boom", boom, DEVICES),
    Route("POST", "/body", body, DEVICES),
    Route("GET", "/stream", stream, DEVICES),
    Route("GET", "/broken-stream", broken_stream, DEVICES),
]


def router(routes: list[Route] = ROUTES, **websockets: Any) -> Router:
    return Router(routes, OTHER, CountingRandomness(), websockets or None)


async def call(method: str, path: str, *, raw_path: bool = True) -> tuple[int, Any, dict[str, str]]:
    """Call the router as an ASGI server does, without a body."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    full = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("latin-1") if raw_path else None,
        "query_string": b"api-version=2019-03-31",
        "headers": [],
        "state": {},
    }
    await router()(full, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(content), headers


@pytest.mark.parametrize(
    ("method", "path", "pattern", "params"),
    [
        ("GET", "/enrollments/dev1", "/enrollments/{id}", {"id": "dev1"}),
        ("GET", "/Files/a//b%2Fc/d%20", "/files/{name*}", {"name": "a//b/c/d "}),
        ("GET", "/files/a", "/files/{name*}", {"name": "a"}),
        ("GET", "/files/a/size", "/files/{name}/size", {"name": "a"}),
        ("GET", "/files/a/b/size", "/files/{name*}", {"name": "a/b/size"}),
        ("GET", "/ENROLLMENTS/Dev1/", "/enrollments/{id}", {"id": "Dev1"}),
        ("GET", "/enrollments/a%3Ab%2Fc%20%C3%A4", "/enrollments/{id}", {"id": "a:b/c ä"}),
        ("GET", "/enrollments/a+b", "/enrollments/{id}", {"id": "a+b"}),
        ("GET", "/enrollments/query", "/enrollments/{id}", {"id": "query"}),
        ("HEAD", "/enrollments/x", "/enrollments/{id}", {"id": "x"}),
        ("POST", "/enrollments/query", "/enrollments/query", {}),
        ("POST", "/enrollments", "/enrollments", {}),
        ("POST", "/enrollments/", "/enrollments", {}),
        (
            "POST",
            "/enrollmentgroups/g/AttestationMechanism",
            "/enrollmentGroups/{id}/attestationmechanism",
            {"id": "g"},
        ),
        (
            "PUT",
            "/0ne00000001/registrations/r1/register",
            "/{idScope}/registrations/{registrationId}/register",
            {"idScope": "0ne00000001", "registrationId": "r1"},
        ),
        # A scope that is spelled like a literal of another route.
        (
            "POST",
            "/devices/registrations/r1",
            "/{idScope}/registrations/{registrationId}",
            {"idScope": "devices", "registrationId": "r1"},
        ),
        (
            "GET",
            "/devices/d/modules/%24edgeAgent",
            "/devices/{deviceId}/modules/{moduleId}",
            {"deviceId": "d", "moduleId": "$edgeAgent"},
        ),
    ],
)
async def test_finds(method: str, path: str, pattern: str, params: dict[str, str]) -> None:
    status, content, _ = await call(method, path)
    assert (status, content) == (200, {"pattern": pattern, "params": params})


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("/", "other"),
        ("", "other"),
        ("/nothing", "other"),
        ("/enrollments/a/b", "enrollments"),
        ("/enrollments//", "enrollments"),
        ("/enrollmentGroups", "enrollments"),
        ("/devices/d/nothing", "devices"),
        ("//enrollments", "other"),
    ],
)
async def test_unknown_path(path: str, group: str) -> None:
    status, content, _ = await call("GET", path)
    assert (status, content["group"], content["code"]) == (404, group, "path-not-found")


async def test_method_not_allowed() -> None:
    status, content, headers = await call("DELETE", "/enrollments/query")
    assert (status, content["group"], content["code"]) == (405, "enrollments", "method-not-allowed")
    assert headers["allow"] == "GET, POST, PUT"


async def test_path_that_is_not_utf8() -> None:
    status, content, _ = await call("GET", "/enrollments/%FF")
    assert (status, content["code"]) == (400, "malformed-path")


async def test_path_without_its_raw_form() -> None:
    status, content, _ = await call("GET", "/enrollments/ä b", raw_path=False)
    assert (status, content["params"]) == (200, {"id": "ä b"})


def test_same_route_twice() -> None:
    with pytest.raises(ValueError, match="two routes"):
        router([route("GET", "/a/{x}", OTHER), route("GET", "/A/{y}", OTHER)])


async def test_unexpected_error_is_logged_once_with_its_tracking_id(log: list[Any]) -> None:
    status, content, _ = await call("GET", "/boom")
    assert (status, content["code"]) == (500, "unexpected")
    assert len(log) == 1
    assert log[0]["event"] == "request failed"
    assert log[0]["tracking_id"] == content["trackingId"] == CountingRandomness().uuid()
    assert isinstance(log[0]["exc_info"], ZeroDivisionError)


async def test_expected_error_is_not_logged(log: list[Any]) -> None:
    await call("GET", "/nothing")
    assert not log


async def test_error_in_the_error_response(log: list[Any]) -> None:
    def fail(_request: Request, _error: Exception) -> Response:
        raise ZeroDivisionError

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "headers": []}
    faulty = Router([], RouteGroup("faulty", fail), CountingRandomness())
    await faulty(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert [event["event"] for event in log] == ["error response failed"]


async def test_over_http(listen: Listen, log: list[Any]) -> None:
    listener = await listen(http_protocol_factory(router(), ManualClock()), tls=False)
    reader, writer = await connect(listener.port)
    writer.write(b"GET /Enrollments/a%2Fb/?api-version=2021-10-01 HTTP/1.1\r\n\r\n")
    assert json.loads((await read_response(reader))[2])["params"] == {"id": "a/b"}
    writer.write(b"HEAD /enrollments/a HTTP/1.1\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.write(b"POST /body HTTP/1.1\r\nContent-Length: 10000\r\n\r\n" + b"x" * 10_000)
    assert (await read_response(reader))[2] == b"10000"
    for head in (b"Content-Length: 10001", b"Transfer-Encoding: chunked"):
        content = (
            b"x" * 10_001 if b"Length" in head else b"2711\r\n" + b"x" * 10_001 + b"\r\n0\r\n\r\n"
        )
        writer.write(b"POST /body HTTP/1.1\r\n" + head + b"\r\n\r\n" + content)
        status, _, answer = await read_response(reader)
        assert (status, json.loads(answer)["code"]) == (413, "body-too-large")
    writer.write(b"GET /stream HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert b"4\r\none\n\r\n4\r\ntwo\n\r\n0\r\n\r\n" in await read_all(reader)
    await hang_up(writer)
    assert not log


async def test_stream_that_breaks_is_cut(listen: Listen, log: list[Any]) -> None:
    listener = await listen(http_protocol_factory(router(), ManualClock()), tls=False)
    reader, writer = await connect(listener.port)
    writer.write(b"GET /broken-stream HTTP/1.1\r\n\r\n")
    response = await read_all(reader)
    assert response.endswith(b"4\r\none\n\r\n")
    assert [event["event"] for event in log] == ["response failed"]
    await hang_up(writer)


async def test_client_that_leaves_in_mid_body(listen: Listen, log: list[Any]) -> None:
    listener = await listen(http_protocol_factory(router(), ManualClock()), tls=False)
    _, writer = await connect(listener.port)
    writer.write(b"POST /body HTTP/1.1\r\nContent-Length: 10000\r\n\r\nxx")
    await writer.drain()
    await hang_up(writer)
    assert not log


async def test_read_body_stops_at_the_limit() -> None:
    taken = 0

    async def receive() -> Any:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(TooLargeError):
        await read_body(request, 250)
    assert taken == 3


class Point(msgspec.Struct):
    x: int


def test_decode_json() -> None:
    assert decode_json(b'{"x": 1, "y": [2]}') == {"x": 1, "y": [2]}
    assert decode_json(b'\xef\xbb\xbf{"x": 1}', Point) == Point(1)
    deepest = b"[" * 100 + b"]" * 100
    assert decode_json(deepest) is not None
    assert decode_json(b"[" + deepest[1:-1] + b"," + b'{"}":"["},' * 200 + b"1]") is not None
    assert decode_json(b'{"a":"' + b"[" * 500 + b'\\"[["}') is not None
    assert len(decode_json(b"[" + b"[]," * 1_000 + b"[]]")) == 1_001
    # A string that never ends is looked at once, not at each of its quotation marks: that would
    # take hours.
    with pytest.raises(InvalidArgumentError):
        decode_json(b"[" * 50 + b"]," * 50 + b"[" * 60 + b'"' + b'\\"' * 500_000)


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"{",
        b"nul",
        b'{"x":1}{',
        b'"\xff"',
        b'{"x":1,"skipped":"\xff"}',
        b"[" * 101 + b"]" * 101,
        b"[" * 50 + b'"]]",' + b'{"a":' * 51,
        b'{"a":' * 100_000,
        b'{"x":1,"skipped":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
def test_malformed_json(malformed: bytes) -> None:
    for type_ in (Any, Point):
        with pytest.raises(InvalidArgumentError) as caught:
            decode_json(malformed, type_)
        assert caught.value.code == "malformed-json"


def test_a_number_in_quotes_is_a_number() -> None:
    assert decode_json(b'{"x":"1"}', Point).x == 1


@pytest.mark.parametrize(
    "word", ["null", "NULL", " null ", r"nul\u006c", "nan", "-inf", "Infinity"]
)
@pytest.mark.parametrize("type_", [int | None, float | None, bool | None, dict[str, int] | None])
def test_words_in_quotes_are_neither_nothing_nor_numbers(word: str, type_: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_json(f'"{word}"'.encode(), type_)
    assert caught.value.code == "invalid-json-value"


@pytest.mark.parametrize("wrong", [b'{"x":"one"}', b"{}", b"[]", b'{"x":' + b"1" * 5_000 + b"}"])
def test_json_of_another_type(wrong: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_json(wrong, Point)
    assert caught.value.code == "invalid-json-value"
