"""An HTTP application and the client's side of it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from unit.net.loopback import PATIENCE_S, read

if TYPE_CHECKING:
    from unit.net.loopback import Reader

NOW = 784_111_777.0
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echo method, path and body as JSON; `/slow` waits, `/stream` streams, `/boom` fails."""
    assert scope["type"] == "http"
    path = scope["path"]
    if path == "/boom":
        raise ZeroDivisionError
    if path == "/early":
        await answer(send, 401, b'{"early":true}')
        return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    if path == "/slow":
        await asyncio.sleep(0.2)
    if path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b""})
        return
    seen = {
        "method": scope["method"],
        "path": scope["raw_path"].decode(),
        "scheme": scope["scheme"],
        "client": scope["client"][0],
        "size": len(body),
    }
    await answer(send, 200, json.dumps(seen).encode())


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_response(reader: Reader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status_line, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = await read(reader, int(headers.get("content-length", 0)))
    return int(status_line.split()[1]), headers, body
