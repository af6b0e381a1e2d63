"""Passes: find what runs, plan, and take the steps that may be taken (edge.md 5.3).

A pass never waits for a step. Steps of different modules are taken at once, so a download that
hangs holds up one module; startup order is kept by not beginning a step while one before it, in
the deployment's order, is being taken, and no longer than `ORDER_PATIENCE_S`. Restarts of what
fell over wait for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

import msgspec
import structlog

from muster.clock import Clock
from muster.edge.agent.constants import (
    ACT_TIMEOUT_S,
    ORDER_PATIENCE_S,
    Constants,
    from_environment,
)
from muster.edge.agent.deployment import Deployment, DesiredStatus, WantedModule
from muster.edge.agent.failures import Failures
from muster.edge.agent.identities import KnownIdentities
from muster.edge.agent.inventory import Inventory
from muster.edge.agent.making import DeviceFacts, specification
from muster.edge.agent.memory import Memory
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.performer import Doing, Performer, StepError
from muster.edge.agent.plan import Act, Found, Kind, Step, Target, plan
from muster.edge.agent.ports import Workload
from muster.edge.agent.reported import ReportedModule
from muster.edge.agent.restarts import is_down, runtime_status
from muster.edge.engine.base import EngineError, Status
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.upstream.base import HubError, NoLinkError
from muster.net.tasks import spawn

_log = structlog.get_logger(__name__)

_IMPATIENT: Final = frozenset({Kind.RESTART, Kind.HEALTHY, Kind.IDENTITY})
"""Steps that wait for nobody and that nobody waits for. They are no part of a deployment's way."""
_EMPTYING: Final = frozenset({Kind.REMOVE, Kind.DEAD})
_IDENTITY: Final = "identity of "


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass found.

    Attributes:
        modules: of the deployment that are there.
        settled: nothing of the deployment is being done or is still to be tried for the first
            time; what is left has failed and is tried again later.
        problems: what keeps the device from being as the deployment says, in words; in order.
    """

    modules: tuple[ReportedModule, ...]
    settled: bool
    problems: tuple[str, ...]


class Reconciler:
    """Makes what runs be what the deployment says."""

    def __init__(
        self,
        inventory: Inventory,
        identities: KnownIdentities,
        workload: Workload,
        memory: Memory,
        *,
        facts: DeviceFacts,
        locks: ModuleLocks,
        metrics: AgentMetrics,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        """Take everything that is needed.

        Args:
            inventory: of what the engines have.
            identities: of modules.
            workload: their sockets.
            memory: of modules.
            facts: about the device, with the agent's environment as its file has it.
            locks: of modules, which people's calls hold, too.
            metrics: of the agent.
            clock: tells the time.
            changed: called when another pass would find something new.
        """
        self._inventory: Final = inventory
        self._engines: Final = inventory.engines
        self._identities: Final = identities
        self._workload: Final = workload
        self._memory: Final = memory
        self._file_env: Final = facts.agent_env
        self._facts = facts
        self._constants = from_environment(facts.agent_env)
        self._clock: Final = clock
        self._changed: Final = changed
        self._metrics: Final = metrics
        self._performer: Final = Performer(
            self._engines,
            identities,
            workload,
            memory,
            locks=locks,
            metrics=metrics,
            clock=clock,
        )
        self._locks: Final = locks
        self._failures: Final = Failures(self._constants.restarts)
        self._doing: Final[dict[str, Doing]] = {}
        self._deployment: Deployment | None = None
        self._found: list[Found] = []
        # Only what this agent saw go loses its identity: one that is in no deployment here may
        # belong to the next one, which the hub has and this device has not heard of yet.
        self._gone: set[str] = set()
        self._unfit: Final[dict[str, str]] = {}

    @property
    def deployment(self) -> Deployment | None:
        """What is in force."""
        return self._deployment

    @property
    def constants(self) -> Constants:
        """The constants of time, which a deployment can change."""
        return self._constants

    def deploy(self, deployment: Deployment) -> None:
        """Put a deployment in force. What failed in the one before is tried anew."""
        before = self._deployment
        self._deployment = deployment
        self._take_environment(deployment)
        if before is not None:
            self._gone |= before.modules.keys()
        self._gone -= deployment.modules.keys()
        if before is None or before.version != deployment.version:
            self._metrics.deploys(self._clock.monotonic())
            self._failures.clear()
            self._memory.began_deployment()
            self._identities.began_deployment()
        for doing in self._doing.values():
            # Only fetching is broken off: anything else would leave a module half-way.
            wanted = deployment.modules.get(doing.step.name)
            outdated = doing.target is not None and doing.target.wanted != wanted
            if outdated and doing.act in {Act.IDENTIFY, Act.PREPARE} and doing.task is not None:
                doing.task.cancel()

    def _take_environment(self, deployment: Deployment) -> None:
        """Take the agent's environment; a deployment's word counts more than the file's."""
        deployed = deployment.agent.env if deployment.agent is not None else {}
        env = {**self._file_env, **deployed}
        if env != self._facts.agent_env:
            self._facts = msgspec.structs.replace(self._facts, agent_env=env)
            self._constants = from_environment(env)
            self._failures.limits = self._constants.restarts

    def hub_in_reach(self) -> None:
        """Try what has failed at once: what it lacked may be back, too."""
        self._failures.hasten(self._clock.monotonic())

    async def close(self) -> None:
        """Break off what is being done; modules stay as they are then."""
        tasks = [doing.task for doing in self._doing.values() if doing.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # A pass.

    async def run(self, *, may_disown: bool) -> Pass:
        """Make one pass.

        Args:
            may_disown: identities of modules that are in no deployment may be deleted: the
                deployment is the hub's latest, not one kept on the device.
        """
        # What is being done while engines are asked may come out either way, so it is left out.
        busy = self._busy()
        found, problems = await self._inventory.find()
        busy |= self._busy()
        self._found = found
        deployment = self._deployment
        if deployment is None:
            return Pass(modules=(), settled=True, problems=tuple(problems.values()))
        problems |= self._lacking(deployment)
        self._unfit.clear()
        targets = {
            name: self._target(wanted, deployment)
            for name, wanted in deployment.modules.items()
            if wanted.runtime not in problems
        }
        self._observe(deployment, [one for one in found if one.module.name not in busy])
        steps = plan(
            {name: target for name, target in targets.items() if name not in busy},
            [one for one in found if one.module.name not in busy],
            self._memory.history(),
            self._constants.restarts,
            self._clock.now(),
            all_pulls_first=self._constants.all_pulls_first,
        )
        waiting = self._begin_what_may(steps, targets)
        settled = not waiting and all(
            doing.step.kind in _IMPATIENT for doing in self._doing.values()
        )
        if settled and may_disown:
            self._disown(deployment)
        self._measure(deployment, settled=settled)
        return Pass(
            modules=tuple(self._reported(deployment)),
            settled=settled,
            problems=(*problems.values(), *self._failed(steps, deployment)),
        )

    def _lacking(self, deployment: Deployment) -> dict[str, str]:
        """Return the runtimes that modules name and this device has no engine for, and words."""
        named = {wanted.runtime for wanted in deployment.modules.values()}
        return {
            runtime: f"runtime {runtime}: is not there; iotedge check says what is missing"
            for runtime in sorted(named - self._engines.keys())
        }

    def _busy(self) -> set[str]:
        # A module that somebody restarts is down for a moment; that is nothing to mend.
        return set(self._doing) | self._locks.taken()

    def _failed(self, steps: Sequence[Step], deployment: Deployment) -> Iterator[str]:
        """Yield what is wrong with modules; forget what was, and is not tried any more."""
        self._failures.keep(
            {step.name for step in steps}
            | set(self._doing)
            | {f"{_IDENTITY}{module_id}" for module_id in self._gone},
            {
                name
                for one in self._found
                if (name := one.module.name) in deployment.modules
                and _should_run(deployment.modules[name])
                and is_down(one.module)
            },
        )
        for name, message in sorted({**self._unfit, **self._failures.messages()}.items()):
            if not name.startswith(_IDENTITY):
                yield f"module {name}: {message}"

    def _measure(self, deployment: Deployment, *, settled: bool) -> None:
        now = self._clock.monotonic()
        if settled:
            self._metrics.deployed(now)
        self._metrics.watched(
            (name for name, one in deployment.modules.items() if _should_run(one)),
            {one.module.name for one in self._found if one.module.status is Status.RUNNING},
            now,
        )

    def _target(self, wanted: WantedModule, deployment: Deployment) -> Target:
        identity = self._identities.get(wanted.name)
        if identity is None:
            return Target(wanted=wanted)
        engine = self._engines[wanted.runtime]
        socket = self._workload.socket(wanted.name)
        spec = specification(wanted, identity, socket, deployment.runtime, self._facts)
        fingerprint = None
        try:
            fingerprint = engine.fingerprint(spec)
        except Exception as error:  # noqa: BLE001 - one bad module must not hold up the others
            # What runs is left as it is: nobody can tell what it should be.
            self._unfit[wanted.name] = _words(error)
        return Target(
            wanted=wanted, spec=spec, fingerprint=fingerprint, has_keys=identity.is_current
        )

    def _observe(self, deployment: Deployment, found: Sequence[Found]) -> None:
        for one in found:
            name = one.module.name
            if one.module.status is Status.RUNNING:
                self._memory.saw_running(name)
            wanted = deployment.modules.get(name)
            if wanted is not None and not _should_run(wanted):
                self._memory.holds(name)

    def _reported(self, deployment: Deployment) -> list[ReportedModule]:
        reported = {}
        for one in self._found:
            wanted = deployment.modules.get(one.module.name)
            if wanted is not None and wanted.runtime == one.runtime:
                restarts = self._memory.restarts(wanted.name)
                reported[wanted.name] = ReportedModule(
                    wanted=wanted,
                    module=one.module,
                    status=runtime_status(one.module, wanted, restarts, self._constants.restarts),
                    restarts=restarts,
                )
        return [reported[name] for name in sorted(reported)]

    # Steps.

    def _begin_what_may(self, steps: tuple[Step, ...], targets: dict[str, Target]) -> list[Step]:
        """Begin steps in order; return those that wait for others."""
        now = self._clock.monotonic()
        waiting: list[Step] = []
        for step in steps:
            if not self._failures.may_try(step.name, now):
                continue
            if step.kind not in _IMPATIENT and (
                self._is_held_up(step, now) or any(_rank(one) < _rank(step) for one in waiting)
            ):
                waiting.append(step)
                continue
            target = None if step.kind is Kind.REMOVE else targets[step.name]
            doing = Doing(step, target, now)
            self._begin(doing, self._take(doing))
        return waiting

    def _begin(self, doing: Doing, work: Coroutine[Any, Any, None]) -> None:
        name = doing.step.name
        self._doing[name] = doing
        doing.task = spawn(self._guarded(name, work), f"step of {name}")
        # Not in the coroutine: one that is cancelled before it begins does nothing at all.
        doing.task.add_done_callback(lambda _: self._ended(name))

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one module a pause
            self._failures.note(name, _words(error), self._clock.monotonic())
            _log.exception("something went wrong in a step", module=name)

    def _ended(self, name: str) -> None:
        del self._doing[name]
        self._changed()

    def _is_held_up(self, step: Step, now: float) -> bool:
        return any(
            _rank(doing.step) < _rank(step)
            and doing.step.kind not in _IMPATIENT
            and now - doing.since < ORDER_PATIENCE_S
            for doing in self._doing.values()
        )

    async def _take(self, doing: Doing) -> None:
        step = doing.step
        _log.info("step begins", module=step.name, step=step.kind.name.lower())
        try:
            await self._performer.perform(doing)
        except StepError as error:
            self._failures.note(step.name, str(error), self._clock.monotonic())
            _log.warning(
                "step failed",
                module=step.name,
                step=step.kind.name.lower(),
                act=doing.act.name.lower(),
                error=str(error),
            )
        else:
            self._failures.forget(step.name)
            if step.kind is Kind.REMOVE:
                self._gone.add(step.name)

    async def restart(self, name: str) -> None:
        """Stop a module that runs and start it, whatever its deployment says.

        Raises:
            LookupError: there is no such module.
            StepError: it does not run, or it could not be done.
        """
        found = await self._inventory.the(name)
        if found.module.status is not Status.RUNNING:
            # As the official agent has it: what is down is the restart policy's to lift.
            raise StepError(f"Module {name} cannot be restarted since it is not running")
        if name in self._doing:
            raise StepError("the module is being changed; try again in a moment")
        step = Step(
            name=name, runtime=found.runtime, order=0, kind=Kind.RESTART, acts=(Act.STOP, Act.START)
        )
        doing = Doing(step, None, self._clock.monotonic())
        self._doing[name] = doing
        try:
            await self._performer.perform(doing)
        finally:
            self._ended(name)

    # Identities of modules that are gone.

    def _disown(self, deployment: Deployment) -> None:
        kept = deployment.modules.keys() | {one.module.name for one in self._found}
        now = self._clock.monotonic()
        for module_id in sorted(self._gone - kept):
            name = f"{_IDENTITY}{module_id}"
            if (
                name not in self._doing
                and self._identities.may_delete(module_id)
                and self._failures.may_try(name, now)
            ):
                step = Step(name=name, runtime="", order=0, kind=Kind.HEALTHY, acts=(Act.FORGET,))
                self._begin(Doing(step, None, now), self._delete(name, module_id))

    async def _delete(self, name: str, module_id: str) -> None:
        try:
            async with asyncio.timeout(ACT_TIMEOUT_S):
                await self._identities.remove(module_id)
        except (HubError, NoLinkError, OSError, TimeoutError) as error:
            self._failures.note(name, str(error), self._clock.monotonic())
            _log.warning("an identity is not deleted", module=module_id, error=str(error))
        else:
            _log.info("identity deleted", module=module_id)
            self._gone.discard(module_id)
            self._failures.forget(name)


def _words(error: Exception) -> str:
    """Return what may be shown of an error: a runtime's words, of a mistake of ours its kind."""
    if isinstance(error, EngineError):
        return str(error)
    return f"internal error ({type(error).__name__}); the device's log has more"


def _should_run(wanted: WantedModule) -> bool:
    return wanted.status is DesiredStatus.RUNNING


def _rank(step: Step) -> tuple[int, bool]:
    """Return where a step stands: by startup order, and in each group what makes room first."""
    return step.order, step.kind not in _EMPTYING
