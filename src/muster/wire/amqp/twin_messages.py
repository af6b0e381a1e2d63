"""Twins on AMQP: what a client asks over one link, and what it is told over the other.

Source: hub-device.md 3.7.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from muster.errors import InvalidArgumentError
from muster.wire.amqp.messages import Data, Message, Properties
from muster.wire.amqp.types import Int

if TYPE_CHECKING:
    from muster.wire.amqp.messages import MessageId

MAX_REQUEST: Final = 128 * 1024
"""Bytes of a request; a section of a twin has 32 KB when it is measured, more as JSON."""

_DESIRED: Final = "/properties/desired"


class TwinOperation(Enum):
    """What a client may ask."""

    GET = auto()
    REPORT = auto()
    SUBSCRIBE = auto()
    UNSUBSCRIBE = auto()


class TwinAnswer(NamedTuple):
    """What it is told.

    Attributes:
        status: as on HTTP.
        body: JSON.
        version: of the reported properties that it wrote.
    """

    status: int
    body: bytes = b""
    version: int | None = None


def operation(request: Message) -> TwinOperation:
    """Return what a request is for.

    Raises:
        InvalidArgumentError: for nothing that there is.
    """
    verb = str(request.message_annotations.get("operation") or "").upper()
    resource = str(request.message_annotations.get("resource") or "").lower()
    match verb, resource:
        case "GET", _:
            return TwinOperation.GET
        case "PATCH", "/properties/reported":
            return TwinOperation.REPORT
        case "PUT", "/notifications/twin/properties/desired":
            return TwinOperation.SUBSCRIBE
        case "DELETE", "/notifications/twin/properties/desired":
            return TwinOperation.UNSUBSCRIBE
    raise InvalidArgumentError("There is no such operation on a twin.", code="invalid-operation")


def expected_version(request: Message) -> int | None:
    """Return the version of the reported properties that a client means to change, if it says."""
    version = request.message_annotations.get("version")
    return int(version) if isinstance(version, int) else None


def answer(said: TwinAnswer, correlation_id: MessageId | None) -> Message:
    """Return the message that answers a request.

    Args:
        said: what to answer.
        correlation_id: of the request, in whatever type it has.
    """
    annotations: dict[Any, Any] = {"status": Int(said.status)}
    if said.version is not None:
        annotations["version"] = said.version
    properties = Properties(correlation_id=correlation_id)
    return Message(Data([said.body]), properties, message_annotations=annotations)


def desired_changed(body: bytes, version: int) -> Message:
    """Return the message that tells of a patch of desired properties."""
    annotations: dict[Any, Any] = {"resource": _DESIRED, "version": version}
    return Message(Data([body]), message_annotations=annotations)
