from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from muster.cli import event_stream
from unit.cli.cli_service import Call, CliService, Reply, refusal
from unit.cli.conftest import Run

EVENTS = ("GET", "/admin/v1/events")
DATE = {"Date": "Sat, 31 Jan 2026 12:00:00 GMT"}


def event(sequence: int, partition: int = 0, body: Any = 21.5, **more: Any) -> dict[str, Any]:
    return {
        "sequenceNumber": sequence,
        "partition": partition,
        "offset": sequence * 100,
        "enqueuedTime": f"2026-01-31T12:00:{10 + sequence:02}.123Z",
        "deviceId": "gateway-01",
        "moduleId": None,
        "systemProperties": {},
        "properties": {},
        "body": body,
        "bodyEncoding": "json",
        **more,
    }


def lines(*found: dict[str, Any]) -> Iterator[str]:
    return (json.dumps(each) if each else "" for each in found)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PAUSES_S", (0.01,))


def answer(service: CliService, *replies: Reply) -> None:
    """Answer each call with the next reply."""
    left = iter(replies)
    service.on(*EVENTS, lambda _: next(left, refusal(400, 400000, "one call too many")))


def test_events_as_text(run: Run, service: CliService) -> None:
    found = (
        event(1, body={"temperature": 21.5}, properties={"alarm": "high", "empty": None}),
        event(2, body="two\nlines \x1b[2J", bodyEncoding="utf-8", moduleId="camera"),
        event(3, body="AAE=", bodyEncoding="base64", source="twinChangeEvents"),
    )
    answer(service, Reply(lines=lines({}, *found)))
    shown = run("events", "tail", "--from", "earliest", "--count", "3").stdout.splitlines()
    assert shown == [
        '2026-01-31T12:00:11.123Z  gateway-01  0:1  {"temperature": 21.5}  alarm=high  empty',
        "2026-01-31T12:00:12.123Z  gateway-01/camera  0:2  two\\x0alines \\x1b[2J",
        "2026-01-31T12:00:13.123Z  gateway-01  0:3  twinChangeEvents  AAE=",
    ]


def test_events_as_json_are_exactly_those_of_the_service(run: Run, service: CliService) -> None:
    line = json.dumps(event(7, 2)).replace("21.5", "21.50")
    answer(service, Reply(lines=iter([line])))
    arguments = ("--device-id", "gateway-01", "--partition", "2", "--from", "7", "--count", "1")
    arguments += ("--source", "telemetry")
    assert run("events", "tail", *arguments, "--json").stdout == line + "\n"
    (call,) = service.calls
    assert call.query == {
        "api-version": "2021-04-12",
        "hub": "localhost",
        "deviceId": "gateway-01",
        "partition": "2",
        "from": "7",
        "source": "Telemetry",
        "follow": "true",
    }


def test_a_break_in_one_partition_goes_on_by_sequence_number(run: Run, service: CliService) -> None:
    answer(
        service,
        Reply(lines=lines(event(1), event(2)), breaks=True),
        refusal(503, 503000, "Starting"),
        Reply(lines=lines(event(2), event(3))),
    )
    arguments = ("events", "tail", "--partition", "0", "--from", "earliest", "--count", "3")
    shown = run(*arguments).stdout.splitlines()
    assert [line.split()[2] for line in shown] == ["0:1", "0:2", "0:3"]
    assert [call.query["from"] for call in service.calls] == ["earliest", "3", "3"]


def test_a_break_over_partitions_goes_on_by_time_without_doubles(
    run: Run, service: CliService
) -> None:
    answer(
        service,
        Reply(lines=lines(event(1), event(4, 1)), headers=DATE),
        Reply(lines=lines(event(1), event(2, 2), event(4, 1), event(5))),
    )
    shown = run("events", "tail", "--count", "4").stdout.splitlines()
    assert [line.split()[2] for line in shown] == ["0:1", "1:4", "2:2", "0:5"]
    assert [call.query["from"] for call in service.calls] == [
        "latest",
        "2026-01-31T12:00:06.123000+00:00",
    ]


def test_a_partition_that_lags_decides_where_to_go_on_until_all_are_read(
    run: Run, service: CliService
) -> None:
    answer(
        service,
        Reply(lines=lines(event(1), event(40, 1))),
        Reply(lines=lines(event(2), event(41, 1), {})),
        Reply(lines=lines(event(3))),
    )
    run("events", "tail", "--from", "earliest", "--count", "5")
    assert [call.query["from"] for call in service.calls] == [
        "earliest",
        "2026-01-31T12:00:06.123000+00:00",
        "2026-01-31T12:00:46.123000+00:00",
    ]


def test_a_break_before_the_first_event_goes_on_where_latest_was(
    run: Run, service: CliService
) -> None:
    answer(service, Reply(lines=lines({}), headers=DATE), Reply(lines=lines(event(1))))
    run("events", "tail", "--count", "1")
    assert [call.query["from"] for call in service.calls] == ["latest", "2026-01-31T12:00:00+00:00"]


def test_a_sequence_number_holds_over_a_break(run: Run, service: CliService) -> None:
    answer(service, Reply(lines=lines(event(5))), Reply(lines=lines(event(4, 1), event(6, 1))))
    shown = run("events", "tail", "--from", "5", "--count", "2").stdout.splitlines()
    assert [line.split()[2] for line in shown] == ["0:5", "1:6"]


def test_the_end_of_the_log_ends_it(run: Run, service: CliService) -> None:
    service.on(*EVENTS, lambda _: Reply(lines=lines(event(1))))
    run("events", "tail", "--no-follow", "--from", "earliest")
    stderr = run(
        "events", "tail", "--no-follow", "--from", "earliest", "--count", "2", code=1
    ).stderr
    assert "1 of 2 events came" in stderr


def test_a_time_out(run: Run, service: CliService) -> None:
    stop = threading.Event()

    def wait(_: Call) -> Reply:
        stop.wait(30)
        return Reply(lines=lines())

    service.on(*EVENTS, wait)
    try:
        assert run("events", "tail", "--timeout", "0.1").stdout == ""
        stderr = run("events", "tail", "--timeout", "0.1", "--count", "1", code=1).stderr
        assert "0 of 1 events came in 0.1 s" in stderr
    finally:
        stop.set()


def test_a_refusal_is_not_tried_again(run: Run, service: CliService) -> None:
    service.on(*EVENTS, refusal(400, 400000, "There are several hubs"))
    assert "several hubs" in run("events", "tail", code=1).stderr
    assert len(service.calls) == 1


def test_a_service_that_stays_away(
    run: Run, service: CliService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PATIENCE_S", 0.5)
    answers = iter([Reply(lines=lines(event(1)))])
    service.on(*EVENTS, lambda _: next(answers, refusal(503, 503000, "Stopping")))
    result = run("events", "tail", code=1)
    assert "trying again" in result.stderr
    assert "Stopping" in result.stderr


def test_nonsense_is_no_event(run: Run, service: CliService) -> None:
    answer(service, Reply(lines=iter(["<html>"])))
    assert "no event" in run("events", "tail", code=1).stderr


def test_ctrl_c_is_a_good_end(run: Run, service: CliService) -> None:
    del run  # for its environment
    stop = threading.Event()

    def endless() -> Iterator[str]:
        yield json.dumps(event(1))
        stop.wait(30)

    service.on(*EVENTS, lambda _: Reply(lines=endless()))
    # Where the tests run in the background, the signal is ignored, and a child inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "muster", "events", "tail"],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert "gateway-01" in process.stdout.readline()  # at once, not when a buffer is full
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    stop.set()
    assert (process.returncode, stderr) == (0, "")
