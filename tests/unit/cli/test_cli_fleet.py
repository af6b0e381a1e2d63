"""`muster fleet simulate`: what it is told, and how it shows what happens."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from muster.cli import fleet_view
from muster.cli.fleet_view import JsonLines, Lines, Live, fields
from muster.fleet.tally import State, Tally
from muster.observe import logs
from unit.cli.cli_service import KEY, CliService, Reply, refusal
from unit.cli.conftest import Run

SIMULATE = ("fleet", "simulate", "--count", "2", "--duration", "1")
UNREACHABLE = "Cannot reach localhost:1: connection refused"


@pytest.fixture(autouse=True)
def _logs_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the logs of this process as they are: other tests read them."""
    monkeypatch.setattr(logs, "configure", lambda _level: None)


@pytest.fixture
def described(service: CliService) -> CliService:
    """Return a service that tells where it is."""
    service.on("GET", "/admin/v1/dps", lambda _: Reply({"idScope": "0ne1", "deviceHost": "dps.x"}))
    hubs = [{"host": "hub.x", "local": True}, {"host": "far.x", "local": False}]
    service.on("GET", "/admin/v1/hubs", lambda _: Reply(hubs))
    return service


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Give exactly one of --group"),
        (("--group", "g", "--group-key", KEY), "Give exactly one of --group"),
        (("--group", "g", "--tags", "{}"), "--tags are those of a group that is created"),
        (("--group-key", "no key", "--dps-host", "x", "--id-scope", "s"), "--group-key:"),
        (("--group-key-file", "nothing", "--dps-host", "x", "--id-scope", "s"), "cannot read"),
        (("--group-key", KEY, "--dps-host", "x:y", "--id-scope", "s"), "no HOST[:PORT]"),
        (
            ("--group-key", KEY, "--dps-host", "x", "--id-scope", "s", "--prefix", "a b"),
            "'a b2' is no registration ID",
        ),
        (("--group", "g", "--size", "31"), "--size"),
        (("--group", "g", "--count", "0"), "--count"),
    ],
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...], complaint: str) -> None:
    shown = run(*SIMULATE, *arguments, code=2).stderr
    assert complaint in shown.replace("\n", " ")


def test_too_many_for_this_process(run: Run) -> None:
    options = ("--group-key", KEY, "--dps-host", "localhost:1", "--id-scope", "s")
    import resource

    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] in {resource.RLIM_INFINITY, 1 << 30}:
        pytest.skip("no limit here")
    shown = run("fleet", "simulate", "--count", "1000000", *options, code=2).stderr
    assert "ulimit -Hn" in shown


def test_nobody_there(run: Run) -> None:
    options = ("--group-key", KEY, "--dps-host", "localhost:1", "--id-scope", "s")
    shown = run(*SIMULATE, *options, code=3)
    assert UNREACHABLE in shown.stderr
    assert KEY not in shown.output


def test_a_key_file_does_without_a_service(run: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    options = ("--group-key-file", str(tmp_path / "key"), "--dps-host", "localhost:1")
    assert UNREACHABLE in run(*SIMULATE, *options, "--id-scope", "s", code=3).stderr


def test_the_group_and_its_key_come_from_the_service(run: Run, described: CliService) -> None:
    path = "/enrollmentGroups/g"
    secret = {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY}}
    described.on("POST", f"{path}/attestationmechanism", lambda _: Reply(secret))
    run(*SIMULATE, "--group", "g", "--dps-host", "localhost:1", code=3)
    assert [call.path for call in described.calls] == [
        "/admin/v1/dps",
        "/admin/v1/hubs",
        f"{path}/attestationmechanism",
    ]


def test_a_group_is_created(run: Run, described: CliService) -> None:
    path = "/enrollmentGroups/g"
    secret = {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY}}
    described.on("PUT", path, lambda call: Reply(call.body))
    described.on("POST", f"{path}/attestationmechanism", lambda _: Reply(secret))
    described.on("GET", path, lambda _: Reply({"capabilities": {"iotEdge": True}}))
    policies = [{"name": "iothubowner", "connectionString": described.login(name="iothubowner")}]
    described.on("GET", "/admin/v1/policies/hubs/hub.x", lambda _: Reply(policies))
    options = ("--create-group", "g", "--edge", "--tags", '{"site": "a"}')
    run(*SIMULATE, *options, "--dps-host", "localhost:1", code=3)
    (put,) = [call for call in described.calls if call.method == "PUT"]
    assert put.body == {
        "enrollmentGroupId": "g",
        "attestation": {"type": "symmetricKey", "symmetricKey": {}},
        "capabilities": {"iotEdge": True},
        "initialTwin": {"tags": {"site": "a"}},
    }


def test_a_group_that_is_not_there(run: Run, described: CliService) -> None:
    described.on(
        "POST", "/enrollmentGroups/g/attestationmechanism", lambda _: refusal(404, 404201, "No.")
    )
    shown = run(*SIMULATE, "--group", "g", code=1).stderr
    assert "muster enrollment-group list, or --create-group" in shown


def test_another_service_must_be_told_its_scope(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/dps", lambda _: refusal(404, 404000, "No."))
    shown = run(*SIMULATE, "--group", "g", code=2).stderr
    assert "give it with --id-scope" in shown


def tally() -> Tally:
    found = Tally(3, 0.0)
    for state in (State.CONNECTED, State.CONNECTED, State.FAILED):
        found.move(State.IDLE, state)
    found.provisioned = found.registrations = 2
    found.messages = 10
    found.ack_times.add(0.002)
    found.errors["CONNACK 5"] = 1
    return found


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown, counts = Lines(), tally()
    shown.show(counts.snapshot(2.0))
    shown.close()
    shown.show_summary(counts.summary(4.0))
    first, _, *record = capsys.readouterr().out.splitlines()
    assert first == (
        "    2.0 s  provisioned 2  connected 2 of 3  registrations/s 1.0  messages/s 5.0"
        "  ack ms 2.1/2.1  failed 1  errors 1"
    )
    assert "Messages          10 (2.5/s)" in record
    assert "Errors            CONNACK 5: 1" in record


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    shown, counts = JsonLines(), tally()
    shown.show(counts.snapshot(2.0))
    shown.show_summary(counts.summary(4.0))
    progress, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (progress["type"], summary["type"]) == ("progress", "summary")
    assert progress["states"] == {"connected": 2, "failed": 1}
    assert summary == {"type": "summary", **msgspec.to_builtins(tally().summary(4.0))}


def test_on_a_terminal_it_is_drawn_anew(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Live()
    shown.show(tally().snapshot(2.0))
    shown.show(tally().snapshot(3.0))
    shown.close()
    shown.close()
    shown.show_summary(tally().summary(4.0))
    assert "CONNACK 5: 1" in capsys.readouterr().out


def test_the_view_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_view, "decorated", lambda: True)
    assert isinstance(fleet_view.view(as_json=False), Live)
    assert isinstance(fleet_view.view(as_json=True), JsonLines)
    monkeypatch.setattr(fleet_view, "decorated", lambda: False)
    assert isinstance(fleet_view.view(as_json=False), Lines)


def test_what_did_not_happen_has_no_line() -> None:
    labels = dict(fields(Tally(1, 0.0).snapshot(1.0)))
    assert labels["Held back"] is None
    assert labels["Errors"] == "none"
