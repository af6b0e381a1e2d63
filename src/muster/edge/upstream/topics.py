"""The topics of a hub as a device or module sees them (hub-device.md 2.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from muster.edge.upstream.base import Feature

if TYPE_CHECKING:
    from muster.edge.upstream.login import Login

TWIN_GET: Final = "$iothub/twin/GET/?$rid={}"
REPORTED: Final = "$iothub/twin/PATCH/properties/reported/?$rid={}"
METHOD_ANSWER: Final = "$iothub/methods/res/{}/?$rid={}"

_TWIN_ANSWERS: Final = "$iothub/twin/res/"
_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/"
_METHODS: Final = "$iothub/methods/POST/"
_TWIN_ANSWER: Final = re.compile(re.escape(_TWIN_ANSWERS) + r"([0-9]{3})/\?\$rid=([^&]+)(?:&.*)?")
_METHOD: Final = re.compile(re.escape(_METHODS) + r"([^/]+)/\?\$rid=([^&]+)(?:&.*)?")


class TwinAnswer(NamedTuple):
    """The hub answers a request about the twin."""

    status: int
    request_id: str


class MethodCall(NamedTuple):
    """The hub calls a direct method."""

    name: str
    request_id: str


class CloudMessage(NamedTuple):
    """The hub delivers a message with these properties."""

    bag: str


class DesiredPatch(NamedTuple):
    """The hub says what has changed in the desired properties."""


Incoming: TypeAlias = TwinAnswer | MethodCall | CloudMessage | DesiredPatch


def telemetry(login: Login, bag: str) -> str:
    """Return the topic of telemetry with these properties."""
    return f"{login.path}/messages/events/{bag}"


def filters(login: Login, features: frozenset[Feature]) -> dict[str, int]:
    """Return what to subscribe to, with QoS. The twin's answers are always wanted."""
    wanted = {f"{_TWIN_ANSWERS}#": 1}
    if Feature.DESIRED in features:
        wanted[f"{_DESIRED}#"] = 1
    if Feature.METHODS in features:
        wanted[f"{_METHODS}#"] = 1
    if Feature.MESSAGES in features:
        tail = "/messages/devicebound/#" if login.module_id is None else "/#"
        wanted[f"{login.path}{tail}"] = 1
    return wanted


def read(login: Login, topic: str) -> Incoming | None:
    """Return what the hub says; `None` for something that is none of it."""
    if topic.startswith(_TWIN_ANSWERS):
        found = _TWIN_ANSWER.fullmatch(topic)
        return None if found is None else TwinAnswer(int(found[1]), found[2])
    if topic.startswith(_DESIRED):
        return DesiredPatch()
    if topic.startswith(_METHODS):
        found = _METHOD.fullmatch(topic)
        return None if found is None else MethodCall(found[1], found[2])
    devicebound = f"{login.path}/messages/devicebound/"
    return CloudMessage(topic[len(devicebound) :]) if topic.startswith(devicebound) else None
