"""The chain over which an edge hub speaks for somebody below it (edge.md 6.4, 6.5).

`{device};{parent};…;{actor}`, each device below the next one, up to the edge device whose
`$edgeHub` speaks; before that, for a module, `{device}/{module}`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from muster.errors import InvalidArgumentError
from muster.ids import check_device_id

MAX_DEVICES: Final = 100
"""Devices of a chain. Azure stops at 5 edge devices; this only bounds the walk."""


class AuthChain(NamedTuple):
    """A chain that is well-formed; whether it holds, the hub knows.

    Attributes:
        identity: who is spoken for, `device` or `device/module`.
        devices: from the identity's own device up to the one that speaks; none twice.
    """

    identity: str
    devices: tuple[str, ...]

    @property
    def actor(self) -> str:
        """The edge device that speaks."""
        return self.devices[-1]

    @property
    def speakers(self) -> tuple[str, ...]:
        """The edge devices that are trusted: all but a device below them, which is spoken for."""
        return self.devices[1:] or self.devices

    @property
    def text(self) -> str:
        """As it is written."""
        names = self.devices if self.identity == self.devices[0] else (self.identity, *self.devices)
        return ";".join(names)


def parse(text: str) -> AuthChain:
    """Read a chain.

    A device whose ID has a `;` in it can be in none.

    Raises:
        InvalidArgumentError: it is none; code `malformed-auth-chain`.
    """
    identity, *above = text.split(";", MAX_DEVICES + 1)
    device_id, slash, module_id = identity.partition("/")
    devices = tuple(above) if slash else (device_id, *above)
    try:
        for name in (device_id, *above, *([module_id] if slash else ())):
            check_device_id(name)
    except InvalidArgumentError:
        raise _malformed("it holds something that is no ID") from None
    if len(devices) > MAX_DEVICES:
        raise _malformed(f"it has more than {MAX_DEVICES} devices")
    if not devices or devices[0] != device_id:
        raise _malformed("a module's own device must come behind it")
    if len(set(devices)) < len(devices):
        raise _malformed("a device is in it twice")
    return AuthChain(identity, devices)


def _malformed(reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"The authentication chain is malformed: {reason}.", code="malformed-auth-chain"
    )
