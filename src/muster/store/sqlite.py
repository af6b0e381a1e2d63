"""The embedded store: SQLite, one writer thread with group commit, readers beside it.

Invariants, where they bind:

- Everything queued for the writer is taken as one unit and committed by one fsync (WAL,
  `synchronous=FULL`); each write stands in a savepoint of its own, so a failed expectation undoes
  that write alone. Callers hear of their write only after the commit that holds it.
- A read starts after it was asked for, in a snapshot of its own, so it sees every write that has
  returned. Point reads and scans (`Query.scan`) have different threads: a scan of a million rows
  never holds up a registration.
- Threads talk to the loop once per batch, not once per item.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, final

import structlog

from muster.errors import AlreadyExistsError, ConflictError, UnavailableError
from muster.store import migrations
from muster.store.engine import Params, Query, Row, Statement

_BUSY_MS: Final = 10_000
_MAX_READS_AT_ONCE: Final = 64
_MAX_WRITES_AT_ONCE: Final = 2_000
_CHECKPOINT_PAGES: Final = 4_000
_READ_CACHE_KIB: Final = 16_384

# What a statement can get wrong by itself. Everything else is the disk's or the file's doing.
_MISTAKES: Final = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }
)
_DUPLICATES: Final = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_ROWID,
    }
)

_log = structlog.get_logger(__name__)


class _Write:
    __slots__ = ("error", "future", "statements")

    def __init__(self, statements: tuple[Statement, ...], future: asyncio.Future[None]) -> None:
        self.statements = statements
        self.future = future
        self.error: Exception | None = None


class _Read:
    __slots__ = ("error", "future", "params", "query", "rows")

    def __init__(self, query: Query, params: Params, future: asyncio.Future[list[Row]]) -> None:
        self.query = query
        self.params = params
        self.future = future
        self.rows: list[Row] = []
        self.error: Exception | None = None


class _Worker:
    """A thread that takes everything queued for it as one unit."""

    def __init__(self, name: str, at_once: int, work: Callable[[list[Any]], None]) -> None:
        self._queue: list[Any] = []
        self._condition = threading.Condition()
        self._closing = False
        self._at_once = at_once
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: object) -> None:
        with self._condition:
            if self._closing:
                raise UnavailableError("The store is closing", code="store-unavailable")
            self._queue.append(item)
            if len(self._queue) == 1:
                self._condition.notify()

    def close(self) -> None:
        """Work off what is queued, then end the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._queue and not self._closing:
                    self._condition.wait()
                if not self._queue:
                    return
                batch = self._queue[: self._at_once]
                del self._queue[: self._at_once]
            self._work(batch)


@final
class SqliteEngine:
    """Implements `store.engine.Engine` on one SQLite file. Belongs to one event loop."""

    def __init__(self, path: Path) -> None:
        """Use `SqliteEngine.open`."""
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._writing = _connect(path)
        self._reading = _connect(path, read_only=True)
        self._scanning = _connect(path, read_only=True)
        self._writer = _Worker("store-writer", _MAX_WRITES_AT_ONCE, self._commit)
        self._reader = _Worker(
            "store-reader", _MAX_READS_AT_ONCE, lambda batch: self._answer(self._reading, batch)
        )
        self._scanner = _Worker(
            "store-scanner", 1, lambda batch: self._answer(self._scanning, batch)
        )

    @classmethod
    async def open(cls, path: Path) -> SqliteEngine:
        """Open the database, made and migrated as needed.

        Args:
            path: of the file; its directory exists.

        Raises:
            UnavailableError: it cannot be opened, or was written by a newer version (codes
                `store-unavailable`, `store-too-new`).
        """
        try:
            await asyncio.to_thread(_prepare, path)
            return cls(path)
        except sqlite3.Error as error:
            raise UnavailableError(
                f"The database {path} cannot be opened: {error}", code="store-unavailable"
            ) from None

    async def read(self, query: Query, params: Params) -> list[Row]:
        """Run a query and return all its rows; sees every write that has returned."""
        future: asyncio.Future[list[Row]] = self._loop.create_future()
        (self._scanner if query.scan else self._reader).put(_Read(query, params, future))
        return await future

    async def write(self, *statements: Statement) -> None:
        """Apply all statements or none; returns when they would survive a power cut.

        Raises:
            Exception: the `otherwise` of the first statement whose expectation failed.
            AlreadyExistsError: a uniqueness violation of a statement without `otherwise`.
            ConflictError: a wrong number of rows of a statement without `otherwise`.
            UnavailableError: the store is closing or the disk refuses.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._writer.put(_Write(statements, future))
        await future

    async def close(self) -> None:
        """Finish what was accepted, then release the database."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for worker in (self._scanner, self._reader, self._writer):
            worker.close()
        for connection in (self._scanning, self._reading):
            connection.close()
        try:
            self._writing.execute("PRAGMA optimize")
            self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            _log.warning("database not checkpointed", reason=str(error))
        self._writing.close()

    # The writer's thread.

    def _commit(self, batch: list[_Write]) -> None:
        connection = self._writing
        try:
            connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                _apply(connection, write)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _log.error("write failed", reason=str(error), writes=len(batch))
            _roll_back(connection)
            for write in batch:
                # One of its own for each: whoever catches it may well change it.
                write.error = _unavailable(error)
        self._post(_settle_writes, batch)

    # The readers' threads.

    def _answer(self, connection: sqlite3.Connection, batch: list[_Read]) -> None:
        for read in batch:
            try:
                read.rows = connection.execute(read.query.sql, read.params).fetchall()
            except sqlite3.Error as error:
                if not _is_mistake(error):
                    _log.error("read failed", query=read.query.name, reason=str(error))
                read.error = error if _is_mistake(error) else _unavailable(error)
            except (ValueError, TypeError, OverflowError) as error:
                read.error = error
        self._post(_settle_reads, batch)

    def _post(self, settle: Callable[[list[Any]], None], batch: list[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(settle, batch)
        except RuntimeError:
            # The loop is closed; nobody waits any more.
            return


def _settle_writes(batch: list[_Write]) -> None:
    for write in batch:
        if write.future.done():
            continue
        if write.error is None:
            write.future.set_result(None)
        else:
            write.future.set_exception(write.error)


def _settle_reads(batch: list[_Read]) -> None:
    for read in batch:
        if read.future.done():
            continue
        if read.error is None:
            read.future.set_result(read.rows)
        else:
            read.future.set_exception(read.error)


def _apply(connection: sqlite3.Connection, write: _Write) -> None:
    """Apply one write in its savepoint; disk errors pass through and fail the batch."""
    connection.execute("SAVEPOINT one")
    for statement in write.statements:
        try:
            params = statement.params
            if isinstance(params, Mapping):
                affected = connection.execute(statement.query.sql, params).rowcount
            else:
                affected = connection.executemany(statement.query.sql, params).rowcount
        except sqlite3.Error as error:
            if not _is_mistake(error):
                raise
            if error.sqlite_errorcode in _DUPLICATES:
                write.error = statement.otherwise or AlreadyExistsError(
                    f"{statement.query.name} met a row that is there already"
                )
            else:
                write.error = error
        except (ValueError, TypeError, OverflowError) as error:
            # A value SQLite cannot hold (a lone surrogate, a number over 64 bits).
            write.error = error
        else:
            if statement.expect is None or affected == statement.expect:
                continue
            write.error = statement.otherwise or ConflictError(
                f"{statement.query.name} affected {affected} rows, not {statement.expect}"
            )
        connection.execute("ROLLBACK TO one")
        break
    connection.execute("RELEASE one")


def _roll_back(connection: sqlite3.Connection) -> None:
    """Undo a batch; SQLite may have done so itself."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        _log.error("roll-back failed", reason=str(error))


def _is_mistake(error: sqlite3.Error) -> bool:
    """Whether the statement is to blame, so that the others of the batch can go on."""
    if not hasattr(error, "sqlite_errorcode"):
        # Raised before SQLite saw the statement: a missing parameter, a type it does not know.
        error.sqlite_errorcode = sqlite3.SQLITE_MISUSE
    return error.sqlite_errorcode & 0xFF in _MISTAKES


def _unavailable(error: sqlite3.Error) -> UnavailableError:
    return UnavailableError(f"The store does not answer: {error}", code="store-unavailable")


def _prepare(path: Path) -> None:
    connection = _connect(path)
    try:
        migrations.apply(connection)
    finally:
        connection.close()


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size = -{_READ_CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection
