"""A small real HTTPS service that answers what a test tells it to, and checks signatures."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit

from muster.auth import sas_token, symmetric_keys
from muster.auth.certificate_authority import CertificateAuthority

KEY = symmetric_keys.encode(b"k" * 32)
WRONG_KEY = symmetric_keys.encode(b"w" * 32)
TRACKING_ID = "3f2b8c1e-5f0e-4a57-9a40-0d2d6f3a9b11"


@dataclass
class Call:
    """One request as the service got it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """An answer; `lines` are streamed, and the connection may break after them."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lines: Iterator[str] | None = None
    breaks: bool = False


Answer: TypeAlias = "Reply | Any | Callable[[Call], Any]"


class CliService:
    """Listens on a free port of localhost; `answers` says what it does."""

    def __init__(self, directory: Path) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}
        self.calls: list[Call] = []
        authority = CertificateAuthority.load_or_create(directory)
        issued = authority.issue_server(["localhost"])
        self.ca_file = authority.ca_file
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.chain_file, issued.key_file)
        service = self

        class Handler(_Handler):
            owner = service

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.context = context
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def login(self, *, name: str = "provisioningserviceowner", key: str = KEY) -> str:
        return f"HostName={self.host};SharedAccessKeyName={name};SharedAccessKey={key}"

    def on(self, method: str, path: str, answer: Answer) -> None:
        self.answers[method, path] = answer

    def sent(self, method: str, path: str) -> list[Call]:
        return [call for call in self.calls if (call.method, call.path) == (method, path)]

    def answer(self, call: Call) -> Reply:
        self.calls.append(call)
        token = sas_token.parse(call.headers["authorization"])
        if not sas_token.signed_by(token, symmetric_keys.decode(KEY)):
            return refusal(401, 401002, "Unauthorized")
        found = self.answers.get((call.method, call.path))
        if found is None:
            return refusal(404, 404201, f"Nothing is called {call.path}.")
        if callable(found):
            found = found(call)
        return found if isinstance(found, Reply) else Reply(found)


def refusal(status: int, code: int, message: str) -> Reply:
    """An error as the provisioning service sends it (dps.md 1.6)."""
    body = {"errorCode": code, "trackingId": TRACKING_ID, "message": message}
    return Reply(body, status, {"x-ms-request-id": TRACKING_ID})


def hub_refusal(status: int, code: str, message: str) -> Reply:
    """An error as a hub sends it (hub-service.md 2.2)."""
    tracked = f"{TRACKING_ID.replace('-', '')}-G:0-TimeStamp:01/31/2026 12:00:00"
    body = {
        "Message": f"ErrorCode:{code};{message}",
        "ExceptionMessage": f"Tracking ID:{tracked}",
    }
    return Reply(body, status, {"iothub-errorcode": code})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except OSError:
            return  # a client that does not trust us, or has left


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: CliService

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        call = Call(
            self.command,
            unquote(parts.path),
            {name: values[-1] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in self.headers.items()},
            json.loads(raw) if raw else None,
        )
        reply = self.owner.answer(call)
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.lines is not None:
            self._stream(reply.lines, breaks=reply.breaks)
            return
        body = b"" if reply.body is None else _encode(reply.body)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, lines: Iterator[str], *, breaks: bool) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            data = f"{line}\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        if not breaks:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

    def log_message(self, *_: Any) -> None:
        return


def _encode(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
