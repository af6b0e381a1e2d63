"""Does what jobs ask for, when their time has come.

A job first chooses its devices and writes them down, page by page; then does something to each.
What changes on the way does not change the choice. Everything it has done is committed with the
fact that it is done, so a job that was cut off goes on where it was. A few jobs run side by side,
each in small steps, so that the traffic of devices never waits for them.
Sources: hub-service.md 1.8.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, final

import structlog

from muster.errors import MusterError, UnavailableError
from muster.hub.job_rows import SQL, JobOverError, from_row
from muster.language.conditions import parse_job
from muster.model.job import EXPIRED_TEXT, JobStatus
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.clock import Clock
    from muster.hub.jobs import Jobs
    from muster.hub.queries import Queries
    from muster.model.job import Job, JobType
    from muster.store.engine import Engine, Params

MAX_RUNNING: Final = 10
"""Jobs that run at once; the others are queued."""
PAGE: Final = 500
"""Devices chosen in one write."""
RETRY_S: Final = 1.0
"""Pause when the store did not answer."""
TEND_EVERY_S: Final = 3_600.0
"""Time between two looks for history that is too old."""
_LOOK_AHEAD: Final = 100
"""Jobs looked at when one is to start; more wait until these are over."""

_log = structlog.get_logger(__name__)


class Work(Protocol):
    """What a type of job does."""

    async def carry_out(self, job: Job) -> None:
        """Do everything that is not done yet.

        Raises:
            JobOverError: the job was cancelled.
            JobExpiredError: its time was over before it was.
            MusterError: it failed.
        """


class JobExpiredError(MusterError):
    """The maximum execution time is over."""

    default_code = "job-expired"

    def __init__(self) -> None:
        super().__init__(EXPIRED_TEXT)


@final
class Selection:
    """Chooses the devices of jobs.

    Args:
        engine: where the choice is written.
        clock: for times.
        queries: finds the devices.
    """

    def __init__(self, engine: Engine, clock: Clock, queries: Queries) -> None:
        self._engine = engine
        self._clock = clock
        self._queries = queries

    async def complete(self, job: Job) -> None:
        """Choose all devices that are not chosen yet.

        Raises:
            JobOverError: the job was cancelled.
            JobExpiredError: its time is over.
        """
        if job.selected_to is None:
            return
        condition = parse_job(job.condition)
        position: int | None = job.selected_to
        while position is not None:
            check_time(job, self._clock)
            matches = await self._queries.matches(job.hub, condition, position, PAGE)
            now = self._clock.time()
            rows: list[Params] = [
                {
                    "job": job.number,
                    "hub": job.hub,
                    "device_id": ref.device_id,
                    "module_id": ref.module_id,
                    "now": now,
                }
                for ref in matches.refs
            ]
            chosen: Params = {
                "number": job.number,
                "devices": len(rows),
                "from": position,
                "to": matches.next,
                "now": now,
            }
            over = JobOverError("The job is over.")
            steps = [Statement(SQL["chosen"], chosen, expect=1, otherwise=over)]
            if rows:
                steps.append(Statement(SQL["choose"], rows))
            await self._engine.write(*steps)
            position = matches.next


@final
class JobRunner:
    """The worker.

    Args:
        engine: where jobs are kept.
        clock: tells when they start.
        jobs: wakes it.
        work: what each type does.
    """

    def __init__(
        self, engine: Engine, clock: Clock, jobs: Jobs, work: Mapping[JobType, Work]
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._jobs = jobs
        self._work = work
        self._running: set[int] = set()

    async def run(self) -> None:
        """Do what there is to do, for ever. The composition root runs this."""
        tended_at = -TEND_EVERY_S
        async with asyncio.TaskGroup() as group:
            while True:
                self._jobs.wake.clear()
                pause_s = RETRY_S
                try:
                    if self._clock.monotonic() - tended_at >= TEND_EVERY_S:
                        tended_at = self._clock.monotonic()
                        await self._jobs.forget_old()
                    pause_s = await self._start_due(group)
                except MusterError as error:
                    _log.warning("jobs are not being started", reason=error.message)
                except Exception:  # noqa: BLE001 - without it no job would ever start again
                    _log.exception("jobs are not being started")
                try:
                    async with asyncio.timeout(pause_s):
                        await self._jobs.wake.wait()
                except TimeoutError:
                    continue

    async def _start_due(self, group: asyncio.TaskGroup) -> float:
        """Start what is due; return the seconds until something else may be."""
        rows = await self._engine.read(SQL["unfinished"], {"limit": _LOOK_AHEAD})
        pause_s = TEND_EVERY_S
        for job in map(from_row, rows):
            if job.number in self._running:
                continue
            wait_s = job.start_at - self._clock.time()
            if wait_s > 0:
                return min(pause_s, wait_s)
            if len(self._running) == MAX_RUNNING:
                break
            self._running.add(job.number)
            group.create_task(self._insist(job), name=f"job {job.id}")
        return pause_s

    async def _insist(self, job: Job) -> None:
        """Carry a job out, whatever the store does meanwhile."""
        try:
            while True:
                try:
                    await self._carry_out(job)
                except UnavailableError as error:
                    _log.warning("job is held up", job=job.id, reason=error.message)
                    await asyncio.sleep(RETRY_S)
                else:
                    return
        finally:
            self._running.discard(job.number)
            self._jobs.wake.set()

    async def _carry_out(self, job: Job) -> None:
        over = JobOverError("The job is over.")
        now = self._clock.time()
        try:
            await self._engine.write(
                Statement(
                    SQL["start"], {"number": job.number, "now": now}, expect=1, otherwise=over
                )
            )
            # As it is now: a try before this one may have done a part.
            (row,) = await self._engine.read(SQL["current"], {"number": job.number})
            await self._work[job.type].carry_out(from_row(row))
        except JobOverError:
            return
        except UnavailableError:
            raise
        except MusterError as error:
            await self._end(job, JobStatus.FAILED, error.message)
        except Exception:  # noqa: BLE001 - the others go on
            _log.exception("job failed", job=job.id)
            await self._end(job, JobStatus.FAILED, "An internal error occurred.")
        else:
            await self._end(job, JobStatus.COMPLETED)

    async def _end(self, job: Job, status: JobStatus, failure: str = "") -> None:
        now = self._clock.time()
        # When it was cancelled at the last moment, this changes nothing.
        await self._engine.write(
            Statement(
                SQL["end"],
                {"number": job.number, "status": status, "failure": failure, "now": now},
            )
        )


def check_time(job: Job, clock: Clock) -> None:
    """Stop a job whose time is over.

    Raises:
        JobExpiredError: it is.
    """
    if clock.time() >= job.deadline:
        raise JobExpiredError
