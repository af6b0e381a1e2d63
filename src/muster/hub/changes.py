"""What has just changed in a hub, for those who act on it: deployments, routed events.

Published after the commit that made it so, in the order of the commits of one identity, on the node
that made the change. Subscribers run at once, must not block, and must not rely on hearing of
everything: after a crash nobody hears of the last changes, so whoever must act on each of them also
looks at what is stored from time to time.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

import structlog
from msgspec import Struct

if TYPE_CHECKING:
    from muster.model.identity import IdentityRef
    from muster.model.twin import JsonObject, Twin, TwinSection

_log = structlog.get_logger(__name__)


class IdentityEvent(enum.Enum):
    """What became of an identity."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@final
class IdentityChanged(Struct, frozen=True):
    """A device or module came, changed (status, keys, capabilities, parent) or went.

    Attributes:
        ref: which.
        event: what became of it.
        twin: the twin it was created with, or had when it was deleted; `None` for other events.
    """

    ref: IdentityRef
    event: IdentityEvent
    twin: Twin | None = None


@final
class SectionChange(Struct, frozen=True):
    """What was written to the desired or the reported properties of a twin.

    Attributes:
        written: the patch, or with a PUT the document.
        section: as it is now, metadata and version included.
    """

    written: JsonObject
    section: TwinSection


@final
class TwinChanged(Struct, frozen=True):
    """A twin was written.

    Attributes:
        ref: whose.
        version: of the whole twin, after the write.
        tags: what was written to the tags: a patch, or with `replaced` the document; else `None`.
        desired: the change of the desired properties; `None` when there is none.
        reported: the same for the reported properties.
        replaced: it was a PUT.
        twin: the whole twin after the write; `None` when the writer does not have it.
    """

    ref: IdentityRef
    version: int
    tags: JsonObject | None = None
    desired: SectionChange | None = None
    reported: SectionChange | None = None
    replaced: bool = False
    twin: Twin | None = None


@final
class ConnectionChanged(Struct, frozen=True):
    """An identity connected, or its last connection ended. A takeover is neither.

    Attributes:
        ref: which.
        connected: what it is now.
        at: unix seconds.
    """

    ref: IdentityRef
    connected: bool
    at: float


Change: TypeAlias = IdentityChanged | TwinChanged | ConnectionChanged
Subscriber: TypeAlias = Callable[[Change], None]


@final
class Changes:
    """Hands every change to every subscriber. Belongs to one event loop."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call back for every later change, for as long as the service runs."""
        self._subscribers = (*self._subscribers, subscriber)

    def publish(self, change: Change) -> None:
        """Tell all subscribers. Never fails."""
        for subscriber in self._subscribers:
            try:
                subscriber(change)
            except Exception:  # noqa: BLE001 - logged; who made the change must not suffer
                _log.exception("subscriber of changes failed", subject=change.ref.text)
