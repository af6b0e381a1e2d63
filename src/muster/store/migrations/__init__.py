"""Schema migrations: numbered SQL files, each applied once, whole or not at all.

`schema_version` holds two numbers: the version of the schema, and the oldest version of this code
that can still work with it (the compat version). So a step back by one release stays possible as
long as a migration does not forbid it. A file raises the compat version to its own number with a
line `-- breaks older versions`.
"""

from __future__ import annotations

import sqlite3
from importlib.resources import files
from typing import NamedTuple

from muster.errors import UnavailableError

_BREAKS = "-- breaks older versions"


class Migration(NamedTuple):
    """One step of the schema.

    Attributes:
        number: from the file name, counted from 1 without gaps.
        name: rest of the file name, for messages.
        sql: statements.
    """

    number: int
    name: str
    sql: str

    @property
    def breaks(self) -> bool:
        """Whether older code cannot work with the schema after this step."""
        return _BREAKS in self.sql


def bundled(schema: str = "") -> list[Migration]:
    """Return the migrations of this version, in order.

    Args:
        schema: folder of them; empty for the service's.
    """
    found = []
    for entry in files(__package__).joinpath(schema).iterdir():
        number, _, rest = entry.name.partition("_")
        if number.isdigit() and rest.endswith(".sql"):
            found.append(
                Migration(int(number), rest.removesuffix(".sql"), entry.read_text("utf-8"))
            )
    found.sort()
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations are not numbered 1, 2, 3 …")
    return found


def apply(connection: sqlite3.Connection, steps: list[Migration] | None = None) -> int:
    """Bring a database up to the version of this code; return how many steps it took.

    Args:
        connection: in autocommit mode.
        steps: for tests; the bundled ones otherwise.

    Raises:
        UnavailableError: the database needs a newer version of this code; code `store-too-new`.
        sqlite3.Error: a step failed; the database is as it was before that step.
    """
    steps = bundled() if steps is None else steps
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version ("
        "one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, "
        "compat_version INTEGER NOT NULL) STRICT"
    )
    row = connection.execute("SELECT version, compat_version FROM schema_version").fetchone()
    version, compat = row or (0, 0)
    known = len(steps)
    if compat > known:
        raise UnavailableError(
            f"The database has schema version {version} and needs a Muster that knows at least "
            f"{compat}; this one knows {known}. Install the newer version again, or restore a "
            "backup made before the upgrade.",
            code="store-too-new",
        )
    pending = [step for step in steps if step.number > version]
    for step in pending:
        if step.breaks:
            compat = step.number
        # `executescript` would commit first; one text with BEGIN and COMMIT keeps the step whole.
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{step.sql}\n;REPLACE INTO schema_version "  # noqa: S608 - ours
                f"VALUES (1, {step.number}, {compat});\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return len(pending)
