"""The way up of one client: its own session with the hub, for all it has to say (edge.md 6.3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, final

import msgspec
import structlog

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.hub.broker import UPSTREAM
from muster.edge.upstream.base import Feature, HubError, Link, Message, NoLinkError
from muster.errors import MusterError, NotFoundError
from muster.net.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.edge.hub.clients import Clients
    from muster.edge.hub.methods import Methods
    from muster.edge.hub.outlet import Outlet
    from muster.edge.hub.queue import Stored
    from muster.edge.hub.queues import Queues
    from muster.edge.hub.twins import Twins
    from muster.edge.hub.upstreams import DrainPace
    from muster.edge.upstream.base import JsonObject, Session
    from muster.edge.upstream.login import Login
    from muster.model.identity import IdentityRef

MAX_IN_FLIGHT: Final = 512
"""Messages of one client that are on their way up; the session has a limit in bytes beside it."""
METHOD_S: Final = 300.0
"""What a client has for its answer; the caller in the cloud gives up earlier."""
CONNECT_S: Final = 10.0
"""How long a method from the cloud waits for a client that is just coming back."""
PAUSE_S: Final = 5.0
"""After the disk did not answer."""

_AGAIN_S: Final = 0.05
_NOT_FOUND: Final = 404
_NO_ANSWER: Final = 504
_BAD_ANSWER: Final = 502
_log = structlog.get_logger(__name__)


@final
class Line:
    """An `Owner` of the session of one client.

    Args:
        ref: the client.
        login: who speaks for it.
        queues: with its messages.
        twins: told what the cloud says.
        clients: its connection.
        methods: calls it.
        pace: of draining.
        refused: called, with the reason, each time that the hub does not take it.

    Attributes:
        session: to be set once, before `open`.
        unwanted_since: steady seconds since which nothing is to be said; `None` while there is.
        tried: set when the session has come about, or has not, for the first time.
    """

    def __init__(
        self,
        ref: IdentityRef,
        login: Login,
        *,
        queues: Queues,
        twins: Twins,
        clients: Clients,
        methods: Methods,
        pace: DrainPace,
        refused: Callable[[Login, str], None],
    ) -> None:
        self.ref = ref
        self.login = login
        self._refused = refused
        self.session: Session | None = None
        self.unwanted_since: float | None = None
        self._twins = twins
        self._clients = clients
        self._methods = methods
        self._pace = pace
        self._outlet: Outlet = queues.outlet(UPSTREAM, ref.text)
        self._up = asyncio.Event()
        self.tried = asyncio.Event()
        self._wanted: frozenset[Feature] = frozenset()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._flying: set[asyncio.Task[None]] = set()
        self._lost = False
        self._behind = False
        self._seen = 0

    @property
    def waiting(self) -> int:
        """Messages that wait for the hub."""
        return self._outlet.count

    def open(self, session: Session) -> None:
        """Begin, with what the client takes at this moment."""
        self.session = session
        self._wanted = self._taken()
        session.want(self._wanted)
        session.open()
        self._task = spawn(self._drain(), f"upstream of {self.ref.text}")

    async def close(self) -> None:
        """End in good order; what is not sent waits on disk."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if self.session is not None:
            await self.session.close()
        if self._flying:
            await asyncio.wait(self._flying)

    def client_changed(self) -> None:
        """Note that the client is there, takes something else, or is gone.

        The hub is asked for what the client takes and for nothing else: so its callers hear that
        a client takes no methods, and its messages wait there.
        """
        before, self._wanted = self._wanted, self._taken()
        if self.session is not None and self._wanted != before:
            self.session.want(self._wanted)
            if Feature.DESIRED in self._wanted - before:
                # Asked for after the subscription, so nothing falls in between.
                self._twins.subscribed(self.ref)
        self._changed.set()

    def _taken(self) -> frozenset[Feature]:
        """Return what the client takes from the cloud now."""
        link = self._clients.get(self.ref)
        if link is None:
            return frozenset()
        takes = {
            Feature.DESIRED: link.takes_desired(),
            Feature.METHODS: link.takes_methods(),
            Feature.MESSAGES: link.takes_messages(),
        }
        return frozenset(feature for feature, taken in takes.items() if taken)

    # -- Owner ---------------------------------------------------------------------------------

    def link_changed(self, link: Link, detail: str) -> None:
        """Note how the session stands."""
        self.tried.set()
        if link is Link.CONNECTED:
            self._up.set()
            self._twins.linked(self.ref)
        else:
            self._up.clear()
            if link is Link.REFUSED:
                self._refused(self.login, detail)
            _log.info("no link upstream", identity=self.ref.text, link=link.value, detail=detail)

    def desired_changed(self, patch: JsonObject) -> None:
        """Hand on."""
        self._twins.desired_changed(self.ref, patch)

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        """Have the client answer."""
        try:
            answer = await self._methods.invoke(
                self.ref,
                name,
                msgspec.json.encode(payload),
                response_timeout_s=METHOD_S,
                connect_timeout_s=CONNECT_S,
            )
            return answer.status, foreign_json.decode(answer.payload or b"null")
        except MusterError as error:
            missing = isinstance(error, NotFoundError)
            return _NOT_FOUND if missing else _NO_ANSWER, {"message": error.message}
        except ForeignJsonError:
            return _BAD_ANSWER, {"message": "The answer of the client is not JSON."}

    async def message(self, message: Message) -> None:
        """Give the client a message; until it takes it the hub's message is not completed."""
        while True:
            self._changed.clear()
            link = self._clients.get(self.ref)
            if link is not None and link.takes_messages():
                try:
                    if await link.deliver(message.bag, message.body):
                        return
                except TimeoutError:
                    link.close("messages are not acknowledged")
                    continue
            await self._changed.wait()

    # -- telemetry -----------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Send what waits, in order, as long as there is a link."""
        while True:
            await self._up.wait()
            self._lost = False
            try:
                # Whatever was on its way when the link was lost goes again.
                await self._outlet.rewind()
                self._behind, self._seen = self._outlet.count > 0, self._outlet.accepted
                await self._send_all()
            except MusterError as error:
                _log.warning("queue not read", identity=self.ref.text, reason=error.message)
                await asyncio.sleep(PAUSE_S)
            if self._flying:
                await asyncio.wait(self._flying)
            # The session knows in a moment what has become of its link.
            await asyncio.sleep(_AGAIN_S)

    async def _send_all(self) -> None:
        outlet = self._outlet
        while not self._lost:
            outlet.ready.clear()
            batch = await outlet.take()
            for message in batch:
                if len(self._flying) >= MAX_IN_FLIGHT:
                    await asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED)
                await self._turn()
                if self._lost:
                    return
                # Tasks begin in the order in which they were made, so messages keep theirs.
                task = spawn(self._send(message), "upstream message")
                self._flying.add(task)
                task.add_done_callback(self._flying.discard)
            if not batch:
                self._behind = False
                await outlet.ready.wait()

    async def _turn(self) -> None:
        """Return when the next message may go.

        Messages keep their order, so until the line has caught up new ones stand behind those that
        had to wait. For each new one another one goes beside the pace: what waits becomes less by
        the pace, whatever comes in.
        """
        if not self._behind:
            return
        if self._seen < self._outlet.accepted:
            self._seen += 1
        else:
            await self._pace.turn()

    async def _send(self, message: Stored) -> None:
        session = self.session
        if session is None or self._lost:
            return
        try:
            await session.send(Message(bag=message.bag, body=message.body))
        except NoLinkError:
            self._lost = True
            # Wakes whoever waits for something to send.
            self._outlet.ready.set()
            return
        except HubError as error:
            _log.warning("message dropped", identity=self.ref.text, reason=str(error))
            self._outlet.refused(message)
            return
        self._outlet.done([message])
