"""The embedded store: SQLite, one writer thread with group commit, readers beside it.

Invariants, where they bind:

- A write and its future are one item of a queue, and all that is queued is taken and committed
  together by one fsync (WAL, `synchronous=FULL`). Callers hear of their write only after the commit
  that holds it. A failed expectation undoes that write alone.
- A read starts after it was asked for, so it sees every write that has returned. Point reads and
  scans (`Query.scan`) have different threads: a scan of a million rows never holds up a
  registration.
- Threads and the loop talk to each other once per batch or turn, not once per item.
- The WAL is emptied by the writer: after some thousand pages, when there is nothing to do, at the
  end. So the next start has little to recover.
- No memory-mapped I/O: a failing disk must be an error of one call, not the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self, TypeAlias, final

import structlog
from msgspec import Struct

from muster.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    UnavailableError,
)
from muster.store import migrations
from muster.store.engine import Params, Query, Row, Statement
from muster.store.worker import Turn, Worker

_BUSY_MS: Final = 10_000
_MAX_PARAMETERS: Final = 32_766
"""Of a statement: SQLite's own default."""
_MAX_READS_AT_ONCE: Final = 128
_MAX_WRITES_AT_ONCE: Final = 2_000
_COMMIT_PAUSE_S: Final = 0.002
"""Least time from one commit to the next, so that under load more writes share one: a tenth less
CPU a registration (measured). A write that comes after a quiet time does not wait."""
_CHECKPOINT_PAGES: Final = 4_000
"""Pages of 4 KiB in the WAL after which a commit also empties it."""
_MAX_WAL_BYTES: Final = 128 << 20
"""Size of the WAL at which the writer waits for the readers that kept it from being emptied ..."""
_WAL_WAIT_MS: Final = 200
"""... for so long at most ..."""
_WAL_CHECK_EVERY: Final = 256
"""... after so many commits."""
_OPTIMIZE_EVERY_S: Final = 3_600.0
_SHRINK_PAGES: Final = 1_024
"""A database that shrinks does so when so many of its pages are free, and at least half of all."""

# What a statement can get wrong by itself. Everything else is the disk's or the file's doing.
_TOO_COMPLEX: Final = re.compile(r"too (?:large|many|big)|stack overflow")
"""How SQLite says that a statement is over one of its limits: of depth, columns, parameters."""
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
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


class Profile(Struct, frozen=True, kw_only=True):
    """What a database is for.

    Attributes:
        schema: folder of its migrations in `store/migrations`; empty for the service's.
        cache_kib: memory of each of the three connections for pages.
        shrinks: whether it gives space back to the disk when half of it is free and there is
            nothing to do. Costs a copy of what is left.
    """

    schema: str = ""
    cache_kib: int = 16_384
    shrinks: bool = False


SERVICE: Final = Profile()

_Write: TypeAlias = tuple[tuple[Statement, ...], asyncio.Future[None]]
_Read: TypeAlias = tuple[Query, Params, asyncio.Future[list[Row]]]
_log = structlog.get_logger(__name__)


@final
class SqliteEngine:
    """Implements `store.engine.Engine` on one SQLite file. Belongs to one event loop."""

    def __init__(
        self, path: Path, connections: list[sqlite3.Connection], *, shrinks: bool = False
    ) -> None:
        """Use `SqliteEngine.open`."""
        self._shrinks = shrinks
        self._wal = path.with_name(f"{path.name}-wal")
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._closed = False
        self._ended = asyncio.Event()
        self._failing = False
        self._commits = 0
        self._optimized_at = time.monotonic()
        self._writing, self._reading, self._scanning = connections
        self._reader: Worker[_Read] = Worker("store-reader", _MAX_READS_AT_ONCE, self._answer)
        self._scanner: Worker[_Read] = Worker("store-scanner", 1, self._scan)
        self._writer: Worker[_Write] = Worker(
            "store-writer", _MAX_WRITES_AT_ONCE, self._commit, idle=self._tidy, end=self._finish
        )
        self._reads = Turn(self._loop, self._reader.put)
        self._writes = Turn(self._loop, self._writer.put, _COMMIT_PAUSE_S)

    @classmethod
    async def open(cls, path: Path, profile: Profile = SERVICE) -> Self:
        """Open the database, made and migrated as needed.

        Args:
            path: of the file; its directory exists.
            profile: what it is for.

        Raises:
            UnavailableError: it cannot be opened, is no database any more, or was written by a
                newer version (codes `store-unavailable`, `store-damaged`, `store-too-new`).
        """
        try:
            connections = await asyncio.to_thread(_open, path, profile)
            return cls(path, connections, shrinks=profile.shrinks)
        except (sqlite3.Error, OSError) as error:
            raise UnavailableError(
                f"The database {path} cannot be opened: {error}", code=_code(error)
            ) from None

    async def read(self, query: Query, params: Params) -> list[Row]:
        """Run a query and return all its rows; sees every write that has returned.

        Raises:
            InvalidArgumentError: the query is more than SQLite takes; code `query-too-complex`.
            UnavailableError: the store is closing or cannot be read; code `store-unavailable`.
            Exception: the query or its parameters are wrong.
        """
        if self._closed:
            raise _closing()
        future: asyncio.Future[list[Row]] = self._create_future()
        (self._scanner if query.scan else self._reads).put((query, params, future))
        return await future

    async def write(self, *statements: Statement) -> None:
        """Apply all statements or none; returns when they would survive a power cut.

        Raises:
            Exception: the `otherwise` of the first statement whose expectation failed, or that a
                statement or its parameters are wrong.
            AlreadyExistsError: a uniqueness violation of a statement without `otherwise`.
            ConflictError: a wrong number of rows of a statement without `otherwise`.
            UnavailableError: the store is closing or the disk refuses; code `store-unavailable`.
        """
        if self._closed:
            raise _closing()
        future: asyncio.Future[None] = self._create_future()
        self._writes.put((statements, future))
        await future

    async def close(self) -> None:
        """Finish what was accepted, then release the database."""
        if not self._closed:
            self._closed = True
            self._reads.hand_over()
            self._writes.hand_over()
            for worker in (self._scanner, self._reader, self._writer):
                worker.close()
        await self._ended.wait()

    # The writer's thread.

    def _commit(self, batch: list[_Write]) -> None:
        connection = self._writing
        try:
            try:
                errors = _apply_all(connection, batch, careful=False)
            except _UndoError:
                connection.execute("ROLLBACK")
                errors = _apply_all(connection, batch, careful=True)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - this thread must live; others wait for it
            if not self._failing:
                _log.error("the database cannot be written", reason=str(error), writes=len(batch))
            self._failing = True
            _roll_back(connection)
            # One of its own for each: a raised error collects the traces of its catchers.
            errors = [_unavailable(error) for _ in batch]
        else:
            if self._failing:
                _log.info("the database can be written again")
            self._failing = False
        self._post(_settle_writes, batch, errors)
        self._commits += 1
        if self._commits % _WAL_CHECK_EVERY == 0:
            self._bound_wal()

    def _bound_wal(self) -> None:
        with contextlib.suppress(OSError):
            if self._wal.stat().st_size > _MAX_WAL_BYTES:
                self._tend(f"busy_timeout = {_WAL_WAIT_MS}")
                self._tend("wal_checkpoint(TRUNCATE)")
                self._tend(f"busy_timeout = {_BUSY_MS}")

    def _tidy(self) -> None:
        if self._shrinks:
            self._shrink()
        self._tend("wal_checkpoint(PASSIVE)")
        if time.monotonic() - self._optimized_at > _OPTIMIZE_EVERY_S:
            self._optimized_at = time.monotonic()
            self._tend("optimize")

    def _shrink(self) -> None:
        """Give space back; what fails may be tried the next time."""
        try:
            (free,) = self._writing.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._writing.execute("PRAGMA page_count").fetchone()
            if free < _SHRINK_PAGES or free * 2 < pages:
                return
            self._writing.execute("VACUUM")
            self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            _log.warning("database not made smaller", reason=str(error))

    def _finish(self) -> None:
        # Only the last connection can empty the WAL in any case.
        for worker, connection in (
            (self._scanner, self._scanning),
            (self._reader, self._reading),
        ):
            worker.join()
            connection.close()
        self._tend("optimize")
        self._tend("wal_checkpoint(TRUNCATE)")
        self._writing.close()
        self._post(self._ended.set)

    def _tend(self, pragma: str) -> None:
        """Do something that may as well fail."""
        try:
            self._writing.execute(f"PRAGMA {pragma}").fetchall()
        except sqlite3.Error as error:
            if self._failing:
                return  # that has been said
            _log.warning("database not tended", pragma=pragma, reason=str(error))

    # The readers' threads.

    def _answer(self, batch: list[_Read]) -> None:
        self._post(_settle_reads, batch, _rows_of_all(self._reading, batch))

    def _scan(self, batch: list[_Read]) -> None:
        self._post(_settle_reads, batch, _rows_of_all(self._scanning, batch))

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed; nobody waits any more.
            return


# In the loop.


def _settle_writes(batch: list[_Write], errors: list[Exception | None]) -> None:
    for (_, future), error in zip(batch, errors, strict=True):
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _settle_reads(batch: list[_Read], results: list[list[Row] | Exception]) -> None:
    for (_, _, future), result in zip(batch, results, strict=True):
        if future.done():
            continue
        if isinstance(result, list):
            future.set_result(result)
        else:
            future.set_exception(result)


# In the threads.


class _UndoError(Exception):
    """A write that was applied without a savepoint has changed something it must not."""


def _apply_all(
    connection: sqlite3.Connection, batch: list[_Write], *, careful: bool
) -> list[Exception | None]:
    """Apply writes in a new transaction and leave it open; return what became of each.

    A savepoint costs as much as a small statement, so there is none at first. Most writes that
    fail do so before they have changed anything; if one has, all is done again carefully.

    Raises:
        _UndoError: one has, and there was no savepoint to go back to.
        sqlite3.Error: the disk refuses; nothing of the batch may be kept.
    """
    connection.execute("BEGIN IMMEDIATE")
    errors: list[Exception | None] = []
    for statements, _ in batch:
        if careful:
            connection.execute("SAVEPOINT one")
        error, changed = None, False
        for statement in statements:
            error, affected = _apply(connection, statement)
            # Of a bulk statement that fails some rows may be there; -1 stands for any number.
            changed = changed or affected != 0 or type(statement.params) is not dict
            if error is not None:
                break
        if careful:
            if error is not None:
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        elif error is not None and changed:
            raise _UndoError
        errors.append(error)
    return errors


def _apply(connection: sqlite3.Connection, statement: Statement) -> tuple[Exception | None, int]:
    """Run one statement; return what is wrong with it and how many rows it affected."""
    params = statement.params
    try:
        if type(params) is dict or isinstance(params, Mapping):
            affected = connection.execute(statement.query.sql, params).rowcount
        else:
            affected = connection.executemany(statement.query.sql, params).rowcount
    except sqlite3.Error as error:
        if not _is_mistake(error):
            raise
        if error.sqlite_errorcode not in _DUPLICATES:
            return error, 0
        return statement.otherwise or AlreadyExistsError(
            f"{statement.query.name} met a row that is there already"
        ), 0
    except (ValueError, TypeError, OverflowError) as error:
        # A value SQLite cannot hold (a lone surrogate, a number over 64 bits).
        return error, 0
    if statement.expect is None:
        return None, affected
    if affected < 0:
        # Python counts only what begins with INSERT, UPDATE, DELETE or REPLACE, not with WITH.
        (affected,) = connection.execute("SELECT changes()").fetchone()
    if affected == statement.expect:
        return None, affected
    return statement.otherwise or ConflictError(
        f"{statement.query.name} affected {affected} rows, not {statement.expect}"
    ), affected


def _rows_of_all(connection: sqlite3.Connection, batch: list[_Read]) -> list[list[Row] | Exception]:
    if len(batch) == 1:
        query, params, _ = batch[0]
        return [_rows(connection, query, params)]
    # One snapshot for all costs less than one for each; all were asked for before it.
    try:
        connection.execute("BEGIN")
        results = [_rows(connection, query, params) for query, params, _ in batch]
        if connection.in_transaction:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        _log.error("the database cannot be read", reason=str(error))
        return [_unavailable(error) for _ in batch]
    return results


def _rows(connection: sqlite3.Connection, query: Query, params: Params) -> list[Row] | Exception:
    try:
        return connection.execute(query.sql, params).fetchall()
    except sqlite3.Error as error:
        if _TOO_COMPLEX.search(str(error)):
            return InvalidArgumentError("The condition is too complex.", code="query-too-complex")
        if _is_mistake(error):
            return error
        _log.error("the database cannot be read", query=query.name, reason=str(error))
        return _unavailable(error)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        return error


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


def _closing() -> UnavailableError:
    return UnavailableError("The store is closing", code="store-unavailable")


def _unavailable(error: Exception) -> UnavailableError:
    return UnavailableError(f"The store does not answer: {error}", code=_code(error))


def _code(error: Exception) -> str:
    number = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
    # A column that is no text: Python's own words, without a number.
    damaged = number & 0xFF in _DAMAGED or str(error).startswith("Could not decode")
    return "store-damaged" if damaged else "store-unavailable"


def _open(path: Path, profile: Profile) -> list[sqlite3.Connection]:
    """Return the writer's connection and two for readers."""
    path.touch(mode=0o600)
    connections = [_connect(path, profile)]
    try:
        migrations.apply(connections[0], migrations.bundled(profile.schema))
        for _ in range(2):
            connections.append(_connect(path, profile))
            connections[-1].execute("PRAGMA query_only = ON")
        # A scan may have to sort a million rows: not in memory.
        connections[-1].execute("PRAGMA temp_store = FILE")
    except BaseException:
        for connection in connections:
            connection.close()
        raise
    return connections


def _connect(path: Path, profile: Profile) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        # Some builds allow for more; what works here must work everywhere.
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, _MAX_PARAMETERS)
        for pragma in (
            f"busy_timeout = {_BUSY_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
            f"journal_size_limit = {_MAX_WAL_BYTES // 2}",
            f"cache_size = -{profile.cache_kib}",
            "temp_store = MEMORY",
            # `optimize` looks at so many rows of an index at most.
            "analysis_limit = 400",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
