"""The edge hub's own database: queues, scope, subscriptions, twins, settings."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.store.queries import load
from muster.store.sqlite import Profile

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

SQL: Final = load("edge_hub")

PROFILE: Final = Profile(schema="edge_hub", cache_kib=1_024, shrinks=True)
"""Small, and gives space back when queues have been emptied."""

FILE_NAME: Final = "edgehub.db"

_log = structlog.get_logger(__name__)


def decoded(document: object, kind: type[T], what: str) -> T | None:
    """Return what a row holds as JSON; `None`, and a line in the log, where it is damaged.

    Args:
        document: the column.
        kind: as msgspec takes them.
        what: it is, for people.
    """
    try:
        return foreign_json.decode(str(document).encode(), kind)
    except ForeignJsonError as error:
        _log.error("a row of the database is not used", holds=what, reason=str(error))
        return None


def put_aside(directory: Path) -> None:
    """Make room for a new database; the last one that was put aside gives way.

    Args:
        directory: of the database.

    Raises:
        OSError: its files cannot be renamed.
    """
    for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
        with suppress(FileNotFoundError):
            (directory / name).replace(directory / f"{name}.bad")
