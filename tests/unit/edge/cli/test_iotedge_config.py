from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from muster import __version__
from muster.auth.certificate_authority import CertificateAuthority
from muster.edge.cli import config, service
from muster.edge.configuration import load as loading
from muster.edge.configuration.load import load
from muster.edge.settings import (
    DpsProvisioning,
    ManualProvisioning,
    Reprovisioning,
    SymmetricKeyAttestation,
)
from support.users import nobody
from unit.edge.cli.conftest import Run

KEY = "c2l4dGVlbiBieXRlcyBvciBtb3Jl"
RAW = b"sixteen bytes or more"
DPS = ("config", "dps", "--id-scope", "0ne1", "--registration-id", "gateway-01")
STRING = f"HostName=hub.example.org;DeviceId=d1;SharedAccessKey={KEY}"
YAML = f"""\
provisioning:
  source: manual
  device_connection_string: "{STRING}"
homedir: /var/lib/iotedge
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_version(run: Run) -> None:
    assert run("version").stdout == f"iotedge {__version__} (muster)\n"
    assert run("--version").stdout == f"iotedge {__version__} (muster)\n"


@pytest.mark.parametrize("stdin", [None, f"{KEY}\n"])
def test_one_command_writes_a_correct_private_file(
    stdin: str | None, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "config.toml"
    ca = CertificateAuthority.load_or_create(tmp_path / "ca").ca_file
    options = ("--endpoint", "https://dps.example.org:8443", "--trust", str(ca), "-o", str(out))
    done = run(*DPS, "--symmetric-key", "-" if stdin else KEY, *options, stdin=stdin)
    assert done.exit_code == 0, done.output
    assert KEY not in done.output
    assert f"sudo iotedge config apply -c '{out}'" in done.output
    assert _mode(out) == 0o600
    found = load(out)
    assert found.notices == ()
    kept = tmp_path / "new" / "config.trust.pem"
    assert found.settings.trust_bundle == kept
    assert kept.read_bytes() == ca.read_bytes()
    assert _mode(kept) == 0o644
    assert found.settings.hostname == os.uname().nodename
    assert found.settings.provisioning == DpsProvisioning(
        endpoint="https://dps.example.org:8443",
        id_scope="0ne1",
        attestation=SymmetricKeyAttestation(registration_id="gateway-01", key=RAW),
    )


def test_an_endpoint_needs_no_scheme(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "config.toml"
    run(*DPS, "--symmetric-key", KEY, "--endpoint", "dps.example.org", "-o", str(out))
    provisioning = load(out).settings.provisioning
    assert isinstance(provisioning, DpsProvisioning)
    assert provisioning.endpoint == "https://dps.example.org"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--symmetric-key", "c2hvcnQ="), "'--symmetric-key': A symmetric key must be 16 to 64"),
        (("--symmetric-key", KEY, "--endpoint", "http://x"), "'--endpoint': must be https://HOST"),
        (("--symmetric-key", KEY, "--id-scope", "a b"), "'--id-scope': must be letters"),
        (("--symmetric-key", KEY, "--registration-id", "-"), "'--registration-id': Invalid"),
        (("--symmetric-key", KEY, "--hostname", "a b"), "'--hostname': "),
        ((), "Missing option '--symmetric-key'"),
    ],
)
def test_wrong_usage(options: tuple[str, ...], said: str, run: Run, tmp_path: Path) -> None:
    done = run(*DPS, *options, "-o", str(tmp_path / "config.toml"))
    assert done.exit_code == 2
    assert said in done.stderr
    assert KEY not in done.output
    assert not (tmp_path / "config.toml").exists()


def test_trust_must_be_certificates(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    done = run(*DPS, "--symmetric-key", KEY, "--trust", str(bad), "-o", str(tmp_path / "c.toml"))
    assert done.exit_code == 1
    assert done.stderr == (f"{bad} cannot be used\n\tcaused by: it holds no PEM certificates\n\n")


def test_a_device_provisioned_by_hand_can_trust_a_hub_of_ones_own(run: Run, tmp_path: Path) -> None:
    out, bad = tmp_path / "config.toml", tmp_path / "bad.pem"
    bad.write_text("no certificate")
    done = run("config", "mp", "-c", STRING, "--trust", str(bad), "-o", str(out))
    assert done.exit_code == 1
    assert done.stderr == f"{bad} cannot be used\n\tcaused by: it holds no PEM certificates\n\n"
    ca = CertificateAuthority.load_or_create(tmp_path / "ca").ca_file
    done = run("config", "mp", "-c", STRING, "--trust", str(ca), "-o", str(out))
    assert done.exit_code == 0, done.output
    kept = tmp_path / "config.trust.pem"
    assert f"{ca} is copied to {kept}.\n" in done.stdout
    ca.unlink()  # a download that somebody tidies away
    assert load(out).settings.trust_bundle == kept
    assert b"BEGIN CERTIFICATE" in kept.read_bytes()


def test_a_file_that_is_there_is_kept_unless_forced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "config.toml"
    out.write_text("mine")
    done = run("config", "mp", "-c", STRING, "-o", str(out))
    assert done.exit_code == 1
    assert done.stderr == f"{out} is there already\n\tcaused by: --force replaces it\n\n"
    assert out.read_text() == "mine"
    ca = CertificateAuthority.load_or_create(tmp_path / "ca").ca_file
    assert run("config", "mp", "-c", STRING, "--trust", str(ca), "-o", str(out)).exit_code == 1
    assert not out.with_name("config.trust.pem").exists()
    assert run("config", "mp", "-c", STRING, "-o", str(out), "--force").exit_code == 0
    assert _mode(out) == 0o600
    settings = load(out).settings
    assert settings.provisioning == ManualProvisioning(
        hub_host="hub.example.org", device_id="d1", key=RAW
    )
    assert settings.reprovisioning is Reprovisioning.ON_ERROR_ONLY


def test_a_connection_string_of_a_service_is_none_of_a_device(run: Run, tmp_path: Path) -> None:
    text = f"HostName=hub.example.org;SharedAccessKeyName=owner;SharedAccessKey={KEY}"
    done = run("config", "mp", "-c", "-", "-o", str(tmp_path / "c.toml"), stdin=text)
    assert done.exit_code == 1
    assert "must be one of a device" in done.stderr
    assert KEY not in done.output


def test_where_nothing_can_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("config", "mp", "-c", STRING, "-o", str(tmp_path / "file" / "config.toml"))
    assert done.exit_code == 1
    assert "cannot be written" in done.stderr
    done = run("config", "mp", "-c", STRING, "-o", str(tmp_path / "config.yaml"))
    assert "the file is TOML" in done.stderr


def test_mp_below_another_device(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "config.toml"
    command = ("config", "mp", "-c", STRING, "-o", str(out), "--parent-hostname")
    for wrong in ("a b", "x" * 65):
        done = run(*command, wrong)
        assert done.exit_code == 2
        assert "--parent-hostname" in done.stderr
    done = run(*command, "gateway-01")
    assert done.exit_code == 0, done.output
    assert load(out).settings.parent_hostname == "gateway-01"


def test_where_this_user_may_not_write(run: Run, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    run("config", "mp", "--help")  # imports what comes late, as root
    with nobody():
        done = run("config", "mp", "-c", STRING, "-o", str(closed / "config.toml"))
    assert done.exit_code == 1
    assert "Permission denied\n\tcaused by: try again with sudo" in done.stderr
    closed.chmod(0o700)


def test_import(run: Run, tmp_path: Path) -> None:
    old, out = tmp_path / "config.yaml", tmp_path / "config.toml"
    old.write_text(YAML + "watchdog:\n  max_retries: 2\n")
    done = run("config", "import", "-c", str(old), "-o", str(out))
    assert done.exit_code == 0, done.output
    assert f"Note: {old}:5: watchdog: has no effect" in done.stderr
    assert f"chmod 600 '{old}'" in done.stderr
    new, before = load(out).settings, load(old).settings
    assert new.provisioning == before.provisioning
    assert new.home == Path("/var/lib/aziot/edged")
    assert "Not taken over is the state of 1.1 in /var/lib/iotedge:\n- modules" in done.stdout
    assert "/var/lib/aziot/edged/certificates/root.pem, once the daemon has run" in done.stdout


def test_import_says_what_stays_behind_and_what_is_still_read(run: Run, tmp_path: Path) -> None:
    old, out = tmp_path / "config.yaml", tmp_path / "config.toml"
    old.write_text(
        "provisioning:\n  source: dps\n  global_endpoint: https://dps.example.org\n"
        "  scope_id: 0ne1\n  attestation:\n    method: symmetric_key\n"
        f"    registration_id: d1\n    symmetric_key: {KEY}\n"
        "certificates:\n  device_ca_cert: file:///ca.pem\n  device_ca_pk: file:///ca.key\n"
        "  trusted_ca_certs: file:///trusted.pem\n"
    )
    done = run("config", "import", "-c", str(old), "-o", str(out))
    assert done.exit_code == 0, done.output
    assert "- the identity: the device registers anew, and is given its own again\n" in done.stdout
    assert "root.pem" not in done.stdout
    for name in ("trusted.pem", "ca.pem", "ca.key"):
        assert f"Read where it is, so leave it there: /{name}\n" in done.stdout
    assert KEY not in done.output


def test_import_where_there_is_nothing_to_import(run: Run, tmp_path: Path) -> None:
    done = run("config", "import", "-c", str(tmp_path / "config.yaml"))
    assert done.exit_code == 1
    assert done.stderr.startswith("There is no old configuration at ")


def test_import_of_what_is_no_old_file(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "config.yaml"
    old.write_text("provisioning: {}\n")
    done = run("config", "import", "-c", str(old), "-o", str(tmp_path / "config.toml"))
    assert done.exit_code == 1
    assert done.stderr == (
        "The configuration cannot be used\n"
        f"\tcaused by: {old}:1: provisioning: source is missing: manual or dps\n\n"
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `systemctl` that notes what it is told: no test may restart a service of this machine."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ -e {tmp_path}/broken ] && '
        '[ "$1" = restart ] && { echo "Job failed." >&2; exit 1; }\nexit 0\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "etc" / "config.toml")
    monkeypatch.setattr(loading, "DEFAULT_FILE", tmp_path / "etc" / "config.toml")
    monkeypatch.setattr(loading, "OLD_FILE", tmp_path / "old" / "config.yaml")
    return tmp_path


def test_apply_restarts_the_daemon(run: Run, machine: Path) -> None:
    given = machine / "gateway.toml"
    run(*DPS, "--symmetric-key", KEY, "-o", str(given))
    done = run("config", "apply", "-c", str(given))
    assert done.exit_code == 0, done.output
    assert f"{given} is correct." in done.stdout
    used = machine / "etc" / "config.toml"
    assert used.read_bytes() == given.read_bytes()
    assert _mode(used) == 0o600
    assert (machine / "calls").read_text() == "cat iotedged\nrestart iotedged\n"
    used.write_text("the one before")
    done = run("config", "apply", "-c", str(given))
    assert (machine / "etc" / "config.toml.before").read_text() == "the one before"


def test_apply_takes_the_file_of_1_1_where_only_that_is_there(run: Run, machine: Path) -> None:
    old = machine / "old" / "config.yaml"
    old.parent.mkdir()
    old.write_text(YAML)
    done = run("config", "apply")
    assert done.exit_code == 0, done.output
    assert f"{old} is correct." in done.stdout
    assert not (machine / "etc").exists()
    assert (machine / "calls").read_text() == "cat iotedged\nrestart iotedged\n"


def test_apply_does_not_put_yaml_where_toml_is_read(run: Run, machine: Path) -> None:
    given = machine / "gateway.yaml"
    given.write_text(YAML)
    done = run("config", "apply", "-c", str(given))
    assert done.exit_code == 1
    assert f"iotedge config import --force -c '{given}'" in done.stderr
    assert not (machine / "etc").exists()


def test_apply_says_why_the_daemon_does_not_come_up(run: Run, machine: Path) -> None:
    given = machine / "gateway.toml"
    run(*DPS, "--symmetric-key", KEY, "-o", str(given))
    (machine / "broken").touch()
    done = run("config", "apply", "-c", str(given))
    assert done.exit_code == 1
    assert done.stderr == (
        "Could not restart iotedged\n\tcaused by: Job failed.\n"
        "\tcaused by: its log: journalctl -u iotedged -n 30\n\n"
    )


def test_apply_changes_nothing_for_a_bad_file(run: Run, machine: Path) -> None:
    bad = machine / "bad.toml"
    bad.write_text("a = 1")
    done = run("config", "apply", "-c", str(bad))
    assert done.exit_code == 1
    assert f"caused by: {bad}:1: [provisioning] is missing" in done.stderr
    assert not (machine / "calls").exists()
    assert not (machine / "etc").exists()


def test_apply_of_nothing(run: Run, machine: Path) -> None:
    done = run("config", "apply")
    assert done.exit_code == 1
    file = machine / "etc" / "config.toml"
    assert done.stderr == (
        f"The configuration cannot be used\n\tcaused by: {file}: there is no such file\n"
        "\tcaused by: write one: iotedge config dps --help; another is named with -c\n\n"
    )


def test_apply_says_which_certificates_are_still_read_elsewhere(run: Run, machine: Path) -> None:
    given = machine / "gateway.toml"
    ca = CertificateAuthority.load_or_create(machine / "ca").ca_file
    run(*DPS, "--symmetric-key", KEY, "--trust", str(ca), "-o", str(given))
    done = run("config", "apply", "-c", str(given))
    assert done.exit_code == 0, done.output
    kept = machine / "gateway.trust.pem"
    assert done.stderr == f"Note: {kept} is read where it is, so leave it there\n"


@pytest.mark.usefixtures("machine")
def test_apply_is_for_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = run("config", "apply")
    assert done.exit_code == 1
    assert "must be run as root\n\tcaused by: try again with sudo" in done.stderr


def test_apply_without_systemd(run: Run, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = machine / "gateway.toml"
    run(*DPS, "--symmetric-key", KEY, "-o", str(given))
    monkeypatch.setattr(service.shutil, "which", lambda _: None)
    done = run("config", "apply", "-c", str(given))
    assert done.exit_code == 1
    assert "start it by hand: iotedged -c" in done.stderr
