"""`iotedge system` with a `systemctl` that notes what it is told: no service is touched here."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from muster.clock import SystemClock
from muster.edge.cli import check, service, system
from unit.edge.cli.conftest import Run

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> {0}/calls
case "$1" in
  cat) [ ! -e {0}/not-installed ];;
  show) cat {0}/state;;
  *) if [ -e {0}/broken ]; then echo "Job failed." >&2; exit 1; fi;;
esac
"""
JOURNALCTL = '#!/bin/sh\necho "$@" >> {0}/calls\necho "line one"\nprintf "\\033[31mline two\\n"\n'
FAILED = "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=153\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text.format(tmp_path))
        program.chmod(0o755)
    (tmp_path / "state").write_text("ActiveState=active\nSubState=running\nResult=success\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin:/usr/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(system, "DROP_IN", tmp_path / "iotedged.service.d" / "log-level.conf")
    return tmp_path


def _calls(machine: Path) -> list[str]:
    return (machine / "calls").read_text().splitlines()


def test_status(run: Run, machine: Path) -> None:
    done = run("system", "status")
    assert done.exit_code == 0
    assert done.stdout.startswith("System services:\n    iotedged                Running\n\nUse ")
    (machine / "state").write_text(FAILED)
    shown = run("system", "status").stdout.splitlines()
    assert shown[1] == "    iotedged                Down - failed: exit-code, exit code 153"
    assert shown[2] == "        line one"
    assert "\x1b" not in shown[3]
    (machine / "state").write_text("ActiveState=inactive\nResult=success\n")
    assert "Down - inactive" in run("system", "status").stdout


@pytest.mark.parametrize("verb", ["restart", "stop"])
def test_restart_and_stop(verb: str, run: Run, machine: Path) -> None:
    done = run("system", verb)
    assert done.exit_code == 0, done.output
    assert _calls(machine) == ["cat iotedged", f"{verb} iotedged"]
    (machine / "broken").touch()
    done = run("system", verb)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Could not {verb} iotedged\n\tcaused by: Job failed.\n")


@pytest.mark.parametrize("command", [("restart",), ("stop",), ("set-log-level", "debug")])
def test_only_root_may(
    command: tuple[str, ...], run: Run, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = run("system", *command)
    assert done.exit_code == 1
    assert "must be run as root" in done.stderr
    assert not (machine / "calls").exists()


def test_the_log_level_stays(run: Run, machine: Path) -> None:
    done = run("system", "set-log-level", "DEBUG")
    assert done.exit_code == 0, done.output
    assert (machine / "iotedged.service.d" / "log-level.conf").read_text() == (
        "[Service]\nEnvironment=IOTEDGE_LOG=debug\n"
    )
    assert _calls(machine) == ["cat iotedged", "daemon-reload", "restart iotedged"]
    assert run("system", "set-log-level", "loud").exit_code == 2
    (machine / "broken").touch()
    assert "did not read its units anew" in run("system", "set-log-level", "info").stderr


def test_where_there_is_no_service(run: Run, machine: Path) -> None:
    (machine / "not-installed").touch()
    for command in (("status",), ("restart",), ("stop",), ("set-log-level", "info")):
        done = run("system", *command)
        assert done.exit_code == 1
        assert "systemd knows no iotedged on this machine" in done.stderr


@pytest.mark.usefixtures("machine")
def test_logs_are_journalctl_s(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _file, arguments: ran.append(arguments))
    run("system", "logs", "--", "-f", "--since", "1 hour ago")
    assert ran == [["journalctl", "-u", "iotedged", "-f", "--since", "1 hour ago"]]

    run("system", "logs")
    assert ran[1:] == [["journalctl", "-u", "iotedged", "-e", "--no-pager"]]

    def missing(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "execvp", missing)
    assert run("system", "logs").stderr.startswith("Could not run journalctl\n\tcaused by: No such")


def test_reprovision_without_a_daemon(run: Run, tmp_path: Path) -> None:
    done = run("-H", f"unix://{tmp_path}/x.sock", "system", "reprovision")
    assert done.exit_code == 1
    assert done.stderr.startswith("Could not reprovision\n\tcaused by: The daemon does not answer")


def test_a_support_bundle_of_a_device_whose_daemon_is_down(
    run: Run, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "DEFAULT_FILE", machine / "config.toml")
    monkeypatch.chdir(machine)
    done = run("-H", f"unix://{machine}/x.sock", "support-bundle")
    assert done.exit_code == 0, done.output
    assert "No logs of modules: The daemon does not answer" in done.stderr
    (path,) = machine.glob("support_bundle_*_UTC.zip")
    assert f"Created support bundle at {path}\n" in done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["check.json", "logs/docker.txt", "logs/iotedged.txt"]
        assert b"aziot-edged-config-well-formed" in archive.read("check.json")
        assert archive.read("logs/iotedged.txt").startswith(b"line one\n")
        now = SystemClock().now().timetuple()[:2]
        assert all(each.date_time[:2] == now for each in archive.infolist())
    bad = run("-H", f"unix://{machine}/x.sock", "support-bundle", "-o", str(machine / "no" / "b"))
    assert bad.exit_code == 1
    assert "cannot be written" in bad.stderr


def test_a_machine_without_systemd(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(machine / "nothing"))
    assert not service.installed()
    assert service.last_lines(5) == []
