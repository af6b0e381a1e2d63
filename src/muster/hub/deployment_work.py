"""What configurations make of the twins of one batch of devices: decided here, written elsewhere.

Nothing in here reads or writes anything; `muster.hub.deployer` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.model import twin as twin_rules
from muster.model.configuration import Path, Settings, deployed_modules
from muster.model.identity import EDGE_AGENT, SYSTEM_MODULES, IdentityRef
from muster.model.layering import Status, overlay, wanted
from muster.model.merge_patches import difference
from muster.model.twin import JsonObject, Twin, TwinSection

_NOTHING: Final = TwinSection({}, {}, 0)
_encode: Final = msgspec.json.Encoder().encode
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode

Names: TypeAlias = tuple[tuple[str, int], ...]
"""Configurations with the counter of their last write: what a plan depends on."""


class _Managed(Struct, omit_defaults=True):
    """Paths that configurations have set one by one in a twin."""

    edge: list[list[str]] = []
    own: list[list[str]] = []


_decode_managed: Final = msgspec.json.Decoder(_Managed).decode


class State(Struct):
    """A twin as it is stored, as far as configurations decide about it. Documents are JSON."""

    device_id: str
    module_id: str
    revision: int
    version: int
    etag_counter: int
    desired: str
    metadata: str
    desired_version: int
    configurations: str
    managed: str


class Goal(Struct):
    """What a twin should be.

    Attributes:
        key: equal goals have equal keys.
        statuses: the `configurations` section.
        edge: what deployments set; `None` when none is applied, and what they set before stays.
        own: what configurations of this very twin set.
    """

    key: tuple[str, Names, Names]
    statuses: dict[str, Status]
    edge: Settings | None
    own: Settings


class Goals:
    """What the twins of a device should be.

    Attributes:
        of: by module ID, `''` for the device's own twin.
        modules: those that deployments want on the device, system modules aside.
        missing: those of them that it does not have, in order.
    """

    __slots__ = ("missing", "modules", "of")

    def __init__(self, of: dict[str, Goal], present: Iterable[str]) -> None:
        modules = {module_id for module_id, goal in of.items() if goal.edge and module_id}
        agent = of.get(EDGE_AGENT)
        if agent is not None and agent.edge:
            modules |= set(deployed_modules(agent.edge.get((), {})))
        self.of = of
        self.modules = modules - set(SYSTEM_MODULES)
        self.missing = sorted(self.modules.difference(present))


class Outcome(Struct):
    """What becomes of a twin, and of all others that are the same and shall be the same.

    Attributes:
        module_id: which twin of its device.
        section: the desired properties after the write; `None` when they stay.
        patch: what the device is told.
        configurations: JSON, the section as it can be written: only targeted when the twin has no
            room.
        managed: JSON.
        twins: those to be written: device ID and the revision it was seen at.
        error: why the twin has no room.
    """

    module_id: str
    section: TwinSection | None
    patch: JsonObject
    configurations: str
    managed: str
    twins: list[tuple[str, int]] = []
    error: InvalidArgumentError | None = None


class Applied(Struct):
    """A write that is to be told about after the commit.

    Attributes:
        ref: whose twin.
        version: of the twin after the write.
        outcome: what became of it.
        before: the desired properties that were written over, JSON.
    """

    ref: IdentityRef
    version: int
    outcome: Outcome
    before: str


class Arrival(Struct):
    """A module that deployments want on devices that do not have it.

    Attributes:
        module_id: its ID.
        twin: its twin.
        managed: JSON.
        owners: device ID, generation ID and etag for each device.
    """

    module_id: str
    twin: Twin
    managed: str
    owners: list[tuple[str, str, str]] = []


class Work(Struct):
    """What one batch writes.

    Attributes:
        hub: the hub's number.
        now: the time of all its writes.
        goals: of devices that were looked at already.
        outcomes: of twins that were decided about already.
        arrivals: modules that are to be made, by module ID and the key of their goal.
        applied: in the order of the devices.
    """

    hub: int
    now: datetime
    goals: dict[object, Goals] = {}
    outcomes: dict[object, Outcome] = {}
    arrivals: dict[object, Arrival] = {}
    applied: list[Applied] = []


def outcome(state: State, goal: Goal, now: datetime) -> Outcome:
    """Return what becomes of a twin.

    Args:
        state: what it is.
        goal: what it should be.
        now: the time of the write.
    """
    before = _decode_managed(state.managed)
    after = _Managed(before.edge if goal.edge is None else _paths(goal.edge), _paths(goal.own))
    managed = _encode(after).decode()
    merged = overlay(goal.edge or {}, goal.own)
    kept = {*map(tuple, after.edge), *map(tuple, after.own)}
    left: list[Path] = [
        path for path in map(tuple, [*before.edge, *before.own]) if path not in kept
    ]
    module_id, configurations = state.module_id, _section(goal.statuses)
    if not merged and not left:
        return Outcome(module_id, None, {}, configurations, managed)
    current = _decode(state.desired)
    patch = difference(current, wanted(current, merged, left))
    if not patch:
        return Outcome(module_id, None, {}, configurations, managed)
    section = TwinSection(current, _decode(state.metadata), state.desired_version)
    twin = Twin({}, section, _NOTHING, state.version, state.etag_counter)
    try:
        written = twin_rules.patch_desired(twin, patch, now)
    except InvalidArgumentError as error:
        targeted = _section(dict.fromkeys(goal.statuses, Status.TARGETED))
        return Outcome(module_id, None, {}, targeted, state.managed, error=error)
    return Outcome(module_id, written.desired, patch, configurations, managed)


def add(state: State, outcome: Outcome, work: Work) -> None:
    """Add to the work what one twin needs; nothing when it is as it should be."""
    if outcome.section is not None:
        outcome.twins.append((state.device_id, state.revision))
        ref = IdentityRef(work.hub, state.device_id, state.module_id)
        work.applied.append(Applied(ref, state.version + 1, outcome, state.desired))
    elif outcome.configurations != state.configurations or outcome.managed != state.managed:
        outcome.twins.append((state.device_id, state.revision))


def arrival(module_id: str, goal: Goal | None, now: datetime) -> Arrival:
    """Return a module as devices get it that do not have it yet.

    Args:
        module_id: its ID.
        goal: what its twin should be; `None` when deployments say nothing of it.
        now: the time of the write.
    """
    settings = (goal.edge if goal else None) or {}
    try:
        twin = twin_rules.new(None, wanted({}, settings, ()), now)
    except InvalidArgumentError:
        # Layers that are too much together; said when the twin is looked at again.
        return Arrival(module_id, twin_rules.new(None, None, now), "{}")
    return Arrival(module_id, twin, _encode(_Managed(_paths(settings))).decode())


def _section(statuses: dict[str, Status]) -> str:
    return _encode_sorted({each: {"status": status} for each, status in statuses.items()}).decode()


def _paths(goal: Settings) -> list[list[str]]:
    return sorted(list(path) for path in goal if path)
