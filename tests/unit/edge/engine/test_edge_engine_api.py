"""The Docker Engine's API as this runtime calls it; the server says what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.engine.engine_api import MAX_HEAD, ApiError, EngineApi
from support.edge import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERSION = b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"ApiVersion": "1.41"}'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"a":\r\n4\r\n [1]\r\n1\r\n}\r\n0\r\n\r\n'
)


class Engine:
    """A server on a socket.

    Attributes:
        answer: what it says to each call but that for the version; it closes then.
        cuts: where it pauses while it says it.
        open: it does not close.
        asked: head and body of each call, as they came.
    """

    def __init__(self) -> None:
        self.answer = CHUNKED
        self.cuts: list[int] = []
        self.open = False
        self.asked: list[tuple[str, bytes]] = []
        self.serving: list[asyncio.Task[None]] = []

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.append(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(lines.get("Content-Length", 0)))
            self.asked.append((head, body))
            answer = VERSION if head.startswith("GET /version ") else self.answer
            edges = [0, *(cut for cut in sorted(self.cuts) if cut < len(answer)), len(answer)]
            for start, end in itertools.pairwise(edges):
                writer.write(answer[start:end])
                await writer.drain()
                await asyncio.sleep(0)
            if self.open:
                await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def served(engine: Engine) -> AsyncIterator[EngineApi]:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "engine.sock"
        async with await asyncio.start_unix_server(engine.serve, path):
            yield EngineApi(f"unix://{path}", PATIENCE_S)
            await asyncio.gather(*engine.serving)


@given(cuts=st.lists(st.integers(1, len(CHUNKED)), max_size=6))
async def test_an_answer_is_the_same_however_it_comes(cuts: list[int]) -> None:
    engine = Engine()
    engine.cuts = cuts
    async with served(engine) as api:
        assert await api.ask("GET", "/things") == {"a": [1]}


async def test_a_call_says_what_the_engine_needs() -> None:
    engine = Engine()
    async with served(engine) as api:
        await api.ask("POST", "/things/create", {"name": "a b&c"}, {"Image": "i"})
        await api.ask("DELETE", "/things/1")
    version, create, delete = engine.asked
    assert version[0].startswith("GET /version HTTP/1.1\r\nHost: docker\r\n")
    assert create[0].startswith("POST /v1.41/things/create?name=a+b%26c HTTP/1.1\r\n")
    assert "\r\nContent-Type: application/json\r\n" in create[0]
    assert create[1] == b'{"Image":"i"}'
    assert delete[0].startswith("DELETE /v1.41/things/1 HTTP/1.1\r\n")


async def test_the_version_is_asked_for_once_and_after_it_was_forgotten() -> None:
    engine = Engine()
    async with served(engine) as api:
        for _ in range(2):
            await api.ask("GET", "/things")
        api.forget_version()
        await api.ask("GET", "/things")
    asked = [head.split(" ")[1] for head, _ in engine.asked]
    assert asked == ["/version", "/v1.41/things", "/v1.41/things", "/version", "/v1.41/things"]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nhey", 404, "Not Found"),
        (
            b'HTTP/1.1 409 Conflict\r\nContent-Length: 23\r\n\r\n{"message": "is there"}',
            409,
            "is there",
        ),
        (b"HTTP/1.1 500 Internal Error\r\nContent-Length: 0\r\n\r\n", 500, "Internal Error"),
        (b"HTTP/1.1 301 Moved\r\nContent-Length: 2\r\n\r\n[]", 301, "Moved"),
    ],
)
async def test_the_engine_refuses_in_its_own_words(answer: bytes, status: int, words: str) -> None:
    engine = Engine()
    engine.answer = answer
    async with served(engine) as api:
        with pytest.raises(ApiError, match=words) as caught:
            await api.ask("GET", "/things")
    assert caught.value.status == status


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 201 Created\r\n\r\n",
    ],
)
async def test_answers_without_content(answer: bytes) -> None:
    engine = Engine()
    engine.answer = answer
    async with served(engine) as api:
        assert await api.ask("POST", "/things/1/start") is None


async def test_content_that_ends_with_the_connection() -> None:
    engine = Engine()
    engine.answer = b"HTTP/1.1 200 OK\r\n\r\n[1, 2]"
    async with served(engine) as api:
        assert await api.ask("GET", "/things") == [1, 2]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed within"),
        (b"HTTP/1.1 200 OK\r\nContent-Len", "closed within"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "closed within"),
        (CHUNKED[:-5], "closed within"),
        (b"220 mail.example ESMTP\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD * 2, "too long"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{]{]", "no JSON"),
    ],
)
async def test_what_is_no_answer(answer: bytes, words: str) -> None:
    engine = Engine()
    engine.answer = answer
    async with served(engine) as api:
        with pytest.raises(OSError, match=words):
            await api.ask("GET", "/things")


async def test_a_stream_comes_as_it_is_said_and_may_be_left() -> None:
    engine = Engine()
    engine.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    engine.open = True
    async with (
        served(engine) as api,
        asyncio.timeout(PATIENCE_S),
        api.stream("GET", "/things/1/logs", {"follow": "1"}) as said,
    ):
        assert await anext(said) == b"one"
        # Left in the middle: nobody waits for the rest.
    assert len(engine.asked) == 2


async def test_lines_that_http_cannot_carry_are_not_sent() -> None:
    engine = Engine()
    async with served(engine) as api:
        with pytest.raises(OSError, match="cannot carry"):
            await api.ask("GET", "/things HTTP/1.1\r\nX: y")
    assert len(engine.asked) == 1


async def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await EngineApi(f"unix://{tmp_path}/none.sock").ask("GET", "/things")
    with pytest.raises(ConnectionRefusedError):
        await EngineApi("http://127.0.0.1:9").ask("GET", "/things")
