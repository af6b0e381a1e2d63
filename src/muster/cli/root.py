"""The tree of commands; a command is imported when it is asked for."""

from __future__ import annotations

from typing import Final

import click

from muster import __version__
from muster.terminal.examples import examples
from muster.terminal.lazy_group import Entry, LazyGroup

_COMMANDS: Final = {
    "up": Entry("up", "up", "Run the whole service in this process."),
    "info": Entry("up", "info", "Tell how to connect to a running instance."),
    "demo": Entry("demo", "demo", "Show the main job on a temporary instance."),
    "enrollment": Entry("enrollment", "enrollment", "Devices enrolled one by one; bulk import."),
    "enrollment-group": Entry(
        "enrollment_group", "enrollment_group", "Devices enrolled by a common key; derive keys."
    ),
    "registration": Entry(
        "registration", "registration", "What became of registrations, and why (explain)."
    ),
    "device": Entry("device", "device", "Device identities of a hub; revoke and restore."),
    "module": Entry("module", "module", "Module identities of a device."),
    "twin": Entry("twin", "twin", "Tags, desired and reported properties."),
    "method": Entry("method", "method", "Direct methods: call a device and get its answer."),
    "message": Entry(
        "message", "message", "Cloud-to-device messages: send, settle, purge, feedback."
    ),
    "query": Entry("query", "query", "Queries over devices and modules; explain a condition."),
    "deployment": Entry("deployment", "deployment", "Modules for edge devices, by condition."),
    "configuration": Entry(
        "configuration", "configuration", "Desired properties of many twins, by condition."
    ),
    "job": Entry("job", "job", "Update twins, or call a method, of many devices."),
    "file": Entry("file", "file", "Files that devices have uploaded."),
    "events": Entry("events", "events", "Telemetry, as it arrives, and to files."),
    "route": Entry("route", "route", "Message routing: which messages go where, and why."),
    "endpoint": Entry("endpoint", "endpoint", "Where routes send messages: files, webhooks."),
    "enrichment": Entry("enrichment", "enrichment", "Properties added to routed messages."),
    "consumer-group": Entry(
        "consumer_group", "consumer_group", "Names under which the event stream is read."
    ),
    "fleet": Entry("fleet", "fleet", "Simulated devices, for load and for rehearsals."),
    "hub": Entry("hub", "hub", "The hubs that devices are assigned to."),
    "fault": Entry("fault", "fault", "Injected faults, to rehearse how a fleet recovers."),
    "policy": Entry("policy", "policy", "Access policies: who may call the service."),
}
"""Every command, in the order of `muster --help`: a row here, its module beside this one."""


@click.group(
    cls=LazyGroup,
    package="muster.cli",
    entries=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
