"""The life of one simulated device: register, connect, be connected, lose it, come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from muster.auth import symmetric_keys
from muster.fleet.desired import Desired
from muster.fleet.registration import Registration
from muster.fleet.schedule import Act, Schedule, wait_s
from muster.fleet.session import Identity, Session
from muster.fleet.tally import State
from muster.net.conversation import Failure
from muster.net.dial import reason
from muster.net.tasks import spawn
from muster.net.timers import NO_SLOT

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.fleet.conversation import TimedConversation
    from muster.fleet.gate import Gate
    from muster.fleet.plan import Place, Plan
    from muster.fleet.tally import Tally
    from muster.net.conversation import Conversation
    from muster.net.dial import Dialler
    from muster.net.timers import TimerWheel

_PATIENCE_S: Final = 60.0
"""From the dial to the SUBACK; for a registration, to each of its answers."""


class Fleet(Protocol):
    """What the devices of a fleet share."""

    plan: Plan
    dialler: Dialler
    clock: Clock
    wheel: TimerWheel
    gate: Gate
    tally: Tally
    every: tuple[float, ...]
    padding: bytes

    def now(self) -> float:
        """Return the loop's seconds."""

    def chance(self) -> float:
        """Return an unpredictable number from 0 to 1."""

    def settled(self, device: Device, failure: Failure | None) -> None:
        """Note that a device is connected, or that an attempt has failed."""

    def gone(self, device: Device) -> None:
        """Note that a device has left or failed for good."""


@final
class Device:
    """One device. It has no task of its own while it is connected: calls drive it.

    Args:
        fleet: what it shares with the others.
        registration_id: its name.

    Attributes:
        assigned: its hub and device ID, as the provisioning service said last.
    """

    __slots__ = (
        "_attempts",
        "_conversation",
        "_desired",
        "_fleet",
        "_id",
        "_identity",
        "_inside",
        "_lost",
        "_schedule",
        "_sent",
        "_state",
        "_was_connected",
        "assigned",
        "timer_slot",
    )

    def __init__(self, fleet: Fleet, registration_id: str) -> None:
        self._fleet = fleet
        self._id = registration_id
        self._state = State.IDLE
        self._identity: Identity | None = None
        self._conversation: TimedConversation | None = None
        self._schedule: Schedule | None = None
        self._desired = Desired(edge=fleet.plan.edge)
        self._sent = 0
        self._attempts = 0
        self._inside = False
        self._lost = False
        self._was_connected = False
        self.assigned: tuple[str, str] | None = None
        self.timer_slot = NO_SLOT

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._state

    def start(self) -> None:
        """Begin, or begin again: as soon as there is room."""
        self._fleet.gate.enter(self._proceed)

    def leave(self) -> None:
        """Disconnect for good."""
        if self._state in {State.FAILED, State.LEFT}:
            return
        self._fleet.wheel.stop(self)
        self._move(State.LEFT)
        if self._conversation is not None:
            self._conversation.leave()
        self._fleet.gone(self)

    # The beginning of a connection.

    def _proceed(self) -> None:
        if self._state is State.LEFT:
            self._fleet.gate.leave()
            return
        self._inside = True
        if self._identity is None:
            self._register()
        else:
            self._connect(self._identity)

    def _register(self) -> None:
        fleet = self._fleet
        plan = fleet.plan
        self._move(State.REGISTERING)
        key = symmetric_keys.derive(plan.group_key, self._id)
        registration = Registration(self, plan.id_scope, self._id, key, self._expiry())
        self._converse(registration, plan.dps)

    def _connect(self, identity: Identity) -> None:
        fleet = self._fleet
        plan = fleet.plan
        self._move(State.CONNECTING)
        session = Session(
            self,
            identity,
            identity.connect(self._expiry(), plan.keep_alive_s),
            desired=self._desired,
            tally=fleet.tally,
            padding=fleet.padding,
            sent=self._sent,
        )
        self._converse(session, plan.hub(identity.host))

    def _converse(self, conversation: TimedConversation, place: Place) -> None:
        self._conversation = conversation
        self.wake_in(_PATIENCE_S)
        spawn(self._dial(conversation, place), "dial")

    async def _dial(self, conversation: TimedConversation, place: Place) -> None:
        try:
            await self._fleet.dialler.open(place.target, place.port, conversation, place.name)
        except OSError as error:
            conversation.end(_unreachable(error, place))

    def _expiry(self) -> int:
        fleet = self._fleet
        return int(fleet.clock.time() + fleet.plan.token_lifetime_s)

    # What conversations tell (`SessionOwner`).

    def monotonic(self) -> float:
        """Return steady seconds."""
        return self._fleet.clock.monotonic()

    def wake_in(self, seconds: float) -> None:
        """Have the conversation called then."""
        self._fleet.wheel.start(self, self._fleet.now() + seconds)

    def began(self, session: Session) -> None:
        """Note that the session has begun."""
        fleet = self._fleet
        self._attempts = 0
        if self._lost:
            self._lost = False
            fleet.tally.reconnects += 1
        self._was_connected = True
        self._move(State.CONNECTED)
        self._schedule = Schedule(fleet.every, fleet.now(), fleet.chance())
        fleet.wheel.start(self, self._schedule.next)
        self._let_next_in()
        fleet.settled(self, None)

    def ended(self, conversation: Conversation[float], failure: Failure | None) -> None:
        """Go on after the end of a conversation."""
        self._conversation = None
        self._fleet.wheel.stop(self)
        if isinstance(conversation, Session):
            self._sent = conversation.sent
        if self._state is State.LEFT:
            self._let_next_in()
        elif failure is not None:
            self._failed(failure)
        elif isinstance(conversation, Registration):
            self._registered(conversation)
        else:
            self._begin_again()

    def _registered(self, registration: Registration) -> None:
        fleet = self._fleet
        host, device_id = registration.assigned or ("", "")
        fleet.tally.registrations += 1
        fleet.tally.provisioned += self.assigned is None
        self.assigned = host, device_id
        policy = None
        if fleet.plan.edge:
            policy = fleet.plan.policies.get(host.lower())
            if policy is None:
                detail = f"no access policy of the hub {host} is known, and --edge needs one"
                self._failed(Failure(kind="hub policy unknown", detail=detail, final=True))
                return
        key = symmetric_keys.derive(fleet.plan.group_key, self._id)
        self._identity = Identity(host, device_id, key, policy)
        self._connect(self._identity)

    def _begin_again(self) -> None:
        """Connect again at once: the session was left to renew the token."""
        self._fleet.tally.renewals += 1
        self._move(State.WAITING)
        self.start()

    def _failed(self, failure: Failure) -> None:
        fleet = self._fleet
        fleet.tally.errors[failure.kind] += 1
        self._lost = self._lost or self._state is State.CONNECTED
        self._attempts += 1
        if failure.final and not self._was_connected:
            self._move(State.FAILED)
            self._let_next_in()
            fleet.settled(self, failure)
            fleet.gone(self)
            return
        if failure.final:
            # As real devices do that their hub refuses: the provisioning service may know more.
            self._identity = None
        self._move(State.WAITING)
        fleet.wheel.start(
            self, fleet.now() + max(wait_s(self._attempts, fleet.chance()), failure.wait_s)
        )
        self._let_next_in()
        fleet.settled(self, failure)

    # Time.

    def timer_expired(self, now: float) -> float:
        """Act on what is due (`Timed`)."""
        if self._state is State.WAITING:
            self.start()
        elif self._schedule is not None and isinstance(self._conversation, Session):
            return self._act(self._conversation, self._schedule, now)
        elif self._conversation is not None:
            self._conversation.awoken()
        return 0.0

    def _act(self, session: Session, schedule: Schedule, now: float) -> float:
        for act, times in schedule.take(now):
            if act is Act.SEND:
                session.send(times)
            elif act is Act.REPORT:
                session.report()
            elif act is Act.PING:
                session.ping()
            else:
                session.leave()
            if self._conversation is not session:
                return 0.0
        return schedule.next

    # Bookkeeping.

    def _move(self, state: State) -> None:
        self._fleet.tally.move(self._state, state)
        self._state = state
        if state is not State.CONNECTED:
            self._schedule = None

    def _let_next_in(self) -> None:
        if self._inside:
            self._inside = False
            self._fleet.gate.leave()


def _unreachable(error: OSError, place: Place) -> Failure:
    where = f"{place.target}:{place.port}"
    return Failure(
        kind=f"connect: {reason(error)}", detail=f"{where}: {reason(error)}", unreachable=True
    )
