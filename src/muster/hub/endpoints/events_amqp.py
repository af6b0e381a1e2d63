"""The built-in, Event Hub-compatible endpoint of a hub on AMQP (hub-service.md 4).

Its name, the `EntityPath`, is the hub's host name, under whatever name the service is reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from muster.auth.access_policies import Right
from muster.errors import InvalidArgumentError, NotFoundError
from muster.hub import event_readers
from muster.hub.endpoints.amqp_errors import STOLEN
from muster.hub.endpoints.amqp_link import LinkHandler
from muster.hub.endpoints.amqp_pump import Pump
from muster.hub.endpoints.event_messages import EventEncoder, runtime_metrics
from muster.wire.amqp.link import SendingLink
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.types import Described, Symbol

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_grants import Grant
    from muster.hub.event_readers import EventReader, EventReaders, Position
    from muster.hub.hubs import Hub, Hubs
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.link import Link

_REDIRECT: Final = "amqp:link:redirect"

_READER: Final = "*/consumergroups/*/partitions/*"
_HUB_STREAM: Final = ("messages", "events")
_SELECTOR: Final = "apache.org:selector-filter:string"
_SELECTOR_CODE: Final = 0x468C_0000_0004
_EPOCH: Final = "com.microsoft:epoch"
_METRICS: Final = "com.microsoft:enable-receiver-runtime-metric"
_OFFICIAL_PORT: Final = 5671


def entity_hub(hubs: Hubs, entity: str) -> Hub:
    """Return the hub whose endpoint is called that.

    Raises:
        NotFoundError: code `stream-not-found`.
    """
    hub = next((hub for hub in hubs.all() if hub.host == entity.lower()), None)
    if hub is None:
        raise NotFoundError(
            f"There is no event stream '{entity[:128]}'; the EntityPath is the hub's host name.",
            code="stream-not-found",
        )
    return hub


@final
class ReaderLinks:
    """A `LinkService` for readers of one partition each.

    Args:
        hubs: the hubs of this service.
        readers: keeps them apart.
        clock: for runtime metrics.
    """

    __slots__ = ("_clock", "_encoder", "_hubs", "_readers")

    def __init__(self, hubs: Hubs, readers: EventReaders, clock: Clock) -> None:
        self._hubs = hubs
        self._readers = readers
        self._clock = clock
        self._encoder = EventEncoder()

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it reads a partition."""
        return isinstance(link, SendingLink) and address.match(_READER) is not None

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Accept a reader that may read, and have it begin."""
        link = cast("SendingLink", link)
        entity, group, partition = address.match(_READER) or ("", "", "")
        hub = entity_hub(self._hubs, entity)
        grant = client.grants.service(address, Right.SERVICE_CONNECT, hub=hub)
        handler = _ReaderLink(client, link, grant, self._encoder, self._clock)
        handler.reader = self._readers.open(
            hub,
            group,
            partition,
            position=_position(link),
            epoch=_epoch(link),
            on_displaced=handler.displaced,
            on_waiting=handler.credit_changed,
        )
        link.accept(max_message_size=link.attach.max_message_size)
        handler.credit_changed()
        return handler


@final
class _ReaderLink(LinkHandler):
    """One reader. It is sent what it has granted credit for, settled: it answers nothing."""

    reader: EventReader

    def __init__(
        self,
        client: AmqpClient,
        link: SendingLink,
        grant: Grant,
        encoder: EventEncoder,
        clock: Clock,
    ) -> None:
        self.grant = grant
        self._client = client
        self._link = link
        self._encoder = encoder
        self._clock = clock
        self._wants_metrics = _METRICS in (link.attach.desired_capabilities or ())
        self._open = True
        self._pump = Pump(self._step, "amqp events")

    def credit_changed(self) -> None:
        """Send what there is."""
        link = self._link
        if self._open and link.credit and (self.reader.behind or link.drain):
            self._pump.go()

    def displaced(self, text: str) -> None:
        """Leave: another reader took over."""
        self._client.detach(self._link, Error(STOLEN, text))

    def detached(self) -> None:
        """Read no more."""
        self._open = False
        self.reader.close()

    async def _step(self) -> bool:
        link, reader = self._link, self.reader
        credit = link.credit
        # What waits for the session's window leaves first; `credit_changed` follows.
        if not self._open or not credit or link.queued:
            return False
        if not reader.behind:
            link.drained()
            return False
        if self._client.peer.congested:
            self._client.when_writable(self._pump.go)
            return False
        try:
            records = await reader.take(credit)
            before = b""
            if self._wants_metrics:
                before = runtime_metrics(await reader.state(), self._clock.time())
            encode = self._encoder.encode
            payloads = [encode(record, before) for record in records]
        except Exception as error:  # noqa: BLE001 - `fail` raises what was not meant to happen
            self._client.fail(link, error)
            return False
        if self._open:
            for payload in payloads:
                link.send(payload, settled=True)
        return self._open


@final
class RedirectLinks:
    """A `LinkService` that sends readers of the hub's own address to the stream (4.1).

    Args:
        hubs: the hubs of this service.
    """

    __slots__ = ("_hubs",)

    def __init__(self, hubs: Hubs) -> None:
        self._hubs = hubs

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether it is about the events of a hub."""
        start = tuple(segment.lower() for segment in address.segments[:2])
        return isinstance(link, SendingLink) and start == _HUB_STREAM

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Say where the stream is."""
        link = cast("SendingLink", link)
        hub = client.grants.service(address, Right.SERVICE_CONNECT).hub
        # Under the name by which the client got here, which it can resolve and trusts.
        called = address.host or client.grants.host
        host = called if self._hubs.find(called) is hub else hub.host
        link.accept()
        link.detach(
            Error(
                _REDIRECT,
                "The events are at another address.",
                {
                    Symbol("hostname"): host,
                    Symbol("network-host"): host,
                    Symbol("port"): str(_OFFICIAL_PORT),
                    Symbol("address"): f"amqps://{host}:{_OFFICIAL_PORT}/{hub.host}/$management",
                },
            )
        )
        return LinkHandler()


def _position(link: SendingLink) -> Position:
    for name, value in (link.source.filter or {}).items():
        descriptor = value.descriptor if isinstance(value, Described) else None
        if name == _SELECTOR or descriptor in {_SELECTOR, _SELECTOR_CODE}:
            return event_readers.parse_filter(
                str(value.value if isinstance(value, Described) else value)
            )
    return event_readers.EARLIEST


def _epoch(link: SendingLink) -> int | None:
    epoch = link.properties.get(_EPOCH)
    if epoch is None:
        return None
    # Zero or more: so says the client for Java, which sends no other.
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise InvalidArgumentError("The epoch must be zero or positive.", code="invalid-epoch")
    return int(epoch)
