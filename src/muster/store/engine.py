"""The store port: read named queries, write batches of named statements.

Writes are data, not code, so that one writer can put many of them into one durable commit (group
commit) while each stays all-or-nothing by itself. A read-modify-write is therefore
optimistic: read, decide, then write with a condition in the SQL and `expect=1`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, final

Value: TypeAlias = str | bytes | int | float | None
Params: TypeAlias = Mapping[str, Value]
Row: TypeAlias = tuple[Value, ...]


@final
class Query:
    """A named SQL text from `store/sql/<noun>.sql`, with `:name` parameters.

    Attributes:
        name: `<noun>.<name>`.
        sql: the text.
        scan: whether it may read many rows; scans never hold up reads by key.
    """

    __slots__ = ("name", "scan", "sql")

    def __init__(self, name: str, sql: str, *, scan: bool = False) -> None:
        self.name = name
        self.sql = sql
        self.scan = scan

    def __repr__(self) -> str:
        return f"Query({self.name})"


@final
class Statement:
    """One step of a write.

    Args:
        query: what to run.
        params: its parameters; a sequence of mappings runs it once per mapping (bulk).
        expect: how many rows it must affect in all; `None` means any number.
        otherwise: raised from `Engine.write` (and everything of that write undone) when the
            number differs. Also raised in place of a uniqueness violation. It is this very
            instance that is raised, so make one for each write.

    What a write holds is read by another thread: leave `params` alone until it has returned.
    """

    __slots__ = ("expect", "otherwise", "params", "query")

    def __init__(
        self,
        query: Query,
        params: Params | Sequence[Params],
        *,
        expect: int | None = None,
        otherwise: Exception | None = None,
    ) -> None:
        self.query = query
        self.params = params
        self.expect = expect
        self.otherwise = otherwise


class Engine(Protocol):
    """What must survive."""

    async def read(self, query: Query, params: Params) -> list[Row]:
        """Run a query and return all its rows; sees every write that has returned.

        Raises:
            InvalidArgumentError: it is more than the database takes, which only happens to queries
                that are made of what somebody wrote; code `query-too-complex`.
            UnavailableError: the store is closing or cannot be read; code `store-unavailable`.
        """

    async def write(self, *statements: Statement) -> None:
        """Apply all statements or none; returns only when they would survive a power cut.

        A caller that stops waiting (cancellation) does not undo the write, and does not learn
        whether it happened.

        Raises:
            Exception: the `otherwise` of the first statement whose expectation failed.
            AlreadyExistsError: a uniqueness violation of a statement without `otherwise`.
            ConflictError: a wrong number of rows of a statement without `otherwise`.
            UnavailableError: the store is closing or the disk refuses; code `store-unavailable`.
                Nothing of the write is kept; later ones are tried again.
        """

    async def close(self) -> None:
        """Finish what was accepted, then release the database."""
