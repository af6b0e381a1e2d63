"""The ways up of all clients: one session for each identity that has something to say.

A session is opened when a client connects or something of it waits, and closed some time after the
client has gone and nothing waits any more. So the cloud sees a client as connected when it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeAlias, final

import structlog

from muster.edge.hub.broker import UPSTREAM
from muster.edge.hub.line import Line
from muster.edge.hub.members import local
from muster.edge.upstream.base import Link
from muster.edge.upstream.login import Login
from muster.model import auth_chain
from muster.model.pacing import Pace
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from muster.clock import Clock
    from muster.edge.hub.clients import Clients
    from muster.edge.hub.methods import Methods
    from muster.edge.hub.queues import Queues
    from muster.edge.hub.scope import Scope
    from muster.edge.hub.twins import Twins
    from muster.edge.upstream.base import Owner, Session
    from muster.model.identity import IdentityRef

IDLE_S: Final = 10.0
"""A session nobody needs is kept so long: a client that renews its token comes back at once."""
LOOK_S: Final = 2.0
"""How often that is looked at."""
DRAIN_RATE: Final = 5_000.0
"""Messages a second of those that had to wait, of all clients together."""

_BURST_S: Final = 0.1
_PATIENCE_S: Final = 0.005
_log = structlog.get_logger(__name__)

OpenSession: TypeAlias = "Callable[[Login, Owner], Session]"
"""Makes a session of an identity: `upstream.hub.Hub.session`."""


@final
class DrainPace:
    """The rate at which what had to wait goes up.

    Args:
        clock: for time.
        rate: messages a second; a tenth of a second's worth may go at once.
        sleep: waits so many seconds of the clock.
    """

    def __init__(
        self,
        clock: Clock,
        rate: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._pace = Pace(rate, max(2, int(rate * _BURST_S)))
        self._arrival = 0.0

    async def turn(self) -> None:
        """Return when the next message may go."""
        now = self._clock.monotonic()
        wait_s = self._pace.wait_s(self._arrival, now)
        self._arrival = self._pace.after(self._arrival, now)
        if wait_s > _PATIENCE_S:
            await self._sleep(wait_s)


@final
class Upstreams:
    """Those of all clients. Watches `Clients`, and is the `Cloud` of `Twins`.

    Args:
        edge_hub: speaks for those whose key is not here.
        open_session: makes sessions.
        scope: has the keys, and the chains.
        queues: with what waits.
        twins: likewise.
        clients: who is connected.
        methods: calls them.
        clock: for pauses.
        rate: messages a second that go up of those that had to wait.
    """

    def __init__(
        self,
        edge_hub: Login,
        open_session: OpenSession,
        *,
        scope: Scope,
        queues: Queues,
        twins: Twins,
        clients: Clients,
        methods: Methods,
        clock: Clock,
        rate: float = DRAIN_RATE,
    ) -> None:
        self._edge_hub = edge_hub
        self._open_session = open_session
        self._scope = scope
        self._queues = queues
        self._twins = twins
        self._clients = clients
        self._methods = methods
        self._clock = clock
        self._pace = DrainPace(clock, rate)
        self._lines: dict[IdentityRef, Line] = {}
        self._silent: set[IdentityRef] = set()
        self._task: asyncio.Task[None] | None = None
        clients.watch(self)
        twins.cloud = self

    @property
    def lines(self) -> list[Line]:
        """Return all open ways."""
        return list(self._lines.values())

    def start(self) -> None:
        """Begin with what waits."""
        self._task = spawn(self._look_after(), "upstream sessions")

    async def stop(self) -> None:
        """End all sessions in good order."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        lines, self._lines = self.lines, {}
        await asyncio.gather(*(line.close() for line in lines))

    def session(self, ref: IdentityRef) -> Session | None:
        """Return the session of an identity while it is connected."""
        line = self._lines.get(ref)
        if line is None or line.session is None or line.session.link is not Link.CONNECTED:
            return None
        return line.session

    async def first_try(self, ref: IdentityRef) -> None:
        """Wait for a session that has just begun to come about, or not."""
        line = self._lines.get(ref)
        if line is not None:
            await line.tried.wait()

    def reset(self, ref: IdentityRef) -> None:
        """Begin anew with an identity: its keys, or whether it is there, have changed."""
        self._silent.discard(ref)
        for each, line in list(self._lines.items()):
            through = line.login.chain is not None and ref.device_id in line.login.chain.devices
            if each == ref or (through and not ref.module_id):
                del self._lines[each]
                spawn(line.close(), "upstream session close")

    def came(self, ref: IdentityRef) -> None:
        """Have a session for a client."""
        line = self._ensure(ref)
        if line is not None:
            line.client_changed()

    def left(self, ref: IdentityRef) -> None:
        """Have nothing sent to a client that is gone; for its session see `IDLE_S`."""
        line = self._lines.get(ref)
        if line is not None:
            line.client_changed()

    def _ensure(self, ref: IdentityRef) -> Line | None:
        line = self._lines.get(ref)
        if line is not None or self._task is None:
            return line
        login = self._login(ref)
        if login is None:
            self._say_silent(ref, "it has no key, and is not known to be below this device")
            return None
        line = self._lines[ref] = Line(
            ref,
            login,
            queues=self._queues,
            twins=self._twins,
            clients=self._clients,
            methods=self._methods,
            pace=self._pace,
            refused=self._refused,
        )
        line.open(self._open_session(login, line))
        return line

    def _login(self, ref: IdentityRef) -> Login | None:
        """Return how an identity is spoken for: by its own key, or else on its behalf."""
        member = self._scope.find(ref)
        keys = [] if member is None else member.raw_keys()
        if keys:
            return Login(
                hub_host=self._edge_hub.hub_host,
                device_id=ref.device_id,
                module_id=ref.module_id or None,
                key=keys[0],
            )
        chain = self._scope.auth_chain(ref)
        if chain is None:
            return None
        return Login.on_behalf(self._edge_hub, auth_chain.parse(chain))

    def _refused(self, login: Login, reason: str) -> None:
        """Note that the hub does not take an identity."""
        if login.chain is not None:
            ref = local(login.device_id, login.module_id or "")
            self._say_silent(ref, f"the hub does not let this device speak for it: {reason}")

    def _say_silent(self, ref: IdentityRef, reason: str) -> None:
        """Say once that nothing of an identity reaches the hub."""
        if ref not in self._silent:
            self._silent.add(ref)
            _log.warning("nobody speaks upstream for a client", identity=ref.text, reason=reason)

    async def _look_after(self) -> None:
        while True:
            waiting = {key.sender for key, _ in self._queues.waiting() if key.sink == UPSTREAM}
            for ref in self._scope.names():
                if ref.text in waiting:
                    self._ensure(ref)
            # Whoever is connected may have lost its way up, or not had one before.
            for ref in {*self._twins.waiting, *(link.ref for link in self._clients.all())}:
                self._ensure(ref)
            for ref, line in list(self._lines.items()):
                if self._needed(ref, line):
                    line.unwanted_since = None
                elif line.unwanted_since is None:
                    line.unwanted_since = self._clock.monotonic()
                elif self._clock.monotonic() - line.unwanted_since > IDLE_S:
                    del self._lines[ref]
                    spawn(line.close(), "upstream session close")
            await asyncio.sleep(LOOK_S)

    def _needed(self, ref: IdentityRef, line: Line) -> bool:
        return self._clients.get(ref) is not None or bool(line.waiting) or self._twins.waits(ref)
