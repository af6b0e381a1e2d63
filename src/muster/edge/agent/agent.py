"""The agent: listens to the hub, keeps the deployment, makes passes and reports (edge.md 5)."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import msgspec
import structlog

from muster import __version__
from muster.clock import Clock
from muster.edge.agent import manifest, reported
from muster.edge.agent.constants import FAREWELL_S, RECONCILE_EVERY_S
from muster.edge.agent.deployment import (
    Code,
    Deployment,
    DeploymentError,
    DeploymentStatus,
    DesiredStatus,
    Judgement,
)
from muster.edge.agent.errands import Errands
from muster.edge.agent.identities import KnownIdentities
from muster.edge.agent.inventory import Inventory
from muster.edge.agent.making import DeviceFacts
from muster.edge.agent.memory import Memory
from muster.edge.agent.methods import Methods
from muster.edge.agent.metrics import AgentMetrics
from muster.edge.agent.ports import EdgeHub, OwnLogs, SupportBundles, Workload
from muster.edge.agent.reconciler import Pass, Reconciler
from muster.edge.agent.reporter import Reporter
from muster.edge.agent.store import AgentStore
from muster.edge.agent.twin_copy import DesiredCopy
from muster.edge.agent.twin_reader import TwinReader
from muster.edge.engine import BUILT_IN
from muster.edge.engine.base import Engine, Module, Status
from muster.edge.engine.module_locks import ModuleLocks
from muster.edge.identity import AGENT, HUB, DeviceIdentity, ModuleIdentities, container_name
from muster.edge.settings import Settings
from muster.edge.upstream import trust
from muster.edge.upstream.base import HubError, Link, Message, NoLinkError, Owner, Session
from muster.ids import Randomness
from muster.net.tasks import spawn

JsonObject: TypeAlias = dict[str, Any]

_BREATH_S: Final = 0.1
_NOT_YET: Final = Judgement(0, DeploymentStatus(Code.UNKNOWN))

_log = structlog.get_logger(__name__)


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """The other parts of the runtime, as the agent needs them.

    Attributes:
        engines: one for each runtime, started up.
        locks: of their modules, which people's calls hold, too.
        identities: of modules.
        workload: their sockets.
        hub: the edge hub of this process.
        own_logs: what this process has written.
        bundles: makes support bundles.
        connect: makes the session of `$edgeAgent`, not yet open, for its owner.
        restart: has this agent closed and another one made; returns at once.
        refused: called when the hub does not accept the device any more, with the reason.
        clock: tells the time.
        randomness: makes IDs of tasks.
    """

    engines: Sequence[Engine]
    locks: ModuleLocks
    identities: ModuleIdentities
    workload: Workload
    hub: EdgeHub
    own_logs: OwnLogs
    bundles: SupportBundles
    connect: Callable[[Owner], Session]
    restart: Callable[[], None]
    refused: Callable[[str], None]
    clock: Clock
    randomness: Randomness


class Agent:
    """Keeps the modules of one device identity as its deployment says.

    It begins with the deployment that it kept on the device, without waiting for anybody. What it
    cannot read keeps the one in force, and is reported.

    Attributes:
        metrics: what it counts.
    """

    def __init__(self, settings: Settings, device: DeviceIdentity, around: Surroundings) -> None:
        """Make an agent that does nothing yet; see `start`."""
        facts = DeviceFacts(
            hub_host=device.hub_host.partition(":")[0],
            device_id=device.device_id,
            hostname=settings.hostname,
            parent_hostname=settings.parent_hostname,
            agent_env=settings.agent.env,
        )
        self._owner: Final = f"{device.hub_host}/{device.device_id}"
        self._parent: Final = settings.parent_hostname
        self._around: Final = around
        self._clock: Final = around.clock
        self._store: Final = AgentStore(settings.home)
        self._memory: Final = Memory(self._store, around.clock)
        self.metrics: Final = AgentMetrics(
            facts.hub_host, facts.device_id, around.randomness.uuid(), __version__
        )
        self._identities: Final = KnownIdentities(around.identities)
        self._wake: Final = asyncio.Event()
        inventory = Inventory(around.engines)
        self._reconciler: Final = Reconciler(
            inventory,
            self._identities,
            around.workload,
            self._memory,
            facts=facts,
            locks=around.locks,
            metrics=self.metrics,
            clock=around.clock,
            changed=self._wake.set,
        )
        self._methods: Final = Methods(
            self._reconciler,
            inventory,
            hub=around.hub,
            restart=around.restart,
            own_logs=around.own_logs,
            bundles=around.bundles,
            errands=Errands(around.randomness),
            hub_host=facts.hub_host,
            device_id=facts.device_id,
            trust=lambda: trust.context(settings.trust_bundle),
            metrics=self.metrics,
            timeout_s=lambda: self._reconciler.constants.request_s,
            clock=around.clock,
        )
        self._session: Final = around.connect(self)
        self._reporter: Final = Reporter(self._session, self._needs_twin, self.metrics)
        self._twin: Final = TwinReader(
            self._session,
            self._reporter.turn,
            self._take_twin,
            refresh_s=lambda: self._reconciler.constants.refresh_s,
            metrics=self.metrics,
            clock=around.clock,
        )
        self._platform: Final = reported.Platform(
            os=platform.system().lower(),
            architecture=platform.machine(),
            version=__version__,
        )
        self._desired: Final = DesiredCopy()
        self._saved: JsonObject | None = None
        self._to_save: Final = asyncio.Event()
        self._current = False
        self._doubted: int | None = None
        self._refusal: Judgement | None = None
        self._judgement = _NOT_YET
        self._started_at: datetime | None = None
        self._tasks: list[asyncio.Task[None]] = []

    # Life.

    async def start(self) -> None:
        """Begin, with what the device kept. Returns when the first pass can be made."""
        self._started_at = self._clock.now()
        await self._memory.load()
        # A deployment of another identity is none of ours: after a move nothing is touched before
        # the new hub has spoken.
        kept = await asyncio.to_thread(self._store.load_deployment, self._owner)
        if kept is not None:
            self._saved = kept
            self._desired.replace(kept)
            self._read_deployment()
            _log.info(
                "begins with the deployment kept on the device", version=self._desired.version
            )
        self._tasks = [
            spawn(self._look_up_identities(), "identities of modules"),
            *(
                spawn(_for_ever(run, what), f"{what} of the agent")
                for run, what in (
                    (self._make_passes, "passes"),
                    (self._keep_deployments, "backup"),
                    (self._reporter.run, "reports"),
                    (self._twin.run, "twin"),
                )
            ),
        ]
        self._session.open()

    async def close(self) -> None:
        """End: say farewell to the hub if it is in reach. Modules go on as they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._methods.close()
        await self._reconciler.close()
        if self._session.link is Link.CONNECTED:
            await self._reporter.say_farewell(FAREWELL_S)
        await self._session.close()

    # What the session tells (`Owner`).

    def link_changed(self, link: Link, detail: str) -> None:
        """Note how the session stands."""
        if link is Link.CONNECTED:
            self._twin.ask()
            self._reconciler.hub_in_reach()
            self._tasks.append(spawn(self._look_up_identities(), "identities of modules"))
            self._tasks = [task for task in self._tasks if not task.done()]
            self._wake.set()
        elif link is Link.REFUSED:
            self._around.refused(detail)

    def desired_changed(self, patch: JsonObject) -> None:
        """Take a patch of desired properties."""
        before = self._desired.document
        if not self._desired.apply(patch):
            self._twin.ask_now()
        elif self._desired.document is not before:
            self._read_deployment()

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        """Answer a direct method (edge.md 5.4)."""
        return await self._methods.answer(name, payload)

    async def message(self, message: Message) -> None:
        """Drop a message: nobody sends any to the agent."""

    # The deployment.

    def _needs_twin(self) -> None:
        # Without a link, its coming up asks, and no more often than is good for a link that flaps.
        if self._session.link is Link.CONNECTED:
            self._twin.ask_now()

    def _take_twin(self, twin: JsonObject) -> None:
        desired = twin.get("desired") or {}
        if self._is_overtaken(desired):
            self._twin.ask_now()
            return
        there = twin.get("reported") or {}
        self._reporter.hub_has(there)
        last = there.get("lastDesiredVersion")
        if self._judgement == _NOT_YET and type(last) is int:
            # What an agent before this one has said of a deployment stays till there is news.
            self._judgement = Judgement(last, _NOT_YET.status)
        if self._desired.replace(desired) or not self._current:
            self._current = True
            self._read_deployment()

    def _is_overtaken(self, desired: JsonObject) -> bool:
        """Tell whether a patch came while the twin was read, so that it is older than the copy.

        A hub that says it twice means it: its twin was made anew.
        """
        found = DesiredCopy(desired).version
        overtaken = found < self._desired.version and found != self._doubted
        self._doubted = found if overtaken else None
        return overtaken

    def _read_deployment(self) -> None:
        desired = self._desired.document or {}
        self._wake.set()
        try:
            deployment = manifest.parse(desired, BUILT_IN.keys(), self._parent)
        except DeploymentError as error:
            self._refusal = Judgement(self._desired.version, error.status)
            _log.warning(
                "the desired properties are no deployment",
                version=self._desired.version,
                code=error.status.code.value,
                description=error.status.description,
            )
            return
        self._refusal = None
        self._reconciler.deploy(deployment)
        self._to_save.set()

    async def _keep_deployments(self) -> None:
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            desired = self._desired.document
            if desired is None or desired == self._saved or self._refusal is not None:
                continue
            try:
                await asyncio.to_thread(self._store.save_deployment, self._owner, desired)
            except OSError as error:
                _log.error("the deployment is not kept on the device", error=str(error))
            else:
                self._saved = desired

    async def _look_up_identities(self) -> None:
        try:
            await self._identities.look_up()
        except (HubError, NoLinkError, OSError) as error:
            _log.info("identities of modules are not known", error=str(error))
        self._wake.set()

    # Passes.

    async def _make_passes(self) -> None:
        while True:
            self._wake.clear()
            deployment = self._reconciler.deployment
            if deployment is not None:
                await self._around.hub.use({} if deployment.hub is None else deployment.hub.env)
            self._conclude(await self._reconciler.run(may_disown=self._current))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_EVERY_S):
                    await self._wake.wait()
                    # Much that happens at once is seen together.
                    await asyncio.sleep(_BREATH_S)

    def _conclude(self, made: Pass) -> None:
        deployment = self._reconciler.deployment
        hub = self._around.hub.module()
        if self._refusal is not None:
            self._judgement = self._refusal
        elif deployment is not None and made.settled:
            problems = [*_of_hub(deployment, hub), *made.problems]
            self._judge(Judgement(deployment.version, _status(problems)))
        self._reporter.want(
            reported.document(
                self._judgement,
                deployment,
                made.modules,
                {container_name(AGENT): self._itself(), container_name(HUB): hub},
                self._platform,
            )
        )

    def _judge(self, found: Judgement) -> None:
        if found == self._judgement:
            return
        self._judgement = found
        if found.status.code is Code.OK:
            _log.info("the deployment is in force", version=found.version)
        else:
            _log.warning(
                "the deployment is not all in force",
                version=found.version,
                code=found.status.code.value,
                description=found.status.description,
            )

    def _itself(self) -> Module:
        return Module(
            name=container_name(AGENT),
            status=Status.RUNNING,
            description="running",
            started_at=self._started_at,
        )


async def _for_ever(run: Callable[[], Awaitable[None]], what: str) -> None:
    """Run something that has no end; a mistake in it must not end it either."""
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("something went wrong in the agent, which goes on", what=what)
        await asyncio.sleep(RECONCILE_EVERY_S)


def _of_hub(deployment: Deployment, hub: Module) -> list[str]:
    """Return what is wrong with the edge hub, where the deployment wants one."""
    wanted = deployment.hub is not None and deployment.hub.status is DesiredStatus.RUNNING
    if not wanted or hub.status is Status.RUNNING:
        return []
    return [f"module {hub.name}: {hub.description or 'it does not run'}"]


def _status(problems: Sequence[str]) -> DeploymentStatus:
    if not problems:
        return DeploymentStatus(Code.OK)
    return DeploymentStatus(Code.FAILED, "; ".join(problems))
