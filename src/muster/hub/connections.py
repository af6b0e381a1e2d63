"""Live sessions: who is connected, takeover, expiry, and what reaches them over the bus.

Belongs to one event loop. `attach`, `detach`, `drop` and the bus callbacks never await, so
between them there is no race; `begin` is there for what may happen while a connect is being
checked. What of it is shown and kept is `muster.hub.presence`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import msgspec

from muster.hub.authentication import RefusedError
from muster.hub.changes import ConnectionChanged
from muster.hub.connection import ACTIVITY_FLUSH_S, Attempt, Connection
from muster.hub.method_calls import MethodWaits
from muster.hub.presence import Presence, PresenceRecord
from muster.hub.spoken_for import SpokenFor
from muster.model.identity import EDGE_HUB, IdentityRef
from muster.model.pacing import Pace, Pacer
from muster.net.tasks import repeat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.bus.base import Bus, Unsubscribe
    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.hub.connection import Link
    from muster.hub.spoken_for import Held
    from muster.model.auth_chain import AuthChain
    from muster.store.engine import Engine

DESIRED_CHANGED: Final = "hub.desired-changed"
"""Bus subject; messages are `DesiredChanged`."""
IDENTITY_BARRED: Final = "hub.identity-barred"
"""Bus subject; messages are `IdentityBarred`."""
PARENT_CHANGED: Final = "hub.parent-changed"
"""Bus subject; messages are `ParentChanged`."""

TAKEN_OVER: Final = "taken over by a newer connection of the same identity"
TOKEN_EXPIRED: Final = "the SAS token expired"  # noqa: S105 - a reason, no secret

EXPIRY_GRACE_S: Final = 300
"""Seconds a live connection outlives its token.

The clock skew that every check of a token allows, so that a connection lives exactly as long as
its token would still be accepted (hub-device.md 0.12).
"""

TICK_S: Final = 1.0
"""Seconds between two looks at what is due."""

_LOOKED_AT_ONCE: Final = 5000
"""Connections looked at before others get their turn in the loop."""

CONNECT_PACE: Final = Pace(rate=1.0, burst=5)
"""Connects of one identity."""
CONNECT_PATIENCE_S: Final = 5.0
"""Seconds a connect is held back for its turn before it is turned away."""


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


class ParentChanged(msgspec.Struct, array_like=True):
    """A device was given another parent, or none; sent after the commit."""

    hub: int
    device_id: str


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
        self._bus = bus
        self._clock = clock
        self._changes = changes
        self._devices: dict[tuple[int, str], Connection] = {}
        self._modules: dict[tuple[int, str], dict[str, Connection]] = {}
        self._attempts: dict[tuple[int, str], list[Attempt]] = {}
        self._spoken_for: SpokenFor[Connection] = SpokenFor()
        self._spoken_for_soon: SpokenFor[Attempt] = SpokenFor()
        self._device_counts: dict[int, int] = {}
        self._expiries: dict[int, set[Connection]] = {}
        self._next_expiry = int(clock.time())
        self._presence = PresenceRecord(engine, clock)
        self._unsubscribe: list[Unsubscribe] = []
        self.method_waits = MethodWaits()
        self.pacer: Pacer[IdentityRef] = Pacer(CONNECT_PACE, CONNECT_PATIENCE_S)

    async def open(self) -> None:
        """Begin a run: whatever an earlier run left connected reads `Disconnected` from here."""
        await self._presence.open()
        self._unsubscribe = [
            self._bus.subscribe(DESIRED_CHANGED, self._desired_changed),
            self._bus.subscribe(IDENTITY_BARRED, self._identity_barred),
            self._bus.subscribe(PARENT_CHANGED, self._parent_changed),
        ]

    async def run(self) -> None:
        """Do what falls due, for ever. The composition root runs this beside the listeners."""
        await repeat(TICK_S, self.tick, "connections")

    async def tick(self) -> None:
        """Close connections whose token expired, and write presence down."""
        self._expire()
        await self._presence.keep_up(live=self._live)

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
        await self._presence.write_down(live=self._live)

    async def close(self) -> None:
        """Write down what is known; call after the listeners have closed every connection."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for connection in list(self._all()):
            self.detach(connection)
        await self._presence.close()

    # -- connecting ----------------------------------------------------------------------------

    def begin(self, ref: IdentityRef, chain: AuthChain | None = None) -> Attempt:
        """Note that the credentials of a connect are about to be read.

        End it with `attach` or `abandon`. If the identity is barred before that, or a device of the
        chain over which it is spoken for, `attach` refuses.
        """
        attempt = Attempt(ref, chain)
        self._attempts.setdefault(ref[:2], []).append(attempt)
        self._spoken_for_soon.add(attempt)
        return attempt

    def abandon(self, attempt: Attempt) -> None:
        """Forget an attempt. Harmless when it is over already."""
        attempts = self._attempts.get(attempt.ref[:2])
        if attempts and attempt in attempts:
            attempts.remove(attempt)
            self._spoken_for_soon.discard(attempt)
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

    def attach(
        self, attempt: Attempt, link: Link, expires_at: int, chain: AuthChain | None = None
    ) -> Connection | None:
        """Make a checked connect the live session of its identity; the older one is closed.

        Args:
            attempt: from `begin`.
            link: the transport's end.
            expires_at: expiry of the token, unix seconds.
            chain: over which it is spoken for; `None` when it proved itself.

        Returns:
            The connection, or `None` when the identity was barred while it was being checked.
        """
        self.abandon(attempt)
        if attempt.barred:
            return None
        ref = attempt.ref
        now = self._clock.time()
        connection = Connection(self, ref, link, expires_at, now, chain=chain)
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
        self._presence.note(connection.ref, Presence(False, now, connection.last_activity_at))
        self._changes.publish(ConnectionChanged(connection.ref, False, now))

    def renew(self, connection: Connection, expires_at: int) -> None:
        """Have a connection live as long as a newer token. Does nothing when it is over."""
        if self.get(connection.ref) is connection:
            self._forget_expiry(connection)
            connection.expires_at = expires_at
            self._expect_expiry(connection)

    def drop(self, hub: int, device_id: str, module_id: str | None, reason: str) -> int:
        """Close the live sessions of a device, or of one module, at once.

        With an edge hub, or its device, those go for which it speaks.

        Args:
            hub: the hub's number.
            device_id: whose.
            module_id: `None` for the device with all its modules.
            reason: for the log.

        Returns:
            How many there were.
        """

        def meant(held: Held) -> bool:
            return module_id is None or held.ref.module_id == module_id

        attempts = set(filter(meant, self._attempts.get((hub, device_id), ())))
        found = set(filter(meant, self._of_device(hub, device_id)))
        dropped = self._drop(attempts, found, reason)
        if module_id is None or module_id == EDGE_HUB:
            attempts = set(self._spoken_for_soon.through(hub, device_id))
            found = set(self._spoken_for.through(hub, device_id))
            reason = f"'{device_id}', over which an edge hub speaks for it: {reason}"
            dropped += self._drop(attempts, found, reason)
        return dropped

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
        return self._presence.of_absent(
            ref, connected_run, state_updated_at, last_activity_at, run_alive_at
        )

    def active(self, ref: IdentityRef) -> None:
        """Note that an identity called without a connection, which does not make it connected."""
        live = self.get(ref)
        if live is not None:
            live.touch(self._clock.time())
        else:
            self._presence.called(ref)

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

    def announce_parent_changed(self, ref: IdentityRef) -> None:
        """Have connections closed, wherever they are, whose chain goes to the earlier parent."""
        self._bus.publish(PARENT_CHANGED, _encode(ParentChanged(ref.hub, ref.device_id)))

    # -- inside --------------------------------------------------------------------------------

    def _drop(self, attempts: set[Attempt], found: set[Connection], reason: str) -> int:
        for attempt in attempts:
            attempt.barred = True
        for connection in found:
            self.detach(connection)
            connection.link.close(reason)
        return len(found)

    def note(self, connection: Connection) -> None:
        """Remember to write the presence of a live connection."""
        self._presence.note(
            connection.ref, Presence(True, connection.connected_at, connection.last_activity_at)
        )

    @property
    def _live(self) -> bool:
        return bool(self._devices or self._modules)

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
        self._spoken_for.add(connection)
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
        self._spoken_for.discard(connection)
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
            self._presence.forget(ref)

    def _parent_changed(self, message: bytes) -> None:
        change = _decode_parent(message)
        self._drop(
            set(self._spoken_for_soon.under(change.hub, change.device_id)),
            set(self._spoken_for.under(change.hub, change.device_id)),
            "the device, or one above it, was given another parent",
        )


_decode_desired: Final = msgspec.msgpack.Decoder(DesiredChanged).decode
_decode_barred: Final = msgspec.msgpack.Decoder(IdentityBarred).decode
_decode_parent: Final = msgspec.msgpack.Decoder(ParentChanged).decode
_encode: Final = msgspec.msgpack.Encoder().encode
