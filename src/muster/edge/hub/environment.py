"""What the environment of `edgeHub` in a deployment changes (edge.md 6.3).

Names count in any case, as they do for the official edge hub, which is a container and reads its
environment once: here the edge hub begins anew when something that counts has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.edge.hub.edge_hub import HubSettings

MOST_CLIENTS: Final = 10_000
_LAST_PORT: Final = 65_535
_SWITCHES: Final = {"true": True, "false": False}
_HEADS: Final = {
    "mqttsettings": "mqtt_port",
    "amqpsettings": "amqp_port",
    "httpsettings": "https_port",
}
_CLIENTS: Final = "maxconnectedclients"


class Environment(Struct, frozen=True):
    """What was read.

    Attributes:
        settings: of the edge hub.
        wrong: sentences about values that cannot be used; what they were for stays as it was.
        unused: names that change nothing here, as the deployment spells them.
    """

    settings: HubSettings
    wrong: tuple[str, ...]
    unused: tuple[str, ...]


def read(env: Mapping[str, str], settings: HubSettings) -> Environment:
    """Return what an environment makes of the settings of the device's own file."""
    changes: dict[str, int | None] = {}
    closed: set[str] = set()
    wrong: list[str] = []
    unused: list[str] = []
    for name, value in env.items():
        head, _, member = name.lower().partition("__")
        field = _HEADS.get(head, "")
        text = value.strip().lower()
        if field and member == "enabled":
            if text not in _SWITCHES:
                wrong.append(f"{name} must be true or false")
            elif not _SWITCHES[text]:
                closed.add(field)
        elif (field and member == "port") or name.lower() == _CLIENTS:
            most = _LAST_PORT if field else MOST_CLIENTS
            number = _number(text, most)
            if number is None:
                wrong.append(f"{name} must be a whole number from 1 to {most}")
            else:
                changes[field or "max_clients"] = number
        else:
            unused.append(name)
    changes |= dict.fromkeys(closed)
    return Environment(
        msgspec.structs.replace(settings, **changes), tuple(wrong), tuple(sorted(unused))
    )


def _number(text: str, most: int) -> int | None:
    """Return a whole number from 1 to another one, `None` for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most))):
        return None
    return int(text) if 1 <= int(text) <= most else None
