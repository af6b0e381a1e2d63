"""One module or leaf device on one AMQP connection: what `Clients` knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.wire.amqp import messages, method_messages
from muster.wire.amqp.pairs import Pairs
from muster.wire.amqp.twin_messages import desired_changed

if TYPE_CHECKING:
    from muster.edge.hub.amqp_head import AmqpClient
    from muster.edge.hub.amqp_sending import Devicebound
    from muster.edge.hub.heads import Services
    from muster.model.identity import IdentityRef
    from muster.wire.amqp.link import Link, SendingLink

MAX_QUEUED: Final = 100
"""Calls, answers and changes that may wait for a client's credit."""


@final
class AmqpIdentity:
    """A `clients.Link`.

    Args:
        services: of the edge hub.
        client: the connection.
        ref: who it is.
        prover: whose token stands for it; `None` for a certificate.
        over: over which edge devices it is spoken for.

    Attributes:
        methods: its links for methods.
        twin: its links for its twin.
        subscribed: where changes of desired properties go; `None` for nowhere.
        devicebound: takes cloud-to-device messages; `None` for nobody.
    """

    def __init__(
        self,
        services: Services,
        client: AmqpClient,
        ref: IdentityRef,
        *,
        prover: IdentityRef | None,
        over: tuple[str, ...],
    ) -> None:
        self.services = services
        self.client = client
        self._ref = ref
        self._prover = prover
        self._over_devices = over
        self._links: set[Link] = set()
        self._over = False
        self.methods = Pairs()
        self.twin = Pairs()
        self.subscribed: SendingLink | None = None
        self.devicebound: Devicebound | None = None

    # For the handlers of its links.

    @property
    def links(self) -> list[Link]:
        """Its links."""
        return list(self._links)

    def add(self, link: Link) -> None:
        """Take one more link."""
        self._links.add(link)

    def remove(self, link: Link) -> None:
        """A link is gone, and what came over it; with the last one the identity is."""
        self._links.discard(link)
        if self._links:
            self.changed()
        elif not self._over:
            self._over = True
            self.services.clients.detach(self)
            self.client.gone(self)

    def changed(self) -> None:
        """It takes something else than before."""
        self.services.clients.changed(self)

    # clients.Link

    @property
    def ref(self) -> IdentityRef:
        """Whose it is."""
        return self._ref

    @property
    def expires_at(self) -> int:
        """When its token expires."""
        return self.client.expires_at(self._prover)

    @property
    def over(self) -> tuple[str, ...]:
        """Over which edge devices it is spoken for."""
        return self._over_devices

    def close(self, reason: str) -> None:
        """End its links, and the connection if nobody else is on it."""
        if not self._over:
            self._over = True
            self.services.clients.detach(self)
            self.client.leave(self, reason)

    def takes_desired(self) -> bool:
        """Tell whether the client has subscribed to desired properties."""
        return self.subscribed is not None

    def desired_changed(self, body: bytes, version: int) -> None:
        """Send a patch of desired properties."""
        link = self.subscribed
        if link is None:
            return
        if link.queued < MAX_QUEUED:
            link.send(messages.encode(desired_changed(body, version)), settled=True)
        else:
            # It reads the whole twin when it comes back.
            self.client.detach(link)

    def takes_methods(self) -> bool:
        """Tell whether the client has both links for methods."""
        return self.methods.whole() is not None

    def takes_method(self, name: str) -> bool:
        """Tell whether a method can be sent now; there is no choice of names."""
        link = self.methods.whole()
        return link is not None and link.queued < MAX_QUEUED

    def invoke_method(self, request_id: int, name: str, payload: bytes) -> None:
        """Send a direct method."""
        link = self.methods.whole()
        if link is not None:
            link.send(method_messages.call(request_id, name, payload), settled=True)

    def takes_messages(self) -> bool:
        """Tell whether the client has a link for cloud-to-device messages."""
        return self.devicebound is not None

    async def deliver(self, bag: str, body: bytes) -> bool:
        """Send a cloud-to-device message; tell whether the client has taken it."""
        return self.devicebound is not None and await self.devicebound.deliver(bag, body)
