"""Log lines about things that can happen thousands of times a second."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

_log = structlog.get_logger(__name__)
_INTERVAL_S: Final = 1.0


class Summary:
    """Writes at most one line a second about one kind of event.

    The first is logged at once, at info, with its reason and remote address. What follows within a
    second is counted and logged as one warning when the second is over.

    Args:
        event: the event's name in the log, singular, for example `tls handshake failed`.
    """

    __slots__ = ("_counts", "_event", "_handle", "_remote")

    def __init__(self, event: str) -> None:
        self._event = event
        self._counts: Counter[str] = Counter()
        self._remote = ""
        self._handle: asyncio.TimerHandle | None = None

    def add(self, reason: str, remote: str) -> None:
        """Note one occurrence.

        Args:
            reason: one of a small number of texts; the summary counts by it.
            remote: address of the peer; the summary names the last one.
        """
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(_INTERVAL_S, self._write)
            _log.info(self._event, reason=reason, remote=remote)
            return
        self._counts[reason] += 1
        self._remote = remote

    def _write(self) -> None:
        self._handle = None
        if not self._counts:
            return
        counts, self._counts = self._counts, Counter()
        self._handle = asyncio.get_running_loop().call_later(_INTERVAL_S, self._write)
        _log.warning(
            self._event,
            count=counts.total(),
            reasons=dict(counts),
            last_remote=self._remote,
        )
