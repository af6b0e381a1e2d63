"""Bulk import: every row accounted for, whatever happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from unit.cli.cli_rows import IMPORT, accept, accept_but, ids, write_csv
from unit.cli.cli_service import KEY, Call, CliService, Reply, refusal
from unit.cli.conftest import Run, parsed


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


def test_bad_rows_have_a_place_before_the_good_ones_are_sent(
    run: Run, service: CliService, tmp_path: Path
) -> None:
    service.on(*IMPORT, accept)
    file = write_csv(tmp_path / "d.csv", {"registrationId": "ok"})
    errors = str(tmp_path / "missing" / "errors.csv")
    assert (
        "Cannot write" in run("enrollment", "import", file, "--errors-file", errors, code=2).stderr
    )
    assert service.calls == []


def test_standard_input_is_read_as_files_are(run: Run, service: CliService) -> None:
    service.on(*IMPORT, accept)
    run("enrollment", "import", "-", text="\ufeffregistrationId\r\ngateway-01\r\n")
    assert [each["registrationId"] for each in service.calls[0].body["enrollments"]] == [
        "gateway-01"
    ]


def test_rows_that_the_service_refuses(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on(*IMPORT, accept_but("d00001"))
    file = ids(tmp_path / "d.csv", 3)
    stderr = run("enrollment", "import", file, code=1).stderr
    assert "line 3 (d00001): Enrollment already exists. [409201]" in stderr
    assert "Next: --skip-existing" in stderr
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
