"""Jobs as services ask for them: created, read, listed, cancelled, kept for a while.

What they do is done by `muster.hub.job_runner`. Sources: hub-service.md 1.1 rows 24 to 31, 1.8.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final, final

import msgspec

from muster.errors import AlreadyExistsError, PreconditionFailedError
from muster.hub.job_rows import SQL, from_row, job_not_found
from muster.language.conditions import parse_job
from muster.model import paging
from muster.model.job import (
    HISTORY_S,
    SCHEDULED_TYPES,
    Job,
    JobStatus,
    action_of,
    check_job_id,
    execution_s,
    scheduled_type,
    start_of,
)
from muster.model.paging import Page
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.model.job import JobRequest, JobType
    from muster.store.engine import Engine, Params

_FORGET_LIMIT: Final = 1_000
"""Devices whose history is removed in one write."""
_NEWEST: Final = 2**62
_POSITION: Final = re.compile(r"[0-9]{1,18}")

_encode: Final = msgspec.json.Encoder().encode


@final
class Jobs:
    """All jobs of all hubs.

    Args:
        engine: where they are kept.
        clock: for times.

    Attributes:
        wake: set whenever there may be something new to do.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self.wake = asyncio.Event()

    async def create(self, hub: int, job_id: str, request: JobRequest) -> Job:
        """Create a job over the devices that a condition chooses when it starts.

        Raises:
            InvalidArgumentError: something of it is wrong; `code` says which.
            TooLargeError: the payload of a method; code `payload-too-large`.
            AlreadyExistsError: the ID was used before; code `job-exists`.
        """
        kind = scheduled_type(request.type)
        now = self._clock.now()
        condition = request.query_condition or ""
        parse_job(condition)
        action = action_of(kind, request, now)
        start_at = start_of(request.start_time, now.timestamp())
        seconds = execution_s(request.max_execution_time_in_seconds)
        return await self.add(
            hub,
            job_id,
            kind,
            condition=condition,
            action=action,
            start_at=start_at,
            max_execution_s=seconds,
        )

    async def add(
        self,
        hub: int,
        job_id: str,
        kind: JobType,
        *,
        condition: str,
        action: bytes,
        start_at: float,
        max_execution_s: int,
    ) -> Job:
        """Store a job that is known to be right.

        Raises:
            InvalidArgumentError: the ID is malformed; code `invalid-device-id`.
            AlreadyExistsError: it was used before; code `job-exists`.
        """
        check_job_id(job_id)
        now = self._clock.time()
        # What is to start in the past starts now, and has all its time.
        late = start_at <= now
        await self._engine.write(
            Statement(
                SQL["insert"],
                {
                    "hub": hub,
                    "job_id": job_id,
                    "type": kind,
                    "status": JobStatus.QUEUED if late else JobStatus.SCHEDULED,
                    "condition": condition,
                    "action": action.decode(),
                    "created_at": now,
                    "start_at": now if late else start_at,
                    "max_execution_s": max_execution_s,
                },
                expect=1,
                otherwise=AlreadyExistsError(
                    f"There is a job '{job_id}' already.", code="job-exists", subject=job_id
                ),
            )
        )
        self.wake.set()
        return await self.get(hub, job_id, (kind,))

    async def get(self, hub: int, job_id: str, kinds: Sequence[JobType] = SCHEDULED_TYPES) -> Job:
        """Return a job.

        Raises:
            NotFoundError: there is none of these kinds; code `job-not-found`.
        """
        rows = await self._engine.read(SQL["get"], {"hub": hub, "job_id": job_id})
        job = from_row(rows[0]) if rows else None
        if job is None or job.type not in kinds:
            raise job_not_found(job_id)
        return job

    async def page(
        self,
        hub: int,
        kinds: Sequence[JobType],
        status: JobStatus | None,
        size: int,
        continuation: str | None = None,
    ) -> Page[Job]:
        """Return a page of the jobs of some kinds, the newest first.

        Args:
            hub: the hub's number.
            kinds: which.
            status: only those that are so far; `None` for all.
            size: jobs of a page at most.
            continuation: from the page before; `None` or empty for the first.

        Raises:
            InvalidArgumentError: code `invalid-continuation`.
        """
        before = _NEWEST
        if continuation:
            key = paging.key(continuation)
            if not _POSITION.fullmatch(key):
                raise paging.invalid_continuation()
            before = int(key)
        params: Params = {
            "hub": hub,
            "types": _encode(kinds).decode(),
            "status": status,
            "before": before,
            "limit": size + 1,
        }
        found = [from_row(row) for row in await self._engine.read(SQL["page"], params)]
        jobs = found[:size]
        return Page(jobs, paging.token(str(jobs[-1].number)) if len(found) > size else None)

    async def cancel(
        self, hub: int, job_id: str, kinds: Sequence[JobType] = SCHEDULED_TYPES
    ) -> Job:
        """Have a job begin nothing more. What is under way is finished and written down.

        Cancelling again changes nothing.

        Raises:
            NotFoundError: there is none of these kinds; code `job-not-found`.
            PreconditionFailedError: it is over; code `job-ended`.
        """
        job = await self.get(hub, job_id, kinds)
        if job.status is JobStatus.CANCELLED:
            return job
        ended = PreconditionFailedError(
            f"The job '{job_id}' is over.", code="job-ended", subject=job_id
        )
        await self._engine.write(
            Statement(
                SQL["end"],
                {
                    "number": job.number,
                    "status": JobStatus.CANCELLED,
                    "failure": "",
                    "now": self._clock.time(),
                },
                expect=1,
                otherwise=ended,
            )
        )
        self.wake.set()
        return await self.get(hub, job_id, kinds)

    async def forget_old(self) -> None:
        """Remove what ended longer ago than history goes back, a little at a time."""
        before = self._clock.time() - HISTORY_S
        while rows := await self._engine.read(SQL["old"], {"before": before}):
            (number,) = rows[0]
            while await self._engine.read(SQL["left"], {"job": number}):
                await self._engine.write(
                    Statement(SQL["forget_devices"], {"job": number, "limit": _FORGET_LIMIT})
                )
            await self._engine.write(Statement(SQL["forget"], {"number": number}))
