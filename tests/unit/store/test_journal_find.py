"""Looking for a place in a journal that is written to meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from muster.store import journal_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.store.journal_segment import Segment


class Growing:
    """A segment without frames to which a record is written just after it was looked at."""

    readable = True

    def __init__(self) -> None:
        self.next = [7]

    def _grow(self) -> None:
        self.next = [8]

    @property
    def newest(self) -> float:
        self._grow()
        return 10.0

    @property
    def header(self) -> Any:
        self._grow()
        return SimpleNamespace(base_offset=0)

    end = 100


def growing() -> Sequence[Segment]:
    return cast("Sequence[Segment]", (Growing(),))


def test_a_record_that_comes_during_the_search_is_not_passed_over() -> None:
    assert journal_read.find_time(growing(), 0, 20.0) == 7
    assert journal_read.find_offset(growing(), 0, 200) == 7
