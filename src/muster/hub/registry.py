"""What devices and modules share: the stored device, generation IDs, the registry's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, Struct

from muster.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionFailedError,
    UnauthorizedError,
)
from muster.model.identity import (
    Capabilities,
    DeviceIdentity,
    IdentityRef,
    Status,
    device_scope,
    wire_time,
)
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.credentials import Credentials
    from muster.hub.presence import Presence

SQL: Final = load("identities")

ATTEMPTS: Final = 8
"""Times an update is tried against others that change the same thing."""

CERTIFICATE_WITHDRAWN: Final = "a certificate of the identity was withdrawn"
"""Why connections are closed when a thumbprint goes."""

_TICKS_PER_S: Final = 10_000_000
_TICKS_AT_UNIX_EPOCH: Final = 621_355_968_000_000_000


class LostRaceError(ConflictError):
    """Somebody changed the identity between reading and writing; read again."""

    default_code = "concurrent-update"


class Device(Struct):
    """A device as it is stored."""

    ref: IdentityRef
    generation_id: str
    etag: str
    enabled: bool
    status_reason: str | None
    status_updated_at: float
    credentials: Credentials
    iot_edge: bool
    parent_scope: str | None

    @property
    def scope(self) -> str | None:
        """The device scope: its own for an edge device, its parent's for a leaf."""
        if self.iot_edge:
            return device_scope(self.ref.device_id, self.generation_id)
        return self.parent_scope

    def to_wire(self, presence: Presence, messages: int = 0) -> DeviceIdentity:
        """Return what the service API shows.

        Args:
            presence: of its connection.
            messages: how many cloud-to-device messages wait for it.
        """
        return DeviceIdentity(
            device_id=self.ref.device_id,
            generation_id=self.generation_id,
            etag=self.etag,
            connection_state=presence.state,
            status=Status.ENABLED if self.enabled else Status.DISABLED,
            status_reason=self.status_reason,
            connection_state_updated_time=wire_time(presence.state_updated_at),
            status_updated_time=wire_time(self.status_updated_at),
            last_activity_time=wire_time(presence.last_activity_at),
            cloud_to_device_message_count=messages,
            authentication=self.credentials.to_wire(),
            capabilities=Capabilities(self.iot_edge),
            device_scope=self.scope or UNSET,
            parent_scopes=[self.parent_scope] if self.parent_scope else [],
        )


class GenerationIds:
    """Makes generation IDs: decimal ticks, as real hubs', never the same twice on one node."""

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0

    def next(self) -> str:
        """Return a fresh one."""
        ticks = int(self._clock.time() * _TICKS_PER_S) + _TICKS_AT_UNIX_EPOCH
        self._last = max(ticks, self._last + 1)
        return str(self._last)


def removal(names: dict[str, str | int]) -> list[Statement]:
    """Return the steps that delete what belongs to a device besides its own row."""
    return [
        Statement(SQL["delete_modules"], names),
        Statement(SQL["delete_twins"], names),
        Statement(SQL["delete_presences"], names),
        Statement(SQL["delete_sessions"], names),
        Statement(SQL["delete_deliveries"], names),
        Statement(SQL["delete_removals"], names),
        Statement(SQL["delete_messages"], names),
        Statement(SQL["delete_feedback"], names),
    ]


def device_not_found(device_id: str) -> NotFoundError:
    """Return the error for a device that is not there."""
    return NotFoundError(
        f"The device '{device_id}' is not registered.",
        code="device-not-found",
        subject=device_id,
    )


def etag_mismatch(subject: str) -> PreconditionFailedError:
    """Return the error for an If-Match that does not match."""
    return PreconditionFailedError(
        "Precondition failed: Invalid ETag", code="etag-mismatch", subject=subject
    )


def require_if_match(if_match: str | None) -> str:
    """Return the If-Match header of a call that must have one (hub-service.md 1.1 row 4).

    Raises:
        InvalidArgumentError: it is missing; code `if-match-missing`.
    """
    if not if_match:
        raise InvalidArgumentError(
            "The If-Match header is required: an etag, or * for any.", code="if-match-missing"
        )
    return if_match


def system_module_refused(module_id: str) -> UnauthorizedError:
    """Return the error for making or deleting `$edgeAgent` or `$edgeHub` by hand."""
    return UnauthorizedError(
        f"The system module '{module_id}' comes and goes with the IoT Edge capability.",
        code="system-module",
        subject=module_id,
    )
