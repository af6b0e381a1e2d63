"""How `iotedge check` takes its options and shows what was found; nothing is a mock."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.edge.check.run import CHECKS
from support.users import nobody
from unit.edge.cli.conftest import Run

CONFIGURATION = """\
trust_bundle_cert = "file:///nonexistent/ca.pem"
homedir = "{0}"
[provisioning]
source = "manual"
connection_string = "HostName=hub.invalid;DeviceId=d1;SharedAccessKey=c2l4dGVlbiBieXRlcyBvciBtb3Jl"
[moby_runtime]
uri = "unix:///nonexistent/docker.sock"
[listen]
management_uri = "unix://{0}/mgmt.sock"
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory that everybody may look into, with a configuration of root's."""
    made = Path(tempfile.mkdtemp(prefix="checked-"))
    made.chmod(0o755)
    (made / "config.toml").write_text(CONFIGURATION.format(made))
    (made / "config.toml").chmod(0o600)
    yield made
    shutil.rmtree(made)


def _json(run: Run, directory: Path, *options: str) -> dict[str, Any]:
    host, file = f"unix://{directory}/mgmt.sock", str(directory / "config.toml")
    done = run("-H", host, "check", "-c", file, "-o", "json", *options)
    assert done.exit_code == 1
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_json_has_every_check_and_its_cause(run: Run, directory: Path) -> None:
    found = _json(run, directory)
    assert found["additional_info"]["iotedge_version"]
    assert list(found["checks"]) == [each.id for each in CHECKS]
    assert found["checks"]["trust-bundle"] == {
        "result": "error",
        "details": [
            "trust_bundle_cert /nonexistent/ca.pem cannot be used: No such file or directory",
            "Fix: put PEM certificates there, or take trust_bundle_cert out",
        ],
        "additional_info": {"cause": "trust-bundle-unusable"},
    }


def test_who_is_not_root_is_told_so_once(run: Run, directory: Path) -> None:
    _json(run, directory)  # whatever is imported late is imported now
    with nobody():
        checks = _json(run, directory)["checks"]
    first = checks.pop("aziot-edged-config-well-formed")
    assert first["result"] == "fatal"
    assert first["details"][1] == "Fix: try again with sudo"
    assert {each["result"] for each in checks.values()} == {"skipped"}


def test_text_says_how_many_and_how_to_see_more(run: Run, directory: Path) -> None:
    command = ("-H", f"unix://{directory}/x.sock", "check", "-c", str(directory / "config.toml"))
    short, long = run(*command).stdout, run(*command, "--verbose").stdout
    assert "\n\u00d7 the trust bundle can be used - Error\n    trust_bundle_cert /none" in short
    assert "Skipped" not in short
    assert "2 check(s) raised errors. Re-run with --verbose for more details.\n" in short
    assert short.count("Re-run") == 3
    assert "caused by: trust-bundle-unusable: `trust_bundle_cert` cannot be used\n" in long
    assert "\n‼ the hub accepts the device - Skipped\n    nothing is to be learnt here bef" in long
    assert "\n‼ the device above has a good name - Ignored\n" in long
    assert "Re-run" not in long


@pytest.mark.parametrize(
    "given",
    [
        ("--dont-run", "trust-bundle", "storage"),
        ("--dont-run", "trust-bundle storage"),
        ("--dont-run", "trust-bundle", "--dont-run", "storage"),
        ("--dont-run", "trust-bundle", "storage", "--verbose"),
    ],
)
def test_checks_are_left_out(given: tuple[str, ...], run: Run, directory: Path) -> None:
    checks = _json(run, directory, *given)["checks"]
    assert checks["trust-bundle"]["result"] == checks["storage"]["result"] == "ignored"
    # What needs one that was left out is done as far as it goes.
    assert checks["host-connect-iothub-https"]["additional_info"] == {"cause": "name-unknown"}


def test_checks_are_left_out_by_their_old_names(run: Run, directory: Path) -> None:
    found = _json(run, directory, "--dont-run", "iotedged-version", "tpmd-running")["checks"]
    assert found["aziot-edge-version"]["result"] == "ignored"


def test_nothing_to_leave_out(run: Run, directory: Path) -> None:
    assert _json(run, directory, "--dont-run")["checks"]["storage"]["result"] != "ignored"
