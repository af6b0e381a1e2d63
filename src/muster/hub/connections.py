"""Who is connected: live sessions, takeover, expiry, and the presence the service API shows.

Memory is the truth about what is connected now. The database follows in batches, for the next
start: a presence row names the *run* of the service its connection belongs to, and with the run
the connection is over, so that after a crash nothing has to be repaired and everything reads
`Disconnected` since the last moment that run was known to be alive.

Belongs to one event loop. `attach`, `detach`, `drop` and the bus callbacks never await, so
between them there is no race; `begin` is there for what may happen while a connect is being
checked.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast, final

import msgspec
import structlog

from muster.errors import MusterError
from muster.hub.activity import Activity
from muster.hub.authentication import RefusedError
from muster.hub.changes import ConnectionChanged
from muster.hub.method_calls import MethodWaits, PendingCalls
from muster.model.identity import IdentityRef
from muster.model.pacing import Pace, Pacer
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.bus.base import Bus, Unsubscribe
    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.model.fault import Fault
    from muster.store.engine import Engine, Params

DESIRED_CHANGED: Final = "hub.desired-changed"
"""Bus subject; messages are `DesiredChanged`."""
IDENTITY_BARRED: Final = "hub.identity-barred"
"""Bus subject; messages are `IdentityBarred`."""

TAKEN_OVER: Final = "taken over by a newer connection of the same identity"
TOKEN_EXPIRED: Final = "the SAS token expired"  # noqa: S105 - a reason, no secret

EXPIRY_GRACE_S: Final = 300
"""Seconds a live connection outlives its token.

The clock skew that every check of a token allows, so that a connection lives exactly as long as
its token would still be accepted (hub-device.md 0.12).
"""

TICK_S: Final = 1.0
"""Seconds between two looks at what is due."""
ACTIVITY_FLUSH_S: Final = 60.0
"""Seconds after which activity of a connection is worth a write. Reads see memory, not this."""
ALIVE_EVERY_S: Final = 5.0
"""Seconds between two signs of life in the database while anything is connected."""
FLUSH_LIMIT: Final = 5000
"""Presence rows in one write, so that a mass reconnect does not hold up other writes."""

_LOOKED_AT_ONCE: Final = 5000
"""Connections looked at before others get their turn in the loop."""

CONNECT_PACE: Final = Pace(rate=1.0, burst=5)
"""Connects of one identity."""
CONNECT_PATIENCE_S: Final = 5.0
"""Seconds a connect is held back for its turn before it is turned away."""

_SQL: Final = load("presence")
_log = structlog.get_logger(__name__)


class DesiredChanged(msgspec.Struct, array_like=True):
    """The desired properties of a twin changed; sent after the commit."""

    hub: int
    device_id: str
    module_id: str
    version: int
    body: bytes


class IdentityBarred(msgspec.Struct, array_like=True):
    """An identity was disabled or deleted; sent after the commit.

    Attributes:
        module_id: `None` for the device with all its modules.
        reason: for the log.
        deleted: nothing of it is to be remembered.
    """

    hub: int
    device_id: str
    module_id: str | None
    reason: str
    deleted: bool


class Link(Protocol):
    """What a transport gives to a live connection. No call blocks or fails."""

    @property
    def alive(self) -> bool:
        """Whether the connection is neither closed nor closing."""

    def close(self, reason: str) -> None:
        """Close the connection; `Connection.detach` follows, now or later."""

    def desired_changed(self, body: bytes, version: int) -> None:
        """Tell the client, if it subscribed."""

    def takes_method(self, name: str) -> bool:
        """Tell whether the client has subscribed to a direct method, so that it may be sent.

        Whenever this may have become true, the transport calls `Connection.takes_methods`.
        """

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method; what the client answers goes to `Connection.method_answered`.

        Args:
            request_id: positive, below 2^63, and of this call alone; comes back with the answer.
            name: of the method, printable ASCII without separators.
            payload: JSON.
        """

    def fault_began(self, fault: Fault) -> bool:
        """Do to this connection what an injected fault says that has begun.

        Returns:
            Whether it concerned this connection.
        """


class Presence(NamedTuple):
    """The connection of an identity as the service API shows it. Times in unix seconds, 0 never."""

    connected: bool
    state_updated_at: float
    last_activity_at: float

    @property
    def state(self) -> str:
        """`Connected` or `Disconnected`."""
        return "Connected" if self.connected else "Disconnected"


@final
class Connection:
    """One live session of one identity."""

    __slots__ = (
        "_connections",
        "calls",
        "connected_at",
        "expires_at",
        "expiry_slot",
        "last_activity_at",
        "link",
        "ref",
        "write_after",
    )

    def __init__(
        self, connections: Connections, ref: IdentityRef, link: Link, expires_at: int, now: float
    ) -> None:
        self._connections = connections
        self.calls = PendingCalls()
        self.ref = ref
        self.link = link
        self.expires_at = expires_at
        self.expiry_slot = 0
        self.connected_at = now
        self.last_activity_at = now
        self.write_after = now

    def touch(self, now: float) -> None:
        """Note that the client did something. Called for every batch of messages."""
        self.last_activity_at = now
        if now >= self.write_after:
            self.write_after = now + ACTIVITY_FLUSH_S
            self._connections.note(self)

    def takes_methods(self) -> None:
        """Tell whoever waits for it that the client may have begun to take direct methods.

        Called by the transport when the client may be written to, and after it has subscribed.
        """
        self._connections.method_waits.wake(self.ref)

    def method_answered(self, request_id: int, status: int, payload: bytes) -> None:
        """Take the client's answer to a direct method.

        An answer that nobody waits for is dropped in silence (hub-device.md 8).

        Args:
            request_id: as it was given to `Link.invoke_method`.
            status: the client's own result, a signed 32-bit number.
            payload: as the client sent it, meant to be JSON; empty for none.
        """
        self.calls.answer(request_id, status, payload)

    def renew(self, expires_at: int) -> None:
        """The client has a newer token, which expires at another time (unix seconds)."""
        self._connections.renew(self, expires_at)

    def detach(self) -> None:
        """The connection is over; harmless when that is known already."""
        self._connections.detach(self)


@final
class Attempt:
    """A connect whose credentials are still being checked.

    Attributes:
        ref: who.
        barred: the identity was disabled or deleted meanwhile.
        stale: its MQTT session was changed meanwhile, by the connection it will take over.
    """

    __slots__ = ("barred", "ref", "stale")

    def __init__(self, ref: IdentityRef) -> None:
        self.ref = ref
        self.barred = False
        self.stale = False


@final
class Connections:
    """All live sessions of this node.

    Args:
        engine: keeps presence for the next start.
        bus: brings changes of twins and identities.
        clock: wall time for presence and expiry, steady time for pacing.
        changes: is told who connected and who is gone.
    """

    def __init__(self, engine: Engine, bus: Bus, clock: Clock, changes: Changes) -> None:
        self._engine = engine
        self._bus = bus
        self._clock = clock
        self._changes = changes
        self._run = 0
        self._devices: dict[tuple[int, str], Connection] = {}
        self._modules: dict[tuple[int, str], dict[str, Connection]] = {}
        self._attempts: dict[tuple[int, str], list[Attempt]] = {}
        self._device_counts: dict[int, int] = {}
        self._expiries: dict[int, set[Connection]] = {}
        self._next_expiry = int(clock.time())
        self._unwritten: dict[IdentityRef, Presence] = {}
        self._activity = Activity(engine, clock)
        self._alive_at = 0.0
        self._unsubscribe: list[Unsubscribe] = []
        self.method_waits = MethodWaits()
        self.pacer: Pacer[IdentityRef] = Pacer(CONNECT_PACE, CONNECT_PATIENCE_S)

    async def open(self) -> None:
        """Begin a run: whatever an earlier run left connected reads `Disconnected` from here."""
        ((last,),) = cast("list[tuple[int]]", await self._engine.read(_SQL["last_run"], {}))
        self._run = last + 1
        now = self._clock.time()
        await self._engine.write(Statement(_SQL["begin_run"], {"id": self._run, "now": now}))
        self._unsubscribe = [
            self._bus.subscribe(DESIRED_CHANGED, self._desired_changed),
            self._bus.subscribe(IDENTITY_BARRED, self._identity_barred),
        ]

    async def run(self) -> None:
        """Do what falls due, for ever. The composition root runs this beside the listeners."""
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self.tick()
            except Exception:  # noqa: BLE001 - without ticks no token would ever expire again
                _log.exception("connection upkeep failed")

    async def tick(self) -> None:
        """Close connections whose token expired, and write presence down."""
        self._expire()
        try:
            await self._write_presence()
            await self._activity.write(self._run)
        except MusterError as error:
            # Kept for the next turn; the store has told its own trouble already.
            _log.warning("presence not written", reason=error.message)

    async def write_down(self, *, activity: bool) -> None:
        """Let the database know what memory knows by now, for whoever asks it.

        Args:
            activity: the time of the last activity of every connection, too; otherwise only who
                is connected.
        """
        if activity:
            for number, connection in enumerate(list(self._all())):
                if connection.last_activity_at > connection.write_after - ACTIVITY_FLUSH_S:
                    connection.write_after = connection.last_activity_at + ACTIVITY_FLUSH_S
                    self.note(connection)
                if number % _LOOKED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        # What comes meanwhile is newer than the question.
        for _ in range(0, len(self._unwritten), FLUSH_LIMIT):
            await self._write_presence()

    async def close(self) -> None:
        """Write down what is known; call after the listeners have closed every connection."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for connection in list(self._all()):
            self.detach(connection)
        while self._unwritten:
            await self._write_presence()
        await self._activity.write(self._run, everything=True)

    # -- connecting ----------------------------------------------------------------------------

    def begin(self, ref: IdentityRef) -> Attempt:
        """Note that the credentials of a connect are about to be read.

        End it with `attach` or `abandon`. If the identity is barred before that, `attach` refuses.
        """
        attempt = Attempt(ref)
        self._attempts.setdefault(ref[:2], []).append(attempt)
        return attempt

    def abandon(self, attempt: Attempt) -> None:
        """Forget an attempt. Harmless when it is over already."""
        attempts = self._attempts.get(attempt.ref[:2])
        if attempts and attempt in attempts:
            attempts.remove(attempt)
            if not attempts:
                del self._attempts[attempt.ref[:2]]

    def session_changed(self, ref: IdentityRef) -> None:
        """Tell whoever is just connecting that the stored MQTT session has changed."""
        for attempt in self._attempts.get(ref[:2], ()):
            if attempt.ref == ref:
                attempt.stale = True

    async def wait_turn(self, ref: IdentityRef) -> None:
        """Hold back an identity that connects over and over (hub-device.md 0.11).

        Raises:
            RefusedError: it would have to wait for too long; check `throttled`.
        """
        wait_s = self.pacer.reserve(ref, self._clock.monotonic())
        if wait_s is None:
            raise RefusedError(
                "The identity connects too often.",
                "throttled",
                reason=f"it connected more often than {1 / CONNECT_PACE.interval_s:g} times a "
                "second, for example because two devices take each other over",
            )
        if wait_s:
            await asyncio.sleep(wait_s)

    def attach(self, attempt: Attempt, link: Link, expires_at: int) -> Connection | None:
        """Make a checked connect the live session of its identity; the older one is closed.

        Args:
            attempt: from `begin`.
            link: the transport's end.
            expires_at: expiry of the token, unix seconds.

        Returns:
            The connection, or `None` when the identity was barred while it was being checked.
        """
        self.abandon(attempt)
        if attempt.barred:
            return None
        ref = attempt.ref
        now = self._clock.time()
        connection = Connection(self, ref, link, expires_at, now)
        older = self.get(ref)
        if older is not None:
            self._remove(older)
        self._add(connection)
        self.note(connection)
        if older is not None:
            older.link.close(TAKEN_OVER)
        else:
            self._changes.publish(ConnectionChanged(ref, True, now))
        return connection

    def detach(self, connection: Connection) -> None:
        """A connection is over. Does nothing when it was taken over or detached before."""
        if self.get(connection.ref) is not connection:
            return
        self._remove(connection)
        now = self._clock.time()
        self._unwritten[connection.ref] = Presence(False, now, connection.last_activity_at)
        self._changes.publish(ConnectionChanged(connection.ref, False, now))

    def renew(self, connection: Connection, expires_at: int) -> None:
        """Have a connection live as long as a newer token. Does nothing when it is over."""
        if self.get(connection.ref) is connection:
            self._forget_expiry(connection)
            connection.expires_at = expires_at
            self._expect_expiry(connection)

    def drop(self, hub: int, device_id: str, module_id: str | None, reason: str) -> int:
        """Close the live sessions of a device, or of one module, at once.

        Args:
            hub: the hub's number.
            device_id: whose.
            module_id: `None` for the device with all its modules.
            reason: for the log.

        Returns:
            How many there were.
        """
        for attempt in self._attempts.get((hub, device_id), ()):
            if module_id is None or attempt.ref.module_id == module_id:
                attempt.barred = True
        found = [
            connection
            for connection in self._of_device(hub, device_id)
            if module_id is None or connection.ref.module_id == module_id
        ]
        for connection in found:
            self.detach(connection)
            connection.link.close(reason)
        return len(found)

    # -- asking --------------------------------------------------------------------------------

    def get(self, ref: IdentityRef) -> Connection | None:
        """Return the live session of an identity."""
        if ref.module_id:
            modules = self._modules.get(ref[:2])
            return modules.get(ref.module_id) if modules else None
        return self._devices.get(ref[:2])

    def sessions(self, hub: int, device_id: str) -> int:
        """Return how many connections a device and its modules have."""
        return sum(1 for _ in self._of_device(hub, device_id))

    def device_ids(self, hub: int) -> set[str]:
        """Return the IDs of the devices of a hub that are connected, or have a module that is."""
        return {
            device_id
            for devices in (self._devices, self._modules)
            for number, device_id in devices
            if number == hub
        }

    def of_device(self, hub: int, device_id: str) -> list[Connection]:
        """Return the live sessions of a device and its modules."""
        return list(self._of_device(hub, device_id))

    def connected_devices(self, hub: int) -> int:
        """Return how many devices of a hub are connected (modules not counted)."""
        return self._device_counts.get(hub, 0)

    def presence(
        self,
        ref: IdentityRef,
        connected_run: int | None,
        state_updated_at: float | None,
        last_activity_at: float | None,
        run_alive_at: float | None,
    ) -> Presence:
        """Return the present truth about an identity.

        Args:
            ref: whose.
            connected_run: the rest is what the database has, `None` where it has nothing.
            state_updated_at: as above.
            last_activity_at: as above.
            run_alive_at: last sign of life of `connected_run`.
        """
        live = self.get(ref)
        if live is not None:
            return Presence(True, live.connected_at, live.last_activity_at)
        called = self._activity.last(ref)
        recent = self._unwritten.get(ref)
        if recent is not None:
            return recent._replace(last_activity_at=max(recent.last_activity_at, called))
        changed, active = state_updated_at or 0.0, last_activity_at or 0.0
        if connected_run is not None:
            # It was connected when its run ended without saying goodbye.
            changed = max(changed, active, run_alive_at or 0.0)
        return Presence(False, changed, max(active, called))

    def active(self, ref: IdentityRef) -> None:
        """Note that an identity called without a connection, which does not make it connected."""
        live = self.get(ref)
        if live is not None:
            live.touch(self._clock.time())
        else:
            self._activity.note(ref)

    # -- telling every node --------------------------------------------------------------------

    def announce_desired(self, ref: IdentityRef, version: int, body: bytes) -> None:
        """Tell whoever has the identity connected that its desired properties changed."""
        message = DesiredChanged(ref.hub, ref.device_id, ref.module_id, version, body)
        self._bus.publish(DESIRED_CHANGED, _encode(message))

    def announce_barred(self, ref: IdentityRef, reason: str, *, deleted: bool) -> None:
        """Have an identity's connections closed, wherever they are.

        A device (no module ID) stands for itself and all its modules.
        """
        message = IdentityBarred(ref.hub, ref.device_id, ref.module_id or None, reason, deleted)
        self._bus.publish(IDENTITY_BARRED, _encode(message))

    # -- inside --------------------------------------------------------------------------------

    def note(self, connection: Connection) -> None:
        """Remember to write the presence of a live connection."""
        self._unwritten[connection.ref] = Presence(
            True, connection.connected_at, connection.last_activity_at
        )

    def _all(self) -> Iterator[Connection]:
        yield from self._devices.values()
        for modules in self._modules.values():
            yield from modules.values()

    def _of_device(self, hub: int, device_id: str) -> Iterator[Connection]:
        key = (hub, device_id)
        if key in self._devices:
            yield self._devices[key]
        yield from self._modules.get(key, {}).values()

    def _add(self, connection: Connection) -> None:
        ref = connection.ref
        if ref.module_id:
            self._modules.setdefault(ref[:2], {})[ref.module_id] = connection
        else:
            self._devices[ref[:2]] = connection
            self._device_counts[ref.hub] = self._device_counts.get(ref.hub, 0) + 1
        self._expect_expiry(connection)

    def _expect_expiry(self, connection: Connection) -> None:
        # Never into a second that has been looked at already.
        slot = max(connection.expires_at + EXPIRY_GRACE_S, self._next_expiry)
        connection.expiry_slot = slot
        self._expiries.setdefault(slot, set()).add(connection)

    def _remove(self, connection: Connection) -> None:
        connection.calls.fail()
        ref = connection.ref
        if ref.module_id:
            modules = self._modules[ref[:2]]
            del modules[ref.module_id]
            if not modules:
                del self._modules[ref[:2]]
        else:
            del self._devices[ref[:2]]
            self._device_counts[ref.hub] -= 1
        self._forget_expiry(connection)

    def _forget_expiry(self, connection: Connection) -> None:
        due = self._expiries.get(connection.expiry_slot)
        if due is not None:
            due.discard(connection)
            if not due:
                del self._expiries[connection.expiry_slot]

    def _expire(self) -> None:
        now = int(self._clock.time())
        # After a long pause of the process, looking at what there is beats counting every second.
        if now - self._next_expiry > len(self._expiries):
            seconds = sorted(second for second in self._expiries if second <= now)
        else:
            seconds = list(range(self._next_expiry, now + 1))
        self._next_expiry = max(self._next_expiry, now + 1)
        for second in seconds:
            for connection in self._expiries.pop(second, ()):
                self.detach(connection)
                connection.link.close(TOKEN_EXPIRED)

    async def _write_presence(self) -> None:
        now = self._clock.time()
        batch = dict(itertools.islice(self._unwritten.items(), FLUSH_LIMIT))
        statements: list[Statement] = []
        if batch:
            rows: list[Params] = [
                {
                    "hub": ref.hub,
                    "device_id": ref.device_id,
                    "module_id": ref.module_id,
                    "connected_run": self._run if presence.connected else None,
                    "state_updated_at": presence.state_updated_at,
                    "last_activity_at": presence.last_activity_at,
                }
                for ref, presence in batch.items()
            ]
            statements.append(Statement(_SQL["save"], rows))
        live = bool(self._devices or self._modules)
        if batch or (live and now - self._alive_at >= ALIVE_EVERY_S):
            statements.append(Statement(_SQL["keep_run"], {"id": self._run, "now": now}))
        if not statements:
            return
        await self._engine.write(*statements)
        self._alive_at = now
        for ref, presence in batch.items():
            # What changed meanwhile stays for the next turn.
            if self._unwritten.get(ref) is presence:
                del self._unwritten[ref]

    def _desired_changed(self, message: bytes) -> None:
        change = _decode_desired(message)
        connection = self.get(IdentityRef(change.hub, change.device_id, change.module_id))
        if connection is not None:
            connection.link.desired_changed(change.body, change.version)

    def _identity_barred(self, message: bytes) -> None:
        barred = _decode_barred(message)
        self.drop(barred.hub, barred.device_id, barred.module_id, barred.reason)
        if barred.deleted:
            # A new identity of the same name starts with a clean slate.
            ref = IdentityRef(barred.hub, barred.device_id, barred.module_id or "")
            self._unwritten.pop(ref, None)
            self._activity.forget(ref)


_decode_desired: Final = msgspec.msgpack.Decoder(DesiredChanged).decode
_decode_barred: Final = msgspec.msgpack.Decoder(IdentityBarred).decode
_encode: Final = msgspec.msgpack.Encoder().encode
