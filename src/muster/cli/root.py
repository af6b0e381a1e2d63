"""The tree of commands; a command is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple, final

import click

from muster import __version__
from muster.cli.examples import examples


class _Entry(NamedTuple):
    """Where a command is, and what it is for."""

    module: str
    attribute: str
    summary: str


_COMMANDS: Final = {
    "up": _Entry("up", "up", "Run the whole service in this process."),
    "info": _Entry("up", "info", "Tell how to connect to a running instance."),
    "demo": _Entry("demo", "demo", "Show the main job on a temporary instance."),
    "enrollment": _Entry("enrollment", "enrollment", "Devices enrolled one by one; bulk import."),
    "enrollment-group": _Entry(
        "enrollment_group", "enrollment_group", "Devices enrolled by a common key; derive keys."
    ),
    "registration": _Entry(
        "registration", "registration", "What became of registrations, and why (explain)."
    ),
    "device": _Entry("device", "device", "Device identities of a hub; revoke and restore."),
    "module": _Entry("module", "module", "Module identities of a device."),
    "twin": _Entry("twin", "twin", "Tags, desired and reported properties."),
    "method": _Entry("method", "method", "Direct methods: call a device and get its answer."),
    "message": _Entry(
        "message", "message", "Cloud-to-device messages: send, settle, purge, feedback."
    ),
    "query": _Entry("query", "query", "Queries over devices and modules; explain a condition."),
    "deployment": _Entry("deployment", "deployment", "Modules for edge devices, by condition."),
    "configuration": _Entry(
        "configuration", "configuration", "Desired properties of many twins, by condition."
    ),
    "job": _Entry("job", "job", "Update twins, or call a method, of many devices."),
    "file": _Entry("file", "file", "Files that devices have uploaded."),
    "events": _Entry("events", "events", "Telemetry, as it arrives, and to files."),
    "route": _Entry("route", "route", "Message routing: which messages go where, and why."),
    "endpoint": _Entry("endpoint", "endpoint", "Where routes send messages: files, webhooks."),
    "enrichment": _Entry("enrichment", "enrichment", "Properties added to routed messages."),
    "consumer-group": _Entry(
        "consumer_group", "consumer_group", "Names under which the event stream is read."
    ),
    "fleet": _Entry("fleet", "fleet", "Simulated devices, for load and for rehearsals."),
    "hub": _Entry("hub", "hub", "The hubs that devices are assigned to."),
    "fault": _Entry("fault", "fault", "Injected faults, to rehearse how a fleet recovers."),
    "policy": _Entry("policy", "policy", "Access policies: who may call the service."),
}
"""Every command, in the order of `muster --help`: a row here, its module beside this one."""


@final
class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        found: Any = getattr(import_module(f"muster.cli.{entry.module}"), entry.attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"muster.cli.{entry.module}.{entry.attribute} is not a command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="muster")
@examples(
    "muster up",
    "muster enrollment create gateway-01 --edge",
    "muster registration explain gateway-01",
)
def muster() -> None:
    """Zero-touch provisioning and fleet management for IoT Edge devices.

    Commands find a running service through its data directory (--data-dir, MUSTER_DATA_DIR,
    ./muster-data) or a connection string (--login, MUSTER_CONNECTION_STRING).
    """
