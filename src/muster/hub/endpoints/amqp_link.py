"""What stands between the AMQP frame of the hub and those who serve its links.

A `LinkService` knows some addresses and decides about each attach; the `LinkHandler` it returns is
told what comes over that one link. `hub_plane` has the table of all services; `amqp_client` is the
frame that asks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from muster.hub.authentication import RefusedError
from muster.net import amqp_links
from muster.wire.amqp.link import ReceivingLink

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_client import AmqpClient
    from muster.hub.endpoints.amqp_grants import Grant
    from muster.wire.amqp.addresses import Address
    from muster.wire.amqp.link import Link


class LinkHandler(amqp_links.LinkHandler):
    """One attached link.

    Attributes:
        grant: what the link was allowed by; the frame detaches it when that expires. `None` when
            somebody else looks after that.
        auxiliary: nobody would keep a connection for this link alone.
    """

    grant: Grant | None = None
    auxiliary: bool = False


class LinkService(Protocol):
    """Serves the links of some addresses."""

    def takes(self, link: Link, address: Address) -> bool:
        """Tell whether this link is this service's business. The first in the table has it.

        Args:
            link: `ReceivingLink` when the client sends, `SendingLink` when it receives.
            address: of the target, or of the source.
        """

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Call `link.accept` at the very end and return the link's handler, or raise.

        Whoever is to be refused is refused by raising; nothing else detaches a link before it has
        a handler. The client may be gone when this returns: `detached` follows then.

        Raises:
            RefusedError: the client may not; recorded in the decision log by the frame.
            MusterError: it cannot be.
        """


@final
class _NoAddress:
    """Has what nobody else takes."""

    def takes(self, link: Link, address: Address) -> bool:
        """Tell that it takes everything."""
        return True

    async def attach(self, client: AmqpClient, link: Link, address: Address) -> LinkHandler:
        """Refuse."""
        if address.match("*/registrations/*") is not None:
            # With a certificate devices come to the provisioning service without SASL, and it
            # takes none (dps.md 1.4). They are told that, not that there is no such service.
            raise RefusedError("Unauthorized", "token-missing", address=link.address[:512])
        raise RefusedError(
            "There is no such address.",
            "address-not-found",
            address=link.address[:512],
            role="sender" if isinstance(link, ReceivingLink) else "receiver",
        )


NO_ADDRESS: Final = _NoAddress()
"""The `LinkService` of addresses that stand for nothing."""
