"""`iotedge support-bundle`: one archive for whoever helps (edge.md 7)."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import click

from muster.clock import SystemClock
from muster.edge.archive import entry
from muster.edge.cli import service
from muster.edge.cli.failures import CommandError
from muster.edge.cli.management import Management
from muster.terminal.examples import examples

_LOG_LINES: Final = 10_000


@click.command("support-bundle")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to write it; - for stdout [default: support_bundle_<time>_UTC.zip].",
)
@click.option(
    "--since", metavar="TIME", default="1 day", show_default=True, help="Logs not before."
)
@click.option("--until", metavar="TIME", help="Logs not after.")
@click.option(
    "-e",
    "--include-edge-runtime-only",
    "runtime_only",
    is_flag=True,
    help="Leave out the modules of deployments.",
)
@click.option("--iothub-hostname", "hub", metavar="NAME", help="Hub to look at in check.json.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing.")
@click.pass_obj
@examples("iotedge support-bundle", "iotedge support-bundle --since '2 hours' -o bundle.zip")
def support_bundle(
    host: str,
    output: str | None,
    since: str,
    until: str | None,
    hub: str | None,
    *,
    runtime_only: bool,
    quiet: bool,
) -> None:
    """Collect logs, facts and checks of this device in one archive, without keys."""
    moment = SystemClock().now()
    target = output or f"support_bundle_{moment:%Y_%m_%d_%H_%M_%S}_UTC.zip"
    query = {"since": since, "edge_runtime_only": "true" if runtime_only else "false"}
    if until:
        query["until"] = until
    with tempfile.TemporaryDirectory(prefix="iotedge-") as directory:
        path = Path(directory) / "bundle.zip"
        try:
            with path.open("wb") as file:
                for chunk in Management(host, 600.0).download("/systeminfo/supportbundle", **query):
                    file.write(chunk)
            _note(quiet=quiet, text="Collected logs and facts of modules.")
        except CommandError as error:
            # A daemon that does not run is what people ask help with.
            path.unlink(missing_ok=True)
            _note(quiet=quiet, text=f"No logs of modules: {'; '.join(error.lines)}")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry("check.json", moment), _check(host, hub))
            lines = service.last_lines(_LOG_LINES)
            archive.writestr(entry("logs/iotedged.txt", moment), "\n".join(lines))
            if lines := service.last_lines(_LOG_LINES, service.ENGINE):
                archive.writestr(entry("logs/docker.txt", moment), "\n".join(lines))
        try:
            _deliver(path, target)
        except OSError as error:
            raise CommandError(
                f"{target} cannot be written", error.strerror or str(error)
            ) from None
    if target != "-":
        _note(quiet=quiet, text=f"Created support bundle at {Path(target).resolve()}")


def _check(host: str, hub: str | None) -> str:
    from muster.edge.cli.check import as_json  # noqa: PLC0415 - it is a lot

    return as_json(host, hub)


def _deliver(path: Path, target: str) -> None:
    if target == "-":
        sys.stdout.buffer.write(path.read_bytes())
        return
    # It may say more of a site than everybody should read.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file, contextlib.suppress(BrokenPipeError):
        file.write(path.read_bytes())


def _note(*, quiet: bool, text: str) -> None:
    if not quiet:
        click.echo(text, err=True)
