"""A module as a row, and the steps that make one come and go with its twin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from muster.hub import twin_rows
from muster.hub.registry import SQL
from muster.model.identity import IdentityRef, ModuleIdentity, wire_time
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.auth.keyring import Keyring
    from muster.hub.credentials import Credentials
    from muster.hub.presence import Presence
    from muster.model.twin import Twin


class Module(Struct):
    """A module as it is stored."""

    ref: IdentityRef
    generation_id: str
    etag: str
    managed_by: str | None
    credentials: Credentials

    def to_wire(self, presence: Presence, messages: int = 0) -> ModuleIdentity:
        """Return what the service API shows.

        Args:
            presence: of its connection.
            messages: how many cloud-to-device messages wait for it.
        """
        return ModuleIdentity(
            module_id=self.ref.module_id,
            managed_by=self.managed_by,
            device_id=self.ref.device_id,
            generation_id=self.generation_id,
            etag=self.etag,
            connection_state=presence.state,
            connection_state_updated_time=wire_time(presence.state_updated_at),
            last_activity_time=wire_time(presence.last_activity_at),
            cloud_to_device_message_count=messages,
            authentication=self.credentials.to_wire(),
        )


class ArrivingModule(Struct):
    """A module that comes with its device from another hub.

    Attributes:
        module_id: its ID.
        managed_by: who looks after it.
        credentials: as it had them.
        twin: its twin here.
    """

    module_id: str
    managed_by: str | None
    credentials: Credentials
    twin: Twin


def to_params(keyring: Keyring, module: Module) -> dict[str, str | bytes | int | float | None]:
    """Return the parameters that write a module."""
    return {
        **twin_rows.key(module.ref),
        "generation_id": module.generation_id,
        "etag": module.etag,
        "managed_by": module.managed_by,
        **module.credentials.to_params(keyring, module.ref),
    }


def insertion(
    keyring: Keyring, module: Module, twin: Twin, exists: Exception | None = None
) -> list[Statement]:
    """Return the steps that store a new module with its twin.

    Args:
        keyring: seals its keys.
        module: what to store.
        twin: its twin.
        exists: what a write raises that finds it there already.
    """
    return [
        Statement(SQL["insert_module"], to_params(keyring, module), expect=1, otherwise=exists),
        twin_rows.insert(module.ref, twin),
    ]


def removal(ref: IdentityRef) -> list[Statement]:
    """Return the steps that delete what belongs to a module and, if still there, it."""
    names = twin_rows.key(ref)
    return [
        Statement(SQL["delete_module_if_present"], names),
        Statement(SQL["delete_module_twin"], names),
        Statement(SQL["delete_module_presence"], names),
        Statement(SQL["delete_module_session"], names),
        Statement(SQL["delete_module_deliveries"], names),
        Statement(SQL["delete_module_removals"], names),
        Statement(SQL["delete_module_messages"], names),
    ]
