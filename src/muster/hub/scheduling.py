"""Jobs of all hubs, built and kept going."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.hub.job_runner import JobRunner, Selection
from muster.hub.job_work import JobContext, MethodWork, TwinWork
from muster.hub.jobs import Jobs
from muster.model.job import JobType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.clock import Clock
    from muster.hub.job_runner import Work
    from muster.hub.job_work import ErrorNames
    from muster.hub.methods import Methods
    from muster.hub.queries import Queries
    from muster.hub.twin_batches import TwinBatches
    from muster.store.engine import Engine


@final
class Scheduling:
    """All jobs.

    Args:
        engine: where they are kept.
        clock: tells when they start.
        queries: find their devices.
        twins: patches twins.
        methods: calls methods.
        error_names: how the errors of devices are written down.
        more: what further types of jobs do.

    Attributes:
        jobs: as services ask for them.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        queries: Queries,
        twins: TwinBatches,
        methods: Methods,
        error_names: ErrorNames,
        more: Mapping[JobType, Work],
    ) -> None:
        self.jobs = Jobs(engine, clock)
        context = JobContext(engine, clock, Selection(engine, clock, queries), error_names)
        work: dict[JobType, Work] = {
            JobType.TWIN: TwinWork(context, twins),
            JobType.METHOD: MethodWork(context, methods),
            **more,
        }
        self._runner = JobRunner(engine, clock, self.jobs, work)

    async def run(self) -> None:
        """Do what jobs ask for, for ever. The composition root runs this."""
        await self._runner.run()
