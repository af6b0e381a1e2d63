"""Takes a step: asks engine, identities and workload for one act after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from typing import Final, Protocol, TypeVar

from muster.clock import Clock
from muster.edge.agent.constants import (
    ACT_TIMEOUT_S,
    PULL_TIMEOUT_S,
    PULLS_AT_ONCE,
    STOP_PATIENCE_S,
)
from muster.edge.agent.identities import KnownIdentities
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.plan import Act, Kind, Step, Target
from muster.edge.agent.ports import Workload
from muster.edge.engine.base import Engine, EngineError, ModuleSpec
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.upstream.base import HubError, NoLinkError

_T = TypeVar("_T")

_ASIDE: Final = frozenset({Act.IDENTIFY, Act.PREPARE})
"""Acts that leave the module itself alone, and may take as long as a download does."""


class StepError(Exception):
    """A step failed. The message says why, for people."""


class Witness(Protocol):
    """Who remembers what was done."""

    def started(self, name: str) -> None:
        """Note that a module is started."""

    def pulled(self, fingerprint: str) -> None:
        """Note that what a module is made of was fetched ahead."""

    async def forget(self, name: str) -> None:
        """Forget its restarts."""

    async def count(self, name: str) -> None:
        """Count a restart."""


class Doing:
    """A step that is being taken.

    Attributes:
        step: see there.
        target: what it works towards; `None` for a removal.
        since: monotonic seconds.
        act: what it is at.
        task: does it.
    """

    __slots__ = ("act", "since", "step", "target", "task")

    def __init__(self, step: Step, target: Target | None, since: float) -> None:
        self.step = step
        self.target = target
        self.since = since
        self.act = step.acts[0]
        self.task: asyncio.Task[None] | None = None


class Performer:
    """Takes steps; those of different modules at once."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        identities: KnownIdentities,
        workload: Workload,
        witness: Witness,
        *,
        locks: ModuleLocks,
        metrics: AgentMetrics,
        clock: Clock,
    ) -> None:
        self._engines: Final = engines
        self._identities: Final = identities
        self._workload: Final = workload
        self._witness: Final = witness
        self._locks: Final = locks
        self._metrics: Final = metrics
        self._clock: Final = clock
        self._pulls: Final = asyncio.Semaphore(PULLS_AT_ONCE)

    async def perform(self, doing: Doing) -> None:
        """Take a step, to its end or until something fails.

        Raises:
            StepError: an act failed or took too long.
        """
        async with contextlib.AsyncExitStack() as held:
            alone = False
            for act in doing.step.acts:
                if not alone and act not in _ASIDE:
                    # To the end of the step: nobody finds the module half made.
                    await held.enter_async_context(self._locks.hold(doing.step.name))
                    alone = True
                doing.act = act
                begun = self._clock.monotonic()
                if act is Act.IDENTIFY:
                    if await self._identity_changes(doing):
                        # The next plan has the new specification.
                        return
                else:
                    await self._do(act, doing)
                self._note(act, doing, self._clock.monotonic() - begun)

    def _note(self, act: Act, doing: Doing, seconds: float) -> None:
        self._metrics.took(act.name.lower(), seconds)
        version = doing.target.wanted.version if doing.target is not None else ""
        if act is Act.PREPARE:
            self._metrics.prepared(doing.step.name, version)
        elif act is Act.START:
            self._metrics.started(doing.step.name, version)
        elif act is Act.STOP:
            self._metrics.stopped(doing.step.name, version)

    async def _identity_changes(self, doing: Doing) -> bool:
        assert doing.target is not None  # noqa: S101 - only what is made has an identity
        ensured = self._identities.ensure(doing.step.name)
        changed = await _in_time(ensured, ACT_TIMEOUT_S, "its identity")
        return changed or doing.target.spec is None

    async def _do(self, act: Act, doing: Doing) -> None:
        name, engine = doing.step.name, self._engines[doing.step.runtime]
        if act is Act.PREPARE:
            await self._prepare(engine, doing)
        elif act is Act.CREATE:
            spec = _spec(doing)
            await _in_time(self._workload.open(name, spec.module_id), ACT_TIMEOUT_S, "its socket")
            await _in_time(engine.create(spec), ACT_TIMEOUT_S, "to create it")
        elif act is Act.START:
            await _in_time(self._workload.open(name, name), ACT_TIMEOUT_S, "its socket")
            # Noted first: one that cannot be started has not gone down with the device, and is
            # replaced when the deployment says something else.
            self._witness.started(name)
            await _in_time(engine.start(name), ACT_TIMEOUT_S, "to start it")
        elif act is Act.STOP:
            await _in_time(engine.stop(name, STOP_PATIENCE_S), ACT_TIMEOUT_S, "to stop it")
        elif act is Act.REMOVE:
            await _in_time(engine.remove(name), ACT_TIMEOUT_S, "to remove it")
            await _in_time(self._workload.close(name), ACT_TIMEOUT_S, "to close its socket")
        elif act is Act.FORGET:
            await self._witness.forget(name)
        else:
            await self._witness.count(name)

    async def _prepare(self, engine: Engine, doing: Doing) -> None:
        async with self._pulls:
            await _in_time(engine.prepare(_spec(doing)), PULL_TIMEOUT_S, "to fetch it")
        fingerprint = doing.target.fingerprint if doing.target else None
        if doing.step.kind is Kind.PULL and fingerprint is not None:
            self._witness.pulled(fingerprint)


def _spec(doing: Doing) -> ModuleSpec:
    assert doing.target is not None  # noqa: S101 - the plan makes only what the deployment has
    assert doing.target.spec is not None  # noqa: S101 - IDENTIFY ends a step without one
    return doing.target.spec


async def _in_time(awaitable: Awaitable[_T], patience_s: float, what: str) -> _T:
    try:
        async with asyncio.timeout(patience_s):
            return await awaitable
    except TimeoutError:
        raise StepError(f"{what} took longer than {patience_s:g} s") from None
    except NoLinkError:
        raise StepError(f"{what} needs the hub, which is out of reach") from None
    except (EngineError, HubError, OSError) as error:
        raise StepError(str(error) or type(error).__name__) from error
