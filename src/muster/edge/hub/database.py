"""The edge hub's own database: queues, scope, subscriptions, twins, settings."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from muster.store.queries import load
from muster.store.sqlite import Profile

if TYPE_CHECKING:
    from pathlib import Path

SQL: Final = load("edge_hub")

PROFILE: Final = Profile(schema="edge_hub", cache_kib=1_024, shrinks=True)
"""Small, and gives space back when queues have been emptied."""

FILE_NAME: Final = "edgehub.db"


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
