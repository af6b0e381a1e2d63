"""Export of enrollments, and back."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unit.cli.cli_rows import ENTRY, IMPORT, accept
from unit.cli.cli_service import KEY, Call, CliService, Reply, refusal
from unit.cli.conftest import Run


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


def test_what_is_no_file_is_written_to_and_stays(
    run: Run, service: CliService, tmp_path: Path
) -> None:
    service.on("GET", "/admin/v1/enrollments/export", [ENTRY])
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert "only you" not in run("enrollment", "export", str(pipe), "--keys").stderr
        assert os.read(reader, 65_536).startswith(b"registrationId,")
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_link_stays_a_link(run: Run, service: CliService, tmp_path: Path) -> None:
    service.on("POST", "/enrollments/query", [ENTRY])
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    run("enrollment", "export", str(link))
    assert link.is_symlink()
    assert target.read_text().startswith("registrationId,")


def test_export_to_a_place_that_is_none(run: Run, service: CliService) -> None:
    service.on("POST", "/enrollments/query", [])
    assert "Cannot write" in run("enrollment", "export", "/no/such/d.csv", code=1).stderr
    assert "neither .csv nor .jsonl" in run("enrollment", "export", "d.txt", code=2).stderr
    assert run("enrollment", "export", "-").stdout.startswith("registrationId,")
