from __future__ import annotations

import builtins
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from unit.cli.cli_service import CliService, Reply, refusal
from unit.cli.conftest import Run, parsed
from unit.cli.test_cli_events import EVENTS, event, lines

FOUND = (
    event(1, body={"t": 21.5}, properties={"alarm": "high", "none": None}),
    event(2, 1, "two\nlines", bodyEncoding="utf-8", moduleId="camera"),
    event(3, 1, "AAE=", bodyEncoding="base64", source="twinChangeEvents"),
)


def answer(service: CliService, *found: dict[str, Any]) -> None:
    service.on(*EVENTS, lambda _: Reply(lines=lines(*found), headers={"x-muster-records": "9"}))


def test_json_lines(run: Run, service: CliService, tmp_path: Path) -> None:
    answer(service, *FOUND)
    file = tmp_path / "x.jsonl"
    range_ = ("--from", "2026-01-30", "--to", "2026-01-31T00:00:00+01:00")
    shown = run("events", "export", *range_, "--out", str(file), "--source", "TELEMETRY", "--json")
    assert parsed(shown) == {"file": str(file), "format": "jsonl", "events": 3}
    assert [json.loads(line) for line in file.read_text().splitlines()] == list(FOUND)
    (call,) = service.calls
    assert {name: call.query[name] for name in ("from", "to", "follow", "source")} == {
        "from": "2026-01-30T00:00:00+00:00",
        "to": "2026-01-31T00:00:00+01:00",
        "follow": "false",
        "source": "Telemetry",
    }


def test_parquet(run: Run, service: CliService, tmp_path: Path) -> None:
    answer(service, *FOUND)
    file = tmp_path / "x.parquet"
    run("events", "export", "--out", str(file))
    rows = parquet.read_table(file).to_pylist()
    assert [row["body"] for row in rows] == ['{"t": 21.5}', "two\nlines", "AAE="]
    assert rows[0] == {
        "enqueued_time": datetime(2026, 1, 31, 12, 0, 11, 123_000, UTC),
        "device_id": "gateway-01",
        "module_id": None,
        "source": "Telemetry",
        "partition": 0,
        "sequence_number": 1,
        "offset": 100,
        "properties": [("alarm", "high"), ("none", None)],
        "system_properties": [],
        "body": '{"t": 21.5}',
        "body_encoding": "json",
    }
    assert [row["source"] for row in rows] == ["Telemetry", "Telemetry", "twinChangeEvents"]


def test_nothing_found_is_an_empty_file(run: Run, service: CliService, tmp_path: Path) -> None:
    answer(service)
    for suffix in ("jsonl", "parquet"):
        run("events", "export", "--out", str(tmp_path / f"x.{suffix}"))
    assert (tmp_path / "x.jsonl").read_bytes() == b""
    assert parquet.read_table(tmp_path / "x.parquet").num_rows == 0


def test_parquet_without_its_library(
    run: Run, service: CliService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    answer(service, *FOUND)
    failed = run("events", "export", "--out", str(tmp_path / "x.parquet"), code=1)
    assert "pip install 'muster-iot[parquet]'" in failed.stderr
    assert not list(tmp_path.glob("*x.parquet*"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_an_export_that_fails_leaves_the_old_file(
    run: Run, service: CliService, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("old")
    service.on(*EVENTS, Reply(lines=lines(FOUND[0]), breaks=True))
    run("events", "export", "--out", str(tmp_path / name), code=3)
    service.on(*EVENTS, refusal(400, 400000, "No such position"))
    run("events", "export", "--out", str(tmp_path / name), code=1)
    assert (tmp_path / name).read_text() == "old"


def test_the_format_must_be_known(run: Run, tmp_path: Path) -> None:
    assert "--format" in run("events", "export", "--out", str(tmp_path / "x.csv"), code=2).stderr
