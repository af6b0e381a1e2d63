"""Files of devices: what is asked for, and where it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unit.cli.cli_service import CliService, Reply, hub_refusal
from unit.cli.conftest import Run, parsed

if TYPE_CHECKING:
    from pathlib import Path

FILE = {
    "name": "d1/a/log.txt",
    "size": 1234,
    "contentType": "text/plain",
    "etag": "0x1",
    "lastModified": "2026-01-01T00:00:00.5Z",
}
PLACE = "/admin/v1/files/d1/a/log.txt"


def test_list(run: Run, service: CliService) -> None:
    service.on("GET", "/admin/v1/files", [FILE])
    text = run("file", "list", "--device", "d1").stdout
    assert service.calls[-1].query["deviceId"] == "d1"
    assert text.splitlines()[1].split() == [
        "d1/a/log.txt",
        "1234",
        "text/plain",
        "2026-01-01T00:00:00Z",
    ]
    assert parsed(run("file", "list", "--json")) == [FILE]
    assert "deviceId" not in service.calls[-1].query
    assert service.calls[-1].query["container"] == "device-files"
    run("file", "list", "--container", "edge-files")
    assert service.calls[-1].query["container"] == "edge-files"


def test_container_sas(run: Run, service: CliService) -> None:
    told = {"sasUrl": "https://hub.example/edge-files?sig=x"}
    service.on("POST", "/admin/v1/file-sas", told)
    assert run("file", "container-sas").stdout.strip() == told["sasUrl"]
    assert service.calls[-1].body == {"permissions": "cw", "validForS": 3600}
    command = ("file", "container-sas", "--permissions", "rl", "--valid-for", "2d", "--json")
    assert parsed(run(*command)) == told
    assert service.calls[-1].body == {"permissions": "rl", "validForS": 172_800}
    run("file", "container-sas", "--valid-for", "soon", code=2)


def test_download(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on("GET", PLACE, Reply(lines=iter(["one", "two"])))
    target = tmp_path / "out.txt"
    assert "out.txt" in run("file", "download", FILE["name"], "--out", str(target)).stderr
    assert target.read_text() == "one\ntwo\n"
    service.on("GET", PLACE, Reply(lines=iter(["three"])))
    again = run("file", "download", FILE["name"], "-o", str(target), code=1)
    assert "exists already" in again.stderr
    assert target.read_text() == "one\ntwo\n"
    lost = tmp_path / "lost.txt"
    service.on("GET", PLACE, Reply(lines=iter(["half"]), breaks=True))
    run("file", "download", FILE["name"], "-o", str(lost), code=3)
    assert not lost.exists()
    service.on("GET", PLACE, Reply(lines=iter(["four"])))
    assert run("file", "download", FILE["name"], "-o", "-").stdout == "four\n"


def test_delete(run: Run, service: CliService) -> None:
    service.on("DELETE", PLACE, Reply(None, 204))
    assert "is deleted" in run("file", "delete", FILE["name"], "--yes").stderr
    service.on("DELETE", PLACE, hub_refusal(404, "GenericNotFound", "No such blob."))
    assert "No such blob" in run("file", "delete", FILE["name"], "--yes", code=1).stderr
