"""The REST client: signed calls, errors turned into failures that say what to do next."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NoReturn, final
from urllib.parse import quote

import click
import requests

from muster import __version__
from muster.auth import sas_token, symmetric_keys
from muster.cli.failures import FailedError, UnreachableError, read_error
from muster.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from muster.cli.connection import Target
    from muster.clock import Clock

TOKEN_LIFETIME_S: Final = 3600
"""Of a token; a new one is made when a quarter of it is left."""
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 60.0
PAGE_SIZE: Final = 1000
"""Items asked for at a time; the service may give fewer."""

_CONTINUATION: Final = "x-ms-continuation"


class _Signature(requests.auth.AuthBase):
    """Signs each request with the policy of a login (dps.md 3.5, hub-service.md 2.1).

    An `AuthBase` because requests would otherwise let a `.netrc` entry overwrite the header.
    """

    def __init__(self, target: Target, clock: Clock) -> None:
        self._login = target.login
        self._resource = target.signed or target.login.host_name
        self._clock = clock
        self._token = ""
        self._renew_at = 0.0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        now = self._clock.time()
        if now >= self._renew_at:
            key = symmetric_keys.decode(self._login.key or "")
            expiry = int(now) + TOKEN_LIFETIME_S
            self._token = sas_token.sign(self._resource, key, expiry, self._login.key_name)
            self._renew_at = now + TOKEN_LIFETIME_S * 0.75
        request.headers["Authorization"] = self._token
        return request


@final
class RestClient:
    """Calls of one service, over one kept connection.

    Args:
        target: where, as whom, trusting what.
        clock: for the expiry of tokens.
    """

    def __init__(self, target: Target, clock: Clock | None = None) -> None:
        self.target = target
        self._session = requests.Session()
        # Kept, because a stream is read in a thread, which has no context.
        self._context = click.get_current_context(silent=True)
        if self._context is not None:
            self._context.call_on_close(self._session.close)
        self._session.auth = _Signature(target, clock or SystemClock())
        self._session.headers["User-Agent"] = f"muster-cli/{__version__}"

    # -- calls ---------------------------------------------------------------------------------

    def get(self, base: str, *segments: str, params: Mapping[str, str] | None = None) -> Any:
        """Return what a GET answers.

        Args:
            base: beginning of the path, for example `/enrollments`.
            segments: rest of the path, plain text.
            params: query parameters beside the API version.

        Raises:
            RefusedError: the service answered with an error.
            UnreachableError: it did not answer.
        """
        return _json(self.call("GET", path(base, *segments), params=params))

    def put(self, base: str, *segments: str, body: Any = None, if_match: str | None = None) -> Any:
        """Return what a PUT answers; raises like `get`."""
        return _json(self.call("PUT", path(base, *segments), body=body, if_match=if_match))

    def post(self, base: str, *segments: str, body: Any = None) -> Any:
        """Return what a POST answers; raises like `get`."""
        return _json(self.call("POST", path(base, *segments), body=body))

    def patch(
        self, base: str, *segments: str, body: Any = None, if_match: str | None = None
    ) -> Any:
        """Return what a PATCH answers; raises like `get`."""
        return _json(self.call("PATCH", path(base, *segments), body=body, if_match=if_match))

    def delete(self, base: str, *segments: str, if_match: str | None = None) -> None:
        """Delete; raises like `get`."""
        self.call("DELETE", path(base, *segments), if_match=if_match)

    def pages(
        self,
        method: str,
        base: str,
        *segments: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        top: int | None = None,
    ) -> Iterator[Any]:
        """Yield items of a query, page by page, up to `top` of them (dps.md 3.1 Paging)."""
        left = top
        continuation = ""
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            headers = {"x-ms-max-item-count": str(size)}
            if continuation:
                headers[_CONTINUATION] = continuation
            reply = self.call(
                method, path(base, *segments), body=body, params=params, headers=headers
            )
            items = _json(reply)[:size]
            yield from items
            if left is not None:
                left -= len(items)
            continuation = reply.headers.get(_CONTINUATION, "")
            if not continuation:
                return

    def call(
        self,
        method: str,
        call_path: str,
        *,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        if_match: str | None = None,
        stream: bool = False,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> requests.Response:
        """Make one call; `body` goes as JSON, or as it is when it is bytes or a file."""
        all_headers = {"Host": self.target.login.host_name, **(headers or {})}
        if body is not None:
            all_headers["Content-Type"] = "application/json; charset=utf-8"
            as_it_is = isinstance(body, bytes) or hasattr(body, "read")
            body = body if as_it_is else json.dumps(body).encode()
        if if_match is not None:
            all_headers["If-Match"] = if_match
        try:
            reply = self._session.request(
                method,
                self.target.url + call_path,
                params={"api-version": self.target.api_version, **(params or {})},
                data=body,
                headers=all_headers,
                timeout=(CONNECT_TIMEOUT_S, read_timeout_s),
                # On the request, where no environment variable comes before it.
                verify=True if self.target.ca_file is None else str(self.target.ca_file),
                allow_redirects=False,
                stream=stream,
            )
        except (requests.RequestException, OSError) as error:
            unreachable(self.target, error)
        if not reply.ok or reply.is_redirect:
            raise read_error(
                reply.status_code,
                reply.headers,
                _json_if_any(reply),
                self._context,
            )
        return reply


def path(base: str, *segments: str) -> str:
    """Write a path; each segment may hold any character."""
    for segment in segments:
        if segment in ("", ".", ".."):
            raise click.UsageError(f"'{segment}' is not an ID.")
    return "/".join((base, *(quote(segment, safe="") for segment in segments)))


def unreachable(target: Target, error: Exception) -> NoReturn:
    """Raise the failure for a call that got no answer.

    Raises:
        UnreachableError: always; with the cause in plain words.
    """
    host = target.address
    cause = _root(error)
    text = str(cause)
    arrived = not isinstance(error, requests.ConnectTimeout)
    if isinstance(error, requests.exceptions.SSLError):
        reason, step = _tls_reason(text, target.ca_file)
        arrived = "certificate" not in text
    elif isinstance(error, requests.Timeout):
        reason, step = "it did not answer in time", target.lost
    elif isinstance(cause, ConnectionRefusedError) or "Connection refused" in text:
        reason, step = "nothing listens there (connection refused)", target.lost
        arrived = False
    elif "NameResolutionError" in repr(error) or "Failed to resolve" in str(error):
        reason = "its name cannot be resolved"
        step = "add it to the DNS, or to the hosts file of this machine"
        arrived = False
    else:
        reason, step = text or type(error).__name__, target.lost
    raise UnreachableError(
        f"Cannot reach {host}: {reason}", next_step=step, arrived=arrived
    ) from None


def _tls_reason(text: str, ca_file: Path | None) -> tuple[str, str]:
    if "certificate verify failed" in text:
        if "Hostname mismatch" in text or "doesn't match" in text or "IP address" in text:
            return (
                "its certificate is for another name",
                "use one of the names it was started with (muster up --hostname, --hub)",
            )
        trusted = f"the certificates in {ca_file}" if ca_file else "the system's certificates"
        return (
            f"its certificate is not trusted by {trusted}",
            "give the service's CA file (muster info shows it) with --ca-file or MUSTER_CA_FILE",
        )
    if ca_file is not None and ("NO_CERTIFICATE" in text or "PEM" in text or "X509" in text):
        return f"{ca_file} holds no certificate", "give a PEM file with --ca-file"
    return f"TLS failed: {text}", "check that the port is the HTTPS port of the service"


def _root(error: BaseException) -> BaseException:
    """Return the innermost cause, which has the words of the operating system."""
    seen = [error]
    while True:
        reason = getattr(seen[-1], "reason", None)
        arguments = [each for each in seen[-1].args if isinstance(each, BaseException)]
        inner = reason if isinstance(reason, BaseException) else next(iter(arguments), None)
        inner = inner or seen[-1].__cause__ or seen[-1].__context__
        if inner is None or inner in seen:
            return seen[-1]
        seen.append(inner)


def _json(reply: requests.Response) -> Any:
    if not reply.content:
        return None
    try:
        return reply.json()
    except ValueError:
        raise FailedError(
            f"{reply.url.partition('?')[0]} answered with something that is not JSON",
            next_step="check that the host in the connection string is a Muster service",
        ) from None


def _json_if_any(reply: requests.Response) -> Any:
    try:
        return reply.json()
    except (ValueError, requests.RequestException):
        return None
