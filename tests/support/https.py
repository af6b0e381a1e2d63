"""HTTP requests that say exactly what they are told to say, over TLS with our CA only."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

    from support.certificates import ClientCertificate
    from support.run import Place

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def open_tls(
    place: Place,
    port: int,
    ca_file: Path,
    host: str,
    certificate: ClientCertificate | None = None,
) -> ssl.SSLSocket:
    """Connect to the instance, trusting its CA alone and expecting `host` in its certificate."""
    context = ssl.create_default_context(cafile=ca_file)
    if certificate is not None:
        context.load_cert_chain(certificate.file)
    plain = socket.create_connection((place.address, port), TIMEOUT_S)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def request(
    place: Place,
    ca_file: Path,
    method: str,
    url: str,
    *,
    host: str,
    headers: dict[str, str],
    body: bytes | None = None,
    certificate: ClientCertificate | None = None,
) -> Reply:
    """Send one request on a connection of its own. Only the given headers are sent, plus Host."""
    connection = http.client.HTTPConnection(host)
    connection.sock = open_tls(place, place.https_port, ca_file, host, certificate)
    try:
        connection.putrequest(method, url, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
