"""Links that belong together, one each way: those of methods and of twins (hub-device.md 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from muster.wire.amqp.link import SendingLink

if TYPE_CHECKING:
    from muster.wire.amqp.link import Link

_CHANNEL: Final = "com.microsoft:channel-correlation-id"


@final
class Pairs:
    """The links of one purpose of one identity, by the channel they name; newer ones first."""

    __slots__ = ("_answers", "_requests")

    def __init__(self) -> None:
        self._requests: list[Link] = []
        self._answers: list[SendingLink] = []

    def add(self, link: Link) -> None:
        """Take one more link."""
        if isinstance(link, SendingLink):
            self._answers.insert(0, link)
        else:
            self._requests.insert(0, link)

    def remove(self, link: Link) -> None:
        """Forget a link; harmless if it is not here."""
        if isinstance(link, SendingLink):
            if link in self._answers:
                self._answers.remove(link)
        elif link in self._requests:
            self._requests.remove(link)

    def whole(self) -> SendingLink | None:
        """Return the link to the client of the newest pair that is whole."""
        channels = {channel(link) for link in self._requests}
        return next((link for link in self._answers if channel(link) in channels), None)

    def beside(self, request: Link) -> SendingLink | None:
        """Return the link to the client that belongs to one from it."""
        own = channel(request)
        return next((link for link in self._answers if channel(link) == own), None)


def channel(link: Link) -> str:
    """Return the channel that a link names; `''` for none."""
    return str(link.properties.get(_CHANNEL) or "")
