"""What configurations make of the twins of one batch of devices: decided here, written elsewhere.

Nothing in here reads or writes anything; `muster.hub.deployer` does.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.hub import twin_rows
from muster.hub.module_rows import Module
from muster.model import twin as twin_rules
from muster.model.configuration import Path, Settings, deployed_modules
from muster.model.identity import EDGE_AGENT, SYSTEM_MODULES, IdentityRef
from muster.model.layering import Status, difference, overlay, wanted
from muster.model.twin import JsonObject, Twin, TwinSection
from muster.store.engine import Params

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


class Outcome(Struct):
    """What becomes of a twin.

    Attributes:
        section: the desired properties after the write; `None` when they stay.
        patch: what the device is told.
        statuses: as they can be written: only targeted when the twin has no room.
        managed: JSON.
        error: why the twin has no room.
    """

    section: TwinSection | None
    patch: JsonObject
    statuses: dict[str, Status]
    managed: str
    error: InvalidArgumentError | None = None


class Applied(Struct):
    """A write that is to be told about after the commit."""

    ref: IdentityRef
    version: int
    outcome: Outcome


class Work(Struct):
    """What one batch writes.

    Attributes:
        hub: the hub's number.
        now: the time of all its writes.
        goals: of devices that were looked at already.
        outcomes: of twins that were decided about already.
    """

    hub: int
    now: datetime
    goals: dict[object, dict[str, Goal]] = {}
    outcomes: dict[object, Outcome] = {}
    applied: list[Applied] = []
    updates: list[Params] = []
    marks: list[Params] = []
    modules: list[tuple[Module, Twin]] = []


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
    if not merged and not left:
        return Outcome(None, {}, goal.statuses, managed)
    current = _decode(state.desired)
    patch = difference(current, wanted(current, merged, left))
    if not patch:
        return Outcome(None, {}, goal.statuses, managed)
    section = TwinSection(current, _decode(state.metadata), state.desired_version)
    twin = Twin({}, section, _NOTHING, state.version, state.etag_counter)
    try:
        written = twin_rules.patch_desired(twin, patch, now)
    except InvalidArgumentError as error:
        targeted = dict.fromkeys(goal.statuses, Status.TARGETED)
        return Outcome(None, {}, targeted, state.managed, error)
    return Outcome(written.desired, patch, goal.statuses, managed)


def add(state: State, outcome: Outcome, work: Work) -> None:
    """Add to the work what one twin needs; nothing when it is as it should be."""
    statuses = {each: {"status": status} for each, status in outcome.statuses.items()}
    configurations = _encode_sorted(statuses).decode()
    ref = IdentityRef(work.hub, state.device_id, state.module_id)
    common: dict[str, str | int | float | bytes | None] = {
        **twin_rows.key(ref),
        "configurations": configurations,
        "managed": outcome.managed,
        "expected": state.revision,
    }
    section = outcome.section
    if section is not None:
        work.updates.append(
            {
                **common,
                "version": state.version + 1,
                "etag_counter": state.etag_counter + 1,
                "desired": _encode(section.properties).decode(),
                "desired_metadata": _encode(section.metadata).decode(),
                "desired_version": section.version,
            }
        )
        work.applied.append(Applied(ref, state.version + 1, outcome))
    elif configurations != state.configurations or outcome.managed != state.managed:
        work.marks.append(common)


def wanted_modules(goals: dict[str, Goal]) -> set[str]:
    """Return the modules that deployments want on a device."""
    names = {module_id for module_id, goal in goals.items() if goal.edge and module_id}
    agent = goals.get(EDGE_AGENT)
    if agent is not None and agent.edge:
        names |= set(deployed_modules(agent.edge.get((), {})))
    return names - set(SYSTEM_MODULES)


def _paths(goal: Settings) -> list[list[str]]:
    return sorted(list(path) for path in goal if path)
