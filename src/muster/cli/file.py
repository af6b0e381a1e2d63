"""`muster file`: what devices have uploaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click
import requests

from muster.cli.client import path, unreachable
from muster.cli.examples import examples
from muster.cli.failures import FailedError
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, top_option, yes_option
from muster.cli.output import remark, show_json, show_table, to_the_second

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

COLLECTION: Final = "/admin/v1/files"
_CHUNK: Final = 1 << 20


@click.group(cls=NounGroup)
@examples("muster file list --device press-1", "muster file download press-1/log.txt")
def file() -> None:
    """Files that devices have uploaded."""


@file.command("list")
@click.option("--device", "device_id", metavar="ID", help="Only those of this device.")
@top_option
@hub_option
@service_command
@examples("muster file list", "muster file list --device press-1 --json")
def list_files(
    invocation: Invocation, *, device_id: str | None, top: int | None, hub_host: str | None
) -> None:
    """List files, in the order of their names. Each begins with the ID of its device."""
    params = None if device_id is None else {"prefix": f"{device_id}/"}
    found = list(invocation.hub(hub_host).pages("GET", COLLECTION, params=params, top=top))
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("NAME", "BYTES", "TYPE", "WRITTEN"),
        [
            (each["name"], each["size"], each["contentType"], to_the_second(each["lastModified"]))
            for each in found
        ],
        empty="There are no files.",
    )


@file.command()
@click.argument("name")
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it, - for stdout [default: the last part of its name].",
)
@hub_option
@service_command
@examples(
    "muster file download press-1/log.txt", "muster file download press-1/log.txt -o - | less"
)
def download(invocation: Invocation, *, name: str, out: Path | None, hub_host: str | None) -> None:
    """Download a file. One that is there already is not overwritten."""
    target = out or Path(name.rpartition("/")[2])
    client = invocation.hub(hub_host)
    try:
        with client.call("GET", path(COLLECTION, *name.split("/")), stream=True) as reply:
            if str(target) == "-":
                _copy(reply, sys.stdout.buffer)
                return
            with target.open("xb") as written:
                try:
                    _copy(reply, written)
                except BaseException:
                    # Half a file is worse than none.
                    target.unlink()
                    raise
    except requests.RequestException as error:
        unreachable(client.target, error)
    except FileExistsError:
        raise FailedError(
            f"{target} exists already.", next_step="name another with --out"
        ) from None
    except OSError as error:
        raise FailedError(f"{target} cannot be written: {error.strerror}.") from None
    if invocation.as_json:
        show_json({"name": name, "file": str(target)})
    else:
        remark(f"{name} is in {target}.")


@file.command()
@click.argument("name")
@yes_option
@hub_option
@service_command
@examples("muster file delete press-1/log.txt")
def delete(invocation: Invocation, *, name: str, yes: bool, hub_host: str | None) -> None:
    """Delete a file."""
    confirm(f"Delete {name}?", yes=yes)
    invocation.hub(hub_host).delete(COLLECTION, *name.split("/"))
    if not invocation.as_json:
        remark(f"{name} is deleted.")


def _copy(reply: requests.Response, file: IO[bytes]) -> None:
    for chunk in reply.iter_content(_CHUNK):
        file.write(chunk)
    file.flush()
