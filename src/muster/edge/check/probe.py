"""A connection as the device makes it, step by step, so that the step that fails has a name."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from muster.edge.check.causes import Cause
from muster.edge.check.outcome import Problem, Result
from muster.edge.upstream import trust
from muster.net.tunnel import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.edge.check.surroundings import Surroundings

FORGIVEN_S: Final = 300.0
"""By so much may a clock be off for tokens to be accepted; certificates forgive less or more."""
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
def connected(
    around: Surroundings,
    host: str,
    port: int,
    *,
    proxied: bool = True,
    context: ssl.SSLContext | None = None,
) -> Iterator[ssl.SSLSocket]:
    """Connect with TLS.

    Args:
        around: says the proxy, and whom the device trusts.
        host: name.
        port: of it.
        proxied: whether a proxy is used where there is one.
        context: `None` for one that trusts whom the device trusts.

    Raises:
        Problem: name, port, proxy or certificate are not as they must be.
    """
    patience_s = around.options.patience_s
    proxy = _proxy(around, host) if proxied else None
    with contextlib.ExitStack() as stack:
        if proxy is None:
            raw = stack.enter_context(_dial(host, port, patience_s))
        else:
            raw = stack.enter_context(_dial(proxy.host, proxy.port, patience_s, "the proxy "))
            _tunnel(raw, proxy, host, port)
        raw.settimeout(patience_s)
        try:
            secured = (context or _context(around)).wrap_socket(raw, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise _untrusted(error, host, around) from None
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            raise Problem(
                Cause.NOT_TLS,
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
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Send an HTTPS request.

    Raises:
        Problem: see `connected`; the service breaks off.
    """
    with connected(around, host, port, context=context) as secured:
        connection = http.client.HTTPConnection(host, port)
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
                Cause.BROKEN_OFF,
                f"{host}:{port} broke off: {type(error).__name__}: {error}",
                "try again; if it stays so, see whether what listens there is the service",
            ) from None


def time_of(around: Surroundings, host: str, port: int) -> float | None:
    """Return what time it is at a service, whatever its certificate, for a clock that is wrong.

    Returns:
        Unix seconds; `None` where it does not say.

    Raises:
        Problem: see `request`.
    """
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    return request(around, host, port, "GET", "/", context=careless).date


def split(host_name: str, port: int) -> tuple[str, int]:
    """Return host and port of `host[:port]`."""
    host, colon, text = host_name.rpartition(":")
    return (host, int(text)) if colon and text.isdigit() else (host_name, port)


def _dial(host: str, port: int, patience_s: float, what: str = "") -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise Problem(
            Cause.NAME_UNKNOWN,
            f"DNS: {what}{host} cannot be resolved: {getattr(error, 'strerror', None) or error}",
            "see that the name is right and that this device has a DNS server that knows it "
            "(/etc/resolv.conf), or name it in /etc/hosts",
        ) from None
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        dialled = socket.socket(family, kind, protocol)
        dialled.settimeout(patience_s)
        try:
            dialled.connect(address)
        except OSError as error:
            dialled.close()
            failure = error
        else:
            return dialled
    raise _unreachable(f"{what}{host}:{port}", port, failure)


def _unreachable(where: str, port: int, failure: OSError | None) -> Problem:
    if isinstance(failure, ConnectionRefusedError):
        return Problem(
            Cause.PORT_REFUSED,
            f"TCP: {where} refuses the connection",
            "nothing listens there, or a firewall refuses it: see that the service runs and that "
            f"outgoing TCP to port {port} is allowed",
        )
    if failure is not None and failure.strerror:
        return Problem(
            Cause.NO_ROUTE,
            f"TCP: no connection to {where}: {failure.strerror}",
            "see that this device has a network and a way out of it: ip route, and the cable",
        )
    return Problem(
        Cause.PORT_SILENT,
        f"TCP: no connection to {where}: timed out",
        f"see that the service runs, and that firewalls let this device go out to TCP port {port}",
    )


def _proxy(around: Surroundings, host: str) -> Proxy | None:
    try:
        if around.options.proxy is not None:
            return Proxy.parse(around.options.proxy)
        return Proxy.of(host, around.proxies())
    except ValueError as error:
        raise Problem(
            Cause.PROXY_MALFORMED, f"https_proxy: {error}", "correct https_proxy or --proxy-uri"
        ) from None


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
            Cause.PROXY_REFUSES,
            f"the proxy {proxy.host}:{proxy.port} opens no way to {host}:{port}: "
            f"{words[1] if len(words) > 1 else 'it broke off'}",
            f"let the proxy allow CONNECT to {host}:{port}, and see that its password is right",
        )


def _context(around: Surroundings) -> ssl.SSLContext:
    try:
        return trust.context(around.settings.trust_bundle)
    except OSError as error:
        raise Problem(
            Cause.TRUST_BUNDLE_UNUSABLE,
            f"trust_bundle_cert cannot be used: {error}",
            "name a PEM file with the CA of the service in trust_bundle_cert",
        ) from None


def _untrusted(error: ssl.SSLCertVerificationError, host: str, around: Surroundings) -> Problem:
    what = f"TLS: the certificate of {host} is not accepted: {error.verify_message}"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return _out_of_time(what, around)
    if error.verify_code in _NAME_MISMATCH:
        return Problem(
            Cause.NAME_MISMATCH,
            what,
            "use a name that the certificate of the service has, or let it have this one "
            "(`muster up --hostname`, `--hub`)",
        )
    bundle = around.settings.trust_bundle
    where = "trust_bundle_cert is not set" if bundle is None else f"{bundle} is used"
    return Problem(
        Cause.CA_UNKNOWN,
        what,
        f"name the CA of the service in trust_bundle_cert ({where}; `muster info` tells where its "
        "CA file is); if a firewall inspects TLS, its CA belongs there, too",
    )


def _out_of_time(what: str, around: Surroundings) -> Problem:
    if abs(around.skew_s or 0.0) > FORGIVEN_S:
        return Problem(
            Cause.CERTIFICATE_BY_WRONG_CLOCK,
            what,
            "set the clock first: see host-local-time",
            Result.SKIPPED,
            blocks=True,
        )
    return Problem(
        Cause.CERTIFICATE_OUT_OF_TIME,
        f"{what} (this device's clock says {around.clock.now():%Y-%m-%d %H:%M} UTC)",
        "where that is the right time, the certificate of the service must be renewed; else set "
        "the clock",
    )


def _date(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None
