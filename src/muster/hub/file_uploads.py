"""Files that devices upload: begun, uploaded as a blob, ended, told to back ends.

Sources: hub-device.md 4; hub-service.md 2.3, 3.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast, final

from msgspec import Struct

from muster.auth import blob_token
from muster.auth.blob_token import Target
from muster.errors import ForbiddenError, InvalidArgumentError
from muster.hub.blobs import DEVICE_FILES, SQL, BlobRef, check_name
from muster.hub.service_bound import FileNotification
from muster.model.identity import wire_time
from muster.store.engine import Statement

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.blobs import Blobs
    from muster.hub.service_bound import FileNotifier
    from muster.ids import Randomness
    from muster.model.identity import IdentityRef
    from muster.store.engine import Engine

MAX_UPLOADS: Final = 10
"""Uploads of one device that are under way (hub-device.md, quotas)."""
LIFETIME_S: Final = 3_600.0
"""Seconds a device has for an upload."""
_REMEMBERED_S: Final = 86_400.0
"""Seconds an upload that took too long is told from one that never was."""


class Upload(Struct, rename="camel"):
    """What a device needs for an upload.

    Attributes:
        correlation_id: names it when it is over.
        host_name: of the blob's URL, perhaps with a port.
        container_name: likewise.
        blob_name: likewise, the device's ID in front.
        sas_token: the query of the URL, question mark included.
    """

    correlation_id: str
    host_name: str
    container_name: str
    blob_name: str
    sas_token: str


class Completion(Struct, rename="camel"):
    """What a device says at the end of an upload."""

    correlation_id: str | None = None
    is_success: bool = False
    status_code: Any = None
    status_description: Any = None


@final
class FileUploads:
    """All uploads.

    Args:
        engine: where those under way are kept.
        clock: for their lifetime.
        randomness: for correlation IDs.
        blobs: what is uploaded.
        notifier: tells back ends.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        randomness: Randomness,
        blobs: Blobs,
        notifier: FileNotifier,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._randomness = randomness
        self._blobs = blobs
        self._notifier = notifier

    async def begin(self, device: IdentityRef, blob_name: str, host_name: str) -> Upload:
        """Let a device upload a file.

        Args:
            device: whose.
            blob_name: as the device calls it.
            host_name: by which the device reaches this service.

        Raises:
            InvalidArgumentError: it is no name; code `invalid-blob-name`.
            ForbiddenError: ten of its uploads are under way; code `too-many-uploads`.
        """
        name = check_name(f"{device.device_id}/{blob_name}")
        now = self._clock.time()
        correlation_id = self._randomness.uuid()
        many = ForbiddenError(
            f"The device has {MAX_UPLOADS} uploads under way that it has not ended.",
            code="too-many-uploads",
            subject=device.device_id,
        )
        await self._engine.write(
            Statement(SQL["forget_uploads"], {"before": now - _REMEMBERED_S}),
            Statement(
                SQL["begin_upload"],
                {
                    "correlation_id": correlation_id,
                    "hub": device.hub,
                    "device_id": device.device_id,
                    "name": name,
                    "expires_at": now + LIFETIME_S,
                    "now": now,
                    "most": MAX_UPLOADS,
                },
                expect=1,
                otherwise=many,
            ),
        )
        # The device may look whether its file is there, and write it again when it was cut off.
        permissions = blob_token.READ + blob_token.CREATE + blob_token.WRITE
        target = Target(device.hub, DEVICE_FILES, name)
        token = self._blobs.token(target, permissions, LIFETIME_S)
        return Upload(correlation_id, host_name, DEVICE_FILES, name, f"?{token}")

    async def end(self, device: IdentityRef, completion: Completion, host_name: str) -> None:
        """End an upload; after a successful one, back ends have their notification.

        Args:
            device: whose.
            completion: what it says.
            host_name: of the URL that back ends are told.

        Raises:
            InvalidArgumentError: codes `unknown-upload`, `expired-upload`, and
                `incomplete-upload`: it went well, says the device, but there is no such file.
        """
        correlation_id = completion.correlation_id or ""
        rows = await self._engine.read(
            SQL["upload"],
            {
                "correlation_id": correlation_id,
                "hub": device.hub,
                "device_id": device.device_id,
            },
        )
        unknown = InvalidArgumentError(
            "The device has no such upload under way.", code="unknown-upload"
        )
        if not rows:
            raise unknown
        name, expires_at = cast("tuple[str, float]", rows[0])
        now = self._clock.time()
        if expires_at <= now:
            raise InvalidArgumentError("The upload took too long.", code="expired-upload")
        # Whoever is first ends it: it is told once.
        ending = Statement(
            SQL["end_upload"], {"correlation_id": correlation_id}, expect=1, otherwise=unknown
        )
        if not completion.is_success:
            await self._engine.write(ending)
            return
        blob = await self._blobs.find(BlobRef(device.hub, DEVICE_FILES, name))
        if blob is None:
            raise InvalidArgumentError(
                "The device says that it has uploaded the file, but there is none.",
                code="incomplete-upload",
            )
        await self._notifier.notify(
            device.hub,
            FileNotification(
                device_id=device.device_id,
                blob_uri=f"https://{host_name}/{DEVICE_FILES}/{name}",
                blob_name=name,
                last_updated_time=wire_time(blob.modified_at),
                blob_size_in_bytes=blob.size,
                enqueued_time_utc=wire_time(now),
            ),
            ending,
        )
