"""The tree of `iotedge` commands; a command is imported when it is asked for."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from muster import __version__
from muster.terminal.examples import examples
from muster.terminal.lazy_group import Entry, LazyGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_HOST: Final = "unix:///var/run/iotedge/mgmt.sock"


_COMMANDS: Final = {
    "config": Entry("config", "config", "Write, check and apply the configuration."),
    "check": Entry("check", "check", "Look for what is wrong, and say what to do."),
    "check-list": Entry("check", "check_list", "List the checks."),
    "list": Entry("modules", "list_", "List the modules of this device."),
    "logs": Entry("modules", "logs", "Show what a module has written."),
    "restart": Entry("modules", "restart", "Stop a module and start it again."),
    "support-bundle": Entry("support_bundle", "support_bundle", "Collect logs and facts for help."),
    "system": Entry("system", "system", "The daemon as a service of this machine."),
    "version": Entry("root", "version", "Show the version."),
}
"""Every command, in the order of `iotedge --help`."""


@click.group(
    cls=LazyGroup,
    package="muster.edge.cli",
    entries=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "-H",
    "--host",
    metavar="URI",
    envvar="IOTEDGE_HOST",
    default=DEFAULT_HOST,
    show_default=True,
    help="The management socket of the daemon.",
)
@click.version_option(__version__, prog_name="iotedge", message="%(prog)s %(version)s (muster)")
@click.pass_context
@examples(
    "sudo iotedge config dps --id-scope 0ne00000001 --registration-id gateway-01 --symmetric-key -",
    "sudo iotedge config apply",
)
def iotedge(context: click.Context, host: str) -> None:
    """Configure and look after the edge runtime of this device."""
    context.obj = host


def with_host_first(arguments: Sequence[str]) -> list[str]:
    """Return arguments with `-H` and `--host` in front: the official command takes them anywhere.

    What stands behind `--` is for others and stays.
    """
    host: list[str] = []
    rest: list[str] = []
    left = iter(arguments)
    for each in left:
        if each == "--":
            return [*host, *rest, each, *left]
        if each in ("-H", "--host"):
            host += [each, *islice(left, 1)]
        elif each.startswith("--host="):
            host.append(each)
        else:
            rest.append(each)
    return host + rest


@click.command()
@examples("iotedge version")
def version() -> None:
    """Show the version."""
    click.echo(f"iotedge {__version__} (muster)")
