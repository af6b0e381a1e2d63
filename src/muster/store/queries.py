"""Named SQL: every statement stands once, described, in `store/sql/<noun>.sql`.

File format: a line `-- name: <name>` starts a statement; it runs to the next such line. Behind the
name, `scan` marks a query that may read many rows. Other comment lines describe the next statement.
"""

from __future__ import annotations

from importlib.resources import files
from typing import final

from muster.store.engine import Query

_MARK = "-- name:"


@final
class Queries:
    """The statements of one noun; `queries["get"]` raises `KeyError` at import, not at run time."""

    __slots__ = ("_by_name", "noun")

    def __init__(self, noun: str, by_name: dict[str, Query]) -> None:
        self.noun = noun
        self._by_name = by_name

    def __getitem__(self, name: str) -> Query:
        return self._by_name[name]

    def names(self) -> list[str]:
        """Return the names in file order."""
        return list(self._by_name)


def load(noun: str) -> Queries:
    """Read `store/sql/<noun>.sql`."""
    text = files("muster.store").joinpath("sql", f"{noun}.sql").read_text(encoding="utf-8")
    return Queries(noun, parse(noun, text))


def parse(noun: str, text: str) -> dict[str, Query]:
    """Split the text of a query file into its named statements."""
    found: dict[str, Query] = {}
    name = mark = ""
    lines: list[str] = []
    for line in [*text.splitlines(), _MARK]:
        if not line.startswith(_MARK):
            if not line.startswith("--"):
                lines.append(line)
            continue
        if name:
            if name in found:
                raise ValueError(f"{noun}.sql names {name} twice")
            sql = "\n".join(lines).strip().rstrip(";")
            found[name] = Query(f"{noun}.{name}", sql, scan=mark == "scan")
        name, _, mark = line.removeprefix(_MARK).strip().partition(" ")
        lines = []
    return found
