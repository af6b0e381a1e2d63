"""Digital twins: devices as Plug and Play sees them (hub-service.md 1.1 rows 37-40)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

from muster.hub.twins import TwinProperties, TwinRequest
from muster.model import digital_twin

if TYPE_CHECKING:
    from muster.hub.twins import Twins
    from muster.model.digital_twin import PatchOperation
    from muster.model.identity import IdentityRef
    from muster.model.twin import JsonObject


class DigitalTwin(NamedTuple):
    """A digital twin with the etag of the twin it shows."""

    document: JsonObject
    etag: str


@final
class DigitalTwins:
    """The digital twins of all devices.

    Args:
        twins: what they are a view of.
    """

    __slots__ = ("_twins",)

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    async def get(self, ref: IdentityRef) -> DigitalTwin:
        """Return the digital twin of a device.

        Raises:
            NotFoundError: code `device-not-found`.
        """
        twin = await self._twins.get(ref)
        document = digital_twin.view(ref.device_id, twin.model_id, twin.properties)
        return DigitalTwin(document, twin.etag)

    async def update(
        self, ref: IdentityRef, operations: list[PatchOperation], if_match: str | None
    ) -> str:
        """Apply a JSON patch: its properties become desired ones of the device.

        Returns:
            The etag after the change.

        Raises:
            NotFoundError: code `device-not-found`.
            PreconditionFailedError: the etag is another; code `etag-mismatch`.
            InvalidArgumentError: code `invalid-json-patch`, or a limit of twins is broken.
            ConflictError: too many others change it; code `concurrent-update`.
        """
        twin = await self._twins.get(ref)
        desired = digital_twin.desired_patch(operations, twin.properties)
        request = TwinRequest(properties=TwinProperties(desired))
        return (await self._twins.change(ref, request, if_match)).etag


def method_name(command: str, component: str | None) -> str:
    """Return the direct method that a command is, by the Plug and Play convention."""
    return command if component is None else f"{component}*{command}"
