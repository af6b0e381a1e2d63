"""New symmetric keys for many identities in one call (hub-service.md 1.1 row 6).

Every identity succeeds or fails by itself, as in the bulk registry.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from msgspec import Struct

from muster.errors import InvalidArgumentError, MusterError
from muster.hub.bulk import MAX_ENTRIES, named_twice
from muster.model.identity import (
    Authentication,
    AuthenticationType,
    DeviceRequest,
    IdentityRef,
    ModuleRequest,
    SymmetricKey,
)

if TYPE_CHECKING:
    from muster.hub.identities import Identities
    from muster.hub.modules import Modules
    from muster.ids import Randomness

# Which keys each `policyKey` renews: primary, secondary.
_POLICY_KEYS: Final = {
    "primarykey": (True, False),
    "secondarykey": (False, True),
    "both": (True, True),
}


class KeyEntry(Struct, rename="camel"):
    """A device, or with `module_id` a module, whose keys are to be renewed."""

    id: str
    module_id: str | None = None


class KeyRequest(Struct, rename="camel"):
    """The body: which keys (`primaryKey`, `secondaryKey`, `both`) of which identities."""

    policy_key: str
    devices: list[KeyEntry]


@final
class KeyRegeneration:
    """Renews keys."""

    def __init__(self, identities: Identities, modules: Modules, randomness: Randomness) -> None:
        self._identities = identities
        self._modules = modules
        self._randomness = randomness

    async def run(self, hub: int, request: KeyRequest) -> list[MusterError | None]:
        """Renew keys. Who is connected with an old one stays until its token expires.

        Returns:
            For each entry why it failed, `None` when its new keys are stored.

        Raises:
            InvalidArgumentError: codes `invalid-policy-key`, `empty-bulk`, `too-many-devices`.
        """
        renewed = _POLICY_KEYS.get(request.policy_key.lower())
        if renewed is None:
            raise InvalidArgumentError(
                "policyKey must be 'primaryKey', 'secondaryKey' or 'both'.",
                code="invalid-policy-key",
            )
        entries = request.devices
        if not entries:
            raise InvalidArgumentError("The list of devices is empty.", code="empty-bulk")
        if len(entries) > MAX_ENTRIES:
            raise InvalidArgumentError(
                f"The keys of at most {MAX_ENTRIES} identities can be renewed at once, "
                f"not of {len(entries)}.",
                code="too-many-devices",
            )
        barred = named_twice((entry.id, entry.module_id) for entry in entries)
        return await asyncio.gather(
            *(
                self._guarded(hub, entry, renewed, error)
                for entry, error in zip(entries, barred, strict=True)
            )
        )

    async def _guarded(
        self, hub: int, entry: KeyEntry, renewed: tuple[bool, bool], barred: MusterError | None
    ) -> MusterError | None:
        if barred is not None:
            return barred
        try:
            await self._renew(IdentityRef(hub, entry.id, entry.module_id or ""), renewed)
        except MusterError as error:
            return error
        return None

    async def _renew(self, ref: IdentityRef, renewed: tuple[bool, bool]) -> None:
        # A key that is not given is kept.
        primary, secondary = (self._randomness.key() if each else None for each in renewed)
        own = Authentication(SymmetricKey(primary, secondary), None, AuthenticationType.SAS)
        if ref.module_id:
            module = await self._modules.get(ref)
            _check_sas(ref, module.authentication)
            await self._modules.update(ref, ModuleRequest(authentication=own), module.etag)
            return
        device = await self._identities.get(ref.hub, ref.device_id)
        _check_sas(ref, device.authentication)
        request = DeviceRequest(authentication=own)
        await self._identities.update(ref.hub, ref.device_id, request, device.etag)


def _check_sas(ref: IdentityRef, authentication: Authentication) -> None:
    if authentication.type != AuthenticationType.SAS:
        raise InvalidArgumentError(
            f"The identity authenticates with '{authentication.type}' and has no symmetric keys.",
            code="invalid-operation",
            subject=ref.text,
        )
