"""Edge devices and what is below them: scopes, parents, children (hub-service.md 1.2).

A leaf or a nested edge device names its parent by the parent's device scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from muster.errors import InvalidArgumentError
from muster.hub.registry import SQL
from muster.model.identity import device_scope, parse_device_scope
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.hub.registry import Device
    from muster.model.identity import DeviceRequest
    from muster.store.engine import Engine

MAX_LAYERS: Final = 100
"""Edge devices above each other. Azure stops at 5; this only bounds the walk."""


def wanted_parent(device: Device, request: DeviceRequest) -> str | None:
    """Return the scope of the parent a request asks for, and the present one if it does not.

    A leaf names its parent in `deviceScope` (empty: none) or `parentScopes`, an edge device in
    `parentScopes` only: its `deviceScope` is its own. Tools send back everything they read, so
    of two statements the one that differs from the present is the one that was meant.

    Raises:
        InvalidArgumentError: more than one parent; code `invalid-device-scope`.
    """
    present = device.parent_scope
    own = device_scope(device.ref.device_id, device.generation_id)
    by_scope = present
    if (
        not device.iot_edge
        and isinstance(request.device_scope, str)
        and request.device_scope != own
    ):
        by_scope = request.device_scope or None
    if by_scope != present:
        return by_scope
    if isinstance(request.parent_scopes, list):
        if len(request.parent_scopes) > 1:
            raise InvalidArgumentError(
                "A device has at most one parent.", code="invalid-device-scope"
            )
        named = request.parent_scopes[0] or None if request.parent_scopes else None
        # A leaf whose deviceScope names a parent may leave parentScopes empty.
        if named is None and not device.iot_edge and request.device_scope == present:
            return present
        return named
    return present


async def parent_checks(engine: Engine, device: Device) -> list[Statement]:
    """Return the steps that make a write fail when the parent is not what it should be.

    Raises:
        InvalidArgumentError: the device would be below itself; code `invalid-device-scope`. The
            same when the steps find that the parent is no edge device of this hub.
    """
    if device.parent_scope is None:
        return []
    ref = device.ref
    parent_id, generation_id = parse_device_scope(device.parent_scope)
    wrong = InvalidArgumentError(
        f"The device scope '{device.parent_scope}' is not that of an edge device of this hub.",
        code="invalid-device-scope",
        subject=ref.device_id,
    )
    circular = InvalidArgumentError(
        f"The device '{ref.device_id}' cannot be below itself.",
        code="invalid-device-scope",
        subject=ref.device_id,
    )
    if parent_id == ref.device_id:
        raise circular
    above: str | None = device.parent_scope if device.iot_edge else None
    for _ in range(MAX_LAYERS):
        if above is None:
            break
        above_id, _generation = parse_device_scope(above)
        if above_id == ref.device_id:
            raise circular
        rows = await engine.read(SQL["parent_of"], {"hub": ref.hub, "device_id": above_id})
        above = cast("str | None", rows[0][2]) if rows else None
    return [
        Statement(
            SQL["hold_scope"],
            {"hub": ref.hub, "device_id": parent_id, "generation_id": generation_id},
            expect=1,
            otherwise=wrong,
        )
    ]


async def check_childless(engine: Engine, device: Device) -> None:
    """Check that nothing is below an edge device.

    Raises:
        InvalidArgumentError: something is; code `invalid-operation`.
    """
    rows = await engine.read(SQL["first_child"], {"hub": device.ref.hub, "scope": device.scope})
    if rows:
        raise InvalidArgumentError(
            f"The device '{device.ref.device_id}' still has children, for example "
            f"'{cast('str', rows[0][0])}'; take them away before the IoT Edge capability.",
            code="invalid-operation",
            subject=device.ref.device_id,
        )


def orphan_children(device: Device, etag: str) -> Statement:
    """Return the step that takes an edge device's children from it.

    Args:
        device: the edge device.
        etag: what the children's etags become.
    """
    return Statement(
        SQL["orphan_children"],
        {
            "hub": device.ref.hub,
            "scope": device.scope,
            "etag": etag,
        },
    )
