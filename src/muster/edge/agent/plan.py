"""What is to be done so that what runs is what the deployment says (edge.md 5.3). A pure function.

A plan is a tuple of steps, at most one for a module, in the order in which they are begun: by
startup order, and in each group as the official planner has it. It holds what can be done now; the
next plan, made of what is found then, holds the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from muster.edge.agent.deployment import DesiredStatus, RestartPolicy, WantedModule
from muster.edge.agent.restarts import (
    RestartLimits,
    Restarts,
    RuntimeStatus,
    is_down,
    is_due,
    is_healthy,
    runtime_status,
)
from muster.edge.engine.base import Module, ModuleSpec, Status

_FIRST: Final = 0
"""Startup order of what is not in the deployment: it makes room before anything else begins."""


class Kind(enum.IntEnum):
    """Why a step is there; smaller ones are begun first in a group."""

    REMOVE = 0
    """It is not in the deployment, or another runtime has it."""
    DEAD = 1
    """Its runtime cannot start it any more."""
    PULL = 2
    """It is fetched ahead, where all are before any changes."""
    ADD = 3
    UPDATE = 4
    START = 5
    """It has never run, or not since the device started."""
    RESTART = 6
    """It fell over, and its time has come."""
    STATUS = 7
    """The deployment wants it running or stopped, and it is not."""
    HEALTHY = 8
    """It has run for long: its restarts are forgotten."""
    IDENTITY = 9
    """The hub has other keys of it than this device: it is told, and the module left alone."""


class Act(enum.Enum):
    """What a step consists of."""

    IDENTIFY = enum.auto()
    """See that the hub knows the module; end the step if that changes how it is to be made."""
    PREPARE = enum.auto()
    CREATE = enum.auto()
    START = enum.auto()
    STOP = enum.auto()
    REMOVE = enum.auto()
    FORGET = enum.auto()
    """Forget its restarts."""
    COUNT = enum.auto()
    """Count a restart."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be done with one module.

    Attributes:
        name: of the module.
        runtime: the engine that has it or is to have it.
        order: startup order that it is done in.
        kind: see `Kind`.
        acts: one after the other; the rest is not done when one fails.
    """

    name: str
    runtime: str
    order: int
    kind: Kind
    acts: tuple[Act, ...]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A module of the deployment with what is needed to make it.

    Attributes:
        wanted: what the deployment says.
        spec: how it is made; `None` while it has no identity. What is found of it is then started
            and stopped, but not replaced.
        fingerprint: of the spec; `None` without one.
        has_keys: whether the hub has the keys that the module signs with.
    """

    wanted: WantedModule
    spec: ModuleSpec | None = None
    fingerprint: str | None = None
    has_keys: bool = True


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A module that an engine has.

    Attributes:
        runtime: of the engine.
        module: see there.
    """

    runtime: str
    module: Module


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent remembers of modules, by name.

    Attributes:
        restarts: see `Restarts`; none for a module that was never restarted.
        seen: those that ran since the agent began. What lies down and is not among them went down
            with the device or the agent, and not by itself.
        held: those that a deployment wanted stopped, and that were not started since.
        pulled: fingerprints of what has been fetched ahead.
    """

    restarts: Mapping[str, Restarts] = {}
    seen: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    pulled: frozenset[str] = frozenset()


def plan(
    targets: Mapping[str, Target],
    found: Iterable[Found],
    history: History,
    limits: RestartLimits,
    now: datetime,
    *,
    all_pulls_first: bool = False,
) -> tuple[Step, ...]:
    """Return the steps that can be taken now, in order; none when nothing is to be done.

    Args:
        targets: the deployment, system modules aside, by name.
        found: what the engines have.
        history: see there.
        limits: constants of restarts.
        now: the present moment.
        all_pulls_first: nothing is added or updated before everything is fetched
            (`ModuleUpdateMode=WaitForAllPulls`).
    """
    steps: list[Step] = []
    present: dict[str, Module] = {}
    leaving: set[str] = set()
    for one in found:
        target = targets.get(one.module.name)
        if target is None or target.wanted.runtime != one.runtime:
            steps.append(_remove(one))
            leaving.add(one.module.name)
        else:
            present[one.module.name] = one.module
    planner = _Planner(history, limits, now)
    for name, target in targets.items():
        # A module that changes its runtime comes when the other runtime's is gone.
        if name in leaving:
            continue
        step = planner.step(target, present.get(name))
        if step is not None:
            steps.append(step)
    if all_pulls_first:
        steps = _pulls_first(steps, targets, history.pulled)
    return tuple(sorted(steps, key=lambda step: (step.order, step.kind, step.name)))


def _remove(found: Found) -> Step:
    return Step(
        name=found.module.name,
        runtime=found.runtime,
        order=_FIRST,
        kind=Kind.REMOVE,
        acts=(Act.STOP, Act.REMOVE, Act.FORGET),
    )


class _Planner:
    """Decides on one module of the deployment."""

    def __init__(self, history: History, limits: RestartLimits, now: datetime) -> None:
        self._history = history
        self._limits = limits
        self._now = now

    def step(self, target: Target, module: Module | None) -> Step | None:
        wanted = target.wanted
        start = (Act.START,) if wanted.status is DesiredStatus.RUNNING else ()
        if module is None:
            make = (Act.IDENTIFY, Act.PREPARE, Act.CREATE, *start)
            return _step(wanted, Kind.ADD, *make)
        if module.status is Status.DEAD:
            return _step(wanted, Kind.DEAD, Act.REMOVE, Act.FORGET)
        if target.fingerprint is not None and module.fingerprint != target.fingerprint:
            if start and module.started_at is not None and self._was_interrupted(module):
                # An update that cannot be fetched now must not keep down what the device has.
                return _step(wanted, Kind.START, Act.START)
            replace = (Act.STOP, Act.REMOVE, Act.FORGET, Act.CREATE, *start)
            return _step(wanted, Kind.UPDATE, Act.IDENTIFY, Act.PREPARE, *replace)
        step = self._as_it_is(wanted, module)
        if step is None and not target.has_keys:
            return _step(wanted, Kind.IDENTITY, Act.IDENTIFY)
        return step

    def _as_it_is(self, wanted: WantedModule, module: Module) -> Step | None:
        if wanted.status is DesiredStatus.STOPPED:
            runs = module.status is Status.RUNNING
            return _step(wanted, Kind.STATUS, Act.STOP, Act.FORGET) if runs else None
        if is_down(module):
            return self._lifted(wanted, module)
        remembered = wanted.name in self._history.restarts
        if remembered and is_healthy(module, self._limits, self._now):
            return _step(wanted, Kind.HEALTHY, Act.FORGET)
        return None

    def _lifted(self, wanted: WantedModule, module: Module) -> Step | None:
        if wanted.name in self._history.held:
            return _step(wanted, Kind.STATUS, Act.FORGET, Act.START)
        if module.started_at is None:
            return _step(wanted, Kind.START, Act.START)
        if wanted.restart_policy is RestartPolicy.NEVER:
            return None
        if self._was_interrupted(module):
            return _step(wanted, Kind.START, Act.START)
        restarts = self._restarts(module)
        status = runtime_status(module, wanted, restarts, self._limits)
        due = is_due(module, restarts, self._limits, self._now)
        if status is RuntimeStatus.BACKOFF and due:
            return _step(wanted, Kind.RESTART, Act.COUNT, Act.START)
        return None

    def _was_interrupted(self, module: Module) -> bool:
        """Tell whether a module went down with the device or the agent, and not by itself."""
        seen = module.name in self._history.seen
        return is_down(module) and not seen and not self._restarts(module).count

    def _restarts(self, module: Module) -> Restarts:
        return self._history.restarts.get(module.name, Restarts())


def _step(wanted: WantedModule, kind: Kind, *acts: Act) -> Step:
    return Step(name=wanted.name, runtime=wanted.runtime, order=wanted.order, kind=kind, acts=acts)


def _pulls_first(
    steps: list[Step], targets: Mapping[str, Target], pulled: frozenset[str]
) -> list[Step]:
    changes = [step for step in steps if step.kind in {Kind.ADD, Kind.UPDATE}]
    missing = [step for step in changes if (targets[step.name].fingerprint or "") not in pulled]
    if not missing:
        return steps
    others = [step for step in steps if step not in changes]
    return others + [
        Step(
            name=step.name,
            runtime=step.runtime,
            order=_FIRST,
            kind=Kind.PULL,
            acts=(Act.IDENTIFY, Act.PREPARE),
        )
        for step in missing
    ]
