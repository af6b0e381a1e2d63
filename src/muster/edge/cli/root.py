"""The tree of `iotedge` commands; a command is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple, final

import click

from muster import __version__
from muster.cli.examples import examples

DEFAULT_HOST: Final = "unix:///var/run/iotedge/mgmt.sock"


class _Entry(NamedTuple):
    """Where a command is, and what it is for."""

    module: str
    attribute: str
    summary: str


_COMMANDS: Final = {
    "config": _Entry("config", "config", "Write, check and apply the configuration."),
    "check": _Entry("check", "check", "Look for what is wrong, and say what to do."),
    "check-list": _Entry("check", "check_list", "List the checks."),
    "list": _Entry("modules", "list_", "List the modules of this device."),
    "logs": _Entry("modules", "logs", "Show what a module has written."),
    "restart": _Entry("modules", "restart", "Stop a module and start it again."),
    "support-bundle": _Entry(
        "support_bundle", "support_bundle", "Collect logs and facts for help."
    ),
    "system": _Entry("system", "system", "The daemon as a service of this machine."),
    "version": _Entry("root", "version", "Show the version."),
}
"""Every command, in the order of `iotedge --help`."""


@final
class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        found: Any = getattr(import_module(f"muster.edge.cli.{entry.module}"), entry.attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"muster.edge.cli.{entry.module}.{entry.attribute} is not a command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
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


@click.command()
@examples("iotedge version")
def version() -> None:
    """Show the version."""
    click.echo(f"iotedge {__version__} (muster)")
