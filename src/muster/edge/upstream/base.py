"""The port of a session with the hub: one identity, held open for as long as it is wanted.

A session dials, authenticates, renews its token and comes back after a loss by itself, with growing
and random pauses. Its owner is told what changes and never dials.
"""

from __future__ import annotations

import enum
from typing import Any, Protocol, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]


class Link(enum.StrEnum):
    """How a session stands."""

    CONNECTED = "connected"
    UNREACHABLE = "unreachable"
    """No hub to talk to, or none that can be trusted; tried again."""
    REFUSED = "refused"
    """The hub does not know or not accept the identity; tried again, but seldom."""


class Feature(enum.Enum):
    """What an identity can take from the hub besides answers."""

    DESIRED = "desired-property patches"
    METHODS = "direct methods"
    MESSAGES = "cloud-to-device messages"


class NoLinkError(Exception):
    """The session is not connected, or lost its connection before the hub had answered."""


class HubError(Exception):
    """The hub has answered with an error.

    Attributes:
        status: its status, 400 to 599.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message in either direction.

    Attributes:
        bag: property bag as on the wire, system properties included (hub-device.md 2.4).
        body: content.
    """

    bag: str = ""
    body: bytes = b""


class Owner(Protocol):
    """Who wanted the session. Calls come from the event loop and must not block."""

    def link_changed(self, link: Link, detail: str) -> None:
        """Note how the session stands; `detail` says why, for people."""

    def desired_changed(self, patch: JsonObject) -> None:
        """Take a desired-property patch, `$version` included."""

    async def method(self, name: str, payload: Any) -> tuple[int, Any]:
        """Answer a direct method: status and payload. Several may be asked for at a time."""

    async def message(self, message: Message) -> None:
        """Take a cloud-to-device message; it is completed when this returns.

        Messages come one after the other. An exception means that it was not taken: the connection
        is made anew, and the hub delivers it again. It is cancelled when the connection ends, for
        the same reason.
        """


class Session(Protocol):
    """A session with the hub."""

    @property
    def link(self) -> Link:
        """How it stands."""

    def open(self) -> None:
        """Begin; at once and without waiting for the hub."""

    async def close(self) -> None:
        """End in good order."""

    def want(self, features: frozenset[Feature]) -> None:
        """Take these from now on, and no others: the hub tells its callers what is not wanted."""

    def hurry(self) -> None:
        """Try again now where it waits before the next attempt: something has changed."""

    async def twin(self) -> JsonObject:
        """Return `{"desired": {…}, "reported": {…}}`, each with its `$version`, a whole number.

        Raises:
            NoLinkError: see there.
            HubError: the hub refuses, or answers with something that is no twin (502).
        """

    async def report(self, patch: JsonObject) -> None:
        """Patch reported properties; returns when the hub has them.

        Raises:
            NoLinkError: see there; the hub may have them or not.
            HubError: the hub refuses.
        """

    async def send(self, message: Message) -> None:
        """Send telemetry; returns when the hub has it. Calls overlap, and keep their order.

        Raises:
            NoLinkError: see there; the hub may have it or not.
            HubError: no hub would take it: 413 for one over 256 KiB, 400 for properties that MQTT
                cannot carry. Sending it again would not help.
        """
