"""What MQTT and AMQP connections have in common towards those who accept them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, cast

from muster.net.stream import PEER_CERTIFICATE, DoesNotReadError

if TYPE_CHECKING:
    import asyncio

SERVICE_STOPS: Final = "service stops"
SLOW_READER: Final = "too slow a reader"
CLOSED_BY_CLIENT: Final = "closed by the client"
CONNECTION_LOST: Final = "connection lost"
NOT_HEARD: Final = "nothing was heard for too long"

ORDINARY_ENDS: Final = frozenset({SERVICE_STOPS, CLOSED_BY_CLIENT, CONNECTION_LOST, NOT_HEARD})
"""Reasons that say nothing against the client, so that nobody has to be told of them."""


class Peer(Protocol):
    """The socket below a connection. No call blocks or fails."""

    @property
    def transport(self) -> str:
        """`mqtt` or `amqp`; `mqtt-ws` or `amqp-ws` over a WebSocket; `amqp-plain` without TLS."""

    @property
    def remote(self) -> str:
        """The client's `address:port`."""

    @property
    def certificate(self) -> bytes | None:
        """DER of the certificate whose key the client has; `None` when it presented none."""

    @property
    def last_received(self) -> float:
        """When the client was last heard, in the loop's monotonic seconds."""

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or closing; what is written then is dropped."""

    def reset(self, reason: str) -> None:
        """Break the connection off, without sending what is pending."""

    def pause_reading(self) -> None:
        """Stop receiving; the client's silence is not counted meanwhile."""

    def resume_reading(self) -> None:
        """Receive again."""


def remote_of(sink: asyncio.Transport) -> str:
    """Return the `address:port` at the other end of a transport."""
    host, port = sink.get_extra_info("peername") or ("", 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def certificate_of(sink: asyncio.Transport) -> bytes | None:
    """Return the certificate of the other end (DER), if it presented one."""
    return cast("bytes | None", sink.get_extra_info(PEER_CERTIFICATE))


def lost_because(exc: Exception | None) -> str:
    """Return why a connection is over that nobody closed; `exc` is what `connection_lost` got."""
    return SLOW_READER if isinstance(exc, DoesNotReadError) else CONNECTION_LOST
