"""What an edge hub may know: itself, its modules, and the devices below it, keys included.

An edge hub authenticates modules and leaf devices in the hub's place, also while it is offline, so
at its start it asks for everybody in its device scope. A nested edge device asks on behalf of those
below it and names the chain of devices from there up to itself. Source: edge.md 6.4, 6.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from msgspec import Struct

from muster.errors import ForbiddenError, InvalidArgumentError, NotFoundError
from muster.hub import auth_chains
from muster.model import auth_chain
from muster.model.identity import IdentityRef
from muster.model.paging import key, token

if TYPE_CHECKING:
    from muster.hub.auth_chains import ChainDevice
    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.hub.registry import Device
    from muster.model.auth_chain import AuthChain
    from muster.model.identity import DeviceIdentity, ModuleIdentity
    from muster.store.engine import Engine

DEFAULT_PAGE: Final = 10
MAX_PAGE: Final = 100


class Scope(Struct, rename="camel"):
    """Identities of a device scope; all members are always there, `null` for nothing.

    Attributes:
        devices: with their keys.
        modules: of these devices, with their keys.
        continuation_link: asks for the next page.
    """

    devices: list[DeviceIdentity] | None
    modules: list[ModuleIdentity] | None
    continuation_link: str | None = None


@final
class DeviceScopes:
    """Tells edge hubs who is in their scope.

    Args:
        engine: has the chains.
        identities: the devices.
        modules: their modules.
    """

    def __init__(self, engine: Engine, identities: Identities, modules: Modules) -> None:
        self._engine = engine
        self._identities = identities
        self._modules = modules

    async def page(self, hub: int, device_id: str, size: int, continuation: str) -> Scope:
        """Return an edge device, the devices that have it as their parent, and all their modules.

        Args:
            hub: the hub's number.
            device_id: the edge device.
            size: devices of a page; anything that is no sensible number means 10.
            continuation: from the page before; `''` for the first.

        Raises:
            NotFoundError: code `device-not-found`.
            InvalidArgumentError: codes `invalid-operation` (it is no edge device),
                `invalid-continuation`.
        """
        edge = await self._edge(hub, device_id)
        limit = size if 1 <= size <= MAX_PAGE else DEFAULT_PAGE
        after = key(continuation) if continuation else ""
        devices = await self._identities.in_scope(edge, after, limit + 1)
        shown = devices[:limit]
        modules = await self._modules.of_devices(hub, [each.device_id for each in shown])
        more = token(shown[-1].device_id) if len(devices) > limit else None
        return Scope(shown or None, modules or None, more)

    async def one(self, hub: int, device_id: str, target: IdentityRef) -> Scope:
        """Return one device, or a module with its device, of an edge device's scope.

        Raises:
            NotFoundError: codes `device-not-found`, `module-not-found`; the first also for one
                that is in another scope.
            InvalidArgumentError: it is no edge device; code `invalid-operation`.
        """
        edge = await self._edge(hub, device_id)
        found = await self._identities.find(hub, target.device_id)
        own = found is not None and found.ref == edge.ref
        if found is None or not (own or found.parent_scope == edge.scope):
            raise _not_in_scope(target.device_id)
        modules = [await self._modules.get(target)] if target.module_id else None
        return Scope([await self._identities.get(hub, target.device_id)], modules)

    async def check_chain(self, hub: int, chain: str, actor: str) -> str:
        """Check that each device of a chain is below the next, and return the first one.

        Args:
            hub: the hub's number.
            chain: device IDs joined by `;`, up to the one that asks; empty for that one alone.
            actor: the device that asks.

        Raises:
            ForbiddenError: the chain does not lead from the first to the actor; code
                `not-in-scope`.
            InvalidArgumentError: it is no chain; code `malformed-auth-chain`.
        """
        asked, _ = await self._chain(hub, chain or actor, actor)
        return asked.devices[0]

    async def target(self, hub: int, chain: str, actor: str) -> str:
        """Check that an edge device may act for the first device of a chain, and return that one.

        It may not act for itself: that takes the device's own key.

        Raises:
            ForbiddenError: the chain does not lead from another device up to the actor, or one of
                its devices is disabled; codes `not-in-scope`, `edge-device-disabled`.
            InvalidArgumentError: it is no chain; code `malformed-auth-chain`.
        """
        asked, known = await self._chain(hub, chain, actor)
        if len(asked.devices) == 1:
            raise _broken(actor)
        disabled = next((each for each in asked.devices if not known[each].enabled), None)
        if disabled is not None:
            raise ForbiddenError(
                f"The device '{disabled}' is disabled.",
                code="edge-device-disabled",
                subject=disabled,
            )
        return asked.devices[0]

    async def _chain(
        self, hub: int, chain: str, actor: str
    ) -> tuple[AuthChain, dict[str, ChainDevice]]:
        asked = auth_chain.parse(chain)
        known = await auth_chains.read(self._engine, hub, asked)
        if asked.actor != actor or auth_chains.broken_link(asked, known) is not None:
            raise _broken(actor)
        return asked, known

    async def _edge(self, hub: int, device_id: str) -> Device:
        found = await self._identities.find(hub, device_id)
        if found is None:
            raise _not_in_scope(device_id)
        if not found.iot_edge:
            raise InvalidArgumentError(
                f"The device '{device_id}' is no IoT Edge device.",
                code="invalid-operation",
                subject=device_id,
            )
        return found


def _broken(actor: str) -> ForbiddenError:
    return ForbiddenError(
        "authChain does not lead from its first device up to the one that asks.",
        code="not-in-scope",
        subject=actor,
    )


def _not_in_scope(device_id: str) -> NotFoundError:
    return NotFoundError(
        f"The device '{device_id}' is not registered in this scope.",
        code="device-not-found",
        subject=device_id,
    )
