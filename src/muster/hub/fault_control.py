"""Switching fault injection, and creating faults, so that people can rehearse a fleet's recovery.

Off for every hub until it is switched on. The switch is stored; faults are not: they live in
memory, have an end, and are gone after a restart. Whom a target condition chooses is asked when a
fault begins, and again of every device whose twin changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast, final

from muster.errors import ConflictError, InvalidArgumentError
from muster.faults.live import LiveFault, begun
from muster.hub.changes import ConnectionChanged
from muster.hub.fault_injection import AT_ONCE, HubFaults
from muster.language.collections import DEVICES
from muster.language.conditions import Condition, parse_target
from muster.language.tree import Logical, Membership, Path
from muster.net.tasks import spawn
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster.clock import Clock
    from muster.hub.changes import Change, Changes
    from muster.hub.connections import Connections
    from muster.hub.hubs import Hub, Hubs
    from muster.hub.queries import Queries
    from muster.ids import Randomness
    from muster.model.decision import Decision
    from muster.model.fault import Fault
    from muster.store.engine import Engine

_SQL: Final = load("hubs")


@final
class FaultInjection:
    """Switches fault injection, and creates faults.

    Args:
        engine: keeps which hubs it is on for.
        hubs: the hubs of this service.
        connections: who is connected.
        queries: who meets a target condition.
        changes: tells when that may have changed.
        clock: for the ends of faults.
        randomness: for IDs and probabilities.
        record: puts an injection on record.
        count: counts an injection, by its kind.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        hubs: Hubs,
        connections: Connections,
        queries: Queries,
        changes: Changes,
        clock: Clock,
        randomness: Randomness,
        record: Callable[[Decision], None],
        count: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._hubs = hubs
        self._connections = connections
        self._queries = queries
        self._clock = clock
        self._randomness = randomness
        self._record = record
        self._count = count
        self._changed: dict[int, set[str]] = {}
        self._working = False
        changes.subscribe(self._note_change)

    async def open(self) -> None:
        """Switch fault injection on where it was on before; call once, with the hubs loaded."""
        rows = await self._engine.read(_SQL["with_fault_injection"], {})
        numbers = {cast("int", number) for (number,) in rows}
        for hub in self._hubs.all():
            if hub.id in numbers:
                hub.faults = self._new(hub)

    async def switch(self, hub: Hub, *, on: bool) -> None:
        """Switch fault injection on or off. Off ends all faults."""
        if on is (hub.faults is not None):
            return
        await self._engine.write(
            Statement(_SQL["switch_fault_injection"], {"id": hub.id, "on": int(on)})
        )
        if on:
            hub.faults = self._new(hub)
        elif hub.faults is not None:
            hub.faults.close()
            hub.faults = None

    async def create(self, hub: Hub, wanted: Fault) -> LiveFault:
        """Let a fault begin.

        Args:
            hub: where.
            wanted: what is to happen; it gets an ID here, and its times are moved to begin now.

        Raises:
            InvalidArgumentError: codes `invalid-fault`, `invalid-target-condition`.
            ConflictError: codes `fault-injection-off`, `too-many-faults`.
        """
        injected = self.of(hub)
        fault = begun(wanted, self._clock, self._randomness)
        condition = parse_target(fault.target_condition)
        if condition is not None and condition.unknown_names:
            raise InvalidArgumentError(
                f"No twin has '{condition.unknown_names[0]}'.", code="invalid-target-condition"
            )
        ends = self._clock.monotonic() + fault.expires_at - fault.created_at
        live = LiveFault(fault, ends, condition)
        # Before the reading, so that what changes meanwhile is looked at again.
        injected.add(live)
        if condition is not None:
            await self._choose_all(hub, live, condition)
        await injected.begin(live)
        return live

    def of(self, hub: Hub) -> HubFaults:
        """Return the faults of a hub.

        Raises:
            ConflictError: it is off; code `fault-injection-off`.
        """
        if hub.faults is None:
            raise ConflictError(
                f"Fault injection is off for the hub {hub.host}. Switch it on first.",
                code="fault-injection-off",
            )
        return hub.faults

    # -- target conditions ---------------------------------------------------------------------

    async def _choose_all(self, hub: Hub, live: LiveFault, condition: Condition) -> None:
        after: int | None = 0
        while after is not None:
            page = await self._queries.matches(hub.id, condition, after)
            live.chosen.update(ref.device_id for ref in page.refs)
            after = page.next

    def _note_change(self, change: Change) -> None:
        if isinstance(change, ConnectionChanged) or change.ref.module_id:
            return
        hub = self._with_conditions(change.ref.hub)
        if hub is None:
            return
        self._changed.setdefault(hub.id, set()).add(change.ref.device_id)
        if not self._working:
            self._working = True
            spawn(self._choose_again(), "fault targets")

    def _with_conditions(self, number: int) -> Hub | None:
        for hub in self._hubs.all():
            if hub.id == number and hub.faults is not None and hub.faults.conditional():
                return hub
        return None

    async def _choose_again(self) -> None:
        try:
            while self._changed:
                number, changed = self._changed.popitem()
                hub = self._with_conditions(number)
                device_ids = sorted(changed)
                for start in range(0, len(device_ids) if hub else 0, AT_ONCE):
                    await self._look_again(cast("Hub", hub), device_ids[start : start + AT_ONCE])
        finally:
            self._working = False

    async def _look_again(self, hub: Hub, device_ids: Sequence[str]) -> None:
        if hub.faults is None:
            return
        named = Membership(Path(("deviceId",)), tuple(device_ids), negated=False)
        for live in hub.faults.conditional():
            expression = cast("Condition", live.condition).expression
            condition = Condition(DEVICES, Logical("AND", (named, expression)))
            page = await self._queries.matches(hub.id, condition)
            now_chosen = {ref.device_id for ref in page.refs}
            new = now_chosen - live.chosen
            live.chosen.difference_update(device_ids)
            live.chosen |= now_chosen
            await hub.faults.begin(live, new)

    def _new(self, hub: Hub) -> HubFaults:
        return HubFaults(
            hub,
            clock=self._clock,
            randomness=self._randomness,
            connections=self._connections,
            record=self._record,
            count=self._count,
        )


@final
class InjectionOfHub:
    """Fault injection of one hub, as its administrative routes see it (`faults.admin_http`).

    Args:
        injection: of all hubs.
        hub: which.
    """

    def __init__(self, injection: FaultInjection, hub: Hub) -> None:
        self._injection = injection
        self._hub = hub

    @property
    def on(self) -> bool:
        """Whether faults may be injected."""
        return self._hub.faults is not None

    async def switch(self, *, on: bool) -> None:
        """Switch it on or off; see `FaultInjection.switch`."""
        await self._injection.switch(self._hub, on=on)

    async def create(self, wanted: Fault) -> LiveFault:
        """Let a fault begin; see `FaultInjection.create`."""
        return await self._injection.create(self._hub, wanted)

    def all(self) -> list[LiveFault]:
        """Return the faults that last."""
        return self._hub.faults.all() if self._hub.faults else []

    def delete(self, fault_id: str) -> None:
        """End a fault. Raises like `HubFaults.find`, and `FaultInjection.of`."""
        self._injection.of(self._hub).delete(fault_id)
