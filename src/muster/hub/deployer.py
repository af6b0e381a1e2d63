"""Applies configurations to devices: what targets them now, made true in their twins.

One batch of devices is read, decided and written as a whole: desired properties, the
`configurations` sections, and the modules a deployment names. Only what differs is written, and
written as the smallest patch, so that nothing that stays the same gets a new version or a new
time. Devices that are connected hear of it after the commit.
Sources: hub-service.md 6.2, 6.4, 6.5; edge.md 9.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast, final

import msgspec
import structlog

from muster.errors import InvalidArgumentError
from muster.hub import module_rows, registry, twin_rows
from muster.hub.changes import IdentityChanged, IdentityEvent, SectionChange, TwinChanged
from muster.hub.deployment_work import (
    Goal,
    Goals,
    Names,
    Outcome,
    State,
    Work,
    add,
    arrival,
    outcome,
)
from muster.hub.registry import ATTEMPTS, GenerationIds, LostRaceError, device_not_found
from muster.model import twin as twin_rules
from muster.model.configuration import (
    Content,
    Kind,
    Settings,
    check_content,
    module_settings,
)
from muster.model.identity import (
    EDGE_AGENT,
    MANAGED_BY_EDGE,
    SYSTEM_MODULES,
    AuthenticationType,
    IdentityRef,
    new_etag,
)
from muster.model.layering import (
    Plan,
    Status,
    deployment_plan,
    twin_plan,
)
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.hub.configurations import Configurations
    from muster.hub.connections import Connections
    from muster.hub.targets import Targets
    from muster.hub.twin_catch_up import TwinCatchUp
    from muster.ids import Randomness
    from muster.store.engine import Engine

_SQL: Final = load("configurations")
_NO_PLAN: Final = Plan({}, {})
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_log = structlog.get_logger(__name__)


@final
class Deployer:
    """Applies configurations to devices.

    Args:
        engine: where twins are kept.
        clock: for times and generation IDs.
        randomness: for etags.
        configurations: all there are.
        targets: knows which device which of them targets.
        connections: tells devices what changed.
        changes: is told of every write.
        catch_up: keeps what is removed, for clients that are away.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        randomness: Randomness,
        *,
        configurations: Configurations,
        targets: Targets,
        connections: Connections,
        changes: Changes,
        catch_up: TwinCatchUp,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._randomness = randomness
        self._configurations = configurations
        self._targets = targets
        self._connections = connections
        self._changes = changes
        self._catch_up = catch_up
        self._generations = GenerationIds(clock)
        self._plans: dict[tuple[int, Names], Plan] = {}
        self._told_full: set[tuple[int, str]] = set()

    async def converge(self, hub: int, device_ids: Sequence[str]) -> None:
        """Make the twins of devices and their modules what the configurations say.

        Devices that are not there (any more) are passed over. Applying it twice changes nothing.

        Raises:
            ConflictError: others change the same twins all the time; code `concurrent-update`.
            UnavailableError: the store does not answer.
        """
        try:
            await self._converge(hub, device_ids)
        except LostRaceError:
            # Somebody wrote one of the twins; the others must not wait for that one.
            for device_id in device_ids:
                await self._insist(hub, device_id)

    async def apply_content(self, hub: int, device_id: str, content: Content) -> None:
        """Give one edge device modules by hand (hub-service.md 6.2).

        Modules that the content does not name are deleted, system modules aside. A deployment
        that targets the device will override it.

        Raises:
            NotFoundError: code `device-not-found`.
            InvalidArgumentError: the content is wrong or the device is no edge device.
            ConflictError: others change its twins all the time; code `concurrent-update`.
        """
        if content.modules_content is None:
            raise InvalidArgumentError(
                "modulesContent is required.", code="invalid-configuration-content"
            )
        check_content(content)
        for _ in range(ATTEMPTS):
            states = (await self._states(hub, [device_id])).get(device_id)
            if states is None:
                raise device_not_found(device_id)
            if EDGE_AGENT not in states:
                raise InvalidArgumentError(
                    f"The device '{device_id}' is no IoT Edge device.",
                    code="invalid-operation",
                    subject=device_id,
                )
            try:
                await self._apply_by_hand(hub, device_id, states, module_settings(content))
            except LostRaceError:
                continue
            return
        raise LostRaceError("The device is being changed by others.", subject=device_id)

    def forget_plans(self, hub: int) -> None:
        """Call when a configuration of a hub came, changed or went."""
        for key in [key for key in self._plans if key[0] == hub]:
            del self._plans[key]
        self._told_full = {key for key in self._told_full if key[0] != hub}

    # -- one batch -----------------------------------------------------------------------------

    async def _insist(self, hub: int, device_id: str) -> None:
        for attempt in range(ATTEMPTS):
            try:
                await self._converge(hub, [device_id])
            except LostRaceError:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    async def _converge(self, hub: int, device_ids: Sequence[str]) -> None:
        targeting, devices = await asyncio.gather(
            self._targets.matching(hub, device_ids), self._states(hub, device_ids)
        )
        work = Work(hub, self._clock.now())
        for states in devices.values():
            found = targeting.get(states[""].device_id, {})
            # Most devices of a batch are alike.
            key = (*((name, *each) for name, each in found.items()), tuple(states))
            goals = work.goals.get(key)
            if goals is None:
                goals = work.goals[key] = Goals(self._goals(hub, found, states), states)
            self._decide(states, goals, work)
        await self._write(work)

    async def _states(self, hub: int, device_ids: Sequence[str]) -> dict[str, dict[str, State]]:
        rows = await self._engine.read(
            _SQL["twins"], {"hub": hub, "device_ids": _encode(list(device_ids)).decode()}
        )
        devices: dict[str, dict[str, State]] = {}
        for row in rows:
            state = State(*cast("Any", row))
            devices.setdefault(state.device_id, {})[state.module_id] = state
        # Without the device's own row it is being deleted.
        return {device_id: states for device_id, states in devices.items() if "" in states}

    def _goals(
        self, hub: int, targeting: dict[str, list[str]], present: Iterable[str]
    ) -> dict[str, Goal]:
        """Return what each twin of a device should be, by module ID.

        Args:
            hub: the hub's number.
            targeting: IDs of configurations by module ID, `''` for those of the device itself,
                deployments under `$edgeAgent`.
            present: modules the device has, `''` for itself.
        """
        goals: dict[str, Goal] = {}
        edge_names, edge = self._plan(hub, targeting, EDGE_AGENT, Kind.EDGE)
        own: dict[str, tuple[Names, Plan]] = {
            module_id: self._plan(hub, targeting, module_id, Kind.MODULE)
            for module_id in targeting
            if module_id
        }
        own[""] = self._plan(hub, targeting, "", Kind.DEVICE)
        for module_id in {*own, *edge.settings, *present}:
            names, plan = own.get(module_id, ((), _NO_PLAN))
            goals[module_id] = Goal(
                (module_id, edge_names, names),
                {**plan.statuses, **(edge.statuses if module_id == EDGE_AGENT else {})},
                edge.settings.get(module_id, {}) if edge.applied else None,
                plan.settings.get("", {}),
            )
        return goals

    def _plan(
        self, hub: int, targeting: dict[str, list[str]], module_id: str, kind: Kind
    ) -> tuple[Names, Plan]:
        found = [
            configuration
            for each in targeting.get(module_id, ())
            if (configuration := self._configurations.find(hub, each)) is not None
            and configuration.kind is kind
        ]
        if not found:
            return (), _NO_PLAN
        names = tuple(sorted((each.id, each.counter) for each in found))
        plan = self._plans.get((hub, names))
        if plan is None:
            plan = deployment_plan(found) if kind is Kind.EDGE else twin_plan(found)
            self._plans[hub, names] = plan
        return names, plan

    def _decide(self, states: dict[str, State], goals: Goals, work: Work) -> None:
        """Add to the work what one device needs."""
        for module_id, state in states.items():
            goal = goals.of[module_id]
            key = (goal.key, state.desired, state.metadata, state.desired_version, state.managed)
            found = work.outcomes.get(key)
            if found is None:
                found = work.outcomes[key] = self._outcome(state, goal, work)
            add(state, found, work)
        if EDGE_AGENT in states:
            self._add_modules(states, goals, work)

    def _outcome(self, state: State, goal: Goal, work: Work) -> Outcome:
        found = outcome(state, goal, work.now)
        if found.error is not None:
            self._tell_full(work.hub, state, goal, found.error)
        return found

    def _add_modules(self, states: dict[str, State], goals: Goals, work: Work) -> None:
        """Add to the work the modules that deployments want and the device does not have."""
        for module_id in goals.missing:
            goal = goals.of.get(module_id)
            key = (module_id, goal.key if goal else None)
            made = work.arrivals.get(key)
            if made is None:
                made = work.arrivals[key] = arrival(module_id, goal, work.now)
            made.owners.append(
                (states[""].device_id, self._generations.next(), new_etag(self._randomness))
            )

    def _tell_full(self, hub: int, state: State, goal: Goal, error: InvalidArgumentError) -> None:
        for configuration_id in goal.statuses:
            if (hub, configuration_id) not in self._told_full:
                self._told_full.add((hub, configuration_id))
                _log.warning(
                    "configuration cannot be applied to a twin",
                    configuration=configuration_id,
                    twin=IdentityRef(hub, state.device_id, state.module_id).text,
                    reason=error.message,
                )

    # -- by hand -------------------------------------------------------------------------------

    async def _apply_by_hand(
        self, hub: int, device_id: str, states: dict[str, State], modules: dict[str, Settings]
    ) -> None:
        work = Work(hub, self._clock.now())
        goals = Goals(
            {
                module_id: Goal((module_id, (), ()), {}, found, {})
                for module_id, found in modules.items()
            },
            states,
        )
        for module_id, state in states.items():
            if module_id in goals.of:
                goal = goals.of[module_id]
                present = _decode(state.configurations)
                goal.statuses = {each: Status(present[each]["status"]) for each in present}
                found = work.outcomes[module_id] = self._outcome(state, goal, work)
                add(state, found, work)
        self._add_modules(states, goals, work)
        gone = [
            IdentityRef(hub, device_id, module_id)
            for module_id in states
            if module_id and module_id not in goals.modules and module_id not in SYSTEM_MODULES
        ]
        removals = [step for ref in gone for step in module_rows.removal(ref)]
        await self._write(work, removals)
        for ref in gone:
            self._connections.announce_barred(ref, "the module was deleted", deleted=True)
            self._changes.publish(IdentityChanged(ref, IdentityEvent.DELETED))

    # -- writing -------------------------------------------------------------------------------

    async def _write(self, work: Work, more: Sequence[Statement] = ()) -> None:
        statements = [*more, *self._updates(work), *self._arrivals(work)]
        if not statements:
            return
        statements += self._removals(work)
        await self._engine.write(*statements)
        # One notification for all twins that became the same.
        bodies: dict[int, bytes] = {}
        for each in work.applied:
            section, patch = each.outcome.section, each.outcome.patch
            if section is not None:
                body = bodies.get(id(each.outcome))
                if body is None:
                    told = twin_rules.desired_patch_for_device(patch, section.version)
                    body = bodies[id(each.outcome)] = _encode(told)
                self._connections.announce_desired(each.ref, section.version, body)
                change = SectionChange(patch, section)
                self._changes.publish(TwinChanged(each.ref, each.version, desired=change))
        for made in work.arrivals.values():
            for device_id, _, _ in made.owners:
                ref = IdentityRef(work.hub, device_id, made.module_id)
                self._changes.publish(IdentityChanged(ref, IdentityEvent.CREATED, made.twin))

    def _updates(self, work: Work) -> Iterator[Statement]:
        """Return the steps that change twins: one for all that become the same."""
        for each in work.outcomes.values():
            if not each.twins:
                continue
            params: dict[str, str | int | float | bytes | None] = {
                "hub": work.hub,
                "module_id": each.module_id,
                "twins": _encode(each.twins).decode(),
                "configurations": each.configurations,
                "managed": each.managed,
            }
            name = "mark"
            if each.section is not None:
                name = "apply"
                params["desired"] = _encode(each.section.properties).decode()
                params["desired_metadata"] = _encode(each.section.metadata).decode()
                params["desired_version"] = each.section.version
            lost = LostRaceError("A twin was changed by another.")
            yield Statement(_SQL[name], params, expect=len(each.twins), otherwise=lost)

    def _arrivals(self, work: Work) -> Iterator[Statement]:
        """Return the steps that make modules."""
        if not work.arrivals:
            return
        lost = LostRaceError("A device was changed by another.")
        owners = {device_id for made in work.arrivals.values() for device_id, _, _ in made.owners}
        yield Statement(
            registry.SQL["hold_devices"],
            {"hub": work.hub, "device_ids": _encode(list(owners)).decode()},
            expect=len(owners),
            otherwise=lost,
        )
        for made in work.arrivals.values():
            common: dict[str, str | int | float | bytes | None] = {
                **twin_rows.to_params(IdentityRef(work.hub, "", made.module_id), made.twin),
                "owners": _encode(made.owners).decode(),
                "managed": made.managed,
                # Without keys: the edge runtime asks for them when it starts the module.
                "auth_type": AuthenticationType.NONE.value,
                "managed_by": MANAGED_BY_EDGE,
            }
            for name in ("insert_modules", "insert_module_twins"):
                yield Statement(_SQL[name], common, expect=len(made.owners), otherwise=lost)

    def _removals(self, work: Work) -> list[Statement]:
        """Return the steps that keep what is removed, for clients that are away."""
        if not self._catch_up.on(work.hub):
            return []
        return [
            step
            for each in work.applied
            if each.outcome.section is not None
            for step in self._catch_up.removals(
                each.ref, _decode(each.before), each.outcome.section
            )
        ]
