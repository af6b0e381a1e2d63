"""Following a hub's telemetry over connections that break: each event once, in order.

The service streams NDJSON from a position in the log (an administrative call of ours). After a
break the stream is taken up where it was: in one partition by sequence number, in several by the
time that the one furthest behind has reached, with what was seen already left out.
"""

from __future__ import annotations

import queue
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import msgspec
import requests

from muster.cli.client import unreachable
from muster.cli.failures import FailedError, RefusedError, UnreachableError
from muster.terminal.output import remark

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.cli.client import RestClient

LATEST: Final = "latest"
SILENCE_S: Final = 40.0
"""Without a byte for so long the connection is dead: the service sends a blank line each 15 s."""
PATIENCE_S: Final = 60.0
"""How long a service that is away is tried again."""

PAUSES_S: Final[tuple[float, ...]] = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Between attempts to connect again."""

_OVERLAP: Final = timedelta(seconds=5)
"""Partitions become durable independently: an event may come a little after a later one."""
_QUEUED: Final = 1000


class Event(msgspec.Struct, rename="camel", kw_only=True):
    """One event of the stream.

    Attributes:
        sequence_number: counts the events of the partition.
        partition: which.
        enqueued_time: when the service got it, ISO 8601.
        offset: where it stands in the log.
        device_id: who sent it, or whom it is about.
        module_id: likewise; `None` for the device itself.
        source: what it is; `Telemetry` for messages of devices.
        system_properties: by the names of the Event Hubs SDKs.
        properties: the sender's own.
        body: as JSON; text and base64 are JSON strings.
        body_encoding: `json`, `utf-8` or `base64`.
        line: all of it, the JSON as it came.
    """

    sequence_number: int
    partition: int
    enqueued_time: str
    offset: int = 0
    device_id: str
    module_id: str | None = None
    source: str = "Telemetry"
    system_properties: dict[str, str | None] = {}
    properties: dict[str, str | None] = {}
    body: msgspec.Raw = msgspec.Raw(b"null")
    body_encoding: str = "json"
    line: str = ""


_Item: TypeAlias = "Event | Exception | None"
"""What the reading thread hands over; `None` when the stream has ended."""


@final
class EventStream:
    """The events of one hub.

    Args:
        client: of the hub.
        partition: only this one.
        device_id: only of this device.
        start: `earliest`, `latest`, a sequence number or a time.
        follow: go on at the end of the log, and over breaks.
        source: only of this source.
        end: where to end, said like `start`; empty for the end of the log.

    Attributes:
        total: how many events there are at most, as far as the service tells.
    """

    def __init__(
        self,
        client: RestClient,
        *,
        partition: int | None,
        device_id: str | None,
        start: str,
        follow: bool,
        source: str | None = None,
        end: str = "",
    ) -> None:
        self._client = client
        self._partition = partition
        self._device_id = device_id
        self._start = start
        self._follow = follow
        self._source = source
        self._end = end
        self.total: int | None = None
        self._next: dict[int, int] = {}
        self._first_sequence = int(start) if start.isdecimal() else 0
        self._not_before: datetime | None = None
        self._reached: dict[int, datetime] = {}
        self._connected = False
        self._over = threading.Event()

    def events(self, timeout_s: float | None) -> Iterator[Event]:
        """Yield events as they come; end after `timeout_s` seconds, or when the log ends.

        Raises:
            RefusedError: the service said no.
            UnreachableError: it was away for too long.
        """
        items: queue.Queue[_Item] = queue.Queue(_QUEUED)
        # A thread, because a read from the network can be given up no other way on time.
        threading.Thread(target=self._read, args=(items,), name="events", daemon=True).start()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            while True:
                # In steps: on some systems an endless wait is deaf to Ctrl-C.
                wait_s = 1.0 if deadline is None else deadline - time.monotonic()
                try:
                    item = items.get(timeout=max(wait_s, 0.0))
                except queue.Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        return
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._over.set()

    # -- the reading thread --------------------------------------------------------------------

    def _read(self, items: queue.Queue[_Item]) -> None:
        try:
            self._read_on(items)
        except Exception as error:  # noqa: BLE001 - raised again where the events are taken
            items.put(error)
        else:
            items.put(None)

    def _read_on(self, items: queue.Queue[_Item]) -> None:
        attempt = 0
        lost_at = 0.0
        while not self._over.is_set():
            try:
                reply = self._connect()
                if attempt > 1:
                    remark("Connected again.")
                attempt = 0
                self._take(reply, items)
                if not self._follow:
                    return
                failure: FailedError = UnreachableError("The service ended the stream")
            except FailedError as error:
                gone = isinstance(error, UnreachableError) or (
                    isinstance(error, RefusedError) and error.status >= 500
                )
                if not gone or not self._connected or not self._follow:
                    raise
                failure = error
            now = time.monotonic()
            lost_at = now if attempt == 0 else lost_at
            if now - lost_at > PATIENCE_S:
                raise failure
            if attempt == 1 and not self._over.is_set():  # not for a break that heals at once
                remark(f"{failure.headline}; trying again.")
            self._over.wait(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1

    def _connect(self) -> requests.Response:
        params = {
            "hub": self._client.target.login.host,
            "from": self._position(),
            "follow": "true" if self._follow else "false",
        }
        if self._partition is not None:
            params["partition"] = str(self._partition)
        if self._device_id is not None:
            params["deviceId"] = self._device_id
        if self._source is not None:
            params["source"] = self._source
        if self._end:
            params["to"] = self._end
        reply = self._client.call(
            "GET", "/admin/v1/events", params=params, stream=True, read_timeout_s=SILENCE_S
        )
        if not self._connected:
            self._connected = True
            self.total = _number(reply.headers.get("x-muster-records"))
            if self._start == LATEST:
                self._not_before = _date(reply)
        return reply

    def _position(self) -> str:
        if self._next and (self._partition is not None or self._device_id is not None):
            return str(next(iter(self._next.values())))  # a device's events are in one partition
        # The partition that is furthest behind decides: in a backlog one can lag by hours.
        furthest = min(self._reached.values(), default=None)
        since = self._not_before if furthest is None else furthest - _OVERLAP
        if since is None:
            return self._start
        if self._not_before is not None:
            since = max(since, self._not_before)
        return since.isoformat()

    def _take(self, reply: requests.Response, items: queue.Queue[_Item]) -> None:
        try:
            for line in reply.iter_lines(chunk_size=65_536):
                if not line:
                    self._caught_up()
                elif (event := self._event(line)) is not None:
                    items.put(event)
        except (requests.RequestException, OSError) as error:
            unreachable(self._client.target, error)
        finally:
            reply.close()

    def _caught_up(self) -> None:
        """Note a blank line: every partition was read to its end."""
        if self._reached:
            self._reached = dict.fromkeys(self._reached, max(self._reached.values()))

    def _event(self, line: bytes) -> Event | None:
        try:
            event = msgspec.json.decode(line, type=Event)
            moment = datetime.fromisoformat(event.enqueued_time)
        except (msgspec.MsgspecError, ValueError):
            raise FailedError(
                "The service sent something that is no event",
                next_step="check that it has the same version as this command: muster --version",
            ) from None
        seen_to = self._next.get(event.partition, self._first_sequence)
        if event.sequence_number < seen_to:
            return None
        if self._not_before is not None and self._reached and moment < self._not_before:
            return None
        self._next[event.partition] = event.sequence_number + 1
        self._reached[event.partition] = moment
        event.line = line.decode()
        return event


def body_text(event: Event) -> Any:
    """Return the body for people to read: text as it is, anything else as JSON."""
    if event.body_encoding == "json":
        return bytes(event.body).decode()
    return msgspec.json.decode(event.body)


def _date(reply: requests.Response) -> datetime | None:
    """Return the service's own time, whole seconds."""
    try:
        return parsedate_to_datetime(reply.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError):
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
