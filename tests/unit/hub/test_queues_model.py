"""The rules of queues against a plain model: whatever happens in whatever order, restarts included.

Every message is in exactly one place, is delivered in order, ends once, and its sender hears of it
exactly when that was asked for.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.clock import ManualClock
from muster.errors import ForbiddenError, PreconditionFailedError
from muster.hub.cloud_to_device import MAX_DEPTH
from muster.model.queued_message import MAX_DELIVERY_COUNT, Ack, Outcome, QueuedMessage
from muster.store.engine import Query
from unit.hub.hub_parts import build

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from muster.hub.receiver import Receiver

_FEEDBACK = Query("test.feedback", "SELECT message_id, outcome FROM feedback_records")


class Waiting:
    """A message as the model has it.

    `token` with `until` is a lock; `held` is the receiver's token, `deadline` when its time is up.
    """

    def __init__(self, message_id: str, ack: Ack, expires_at: float) -> None:
        self.message_id = message_id
        self.ack = ack
        self.expires_at = expires_at
        self.count = 0
        self.token = ""
        self.until = 0.0
        self.held = ""
        self.deadline = float("inf")

    def free(self, now: float) -> bool:
        return not self.held and self.until <= now

    def available(self, now: float) -> bool:
        return self.free(now) and self.expires_at > now


class Machine(RuleBasedStateMachine):
    """One device, its sender, an HTTP client and a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = ManualClock()
        self.parts = self.run(build(Path(self.directory.name), self.clock))
        self.ref = self.run(self.parts.device())
        self.queue: list[Waiting] = []
        self.feedback: list[tuple[str, str]] = []
        self.tokens: list[str] = ["11111111-1111-1111-1111-111111111111"]
        self.receiver: Receiver | None = None
        self.lock_s: float | None = None
        self.sent = 0
        self.nudged = self.saw_all = False

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self.parts.close())
        self.runner.close()
        self.directory.cleanup()

    @property
    def domain(self) -> Any:
        return self.parts.messaging.cloud_to_device

    @property
    def now(self) -> float:
        return self.clock.time()

    def end(self, message: Waiting, outcome: Outcome) -> None:
        self.queue.remove(message)
        if message.ack.wants(outcome):
            self.feedback.append((message.message_id, outcome.value))

    def abandoned(self, message: Waiting) -> None:
        message.count += 1
        message.token = message.held = ""
        message.until, message.deadline = 0.0, float("inf")
        if message.count >= MAX_DELIVERY_COUNT:
            self.end(message, Outcome.DELIVERY_COUNT_EXCEEDED)

    # -- the sender ----------------------------------------------------------------------------

    @rule(
        ack=st.sampled_from(Ack),
        ttl_s=st.sampled_from([None, 20.0, 90.0]),
        copies=st.sampled_from([1, 1, 2, 3, MAX_DEPTH]),
    )
    def send(self, ack: Ack, ttl_s: float | None, copies: int) -> None:
        wish = None if ttl_s is None else self.now + ttl_s
        new = [
            Waiting(f"m{self.sent + number}", ack, wish or self.now + 3600)
            for number in range(copies)
        ]
        self.sent += copies
        for message, error in zip(new, self.run(self.send_all(new, wish)), strict=True):
            if len(self.queue) == MAX_DEPTH:
                assert isinstance(error, ForbiddenError)
            else:
                assert error is None
                self.queue.append(message)

    async def send_all(
        self, messages: list[Waiting], wish: float | None
    ) -> list[BaseException | None]:
        """Send all at once; they are queued in this order."""
        return await asyncio.gather(
            *(
                self.domain.send(
                    self.ref,
                    QueuedMessage(message_id=each.message_id, ack=each.ack, expires_at=wish),
                )
                for each in messages
            ),
            return_exceptions=True,
        )

    @rule()
    def purge(self) -> None:
        assert self.run(self.domain.purge(self.ref)) == len(self.queue)
        for message in list(self.queue):
            self.end(message, Outcome.PURGED)

    # -- the device over HTTP ------------------------------------------------------------------

    @rule(lock_s=st.sampled_from([5.0, 60.0]))
    def receive(self, lock_s: float) -> None:
        delivery = self.run(self.domain.receive(self.ref, lock_s))
        expected = next((each for each in self.queue if each.available(self.now)), None)
        if expected is None:
            assert delivery is None
            return
        assert delivery.message.message_id == expected.message_id
        assert delivery.delivery_count == expected.count
        expected.token, expected.until = delivery.lock_token, self.now + lock_s
        self.tokens.append(delivery.lock_token)

    @rule(data=st.data(), how=st.sampled_from(["complete", "reject", "abandon"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        token = data.draw(st.sampled_from(self.tokens[-4:]))
        message = next(
            (each for each in self.queue if each.token == token and each.until > self.now), None
        )
        settling = getattr(self.domain, how)(self.ref, token)
        if message is None:
            self.refused(settling)
            return
        self.run(settling)
        self.settled(message, how)

    @rule(times=st.integers(1, MAX_DELIVERY_COUNT), pause_s=st.sampled_from([0.0, 30.0]))
    def abandon_over_and_over(self, times: int, pause_s: float) -> None:
        for _ in range(times):
            message = next((each for each in self.queue if each.available(self.now)), None)
            if message is None:
                return
            delivery = self.run(self.domain.receive(self.ref))
            assert delivery.message.message_id == message.message_id
            assert delivery.delivery_count == message.count
            self.clock.advance(pause_s)
            self.run(self.domain.abandon(self.ref, delivery.lock_token))
            self.abandoned(message)

    # -- the device on a connection ------------------------------------------------------------

    @precondition(lambda self: self.receiver is None)
    @rule(lock_s=st.sampled_from([None, 60.0]))
    def connect(self, lock_s: float | None) -> None:
        self.lock_s = lock_s
        self.nudged = self.saw_all = False
        self.receiver = self.domain.attach(self.ref, self.nudge, lock_s)

    def nudge(self) -> None:
        self.nudged = True

    @precondition(lambda self: self.receiver is not None)
    @rule(limit=st.integers(1, 16))
    def take(self, limit: int) -> None:
        self.nudged = False
        found = self.run(self.receiver.take(limit))
        self.saw_all = len(found) < limit
        expected = [each for each in self.queue if each.available(self.now)][:limit]
        assert [each.message.message_id for each in found] == [each.message_id for each in expected]
        for delivery, message in zip(found, expected, strict=True):
            message.held = delivery.lock_token
            if self.lock_s is not None:
                message.deadline = self.now + self.lock_s

    @precondition(lambda self: any(each.held for each in self.queue))
    @rule(data=st.data(), how=st.sampled_from(["complete", "reject", "abandon", "let_go"]))
    def settle_held(self, data: st.DataObject, how: str) -> None:
        message = data.draw(st.sampled_from([each for each in self.queue if each.held]))
        if how == "let_go":
            self.receiver.let_go(message.held)
            message.held, message.deadline = "", float("inf")
            return
        token = message.held
        self.run(getattr(self.receiver, how)(token))
        self.settled(message, how)
        self.refused(getattr(self.receiver, how)(token))

    @precondition(lambda self: self.receiver is not None)
    @rule()
    def disconnect(self) -> None:
        self.receiver.close()
        self.let_all_go()

    # -- time and fate -------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.run(self.parts.messaging._queues.tick())
        self.expire()

    @rule()
    def crash(self) -> None:
        self.run(self.parts.crash())
        self.let_all_go()
        self.parts = self.run(build(Path(self.directory.name), self.clock))
        self.run(self.parts.messaging._queues.tick())
        self.expire()

    def let_all_go(self) -> None:
        self.receiver = None
        for message in self.queue:
            message.held, message.deadline = "", float("inf")

    def expire(self) -> None:
        for message in list(self.queue):
            if message.held and message.deadline <= self.now:
                message.held, message.deadline = "", float("inf")
            if message.free(self.now) and message.expires_at <= self.now:
                self.end(message, Outcome.EXPIRED)

    def settled(self, message: Waiting, how: str) -> None:
        if how == "abandon":
            self.abandoned(message)
        else:
            self.end(message, Outcome.SUCCESS if how == "complete" else Outcome.REJECTED)

    def refused(self, settling: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(PreconditionFailedError) as caught:
            self.run(settling)
        assert caught.value.code == "message-lock-lost"

    # -- always --------------------------------------------------------------------------------

    @invariant()
    def counted(self) -> None:
        shown = self.run(self.parts.identities.get(self.ref.hub, self.ref.device_id))
        assert shown.cloud_to_device_message_count == len(self.queue)

    @invariant()
    def told(self) -> None:
        rows = self.run(self.parts.engine.read(_FEEDBACK, {}))
        assert sorted(rows) == sorted(self.feedback)

    @invariant()
    def told_of_what_is_there(self) -> None:
        """A connection that has seen all there was is told when there is something again."""
        if self.receiver is not None and self.saw_all and not self.nudged:
            assert not any(each.available(self.now) for each in self.queue)


TestQueues = Machine.TestCase
TestQueues.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
