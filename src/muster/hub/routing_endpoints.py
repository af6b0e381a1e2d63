"""Endpoints of a hub besides the built-in one: each is a consumer of the log of routed messages.

An endpoint has a position in that log, and moves it on when its target has taken what came before.
So nothing that was acknowledged to a device is lost while the log still holds it, whatever dies in
between; what a target took just before a crash, it gets again. While a target refuses or does not
answer, the same messages are offered again, ever more seldom, and the others wait behind them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast, final

import msgspec
import structlog
from msgspec import Struct

from muster.errors import MusterError
from muster.hub import event_feed, events
from muster.net.tasks import spawn
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster.clock import Clock
    from muster.hub.telemetry import LogReader, StoredRecord
    from muster.ids import Randomness
    from muster.model.routing import Settings
    from muster.store.engine import Engine

SQL: Final = load("routing")

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Between attempts to deliver; each pause is twice the one before."""
MAX_CHUNK_BYTES: Final = 4 << 20
"""Bytes of the messages that are handed over at once, but one message in any case."""
_SKIPPED: Final = 5_000
"""Records for others after which the position is written down all the same."""

_encode: Final = msgspec.json.Encoder().encode
_log = structlog.get_logger(__name__)


@final
class Endpoint:
    """An endpoint of a hub.

    Attributes:
        number: stands in the records of its messages.
        host: of its hub.
        name: unique in the hub.
        settings: what it is.
        secret: of a webhook, or `None`.
    """

    __slots__ = ("host", "name", "number", "secret", "settings")

    def __init__(
        self, number: int, host: str, name: str, *, settings: Settings, secret: str | None
    ) -> None:
        self.number = number
        self.host = host
        self.name = name
        self.settings = settings
        self.secret = secret

    def __repr__(self) -> str:
        return f"Endpoint({self.host}/{self.name})"


class Target(Protocol):
    """What an endpoint's messages are delivered to."""

    @property
    def max_events(self) -> int:
        """How many messages it takes at once."""

    async def deliver(self, events: Sequence[bytes]) -> None:
        """Hand over messages, each a JSON object; they are safe there when this returns.

        Raises:
            UnavailableError: it does not take them now; the message says why.
        """

    async def tend(self) -> None:
        """Do what falls due; called a few times a minute."""

    async def close(self) -> None:
        """Let go of it."""


class Status(Struct, rename="camel"):
    """How an endpoint does.

    Attributes:
        delivered: messages since the service started.
        waiting: records of the log it has not looked at yet.
        lost: records that were deleted by retention before it had looked at them.
        failing_since: unix seconds since when its target takes nothing; `None` when it does.
        last_error: why.
    """

    delivered: int = 0
    waiting: int = 0
    lost: int = 0
    failing_since: float | None = None
    last_error: str | None = None


@final
class Consumer:
    """One endpoint at work. Made by `EndpointConsumers.start`."""

    def __init__(
        self,
        endpoint: Endpoint,
        log: LogReader,
        target: Target,
        positions: dict[int, int],
        consumers: EndpointConsumers,
    ) -> None:
        self.endpoint = endpoint
        self._log = log
        self._target = target
        self._positions = positions
        self._consumers = consumers
        self._status = Status()
        self._task = spawn(self._run(), f"endpoint {endpoint.name}")

    @property
    def status(self) -> Status:
        """How it does now."""
        self._status.waiting = sum(
            max(self._log.bounds(partition)[1] - position, 0)
            for partition, position in self._positions.items()
        )
        return self._status

    async def stop(self) -> None:
        """End the work; what was not taken is offered at the next start."""
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._target.close()

    async def _run(self) -> None:
        attempt = 0
        while True:
            try:
                await self._follow()
            except MusterError as error:
                # The log or the store; both say more in the log of the service.
                _log.warning("endpoint held up", endpoint=self.endpoint.name, reason=error.message)
            await self._pause(attempt)
            attempt += 1

    async def _follow(self) -> None:
        """Deliver from the position on, for ever."""
        ahead = dict(self._positions)
        skipped = 0
        self._look_for_gaps(ahead)
        async for batch in event_feed.read(self._log, ahead, follow=True):
            found = [each for each in map(self._event, batch) if each is not None]
            if found:
                await self._deliver(found)
            skipped = 0 if found else skipped + len(batch)
            if found or skipped > _SKIPPED:
                await self._consumers.save(self.endpoint, ahead)
                skipped = 0
            self._positions = dict(ahead)
            await self._tend()

    def _look_for_gaps(self, positions: dict[int, int]) -> None:
        """Take note of what retention has deleted."""
        for partition, position in positions.items():
            earliest, _ = self._log.bounds(partition)
            if position < earliest:
                lost = earliest - position
                self._status.lost += lost
                _log.error(
                    "messages deleted before an endpoint had them",
                    hub=self.endpoint.host,
                    endpoint=self.endpoint.name,
                    partition=partition,
                    records=lost,
                )

    def _event(self, record: StoredRecord) -> bytes | None:
        event = events.decode(record, self.endpoint.number)
        return None if event is None else _encode(event)

    async def _tend(self) -> None:
        try:
            await self._target.tend()
        except MusterError as error:
            self._failed(error)

    async def _deliver(self, found: list[bytes]) -> None:
        chunk: list[bytes] = []
        size = 0
        for event in found:
            if chunk and (
                len(chunk) >= self._target.max_events or size + len(event) > MAX_CHUNK_BYTES
            ):
                await self._offer(chunk)
                chunk, size = [], 0
            chunk.append(event)
            size += len(event)
        await self._offer(chunk)

    async def _offer(self, chunk: list[bytes]) -> None:
        """Offer messages until they are taken."""
        attempt = 0
        while True:
            try:
                await self._target.deliver(chunk)
            except MusterError as error:
                self._failed(error)
            else:
                break
            await self._pause(attempt)
            attempt += 1
        if self._status.failing_since is not None:
            _log.info(
                "endpoint takes messages again",
                hub=self.endpoint.host,
                endpoint=self.endpoint.name,
            )
        self._status.failing_since = self._status.last_error = None
        self._status.delivered += len(chunk)

    def _failed(self, error: MusterError) -> None:
        if self._status.failing_since is None:
            self._status.failing_since = self._consumers.clock.time()
            _log.warning(
                "endpoint does not take messages",
                hub=self.endpoint.host,
                endpoint=self.endpoint.name,
                reason=error.message,
            )
        self._status.last_error = error.message

    async def _pause(self, attempt: int) -> None:
        # Up to a quarter longer, so that endpoints of one broken server do not march in step.
        spread = 1 + self._consumers.randomness.token_bytes(1)[0] / 1024
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(attempt, 16), LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s * spread)


@final
class EndpointConsumers:
    """All endpoints at work.

    Args:
        engine: where positions are kept.
        clock: for times of failures.
        randomness: spreads attempts.
        make_target: returns what an endpoint delivers to.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        randomness: Randomness,
        make_target: Callable[[Endpoint], Target],
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.randomness = randomness
        self._make_target = make_target
        self._consumers: dict[int, Consumer] = {}

    def all(self) -> list[Consumer]:
        """Return those that are at work."""
        return list(self._consumers.values())

    def status(self, endpoint: Endpoint) -> Status:
        """Tell how an endpoint does."""
        found = self._consumers.get(endpoint.number)
        return Status() if found is None else found.status

    async def start(
        self, endpoint: Endpoint, log: LogReader, partitions: int, *, new: bool = False
    ) -> None:
        """Let an endpoint take up its work where it was, with its present settings.

        Args:
            endpoint: which.
            log: of routed messages of its hub.
            partitions: of the log.
            new: it was just made, so nothing that is in the log yet is for it.

        Raises:
            UnavailableError: the store cannot be used; code `store-unavailable`.
        """
        await self.stop(endpoint)
        bounds = [log.bounds(partition) for partition in range(partitions)]
        positions = {partition: at[1 if new else 0] for partition, at in enumerate(bounds)}
        if new:
            await self.save(endpoint, positions)
        else:
            for row in await self.engine.read(SQL["positions"], {"endpoint": endpoint.number}):
                partition, sequence = cast("tuple[int, int]", row)
                positions[partition] = sequence
        self._consumers[endpoint.number] = Consumer(
            endpoint, log, self._make_target(endpoint), positions, self
        )

    async def save(self, endpoint: Endpoint, positions: dict[int, int]) -> None:
        """Write down how far an endpoint is.

        Raises:
            UnavailableError: the store cannot be written; code `store-unavailable`.
        """
        await self.engine.write(
            Statement(
                SQL["save_position"],
                [
                    {"endpoint": endpoint.number, "partition": partition, "sequence": sequence}
                    for partition, sequence in positions.items()
                ],
            )
        )

    async def stop(self, endpoint: Endpoint) -> None:
        """End the work of an endpoint, if it is at work."""
        found = self._consumers.pop(endpoint.number, None)
        if found is not None:
            await found.stop()

    async def close(self) -> None:
        """End the work of all."""
        for found in self.all():
            await self.stop(found.endpoint)
