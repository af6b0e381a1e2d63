"""HTTPS calls of a device, and what their answers mean.

No answer is trusted: its size is bounded, its form is checked, redirections are not followed.
"""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import msgspec

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.upstream.errors import NonsenseError, RefusedError, UnreachableError
from muster.edge.upstream.login import PRODUCT
from muster.net.dial import HandshakeError, reason
from muster.net.https_client import HttpsClient, Server, TooLongError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from muster.edge.upstream.arrival import Arrival
    from muster.edge.upstream.hub_time import HubTime
    from muster.edge.upstream.login import Gateway

T = TypeVar("T")

MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes; the longest is a page of a device scope, some hundred identities."""

_HEADERS: Final = {"User-Agent": PRODUCT, "Accept": "application/json"}
_LONGEST_WAIT_S: Final = 3600.0
_UNAUTHORIZED: Final = 401
_BUSY: Final = 429

Proof: TypeAlias = "Callable[[int], str] | None"
"""Makes a token of its expiry (unix seconds); `None` where the client certificate is the proof."""


class Answer(msgspec.Struct, frozen=True):
    """What a service has said.

    Attributes:
        status: one of those that were expected.
        body: content.
        retry_after_s: what it asked to wait; `None` where it did not ask.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None

    def read(self, kind: type[T]) -> T:
        """Return the content.

        Raises:
            NonsenseError: it is something else.
        """
        try:
            return foreign_json.decode(self.body, kind)
        except ForeignJsonError as error:
            raise NonsenseError(f"the service answers something unexpected: {error}") from None


class _Complaint(msgspec.Struct):
    """The forms of error bodies: the hub's, the provisioning service's (edge.md 2.3, 2.4)."""

    hub_message: str | None = msgspec.field(default=None, name="Message")
    message: str | None = None
    long_message: str | None = msgspec.field(default=None, name="errorMessage")
    error_code: int | None = msgspec.field(default=None, name="errorCode")
    code: int | None = None
    tracking_id: str | None = msgspec.field(default=None, name="trackingId")


@final
class Https:
    """Calls one server. Belongs to the running event loop.

    Args:
        gateway: the server.
        context: whom to trust, and the client certificate if there is one.
        time: for tokens; learns from refusals.
        arrival: before which nothing is asked; `None` where nothing is to be waited for.
    """

    def __init__(
        self,
        gateway: Gateway,
        context: ssl.SSLContext,
        time: HubTime,
        arrival: Arrival | None = None,
    ) -> None:
        self._gateway = gateway
        self._arrival = arrival
        self._time = time
        server = Server(
            host=gateway.host,
            port=gateway.https_port,
            address=gateway.address,
            proxy=gateway.proxy,
        )
        self._client = HttpsClient(server, context, max_body=MAX_BODY)

    async def call(
        self,
        method: str,
        path: str,
        proof: Proof,
        *,
        expect: frozenset[int],
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token_s: float = 3_600.0,
    ) -> Answer:
        """Make a call.

        Args:
            method: HTTP method.
            path: with its query, both encoded.
            proof: see `Proof`.
            expect: statuses that are good answers.
            body: sent as JSON; `None` for none.
            headers: further ones.
            token_s: life of the token, seconds.

        Raises:
            UnreachableError: nobody answers there, or not now.
            RefusedError: the service says no.
            NonsenseError: it answers what it should not.
        """
        if self._arrival is not None and (left_s := self._arrival.left_s):
            raise UnreachableError(
                f"this device has just started and comes to {self._gateway.host} in {left_s:.0f} s,"
                " so that not all devices of a site come at once"
            )
        sent = {"method": method, "path": path, "body": body, "headers": headers or {}}
        answer, date = await self._once(**sent, token=self._token(proof, token_s))
        if answer.status == _UNAUTHORIZED and date is not None and self._time.learn(date):
            # The refusal tells that our clock is wrong (users.md, pain 23).
            answer, _ = await self._once(**sent, token=self._token(proof, token_s))
        if answer.status not in expect:
            raise self._refusal(answer)
        return answer

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    def _token(self, proof: Proof, token_s: float) -> str | None:
        return None if proof is None else proof(int(self._time.now() + token_s))

    async def _once(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], token: str | None
    ) -> tuple[Answer, float | None]:
        """Make a call; return also what time it is there."""
        proof = {} if token is None else {"Authorization": token}
        kind = {} if body is None else {"Content-Type": "application/json"}
        content = None if body is None else msgspec.json.encode(body)
        try:
            response = await self._client.request(
                method, path, {**_HEADERS, **kind, **proof, **headers}, content
            )
        except TooLongError:
            raise NonsenseError(f"{self._gateway.host} answers too much") from None
        except OSError as error:
            raise self._unreachable(error) from None
        asked_s = _seconds(response.headers.get("retry-after"), self._time.now())
        answer = Answer(response.status, response.body, asked_s)
        return answer, _unix(response.headers.get("date"))

    def _refusal(self, answer: Answer) -> Exception:
        status, asked_s = answer.status, answer.retry_after_s or 0.0
        complaint = _complaint(answer.body)
        words = complaint.hub_message or complaint.long_message or complaint.message or ""
        words = words[:500] or f"HTTP {status}"
        if complaint.tracking_id:
            words += f" (tracking ID {complaint.tracking_id[:64]})"
        where = self._gateway.host
        if status >= 500 or status == _BUSY:
            return UnreachableError(
                f"{where} is not available: {words}", status=status, retry_after_s=asked_s
            )
        if 400 <= status < 500:
            code = complaint.error_code or complaint.code or 0
            return RefusedError(
                f"{where} refuses: {words}", status=status, code=code, retry_after_s=asked_s
            )
        return NonsenseError(f"{where} answers with status {status}, which it should not")

    def _unreachable(self, error: OSError) -> UnreachableError:
        where = f"{self._gateway.host}:{self._gateway.https_port}"
        untrusted = isinstance(error, HandshakeError) and error.untrusted
        why = reason(error)
        if untrusted:
            why += f" ({self._time.remark()})"
        return UnreachableError(f"{where} cannot be reached: {why}", untrusted=untrusted)


def _complaint(body: bytes) -> _Complaint:
    try:
        return foreign_json.decode(body, _Complaint)
    except ForeignJsonError:
        return _Complaint()


def _seconds(text: str | None, now: float) -> float | None:
    """Read `Retry-After`: seconds, or a date (RFC 9110 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(float(text), _LONGEST_WAIT_S)
    date = _unix(text)
    return None if date is None else min(max(date - now, 0.0), _LONGEST_WAIT_S)


def _unix(date: str | None) -> float | None:
    """Read a date of HTTP; `None` for something else."""
    if date is None:
        return None
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None
