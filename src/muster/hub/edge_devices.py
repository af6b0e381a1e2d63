"""Edge devices and what is below them: scopes, parents, children (hub-service.md 1.2).

A leaf or a nested edge device names its parent by the parent's device scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from muster.errors import InvalidArgumentError
from muster.hub.registry import SQL
from muster.model.identity import device_scope, parse_device_scope
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.hub.registry import Device
    from muster.model.identity import DeviceRequest
    from muster.store.engine import Engine, Params


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


def parent_checks(device: Device) -> list[Statement]:
    """Return the steps that make a write fail when the parent is not what it should be.

    Whoever else moves devices at the same moment, no device comes to be below itself.

    Raises:
        InvalidArgumentError: the scope is malformed; code `invalid-device-scope`. The same when the
            steps find that the parent is no edge device of this hub, or below the device.
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
    parent: Params = {"hub": ref.hub, "device_id": parent_id}
    return [
        Statement(
            SQL["hold_scope"],
            {**parent, "generation_id": generation_id},
            expect=1,
            otherwise=wrong,
        ),
        Statement(
            SQL["hold_scope_beside"],
            {**parent, "below": ref.device_id},
            expect=1,
            otherwise=circular,
        ),
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
