"""POSTing batches of messages to somebody's HTTP server.

The body is a JSON array. With `hmac` two headers prove who sent it and when:
`X-Muster-Timestamp` (unix seconds) and `X-Muster-Signature`, `sha256=` and the hexadecimal
HMAC-SHA256 of timestamp, a dot and body with the secret as key. Any answer but 2xx means that they
were not taken.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Final, final

import aiohttp

from muster.errors import UnavailableError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from muster.clock import Clock

_JSON: Final = "application/json; charset=utf-8"


@final
class Webhook:
    """One server.

    Args:
        url: where to POST.
        clock: for signatures.
        trust: which servers to trust over TLS.
        headers: sent along, for example which hub it is.
        auth: `none`, `bearer` or `hmac`.
        secret: for the latter two.
        max_events: messages of one request.
        timeout_s: seconds an answer may take.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        trust: ssl.SSLContext,
        *,
        headers: dict[str, str],
        auth: str,
        secret: str | None,
        max_events: int,
        timeout_s: float,
    ) -> None:
        self.max_events = max_events
        self._url = url
        self._clock = clock
        self._trust = trust
        self._headers = {**headers, "Content-Type": _JSON}
        self._auth = auth
        self._secret = secret or ""
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, events: Sequence[bytes]) -> None:
        """POST messages, each a JSON object.

        Raises:
            UnavailableError: the server did not take them; code `endpoint-unavailable`.
        """
        body = b"[%b]" % b",".join(events)
        if self._session is None:
            # Of this loop, and not before there is something to send.
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={**self._headers, **self._proof(body)},
                ssl=self._trust,
                # A secret is for the server it was given for.
                allow_redirects=False,
            ) as answer:
                status = answer.status
        except TimeoutError:
            raise _unavailable("no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unavailable(str(error) or type(error).__name__) from error
        if not 200 <= status < 300:
            raise _unavailable(f"it answers {status}")

    async def tend(self) -> None:
        """Nothing falls due."""

    async def close(self) -> None:
        """Let go of connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            # aiohttp closes TLS connections in the loop's next turn.
            await asyncio.sleep(0)

    def _proof(self, body: bytes) -> dict[str, str]:
        if self._auth == "bearer":
            return {"Authorization": f"Bearer {self._secret}"}
        if self._auth == "hmac":
            moment = str(int(self._clock.time()))
            signature = hmac.digest(
                self._secret.encode(), moment.encode() + b"." + body, "sha256"
            ).hex()
            return {"X-Muster-Timestamp": moment, "X-Muster-Signature": f"sha256={signature}"}
        return {}


def _unavailable(reason: str) -> UnavailableError:
    return UnavailableError(
        f"The webhook does not take messages: {reason}", code="endpoint-unavailable"
    )
