"""What stands between an AMQP connection and what comes over one of its links."""

from __future__ import annotations

from muster.net import amqp_links


class LinkHandler(amqp_links.LinkHandler):
    """One attached link; see the base class. More credit may mean here that the socket has room."""

    def begin(self) -> None:
        """The link is accepted."""
