"""Bulk import and export: every row accounted for, whatever happens."""

from __future__ import annotations

import csv
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cli.import_fields import COLUMNS
from muster.cli.import_rows import UnreadableFileError, read_rows
from unit.cli.cli_service import KEY, WRONG_KEY, Call, CliService, Reply, refusal
from unit.cli.conftest import Run, parsed

IMPORT = ("POST", "/admin/v1/enrollments/import")
ROW = {
    "registrationId": "gateway-01",
    "deviceId": "gw",
    "primaryKey": KEY,
    "secondaryKey": WRONG_KEY,
    "iotEdge": "True",
    "provisioningStatus": "Disabled",
    "allocationPolicy": "STATIC",
    "iotHubs": "plant-a; plant-b;",
    "reprovisionPolicy": "reprovisionAndResetData",
    "tags": '{"site": "a, b"}',
    "desired": '{"interval": 30}',
}
ENTRY: dict[str, Any] = {
    "registrationId": "gateway-01",
    "attestation": {
        "type": "symmetricKey",
        "symmetricKey": {"primaryKey": KEY, "secondaryKey": WRONG_KEY},
    },
    "deviceId": "gw",
    "capabilities": {"iotEdge": True},
    "provisioningStatus": "disabled",
    "allocationPolicy": "static",
    "iotHubs": ["plant-a", "plant-b"],
    "reprovisionPolicy": {"updateHubAssignment": True, "migrateDeviceData": False},
    "initialTwin": {"tags": {"site": "a, b"}, "properties": {"desired": {"interval": 30}}},
}


def accept(call: Call) -> Any:
    return {
        "results": [
            {"registrationId": each["registrationId"], "ok": True}
            for each in call.body["enrollments"]
        ]
    }


def accept_but(*refused: str) -> Any:
    def answer(call: Call) -> Any:
        found = accept(call)
        for each in found["results"]:
            if each["registrationId"] in refused:
                each.update(ok=False, errorCode=409201, error="Enrollment already exists.")
        return found

    return answer


def write_csv(path: Path, *rows: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def ids(path: Path, count: int) -> str:
    rows = ({"registrationId": f"d{number:05}"} for number in range(count))
    return write_csv(path, *rows, columns=("registrationId",))


# -- what a row becomes ------------------------------------------------------------------------


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


# -- nothing half-done without saying so -------------------------------------------------------


def test_nothing_is_sent_of_a_file_with_bad_rows(
    run: Run, service: CliService, tmp_path: Path
) -> None:
    service.on(*IMPORT, accept)
    file = write_csv(tmp_path / "d.csv", {"registrationId": "ok"}, {"registrationId": "a b"})
    errors = tmp_path / "errors.csv"
    stderr = run("enrollment", "import", file, "--errors-file", str(errors), code=1).stderr
    assert "Nothing was sent: 1 of 2 rows are bad" in stderr
    assert service.calls == []
    assert errors.read_text().splitlines()[1].startswith("3,,,")
    run("enrollment", "import", file, "--skip-invalid", code=1)
    assert [each["registrationId"] for each in service.calls[0].body["enrollments"]] == ["ok"]


def test_rows_that_the_service_refuses(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on(*IMPORT, accept_but("d00001"))
    file = ids(tmp_path / "d.csv", 3)
    stderr = run("enrollment", "import", file, code=1).stderr
    assert "line 3 (d00001): Enrollment already exists. [409201]" in stderr
    assert "Created 2, failed 1" in stderr
    assert (
        "already there 1, failed 0" in run("enrollment", "import", file, "--skip-existing").stderr
    )
    report = parsed(run("enrollment", "import", file, "--json", code=1))
    assert (report["succeeded"], report["failed"], report["notAttempted"]) == (2, 1, 0)
    assert report["errors"][0]["line"] == 3


def test_calls_stay_within_the_limit_of_the_service(
    run: Run, service: CliService, tmp_path: Path
) -> None:
    service.on(*IMPORT, accept)
    stderr = run("enrollment", "import", ids(tmp_path / "d.csv", 2500)).stderr
    sizes = [len(call.body["enrollments"]) for call in service.calls]
    assert sum(sizes) == 2500
    assert max(sizes) <= 1000
    assert "100 % (2,500 of 2,500)" in stderr
    assert "Created 2,500" in stderr


def test_a_row_that_spoils_its_call_is_found_and_the_others_go_in(
    run: Run, service: CliService, tmp_path: Path
) -> None:
    def answer(call: Call) -> Any:
        if any(each["registrationId"] == "d00300" for each in call.body["enrollments"]):
            return refusal(400, 400000, "Expected `object`, got `int`")
        taken.extend(each["registrationId"] for each in call.body["enrollments"])
        return accept(call)

    taken: list[str] = []
    service.on(*IMPORT, answer)
    stderr = run("enrollment", "import", ids(tmp_path / "d.csv", 700), code=1).stderr
    assert "line 302 (d00300): Expected `object`, got `int` [400000]" in stderr
    assert "Created 699, failed 1, not attempted 0 (of 700 rows)" in stderr
    assert taken == sorted(taken)
    assert len(taken) == 699


def test_what_was_surely_not_sent_is_not_called_doubtful(
    run: Run, service: CliService, tmp_path: Path
) -> None:
    def answer(call: Call) -> Any:
        service.close()
        return Reply(accept(call), headers={"Connection": "close"})

    service.on(*IMPORT, answer)
    stderr = run("enrollment", "import", ids(tmp_path / "d.csv", 700), code=3).stderr
    assert "Created 500, failed 0, not attempted 200 (of 700 rows)" in stderr
    assert "Lines 502 to 701: not sent." in stderr
    assert "may be in" not in stderr


def test_a_value_in_the_wrong_column_is_not_shown_whole(run: Run, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "d.csv", {"registrationId": "d", "iotEdge": KEY})
    stderr = run("enrollment", "import", file, code=1).stderr
    assert "line 2 (d): iotEdge:" in stderr
    assert KEY[:20] not in stderr


def test_a_refusal_half_way(run: Run, service: CliService, tmp_path: Path) -> None:
    def answer(call: Call) -> Any:
        return answers.pop(0)(call)

    service.on(*IMPORT, answer)
    file = ids(tmp_path / "d.csv", 1700)
    answers: list[Any] = [accept, lambda _: refusal(403, 403000, "Forbidden")]
    stderr = run("enrollment", "import", file, code=1).stderr
    first, second = (len(call.body["enrollments"]) for call in service.calls)
    assert f"Lines 2 to {first + 1}: done" in stderr
    assert f"Lines {first + 2} to 1701: not sent" in stderr
    assert "Forbidden" in stderr
    assert "--skip-existing" in stderr
    answers = [accept, lambda _: refusal(503, 503000, "Stopping")]
    stderr = run("enrollment", "import", file, code=1).stderr
    assert f"Lines {first + 2} to {first + second + 1}: sent, but" in stderr


def test_a_break_half_way(run: Run, service: CliService, tmp_path: Path) -> None:
    answers = iter([accept])

    def answer(call: Call) -> Any:
        found = next(answers, None)
        return found(call) if found else Reply(lines=iter(['{"results": [']), breaks=True)

    service.on(*IMPORT, answer)
    file = ids(tmp_path / "d.csv", 3000)
    stderr = run("enrollment", "import", file, code=3).stderr
    first, second = (len(call.body["enrollments"]) for call in service.calls[:2])
    assert f"Lines 2 to {first + 1}: done" in stderr
    assert f"Lines {first + 2} to {first + second + 1}: sent, but the answer" in stderr
    assert f"Lines {first + second + 2} to 3001: not sent" in stderr
    assert "they may be in" in stderr


def test_ctrl_c_half_way(
    run: Run, service: CliService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.on(*IMPORT, accept)
    from muster.cli.progress import Progress

    def interrupt(self: Progress, count: int) -> None:
        del self, count
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    stderr = run("enrollment", "import", ids(tmp_path / "d.csv", 1500), code=1).stderr
    first = len(service.calls[0].body["enrollments"])
    assert "The import was interrupted" in stderr
    assert f"Lines 2 to {first + 1}: done" in stderr
    assert f"Lines {first + 2} to 1501: not sent" in stderr


def test_ten_thousand_rows_take_seconds(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on(*IMPORT, accept)
    file = ids(tmp_path / "d.csv", 10_000)
    started = time.monotonic()
    run("enrollment", "import", file)
    assert time.monotonic() - started < 20


# -- export ------------------------------------------------------------------------------------


def test_export_and_import_again(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on("POST", "/enrollments/query", [{**ENTRY, "attestation": {"type": "symmetricKey"}}])
    service.on("GET", "/admin/v1/enrollments/export", [{**ENTRY, "etag": "e"}])
    service.on(*IMPORT, accept)
    for name in ("d.csv", "d.jsonl"):
        plain, keyed = tmp_path / name, tmp_path / f"keys-{name}"
        run("enrollment", "export", str(plain))
        assert KEY not in plain.read_text()
        run("enrollment", "export", str(keyed), "--keys")
        assert stat.S_IMODE(keyed.stat().st_mode) == 0o600
        run("enrollment", "import", str(keyed))
        assert service.calls[-1].body["enrollments"] == [ENTRY]
    assert not list(tmp_path.glob(".*.new"))


def test_a_broken_export_leaves_the_old_file(run: Run, service: CliService, tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("old")

    def page(call: Call) -> Reply:
        if "x-ms-continuation" in call.headers:
            return refusal(500, 500000, "Broken")
        return Reply([ENTRY], headers={"x-ms-continuation": "next"})

    service.on("POST", "/enrollments/query", page)
    assert "Broken" in run("enrollment", "export", str(file), code=1).stderr
    assert file.read_text() == "old"
    assert not list(tmp_path.glob(".*.new"))


def test_export_to_a_place_that_is_none(run: Run, service: CliService) -> None:
    service.on("POST", "/enrollments/query", [])
    assert "Cannot write" in run("enrollment", "export", "/no/such/d.csv", code=1).stderr
    assert "neither .csv nor .jsonl" in run("enrollment", "export", "d.txt", code=2).stderr
    assert run("enrollment", "export", "-").stdout.startswith("registrationId,")
