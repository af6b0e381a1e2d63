from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.terminal import output
from unit.cli.cli_service import CliService

ENTRY = {
    "registrationId": "gateway-01",
    "provisioningStatus": "enabled",
    "registrationState": {"status": "assigned", "assignedHub": "plant-a", "deviceId": "Zürich"},
}
QUERY = ("POST", "/enrollments/query")


def muster(data_dir: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command = (sys.executable, "-m", "muster", *arguments)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")
    }
    environment |= {"MUSTER_DATA_DIR": str(data_dir), **options.pop("env", {})}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, **options)


def on_a_terminal(data_dir: Path, *arguments: str, **env: str) -> str:
    """Run with a terminal as stdout and return what it shows."""
    ours, theirs = pty.openpty()
    process = muster(data_dir, *arguments, stdout=theirs, env={"TERM": "xterm", **env})
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65_536):
            shown += data
    except OSError:
        pass  # what Linux says when the other end has gone
    finally:
        os.close(ours)
        process.communicate(timeout=30)
    return shown.decode()


def test_tables_are_plain_where_nobody_looks(data_dir: Path, service: CliService) -> None:
    service.on(*QUERY, [ENTRY, {"registrationId": "s"}])
    process = muster(data_dir, "enrollment", "list", stdout=subprocess.PIPE)
    stdout, _ = process.communicate(timeout=30)
    assert stdout.decode().splitlines() == [
        "REGISTRATION ID  DEVICE ID  PROVISIONING  EDGE  REGISTRATION  HUB",
        "gateway-01       Zürich     enabled       no    assigned      plant-a",
        "s                -          enabled       no    unassigned    -",
    ]


def test_a_terminal_gets_a_drawn_table_unless_it_wants_no_color(
    data_dir: Path, service: CliService
) -> None:
    service.on(*QUERY, [ENTRY])
    drawn = on_a_terminal(data_dir, "enrollment", "list")
    assert "\x1b[1m" in drawn
    assert "─" in drawn
    plain = on_a_terminal(data_dir, "enrollment", "list", NO_COLOR="1")
    assert "\x1b" not in plain
    assert "─" not in plain
    assert "gateway-01" in plain


def test_registrations_fit_a_terminal_of_80_columns(data_dir: Path, service: CliService) -> None:
    record = {
        "registrationId": "sensor-01",
        "status": "assigned",
        "assignedHub": "localhost",
        "deviceId": "sensor-01",
        "lastUpdatedDateTimeUtc": "2026-11-25T20:57:36.642435Z",
    }
    service.on("POST", "/registrations/line-7/query", [record])
    shown = on_a_terminal(
        *(data_dir, "registration", "list", "--group", "line-7"), COLUMNS="80"
    ).splitlines()
    assert len(shown) == 3
    assert shown[2].split() == [
        *("sensor-01", "assigned", "localhost", "sensor-01", "2026-11-25T20:57:36Z", "-")
    ]


def test_on_a_narrow_terminal_only_sentences_are_folded(
    data_dir: Path, service: CliService
) -> None:
    name = "a-deployment-with-a-long-name"
    metrics = {"results": {}, "queries": {}}
    found = {"id": name, "content": {"modulesContent": {}}, "priority": 0, "metrics": metrics}
    found |= {
        "systemMetrics": metrics,
        "targetCondition": "tags.site = 'a' " + "OR tags.x = 1 " * 9,
    }
    service.on("GET", "/configurations", [found])
    for width in ("120", "40"):
        shown = on_a_terminal(data_dir, "deployment", "list", COLUMNS=width)
        assert name in shown, width
        assert "SUCCEEDED" in shown
    # Where not even that fits, a row is a line as in a pipe.
    assert "─" not in shown
    assert found["targetCondition"].strip() in shown.replace("\r\n", "\n")


def test_sentences_are_wrapped_below_where_they_begin_on_a_terminal_only(
    data_dir: Path, service: CliService
) -> None:
    cause = "The token was signed with the primary key of the enrollment group " + "x" * 60 + "."
    service.on("GET", "/admin/v1/explanations/s", [{"subject": "s", "title": "t", "cause": cause}])
    arguments = ("registration", "explain", "s")
    wrapped = on_a_terminal(data_dir, *arguments, COLUMNS="60").splitlines()
    at = next(number for number, line in enumerate(wrapped) if "Cause" in line)
    first, *others = (line.replace("\x1b[0m", "") for line in wrapped[at : at + 3])
    column = first.replace("\x1b[1m", "").index("The token")
    assert all(line[:column].isspace() and line[column] != " " for line in others)
    process = muster(data_dir, *arguments, stdout=subprocess.PIPE)
    stdout, _ = process.communicate(timeout=30)
    assert any(line.endswith(cause) for line in stdout.decode().splitlines())


def test_a_command_in_a_sentence_is_not_broken() -> None:
    assert output.wrapped("To do it, run `muster device list` now.", 20) == [
        *("To do it, run", "`muster device list`", "now.")
    ]


def test_an_encoding_that_lacks_a_character_gets_an_escape(
    data_dir: Path, service: CliService
) -> None:
    service.on(*QUERY, [{"registrationId": "s", "deviceId": "Zürich ☃"}])
    process = muster(
        data_dir,
        *("enrollment", "list"),
        stdout=subprocess.PIPE,
        env={"PYTHONIOENCODING": "latin-1"},
    )
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert b"Z\xfcrich \\u2603" in stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to be a full disk")
@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "--json"), ("export", "-")], ids=" ".join
)
def test_a_full_disk_is_said_in_a_line(
    arguments: tuple[str, ...], data_dir: Path, service: CliService
) -> None:
    service.on(*QUERY, [ENTRY])
    with Path("/dev/full").open("wb") as full:
        process = muster(data_dir, "enrollment", *arguments, stdout=full)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr == b"Error: No space left on device\n"


def test_a_reader_that_leaves_early_gets_no_traceback(data_dir: Path, service: CliService) -> None:
    service.on(*QUERY, [ENTRY] * 5000)
    process = muster(data_dir, "enrollment", "list", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(30)


@given(st.text())
def test_no_text_can_steer_a_terminal(text: str) -> None:
    for shown in (output.printable(text), output.to_json({text: text}), output.cell([text])):
        left = shown.replace("\n", "")
        assert not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 for each in left)
        shown.encode()  # no halves of surrogate pairs


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_means_what_it_meant(value: Any) -> None:
    import json

    for indent in (None, 2):
        assert json.loads(output.to_json(value, indent=indent)) == value
    assert json.loads(output.printable_json(json.dumps(value, ensure_ascii=False))) == value


def test_secrets_are_taken_out_at_any_depth() -> None:
    found = output.without_secrets([{"a": {"primaryKey": "x", "secondaryKey": "y", "b": 1}}])
    assert found == [{"a": {"primaryKey": None, "secondaryKey": None, "b": 1}}]
