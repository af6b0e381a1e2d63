"""What a row of an enrollment file becomes, and what is said of a bad one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.import_rows import UnreadableFileError, read_rows
from unit.cli.cli_rows import ENTRY, IMPORT, ROW, accept, write_csv
from unit.cli.cli_service import KEY, CliService
from unit.cli.conftest import Run


def test_every_column_of_csv(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on(*IMPORT, accept)
    result = run("enrollment", "import", write_csv(tmp_path / "d.csv", ROW))
    assert service.calls[0].body == {"mode": "create", "enrollments": [ENTRY]}
    assert "Created 1, failed 0, not attempted 0 (of 1 rows)" in result.stderr


def test_json_lines_with_columns_or_whole(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on(*IMPORT, accept)
    file = tmp_path / "d.jsonl"
    whole = {**ENTRY, "registrationId": "d2", "etag": "e", "registrationState": {}}
    columns = {**ROW, "iotEdge": True, "tags": {"site": "a, b"}, "iotHubs": ["plant-a", "plant-b"]}
    file.write_text(f"{json.dumps(columns)}\n\n{json.dumps(whole)}\n")
    run("enrollment", "import", str(file), "--mode", "createOrUpdate")
    sent = service.calls[0].body
    assert sent["mode"] == "createOrUpdate"
    assert sent["enrollments"] == [ENTRY, {**ENTRY, "registrationId": "d2"}]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("registrationId", "", "registrationId is missing"),
        ("registrationId", "a b", "is not 1 to 128 of"),
        ("deviceId", "a/b", "is no device ID"),
        ("primaryKey", "!" * 40, "primaryKey: "),
        ("iotEdge", "maybe", "neither true nor false"),
        ("provisioningStatus", "on", "is not one of enabled, disabled"),
        ("allocationPolicy", "nearest", "is not one of hashed, static"),
        ("reprovisionPolicy", "always", "is not one of reprovisionandmigratedata"),
        ("tags", "{", "tags: not JSON"),
        ("desired", "[]", "desired: a JSON object is needed"),
        ("tags", '{"a": NaN}', "NaN is not a JSON number"),
        ("tags", '{"a.b": 1}', "tags has the key 'a.b'"),
        ("desired", '{"a": 9007199254740993}', "desired has a number outside the range"),
    ],
)
def test_a_bad_value_is_named_with_its_line(
    run: Run, tmp_path: Path, column: str, value: str, reason: str
) -> None:
    file = write_csv(tmp_path / "d.csv", {"registrationId": "ok"}, {**ROW, column: value})
    stderr = run("enrollment", "import", file, "--dry-run", code=1).stderr
    assert stderr.startswith("line 3")
    assert reason in stderr
    assert "1 good rows, 1 bad ones" in stderr
    assert KEY not in stderr
    assert "!" * 40 not in stderr


def test_a_quoted_line_end_counts_as_a_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text('registrationId,tags\nok,"{\n}"\nok,\n')
    stderr = run("enrollment", "import", str(file), "--dry-run", code=1).stderr
    assert "line 4 (ok): registrationId: the same as in line 2" in stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"deviceId\nx\n", "the column registrationId is missing"),
        (b"registrationId,colour\n", "there is no column 'colour'"),
        (b"registrationId;deviceId\n", "separate columns with commas"),
        (b"registrationId,registrationId\n", "is there twice"),
        (b"registrationId\n\xff\xfe\n", "not UTF-8"),
    ],
)
def test_a_file_that_makes_no_sense(run: Run, tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "d.csv"
    file.write_bytes(content)
    assert reason in run("enrollment", "import", str(file), code=2).stderr


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    for json_lines in (True, False):
        lines = (f"{line}\n" for line in text.split("\n"))
        try:
            rows, errors = read_rows(_File(lines), json_lines=json_lines)
        except UnreadableFileError:
            continue
        assert len(rows) + len(errors) <= text.count("\n") + 1


class _File:
    """As much of a file as a reader may use."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __next__(self) -> str:
        return next(self._lines)
