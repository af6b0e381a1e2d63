"""POSTing batches to a real HTTP server."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from muster.clock import ManualClock
from muster.errors import UnavailableError
from muster.net.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Receiver:
    """Keeps what it gets; answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((headers, await request.read()))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{port}/in"
    yield receiver
    await runner.cleanup()


def webhook(url: str, auth: str = "none", **options: Any) -> Webhook:
    return Webhook(
        url,
        ManualClock(1_700_000_000.0),
        ssl.create_default_context(),
        headers={"X-Muster-Hub": "h", "X-Muster-Endpoint": "e"},
        auth=auth,
        secret=None if auth == "none" else "geheim",
        max_events=10,
        timeout_s=options.pop("timeout_s", 5.0),
    )


async def test_a_batch_is_a_json_array(receiver: Receiver) -> None:
    hook = webhook(receiver.url)
    await hook.deliver([b'{"a":1}', b'{"a":"\xc3\xa4"}'])
    await hook.tend()
    await hook.deliver([b"{}"])
    await hook.close()
    await hook.close()
    (headers, body), (_, second) = receiver.requests
    assert json.loads(body) == [{"a": 1}, {"a": "ä"}]
    assert json.loads(second) == [{}]
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert (headers["x-muster-hub"], headers["x-muster-endpoint"]) == ("h", "e")
    assert "authorization" not in headers
    assert "x-muster-signature" not in headers


async def test_a_signature_covers_time_and_body(receiver: Receiver) -> None:
    hook = webhook(receiver.url, "hmac")
    await hook.deliver([b"{}"])
    await hook.close()
    ((headers, body),) = receiver.requests
    signed = headers["x-muster-timestamp"].encode() + b"." + body
    expected = hmac.new(b"geheim", signed, hashlib.sha256).hexdigest()
    assert headers["x-muster-timestamp"] == "1700000000"
    assert headers["x-muster-signature"] == f"sha256={expected}"


async def test_a_bearer_token(receiver: Receiver) -> None:
    hook = webhook(receiver.url, "bearer")
    await hook.deliver([b"{}"])
    await hook.close()
    assert receiver.requests[0][0]["authorization"] == "Bearer geheim"


@pytest.mark.parametrize("status", [302, 307, 400, 401, 429, 500, 503])
async def test_any_other_answer_means_not_taken(receiver: Receiver, status: int) -> None:
    receiver.status = status
    hook = webhook(receiver.url, "bearer")
    with pytest.raises(UnavailableError, match=f"it answers {status}") as caught:
        await hook.deliver([b"{}"])
    assert caught.value.code == "endpoint-unavailable"
    # A redirect is not followed: the token is for this server.
    assert len(receiver.requests) == 1
    receiver.status = 200
    await hook.deliver([b"{}"])
    await hook.close()


async def test_nobody_there() -> None:
    hook = webhook("http://127.0.0.1:1/in", "bearer")
    with pytest.raises(UnavailableError) as caught:
        await hook.deliver([b"{}"])
    assert "geheim" not in caught.value.message
    await hook.close()
