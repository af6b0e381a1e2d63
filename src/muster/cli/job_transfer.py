"""`muster job export` and `muster job import`: all identities of a hub, to a file and back."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import click

from muster.cli.client import path
from muster.cli.failures import FailedError
from muster.cli.options import hub_option, service_command
from muster.ids import Randomness
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

_POLL_S: Final = 0.5
_CHUNK: Final = 1 << 20
_OVER: Final = ("completed", "failed", "cancelled")
_SHOWN: Final = 20
"""Errors of an import that are shown; the rest is in the file."""


class _Container:
    """The hub's container of lists, with a URL for it."""

    def __init__(self, client: RestClient) -> None:
        self.client = client
        self.uri: str = client.post("/admin/v1/identity-files")["containerUri"]
        parts = urlsplit(self.uri)
        self._place = parts.path
        self._query = dict(parse_qsl(parts.query))

    def upload(self, name: str, file: IO[bytes]) -> None:
        headers = {"x-ms-blob-type": "BlockBlob"}
        self.client.call(
            "PUT", path(self._place, name), body=file, params=self._query, headers=headers
        )

    def download(self, name: str, file: IO[bytes]) -> None:
        reply = self.client.call("GET", path(self._place, name), params=self._query, stream=True)
        for chunk in reply.iter_content(_CHUNK):
            file.write(chunk)

    def read(self, name: str) -> bytes:
        return self.client.call("GET", path(self._place, name), params=self._query).content

    def delete(self, name: str) -> None:
        self.client.call("DELETE", path(self._place, name), params=self._query)


@click.command("export")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Where to write it. With keys, the file is as secret as they are.",
)
@click.option("--no-keys", is_flag=True, help="Leave the keys out.")
@hub_option
@service_command
@examples("muster job export --out devices.txt", "muster job export --out list.txt --no-keys")
def export(invocation: Invocation, *, out: Path, no_keys: bool, hub_host: str | None) -> None:
    """Write all devices and modules of a hub, with keys and twins, a JSON object a line."""
    container = _Container(invocation.hub(hub_host))
    name = f"{Randomness().uuid()}.txt"
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FailedError(f"{out} exists already.", next_step="name another with --out") from None
    except OSError as error:
        raise FailedError(f"{out} cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "wb") as file:
        try:
            job = _run(
                container.client,
                type="export",
                outputBlobContainerUri=container.uri,
                outputBlobName=name,
                excludeKeysInExport=no_keys,
            )
            container.download(name, file)
            container.delete(name)
        except BaseException:
            out.unlink()
            raise
    if invocation.as_json:
        show_json(job)
    else:
        remark(f"The identities are in {out}.")


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@hub_option
@service_command
@examples("muster job import devices.txt", "muster job import devices.txt --json")
def import_(invocation: Invocation, *, file: Path, hub_host: str | None) -> None:
    """Carry out the lines of a file, each an ExportImportDevice with its importMode.

    A line without importMode creates the identity, or updates the one that is there. Exit code 1
    when a line could not be carried out; the others are.
    """
    container = _Container(invocation.hub(hub_host))
    name, errors_name = (f"{Randomness().uuid()}.{kind}" for kind in ("txt", "log"))
    with file.open("rb") as content:
        container.upload(name, content)
    try:
        job = _run(
            container.client,
            type="import",
            inputBlobContainerUri=container.uri,
            inputBlobName=name,
            outputBlobContainerUri=container.uri,
            outputBlobName=errors_name,
        )
    finally:
        container.delete(name)
    errors = [json.loads(line) for line in container.read(errors_name).splitlines()]
    container.delete(errors_name)
    if invocation.as_json:
        show_json({"job": job, "errors": errors})
    elif not errors:
        remark(f"All lines of {file} are carried out.")
    if errors:
        shown = tuple(_told(each) for each in errors[:_SHOWN])
        if len(errors) > _SHOWN:
            shown += (f"and {len(errors) - _SHOWN:,} more; --json has all",)
        raise FailedError(f"{len(errors):,} lines could not be carried out.", details=shown)


def _run(client: RestClient, **request: Any) -> dict[str, Any]:
    """Create a job and wait for its end.

    Raises:
        FailedError: it did not complete.
    """
    job: dict[str, Any] = client.post("/jobs/create", body=request)
    while job["status"] not in _OVER:
        time.sleep(_POLL_S)
        job = client.get("/jobs", job["jobId"])
    if job["status"] != "completed":
        reason = f": {job['failureReason']}" if job.get("failureReason") else "."
        raise FailedError(f"The job is {job['status']}{reason}")
    return job


def _told(error: dict[str, Any]) -> str:
    module = f"/{error['moduleId']}" if error.get("moduleId") else ""
    place = f"{error['deviceId']}{module}: " if error["deviceId"] else ""
    return f"{place}{error['errorCode']}: {error['errorStatus']}"
