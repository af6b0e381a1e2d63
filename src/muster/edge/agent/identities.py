"""The identities of modules as the agent knows them (edge.md 5.3).

They are looked up in the background: nothing that runs waits for the hub.
"""

from __future__ import annotations

from typing import Final

from muster.edge.identity import ModuleIdentities, ModuleIdentity

_OURS: Final = "iotedge"
"""`managedBy` of identities that come and go with modules, in any case of letters."""


class KnownIdentities:
    """What was last heard of identities, and how more is heard."""

    def __init__(self, identities: ModuleIdentities) -> None:
        self._identities: Final = identities
        self._known: dict[str, ModuleIdentity] = {}
        self._ensured: set[str] = set()

    def began_deployment(self) -> None:
        """Note that another deployment is in force: its identities are seen to once more."""
        self._ensured.clear()

    def get(self, module_id: str) -> ModuleIdentity | None:
        """Return an identity without asking anybody; `None` if it was never heard of."""
        return self._known.get(module_id)

    async def look_up(self) -> None:
        """Hear of all of them.

        Raises:
            HubError: see `ModuleIdentities`.
            NoLinkError: likewise.
        """
        self._known = {one.module_id: one for one in await self._identities.all()}
        self._ensured &= {module_id for module_id, one in self._known.items() if one.is_current}

    async def ensure(self, module_id: str) -> bool:
        """See that there is one with this device's keys, once in a deployment.

        Returns:
            Whether it is another one than was known.

        Raises:
            HubError: see `ModuleIdentities`.
            NoLinkError: likewise.
        """
        if module_id in self._ensured:
            return False
        before = self._known.get(module_id)
        identity = await self._identities.ensure(module_id)
        self._known[module_id] = identity
        self._ensured.add(module_id)
        return identity != before

    def may_delete(self, module_id: str) -> bool:
        """Tell whether an identity is known and one that devices or deployments made.

        Those that somebody made through the hub are not the device's to delete.
        """
        identity = self._known.get(module_id)
        return identity is not None and identity.managed_by.lower() == _OURS

    async def remove(self, module_id: str) -> None:
        """Delete one.

        Raises:
            HubError: see `ModuleIdentities`.
            NoLinkError: likewise.
        """
        await self._identities.remove(module_id)
        self._known.pop(module_id, None)
        self._ensured.discard(module_id)
