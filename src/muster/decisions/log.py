"""The decision log: every refusal and every registration outcome, findable by id.

Recording never blocks and never delays an answer: decisions are buffered and written together a
moment later. A crash can therefore lose the last fifth of a second of explanations, never a
registration. The buffer and the table are bounded; what a flood pushes out is counted and said.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

import msgspec
import structlog

from muster.clock import Clock, format_time
from muster.errors import MusterError
from muster.ids import registration_key
from muster.model.decision import Decision
from muster.model.pacing import Pace
from muster.net.tasks import spawn
from muster.observe.metrics import Metrics
from muster.store.engine import Engine, Statement, Value
from muster.store.queries import load

_SQL = load("decisions")
_FLUSH_AFTER_S: Final = 0.2
_PRUNE_EVERY_S: Final = 600.0
_MAX_BUFFERED: Final = 50_000
_LOG_EVERY_S: Final = 10.0
_LOGGED_SUBJECTS: Final = 4_096
_LINE_PACE: Final = Pace(rate=20.0, burst=200)
"""Of all lines together: a flood under ever new names must not fill the disk."""
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Decision)

_log = structlog.get_logger("muster.decisions")


class DecisionLog:
    """Records decisions and finds them again.

    Args:
        engine: where they are kept.
        clock: for the age limit.
        metrics: counts decisions, by what decided them.
        keep: most decisions kept.
        keep_s: longest time one is kept, in seconds.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        metrics: Metrics,
        *,
        keep: int = 1_000_000,
        keep_s: float = 30 * 86_400,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._metrics = metrics
        self._keep = keep
        self._keep_s = keep_s
        self._buffer: list[Decision] = []
        self._dropped = 0
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False
        self._pruned_at = clock.monotonic()
        self._logged: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._line_arrival = 0.0
        self._unlogged = 0

    def record(self, decision: Decision) -> None:
        """Take a decision down; it is findable within a quarter of a second."""
        self._metrics.decided(decision.operation, decision.outcome, decision.check)
        if decision.outcome != "assigned":
            self._log_line(decision)
        if len(self._buffer) >= _MAX_BUFFERED:
            self._dropped += 1
            return
        self._buffer.append(decision)
        if self._flushing is None and not self._closed:
            self._flushing = spawn(self._flush_soon(), name="decisions")

    async def find(self, identifier: str, limit: int = 20) -> list[Decision]:
        """Return the decisions with this tracking id, or about this subject, newest first.

        Args:
            identifier: a tracking id, a registration ID or a device ID, in any case.
            limit: most decisions returned.
        """
        await self._flush()
        params: dict[str, Value] = {"identifier": registration_key(identifier), "limit": limit}
        rows = await self._engine.read(_SQL["by_tracking_id"], params)
        if not rows:
            rows = await self._engine.read(_SQL["by_subject"], params)
        return [_DECODER.decode(row[0]) for row in rows if isinstance(row[0], bytes)]

    async def close(self) -> None:
        """Write what is buffered."""
        self._closed = True
        if self._flushing is not None:
            self._flushing.cancel()
        await self._flush()

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_FLUSH_AFTER_S)
        self._flushing = None
        await self._flush()

    async def _flush(self) -> None:
        buffered, self._buffer = self._buffer, []
        if self._dropped:
            _log.warning("decisions dropped in a flood", dropped=self._dropped)
            self._dropped = 0
        statements = []
        if buffered:
            statements.append(
                Statement(
                    _SQL["insert"],
                    [
                        {
                            "tracking_id": each.tracking_id.lower(),
                            "subject_key": registration_key(each.subject),
                            "decided_at": each.time.timestamp(),
                            "document": _ENCODER.encode(each),
                        }
                        for each in buffered
                    ],
                )
            )
        if self._clock.monotonic() - self._pruned_at > _PRUNE_EVERY_S:
            self._pruned_at = self._clock.monotonic()
            before = self._clock.time() - self._keep_s
            statements.append(Statement(_SQL["prune"], {"before": before, "keep": self._keep}))
        if not statements:
            return
        try:
            await self._engine.write(*statements)
        except MusterError as error:
            _log.error("decisions not recorded", count=len(buffered), reason=error.message)

    def _log_line(self, decision: Decision) -> None:
        """Log a refusal, and its repetitions at most once in ten seconds with their number.

        In a flood, most subjects get no line at all; the next line says how many had none. Their
        decisions are recorded all the same.
        """
        now = self._clock.monotonic()
        logged_at, repeated = self._logged.get(decision.subject, (float("-inf"), 0))
        if now - logged_at < _LOG_EVERY_S:
            self._logged[decision.subject] = (logged_at, repeated + 1)
            return
        if _LINE_PACE.wait_s(self._line_arrival, now):
            self._unlogged += 1
            return
        self._line_arrival = _LINE_PACE.after(self._line_arrival, now)
        unlogged, self._unlogged = self._unlogged, 0
        self._logged[decision.subject] = (now, 0)
        self._logged.move_to_end(decision.subject)
        while len(self._logged) > _LOGGED_SUBJECTS:
            self._logged.popitem(last=False)
        _log.warning(
            f"{decision.operation} {decision.outcome}",
            subject=decision.subject,
            service=decision.service,
            check=decision.check,
            tracking_id=decision.tracking_id,
            time=format_time(decision.time),
            **({"repeated": repeated} if repeated else {}),
            **({"unlogged": unlogged} if unlogged else {}),
        )
