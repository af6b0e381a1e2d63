"""The identities of this device's modules: the hub's, remembered for when it is away (edge.md 2.5).

Their keys are derived from a key that never leaves the device, so the hub is told them and nothing
is lost when it is replaced: what is remembered is only which modules there are.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Final, final

import msgspec
import structlog

from muster.edge.identity import ModuleIdentity
from muster.edge.upstream.authentication import Keys
from muster.edge.upstream.base import HubError, NoLinkError
from muster.edge.upstream.errors import NonsenseError, RefusedError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.edge.identity import DeviceIdentity
    from muster.edge.state import StateDirectory
    from muster.edge.upstream.modules import HubModules, RemoteModule

_FILE: Final = "modules.json"
_log = structlog.get_logger(__name__)


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """A module that the hub had."""

    module_id: str
    generation_id: str
    managed_by: str = ""


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds: the modules of one device of one hub."""

    hub_host: str
    device_id: str
    modules: list[_Known]


def derive(master_key: bytes, module_id: str, generation_id: str, which: str) -> bytes:
    """Return a key of a module, 32 raw bytes (edge.md 2.4).

    Args:
        master_key: of this device.
        module_id: of the module.
        generation_id: of its identity: one that is made anew has other keys.
        which: `primary` or `secondary`.
    """
    text = f"{module_id}:{generation_id}:{which}"
    return hmac.digest(master_key, text.encode(), "sha256")


@final
class RememberedModules:
    """Implements `identity.ModuleIdentities`. Belongs to the running event loop.

    Args:
        device: whose modules.
        hub: where they are.
        state: where they are remembered.
        master_key: `StateDirectory.master_key`.
        refused: called when the hub decides against the device, with its words.
    """

    def __init__(
        self,
        device: DeviceIdentity,
        hub: HubModules,
        *,
        state: StateDirectory,
        master_key: bytes,
        refused: Callable[[str], None],
    ) -> None:
        self._device = device
        self._hub = hub
        self._state = state
        self._master_key = master_key
        self._refused = refused
        self._known = self._load()
        self._writing = asyncio.Lock()

    async def all(self) -> list[ModuleIdentity]:
        """Return the hub's identities of this device; those last known while it is away.

        Raises:
            HubError: the hub refuses.
        """
        others: set[str] = set()
        try:
            found = await self._hub.all()
        except (UnreachableError, NonsenseError) as error:
            _log.warning("the modules last known are used", reason=error.message)
        except RefusedError as error:
            raise self._no(error) from None
        else:
            others = {each.module_id for each in found if each.keys != self._keys(each)}
            await self._remember({module.module_id: _known(module) for module in found})
        return [
            msgspec.structs.replace(self._identity(known), is_current=module_id not in others)
            for module_id, known in self._known.items()
        ]

    def known(self, module_id: str) -> ModuleIdentity | None:
        """Return the identity last known, without asking anybody; `None` where there was none."""
        known = self._known.get(module_id)
        return None if known is None else self._identity(known)

    async def ensure(self, module_id: str) -> ModuleIdentity:
        """Make an identity, or bring it up to date; the one last known while the hub is away.

        Raises:
            HubError: the hub refuses.
            NoLinkError: it is away, and there was no such module.
        """
        try:
            found = await self._hub.get(module_id) or await self._hub.create(module_id)
            keys = self._keys(found)
            if found.keys != keys:
                found = await self._hub.set_keys(found, keys)
        except (UnreachableError, NonsenseError) as error:
            known = self._known.get(module_id)
            if known is None:
                raise NoLinkError(error.message) from None
            return self._identity(known)
        except RefusedError as error:
            raise self._no(error) from None
        await self._remember({**self._known, module_id: _known(found)})
        return self._identity(self._known[module_id])

    async def remove(self, module_id: str) -> None:
        """Delete an identity; nothing if there is none.

        Raises:
            HubError: the hub refuses.
            NoLinkError: it is away.
        """
        try:
            await self._hub.delete(module_id)
        except (UnreachableError, NonsenseError) as error:
            raise NoLinkError(error.message) from None
        except RefusedError as error:
            raise self._no(error) from None
        await self._remember(
            {name: known for name, known in self._known.items() if name != module_id}
        )

    # Within.

    def _no(self, error: RefusedError) -> HubError:
        if error.is_final:
            self._refused(error.message)
        return HubError(error.message, error.status)

    def _keys(self, module: RemoteModule) -> Keys:
        return Keys.of(
            *(
                derive(self._master_key, module.module_id, module.generation_id, which)
                for which in ("primary", "secondary")
            )
        )

    def _identity(self, known: _Known) -> ModuleIdentity:
        key = derive(self._master_key, known.module_id, known.generation_id, "primary")
        return ModuleIdentity(
            module_id=known.module_id,
            generation_id=known.generation_id,
            managed_by=known.managed_by,
            key=key,
        )

    def _load(self) -> dict[str, _Known]:
        memory = self._state.read(_FILE, _Memory)
        if memory is None or (memory.hub_host.lower(), memory.device_id) != (
            self._device.hub_host.lower(),
            self._device.device_id,
        ):
            return {}
        return {known.module_id: known for known in memory.modules}

    async def _remember(self, known: dict[str, _Known]) -> None:
        self._known = known
        async with self._writing:
            memory = _Memory(
                hub_host=self._device.hub_host,
                device_id=self._device.device_id,
                modules=[self._known[name] for name in sorted(self._known)],
            )
            try:
                await asyncio.to_thread(self._state.write, _FILE, memory)
            except OSError as error:
                _log.warning("the modules cannot be remembered", reason=str(error))


def _known(module: RemoteModule) -> _Known:
    return _Known(
        module_id=module.module_id,
        generation_id=module.generation_id,
        managed_by=module.managed_by or "",
    )
