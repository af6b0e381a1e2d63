"""Rows of an enrollment file: read, checked, and turned into the service's JSON.

A CSV file has a heading with some of `COLUMNS`; a JSON Lines file has an object a line, with the
same names (and JSON instead of text for `tags` and `desired`), or whole enrollments as `muster
enrollment export` and `show --json` write them.
"""

from __future__ import annotations

import csv
from typing import IO, TYPE_CHECKING, Any

import msgspec

from muster.cli.import_fields import (
    COLUMNS,
    BadValueError,
    entry_of,
    parse_json,
    registration_id_of,
)
from muster.ids import registration_key

if TYPE_CHECKING:
    from collections.abc import Iterator


class Row(msgspec.Struct, frozen=True):
    """One good row.

    Attributes:
        line: where it begins in the file, from 1.
        registration_id: whose.
        body: the enrollment as JSON text.
    """

    line: int
    registration_id: str
    body: bytes


class RowError(msgspec.Struct, frozen=True, rename="camel"):
    """Why a row was not taken. Never holds a key.

    Attributes:
        line: where it begins in the file, from 1.
        registration_id: whose; empty when that is what is wrong.
        error: the reason.
        error_code: the service's number; 0 when the row was not sent.
    """

    line: int
    registration_id: str
    error: str
    error_code: int = 0


class _NoRecord(msgspec.Struct, frozen=True):
    """Stands for a line that holds no record, and says why."""

    reason: str


class UnreadableFileError(Exception):
    """The file as a whole makes no sense; the message says why."""


def read_rows(file: IO[str], *, json_lines: bool) -> tuple[list[Row], list[RowError]]:
    """Read a whole file.

    Args:
        file: opened as text with `newline=""`.
        json_lines: whether it is JSON Lines; otherwise CSV.

    Returns:
        Good rows and errors of bad ones, both in the order of the file.

    Raises:
        UnreadableFileError: it is no such file at all.
    """
    rows: list[Row] = []
    errors: list[RowError] = []
    first_lines: dict[str, int] = {}
    records = _json_records(file) if json_lines else _csv_records(file)
    try:
        for line, record in records:
            registration_id = ""
            try:
                if isinstance(record, _NoRecord):
                    errors.append(RowError(line, "", record.reason))
                    continue
                registration_id = registration_id_of(record)
                body = msgspec.json.encode(entry_of(registration_id, record))
                _first_time(registration_id, line, first_lines)
            except BadValueError as error:
                errors.append(RowError(line, registration_id, str(error)))
            except (RecursionError, UnicodeEncodeError):
                reason = "nested too deeply, or half of a surrogate pair in a text"
                errors.append(RowError(line, registration_id, reason))
            else:
                rows.append(Row(line, registration_id, body))
    except UnicodeDecodeError:
        raise UnreadableFileError(
            "it is not UTF-8 text; save it as UTF-8 (in a spreadsheet: CSV UTF-8)"
        ) from None
    except csv.Error as error:
        raise UnreadableFileError(f"it is not CSV: {error}") from None
    return rows, errors


def _csv_records(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | _NoRecord]]:
    reader = csv.reader(file)
    heading = next(reader, None)
    if not heading:
        raise UnreadableFileError("it is empty; the first line must name the columns")
    columns = _columns(heading)
    before = reader.line_num
    for fields in reader:
        line, before = before + 1, reader.line_num
        if not any(field.strip() for field in fields):
            continue
        if len(fields) > len(columns):
            reason = f"{len(fields)} values for {len(columns)} columns; quote values with commas"
            yield line, _NoRecord(reason)
        else:
            values = (field.strip() for field in fields)
            yield line, {name: value for name, value in zip(columns, values, strict=False) if value}


def _columns(heading: list[str]) -> list[str]:
    known = {name.lower(): name for name in COLUMNS}
    columns: list[str] = []
    for text in heading:
        name = known.get(text.strip().lower())
        if name is None:
            hint = "; separate columns with commas" if len(heading) == 1 and ";" in text else ""
            raise UnreadableFileError(
                f"there is no column {text.strip()!r}{hint}. Columns: {', '.join(COLUMNS)}"
            )
        if name in columns:
            raise UnreadableFileError(f"the column {name} is there twice")
        columns.append(name)
    if "registrationId" not in columns:
        raise UnreadableFileError("the column registrationId is missing")
    return columns


def _json_records(file: IO[str]) -> Iterator[tuple[int, dict[str, Any] | _NoRecord]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            record = parse_json(text)
        except (ValueError, RecursionError) as error:
            yield line, _NoRecord(f"not JSON: {error}")
            continue
        if not isinstance(record, dict):
            yield line, _NoRecord("not a JSON object")
            continue
        yield line, {name: value for name, value in record.items() if value is not None}


def _first_time(registration_id: str, line: int, first_lines: dict[str, int]) -> None:
    first = first_lines.setdefault(registration_key(registration_id), line)
    if first != line:
        raise BadValueError(f"registrationId: the same as in line {first}")
