"""MQTT sessions: which subscriptions an identity may have, and keeping them.

The SDKs connect with CleanSession 0 and do not subscribe again after a reconnect, so a lost
subscription means a device that is deaf without knowing it (hub-device.md 0.1). Subscriptions are
therefore committed before the SUBACK, and survive disconnects and restarts until the client
unsubscribes, connects with CleanSession 1, or its identity is deleted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import msgspec

from muster.errors import NotFoundError
from muster.model.method import METHOD_NAME
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine

TopicFilters: TypeAlias = dict[str, int]
"""Granted QoS by topic filter."""

TWIN_RESPONSES: Final = "$iothub/twin/res/#"
TWIN_DESIRED: Final = "$iothub/twin/PATCH/properties/desired/#"
METHODS: Final = "$iothub/methods/POST/#"

MAX_FILTERS: Final = 50
"""Filters of one session. Azure documents 5 at a time (hub-device.md 2.2); this is only a bound."""

_SHARED: Final = {text: text for text in (TWIN_RESPONSES, TWIN_DESIRED, METHODS)}
# The documentation also allows the methods of one name.
_ONE_METHOD: Final = re.compile(rf"\$iothub/methods/POST/{METHOD_NAME}(/#?)?")
_SQL: Final = load("mqtt_sessions")
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(TopicFilters).decode


def allowed(ref: IdentityRef, topic_filter: str) -> bool:
    """Tell whether an identity may subscribe to a filter (hub-device.md 2.3)."""
    if topic_filter in _SHARED:
        return True
    if ref.module_id:
        tails: tuple[str, ...] = ("/messages/devicebound/#", "/inputs/#", "/#")
        own = f"devices/{ref.device_id}/modules/{ref.module_id}"
    else:
        tails = ("/messages/devicebound/#",)
        own = f"devices/{ref.device_id}"
    if topic_filter.startswith(own) and topic_filter[len(own) :] in tails:
        return True
    return bool(_ONE_METHOD.fullmatch(topic_filter))


def decode(text: str | None) -> TopicFilters | None:
    """Read the stored form; `None` for a session that holds nothing."""
    return None if text is None else compact(_decode(text))


def compact(filters: TopicFilters) -> TopicFilters | None:
    """Return filters in the form that takes least memory; `None` for none.

    Equal texts become one object: a hundred thousand sessions hold the same three filters.
    """
    return {_SHARED.get(name, name): qos for name, qos in filters.items()} or None


@final
class Subscriptions:
    """The stored sessions.

    Args:
        engine: where they are kept.
    """

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def load(self, ref: IdentityRef) -> TopicFilters | None:
        """Return a session, `None` when it holds nothing."""
        rows = await self._engine.read(_SQL["get"], _key(ref))
        return decode(cast("str", rows[0][0])) if rows else None

    async def save(self, ref: IdentityRef, filters: TopicFilters) -> None:
        """Keep a session; returns when it would survive a crash.

        Raises:
            NotFoundError: the identity was deleted; code `device-not-found`.
        """
        if not filters:
            await self.forget(ref)
            return
        await self._engine.write(
            Statement(
                _SQL["save"],
                {**_key(ref), "subscriptions": _encode(filters).decode()},
                expect=1,
                otherwise=NotFoundError(
                    "The identity does not exist any more",
                    code="device-not-found",
                    subject=ref.text,
                ),
            )
        )

    async def forget(self, ref: IdentityRef) -> None:
        """Drop a session."""
        await self._engine.write(Statement(_SQL["delete"], _key(ref)))


def _key(ref: IdentityRef) -> dict[str, str | int]:
    return {"hub": ref.hub, "device_id": ref.device_id, "module_id": ref.module_id}
