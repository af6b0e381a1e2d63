"""A connection as the device makes it, step by step, so that the step that fails has a name."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.edge.check.outcome import Problem
from muster.edge.upstream import trust
from muster.net.tunnel import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from muster.edge.check.surroundings import Surroundings

PATIENCE_S: Final = 10.0
# OpenSSL's verification results (x509_vfy.h).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_NAME_MISMATCH: Final = (62, 64)


class Answer(NamedTuple):
    """Of a service.

    Attributes:
        status: HTTP.
        body: content.
        date: the service's time, unix seconds; `None` where it says none.
    """

    status: int
    body: bytes
    date: float | None


@contextlib.contextmanager
def connected(around: Surroundings, host: str, port: int) -> Iterator[ssl.SSLSocket]:
    """Connect with TLS.

    Raises:
        Problem: name, port, proxy or certificate are not as they must be.
    """
    proxy = _proxy(around, host)
    with contextlib.ExitStack() as stack:
        if proxy is None:
            raw = stack.enter_context(_dial(host, port))
        else:
            raw = stack.enter_context(_dial(proxy.host, proxy.port, "the proxy "))
            _tunnel(raw, proxy, host, port)
        raw.settimeout(PATIENCE_S)
        context = _context(around.settings.trust_bundle)
        try:
            secured = context.wrap_socket(raw, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(error, host, around.settings.trust_bundle) from None
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            raise Problem(
                f"{host}:{port} answers, but not with TLS: {reason}",
                "something in between (a proxy, a captive portal) answers in place of the service, "
                "or another program listens on that port",
            ) from None
        yield stack.enter_context(secured)


def request(
    around: Surroundings,
    host: str,
    port: int,
    method: str,
    target: str,
    *,
    token: str | None = None,
    body: bytes | None = None,
) -> Answer:
    """Send an HTTPS request.

    Raises:
        Problem: see `connected`; the service breaks off.
    """
    with connected(around, host, port) as secured:
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
        connection.sock = secured
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = token
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(1 << 20), _date(answer.getheader("Date")))
        except (OSError, http.client.HTTPException) as error:
            raise Problem(
                f"{host}:{port} broke off: {type(error).__name__}: {error}",
                "try again; if it stays so, see whether what listens there is the service",
            ) from None


def split(host_name: str, port: int) -> tuple[str, int]:
    """Return host and port of `host[:port]`."""
    host, colon, text = host_name.rpartition(":")
    return (host, int(text)) if colon and text.isdigit() else (host_name, port)


def _dial(host: str, port: int, what: str = "") -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise Problem(
            f"DNS: {what}{host} cannot be resolved: {getattr(error, 'strerror', None) or error}",
            "see that the name is right and that this device has a DNS server that knows it "
            "(/etc/resolv.conf), or name it in /etc/hosts",
        ) from None
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        dialled = socket.socket(family, kind, protocol)
        dialled.settimeout(PATIENCE_S)
        try:
            dialled.connect(address)
        except OSError as error:
            dialled.close()
            failure = error
        else:
            return dialled
    if isinstance(failure, ConnectionRefusedError):
        raise Problem(
            f"TCP: {what}{host}:{port} refuses the connection",
            "nothing listens there, or a firewall refuses it: see that the service runs and that "
            f"outgoing TCP to port {port} is allowed",
        )
    raise Problem(
        f"TCP: no connection to {what}{host}:{port}: {failure.strerror if failure else 'timed out'}"
        if failure is None or failure.strerror
        else f"TCP: no connection to {what}{host}:{port}: timed out",
        f"see that this device has a network, and that firewalls let it go out to TCP port {port}",
    )


def _proxy(around: Surroundings, host: str) -> Proxy | None:
    try:
        if around.options.proxy is not None:
            return Proxy.parse(around.options.proxy)
        return Proxy.of(host, around.environment)
    except ValueError as error:
        raise Problem(f"https_proxy: {error}", "correct https_proxy or --proxy-uri") from None


def _tunnel(raw: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    head = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    if proxy.authorization is not None:
        head += f"Proxy-Authorization: {proxy.authorization}\r\n"
    raw.sendall(head.encode() + b"\r\n")
    answer = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in answer and (chunk := raw.recv(1)):
            answer += chunk
    words = answer.split(b"\r\n")[0].decode("latin-1").split(" ", 1)
    if len(words) < 2 or not words[1].startswith("200"):
        raise Problem(
            f"the proxy {proxy.host}:{proxy.port} opens no way to {host}:{port}: "
            f"{words[1] if len(words) > 1 else 'it broke off'}",
            f"let the proxy allow CONNECT to {host}:{port}, and see that its password is right",
        )


def _context(trust_bundle: Path | None) -> ssl.SSLContext:
    try:
        return trust.context(trust_bundle)
    except OSError as error:
        raise Problem(
            f"trust_bundle_cert cannot be used: {error}",
            "name a PEM file with the CA of the service in trust_bundle_cert",
        ) from None


def _untrusted(
    error: ssl.SSLCertVerificationError, host: str, trust_bundle: Path | None
) -> Problem:
    what = f"TLS: the certificate of {host} is not accepted: {error.verify_message}"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return Problem(
            what,
            "see that the clock of this device is right (`date -u`); if it is, the certificate of "
            "the service must be renewed",
        )
    if error.verify_code in _NAME_MISMATCH:
        return Problem(
            what,
            "use a name that the certificate of the service has, or let it have this one "
            "(`muster up --hostname`, `--hub`)",
        )
    where = "trust_bundle_cert is not set" if trust_bundle is None else f"{trust_bundle} is used"
    return Problem(
        what,
        f"name the CA of the service in trust_bundle_cert ({where}; `muster info` tells where its "
        "CA file is); if a firewall inspects TLS, its CA belongs there, too",
    )


def _date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None
