"""What jobs do to devices: update their twins, call their methods.

Twins are updated exactly once: the patch, and that it is done, are one commit. A method is called
once at most: who was being called when the service was killed may have carried it out, so such a
device is not called again but written down as failed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeAlias, final

import structlog
from msgspec import Struct

from muster.errors import MusterError, UnavailableError
from muster.hub.job_rows import (
    SQL,
    DeviceError,
    JobOverError,
    Settled,
    encode_error,
    settling,
    turns,
)
from muster.hub.job_runner import RETRY_S, JobExpiredError, check_time
from muster.hub.twin_batches import TwinPatch
from muster.model.identity import IdentityRef
from muster.model.job import EXPIRED_TEXT, decode_method, decode_twin
from muster.net.tasks import spawn
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.clock import Clock
    from muster.hub.job_rows import Turn
    from muster.hub.job_runner import Selection
    from muster.hub.methods import Methods
    from muster.hub.twin_batches import Outcomes, TwinBatches
    from muster.model.job import Job
    from muster.model.method import MethodCall
    from muster.store.engine import Engine, Params

TWINS_AT_ONCE: Final = 100
"""Twins in one commit, so that the event loop is never busy with them for long."""
CALLS_AT_ONCE: Final = 200
"""Calls of one job that are under way."""

_log = structlog.get_logger(__name__)

EXPIRED: Final = "JobRunPreconditionFailed"
"""Name of the error of a device whose turn did not come in time (hub-service.md 2.3, 412003)."""
INTERRUPTED: Final = "JobCancelled"
"""Name of the error of a device that was being called when the service ended (500002)."""
_INTERRUPTED_TEXT: Final = (
    "The service was stopped while it called the device, which may have carried the method out."
)

ErrorNames: TypeAlias = "Callable[[MusterError], DeviceError]"
"""Gives an error its official name."""


class JobContext(Struct, frozen=True):
    """What all work has to do with.

    Attributes:
        engine: where jobs are kept.
        clock: for times.
        selection: chooses the devices.
        error_names: how errors are written down.
    """

    engine: Engine
    clock: Clock
    selection: Selection
    error_names: ErrorNames


@final
class TwinWork:
    """Patches the twins of devices; see `muster.hub.job_runner.Work`."""

    def __init__(self, context: JobContext, twins: TwinBatches) -> None:
        self._context = context
        self._twins = twins
        # One batch at a time, however many jobs there are.
        self._turn = asyncio.Lock()

    async def carry_out(self, job: Job) -> None:
        """Patch every twin that is not patched yet."""
        context = self._context
        await context.selection.complete(job)
        change = decode_twin(job.action)
        patch = TwinPatch(change.tags, change.desired, change.etag)
        after = 0
        while found := await pending(context.engine, job, after, TWINS_AT_ONCE):
            check_time(job, context.clock)
            by_ref = {IdentityRef(job.hub, turn.device_id, turn.module_id): turn for turn in found}

            def settled(
                outcomes: Outcomes, by_ref: dict[IdentityRef, Turn] = by_ref
            ) -> list[Statement]:
                rows = [
                    Settled(by_ref[ref], error=context.error_names(error) if error else None)
                    for ref, error in outcomes.items()
                ]
                return settling(job, rows, context.clock.time(), claimed=False)

            async with self._turn:
                await self._twins.patch(job.hub, list(by_ref), patch, settled)
            after = found[-1].number


@final
class MethodWork:
    """Calls a method of devices; see `muster.hub.job_runner.Work`."""

    def __init__(self, context: JobContext, methods: Methods) -> None:
        self._context = context
        self._methods = methods

    async def carry_out(self, job: Job) -> None:
        """Call every device that was not called yet."""
        context = self._context
        await self._give_up_interrupted(job)
        await context.selection.complete(job)
        call = decode_method(job.action).call()
        calls: set[asyncio.Task[Settled]] = set()
        try:
            await self._call_all(job, call, calls)
        finally:
            for task in calls:
                task.cancel()

    async def _call_all(
        self, job: Job, call: MethodCall, calls: set[asyncio.Task[Settled]]
    ) -> None:
        """Keep as many calls under way as there may be, and write down what becomes of them."""
        stopped: MusterError | None = None
        after = 0
        while True:
            done = {each for each in calls if each.done()}
            settled = [each.result() for each in done]
            found: list[Turn] = []
            if stopped is None:
                room = CALLS_AT_ONCE - len(calls) + len(done)
                found = await pending(self._context.engine, job, after, room)
            try:
                if found:
                    check_time(job, self._context.clock)
                await self._write(job, settled, found)
            except (JobOverError, JobExpiredError) as error:
                stopped, found = error, []
                await self._write(job, settled, found)
            calls -= done
            if found:
                after = found[-1].number
                calls |= {spawn(self._call(job, call, turn), "job call") for turn in found}
            elif not calls:
                break
            if len(calls) == CALLS_AT_ONCE or not found:
                await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        if stopped is not None:
            raise stopped

    async def _call(self, job: Job, call: MethodCall, turn: Turn) -> Settled:
        clock = self._context.clock
        ref = IdentityRef(job.hub, turn.device_id, turn.module_id)
        try:
            async with asyncio.timeout(max(0.0, job.deadline - clock.time())):
                return Settled(turn, await self._methods.call(ref, call))
        except TimeoutError:
            return Settled(turn, error=DeviceError(EXPIRED, EXPIRED_TEXT))
        except MusterError as error:
            return Settled(turn, error=self._context.error_names(error))

    async def _write(self, job: Job, settled: list[Settled], claimed: list[Turn]) -> None:
        """Write down what became of calls, and who is called next."""
        now = self._context.clock.time()
        steps: list[Statement] = []
        if settled:
            steps += settling(job, settled, now, claimed=True)
        if claimed:
            over = JobOverError("The job is over.")
            rows: list[Params] = [{"number": turn.number, "now": now} for turn in claimed]
            running: Params = {
                "number": job.number,
                "devices": 0,
                "running": len(claimed),
                "succeeded": 0,
                "failed": 0,
                "now": now,
            }
            steps += [
                Statement(SQL["advance"], running, expect=1, otherwise=over),
                Statement(SQL["claim"], rows, expect=len(rows), otherwise=over),
            ]
        while steps:
            try:
                await self._context.engine.write(*steps)
            except UnavailableError as error:
                # What devices answered must not be lost for that.
                _log.warning("job is held up", job=job.id, reason=error.message)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _give_up_interrupted(self, job: Job) -> None:
        if not job.running:
            return
        now = self._context.clock.time()
        error = encode_error(DeviceError(INTERRUPTED, _INTERRUPTED_TEXT))
        await self._context.engine.write(
            Statement(SQL["give_up"], {"job": job.number, "now": now, "error": error}),
            Statement(SQL["given_up"], {"number": job.number, "now": now}),
        )


async def pending(engine: Engine, job: Job, after: int, limit: int) -> list[Turn]:
    """Return the devices of a job whose turn is next, after a row."""
    rows = await engine.read(SQL["pending"], {"job": job.number, "after": after, "limit": limit})
    return turns(rows)
