"""Whether an edge device may speak for an identity below it (edge.md 6.4, 6.5)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec
from msgspec import Struct

from muster.hub.registry import SQL
from muster.model.identity import EDGE_HUB, device_scope

if TYPE_CHECKING:
    from muster.model.auth_chain import AuthChain
    from muster.store.engine import Engine

_Row: TypeAlias = tuple[str, str, int, int, str | None, str | None, bytes | None]


class ChainDevice(Struct, frozen=True):
    """A device of a chain, with what proves its `$edgeHub`.

    Attributes:
        scope: its own device scope; `None` when it is no edge device.
        parent_scope: that of the device above it; `None` for none.
        enabled: whether it may connect.
        auth_type: of its `$edgeHub`; `None` when that is not asked for or not there.
        keys: likewise, sealed.
    """

    scope: str | None
    parent_scope: str | None
    enabled: bool
    auth_type: str | None
    keys: bytes | None


async def read(engine: Engine, hub: int, chain: AuthChain) -> dict[str, ChainDevice]:
    """Return those devices of a chain that there are: one read."""
    parameters: dict[str, str | int] = {
        "hub": hub,
        "device_ids": msgspec.json.encode(chain.devices).decode(),
        "actor": chain.actor,
        "module_id": EDGE_HUB,
    }
    rows = cast("list[_Row]", await engine.read(SQL["chain"], parameters))
    return {
        device_id: ChainDevice(
            device_scope(device_id, generation_id) if iot_edge else None,
            parent_scope,
            bool(enabled),
            auth_type,
            keys,
        )
        for device_id, generation_id, enabled, iot_edge, parent_scope, auth_type, keys in rows
    }


def broken_link(chain: AuthChain, known: dict[str, ChainDevice]) -> tuple[str, str] | None:
    """Return the first device of a chain that is not below the next one, and that one."""
    for lower, upper in pairwise(chain.devices):
        below, above = known.get(lower), known.get(upper)
        if below is None or above is None or above.scope is None:
            return lower, upper
        if below.parent_scope != above.scope:
            return lower, upper
    return None


def disabled_speaker(chain: AuthChain, known: dict[str, ChainDevice]) -> str | None:
    """Return the first edge device of a chain that may not speak, being disabled."""
    return next(
        (each for each in chain.speakers if each in known and not known[each].enabled), None
    )
