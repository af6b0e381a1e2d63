"""`muster file`: what devices have uploaded, and where edge devices may upload to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import click
import requests

from muster.cli.client import path, unreachable
from muster.cli.failures import FailedError
from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, service_command, top_option, yes_option
from muster.cli.quantities import DURATION
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_table, to_the_second

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

COLLECTION: Final = "/admin/v1/files"
_SAS: Final = "/admin/v1/file-sas"
_CHUNK: Final = 1 << 20
_EDGE_FILES: Final = "edge-files"
_container_option = click.option(
    "--container",
    type=click.Choice(["device-files", _EDGE_FILES]),
    default="device-files",
    show_default=True,
    help=f"Where it is; {_EDGE_FILES} has what edge devices were asked to upload.",
)


@click.group(cls=NounGroup)
@examples("muster file list --device press-1", "muster file download press-1/log.txt")
def file() -> None:
    """Files that devices have uploaded."""


@file.command("list")
@click.option("--device", "device_id", metavar="ID", help="Only those of this device.")
@_container_option
@top_option
@hub_option
@service_command
@examples(
    "muster file list",
    "muster file list --device press-1 --json",
    "muster file list --container edge-files --device gateway-07",
)
def list_files(
    invocation: Invocation,
    *,
    device_id: str | None,
    container: str,
    top: int | None,
    hub_host: str | None,
) -> None:
    """List files, in the order of their names.

    Each begins with the ID of its device; in edge-files, with its hub's name and that.
    """
    params = {"container": container}
    if device_id is not None:
        params["deviceId"] = device_id
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
@_container_option
@hub_option
@service_command
@examples(
    "muster file download press-1/log.txt", "muster file download press-1/log.txt -o - | less"
)
def download(
    invocation: Invocation, *, name: str, out: Path | None, container: str, hub_host: str | None
) -> None:
    """Download a file. One that is there already is not overwritten."""
    target = out or Path(name.rpartition("/")[2])
    client = invocation.hub(hub_host)
    try:
        with client.call(
            "GET",
            path(COLLECTION, *name.split("/")),
            params={"container": container},
            stream=True,
        ) as reply:
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
@_container_option
@yes_option
@hub_option
@service_command
@examples("muster file delete press-1/log.txt")
def delete(
    invocation: Invocation, *, name: str, container: str, yes: bool, hub_host: str | None
) -> None:
    """Delete a file."""
    confirm(f"Delete {name}?", yes=yes)
    invocation.hub(hub_host).call(
        "DELETE", path(COLLECTION, *name.split("/")), params={"container": container}
    )
    if not invocation.as_json:
        remark(f"{name} is deleted.")


@file.command("container-sas")
@click.option(
    "--permissions",
    default="cw",
    show_default=True,
    metavar="LETTERS",
    help="What it grants: r read, c create, w write, d delete, l list.",
)
@click.option(
    "--valid-for",
    type=DURATION,
    default="1h",
    show_default=True,
    help="How long, at most 7d. It cannot be taken back.",
)
@hub_option
@service_command
@examples("muster file container-sas", "muster file container-sas --permissions rl --valid-for 1d")
def container_sas(
    invocation: Invocation, *, permissions: str, valid_for: float, hub_host: str | None
) -> None:
    """Make a URL that edge devices may upload to: the sasUrl of UploadModuleLogs and the like.

    Whoever has it may do what it grants with all of edge-files, so treat it as a key.
    """
    told = invocation.hub(hub_host).post(
        _SAS, body={"permissions": permissions, "validForS": int(valid_for)}
    )
    if invocation.as_json:
        show_json(told)
    else:
        click.echo(told["sasUrl"])


def _copy(reply: requests.Response, file: IO[bytes]) -> None:
    for chunk in reply.iter_content(_CHUNK):
        file.write(chunk)
    file.flush()
