"""Imports and exports of identities, as services ask for them (hub-service.md 1.1 rows 24 to 27).

Containers are ours only: their URLs carry a signature that says so (`muster.auth.blob_token`). The
URLs themselves are not kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final
from urllib.parse import parse_qsl, urlsplit

from muster.auth import blob_token
from muster.auth.blob_token import Target
from muster.errors import ForbiddenError, InvalidArgumentError, UnauthorizedError
from muster.hub.blobs import IDENTITY_FILES, check_name
from muster.model.job import UNFINISHED, JobType
from muster.model.paging import MAX_PAGE
from muster.model.transfer import (
    DEVICES_FILE,
    ERRORS_FILE,
    TRANSFER_TYPES,
    Transfer,
    TransferRequest,
    encode_transfer,
)

if TYPE_CHECKING:
    from muster.clock import Clock
    from muster.hub.blobs import Blobs
    from muster.hub.jobs import Jobs
    from muster.ids import Randomness
    from muster.model.job import Job

CONTAINER_LIFETIME_S: Final = 86_400.0
"""Seconds a URL of the container is good for."""
_MAX_EXECUTION_S: Final = 7 * 86_400


@final
class Transfers:
    """Imports and exports of all hubs.

    Args:
        jobs: keeps them.
        blobs: what is imported and exported.
        clock: for their start.
        randomness: for their IDs.
    """

    def __init__(self, jobs: Jobs, blobs: Blobs, clock: Clock, randomness: Randomness) -> None:
        self._jobs = jobs
        self._blobs = blobs
        self._clock = clock
        self._randomness = randomness

    def container_query(self, hub: int) -> str:
        """Return the query of a URL that grants everything in the container of a hub's lists."""
        letters = (
            blob_token.READ
            + blob_token.CREATE
            + blob_token.WRITE
            + blob_token.DELETE
            + blob_token.LIST
        )
        return self._blobs.token(Target(hub, IDENTITY_FILES), letters, CONTAINER_LIFETIME_S)

    async def create(self, hub: int, request: TransferRequest) -> Job:
        """Begin an import or export.

        Raises:
            InvalidArgumentError: codes `invalid-job-type`, `invalid-container`,
                `invalid-blob-name`, `invalid-job`.
            ForbiddenError: another one is under way; code `too-many-jobs`.
        """
        kind = next((each for each in TRANSFER_TYPES if each == request.type.lower()), None)
        if kind is None:
            raise InvalidArgumentError(
                f"type must be one of {', '.join(TRANSFER_TYPES)}.", code="invalid-job-type"
            )
        if request.include_configurations:
            raise InvalidArgumentError(
                "includeConfigurations is not supported.", code="invalid-job"
            )
        output = request.output_blob_container_uri
        self._check_container(hub, output, blob_token.WRITE, "outputBlobContainerUri")
        if kind is JobType.EXPORT:
            transfer = Transfer(
                target=check_name(request.output_blob_name or DEVICES_FILE),
                without_keys=bool(request.exclude_keys_in_export),
            )
        else:
            uri = request.input_blob_container_uri
            self._check_container(hub, uri, blob_token.READ, "inputBlobContainerUri")
            transfer = Transfer(
                source=check_name(request.input_blob_name or DEVICES_FILE),
                target=check_name(request.output_blob_name or ERRORS_FILE),
            )
        newest = await self._jobs.page(hub, TRANSFER_TYPES, None, 1)
        if any(job.status in UNFINISHED for job in newest.items):
            raise ForbiddenError("Another import or export is under way.", code="too-many-jobs")
        return await self._jobs.add(
            hub,
            self._randomness.uuid(),
            kind,
            condition="",
            action=encode_transfer(transfer),
            start_at=self._clock.time(),
            max_execution_s=_MAX_EXECUTION_S,
        )

    async def get(self, hub: int, job_id: str) -> Job:
        """Return one.

        Raises:
            NotFoundError: code `job-not-found`.
        """
        return await self._jobs.get(hub, job_id, TRANSFER_TYPES)

    async def list(self, hub: int) -> list[Job]:
        """Return all that are remembered, the newest first, up to a thousand."""
        return (await self._jobs.page(hub, TRANSFER_TYPES, None, MAX_PAGE)).items

    async def cancel(self, hub: int, job_id: str) -> Job:
        """Cancel one; what is imported stays. Raises like `Jobs.cancel`."""
        return await self._jobs.cancel(hub, job_id, TRANSFER_TYPES)

    def _check_container(self, hub: int, uri: str | None, permission: str, what: str) -> None:
        try:
            parts = urlsplit(uri or "")
            query = dict(parse_qsl(parts.query))
        except ValueError:
            parts, query = urlsplit(""), {}
        if parts.path.strip("/") != IDENTITY_FILES:
            raise InvalidArgumentError(
                f"{what} must be a URL of this hub's container {IDENTITY_FILES}: Muster keeps "
                "these files itself. 'muster job export' and 'muster job import' do all of it.",
                code="invalid-container",
            )
        try:
            self._blobs.check_token(query, Target(hub, IDENTITY_FILES), permission)
        except UnauthorizedError as error:
            raise InvalidArgumentError(
                f"{what}: {error.message}", code="invalid-container"
            ) from None
