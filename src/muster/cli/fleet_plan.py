"""From the options of `muster fleet simulate` to a plan: where the service is, and which key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from muster.auth import symmetric_keys
from muster.cli.derive_key import group_key
from muster.cli.enrollment_fields import is_edge, new_entry
from muster.cli.failures import FailedError, RefusedError
from muster.cli.options import check_key, read_text
from muster.config import DEFAULT_MQTT_PORT
from muster.errors import InvalidArgumentError
from muster.fleet.plan import HubPolicy, Place, Plan
from muster.ids import Randomness, check_registration_id
from muster.terminal.output import warn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

GROUPS: Final = "/enrollmentGroups"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was said on the command line; `None` for what was not.

    Attributes:
        group: enrollment group whose key the service tells.
        create_group: enrollment group to create.
        group_key: base64.
        group_key_file: likewise, in a file.
        tags: initial twin tags of the group that is created.
        id_scope: of the provisioning service.
        dps_host: its host, and port where it is not the official one.
        prefix: of registration IDs.
        count, rate, size, report_every, edge, at_once, token_lifetime: as in `Plan`.
    """

    group: str | None
    create_group: str | None
    group_key: str | None
    group_key_file: str | None
    tags: dict[str, Any] | None
    id_scope: str | None
    dps_host: str | None
    prefix: str | None
    count: int
    rate: float
    size: int
    report_every: float
    edge: bool
    at_once: int
    token_lifetime: float

    @property
    def managed(self) -> bool:
        """Whether the group is looked up or created over the administrative connection."""
        return self.group is not None or self.create_group is not None


def gather(invocation: Invocation, options: Options) -> Plan:
    """Return the plan. A group that is to be created is created here, when all else is known.

    Raises:
        click.UsageError: the options do not go together.
        FailedError: the service said no, or cannot be reached.
    """
    _check(options)
    described: dict[str, Any] = {}
    if options.managed or options.edge or None in (options.id_scope, options.dps_host):
        described = _describe(invocation.dps())
    id_scope = options.id_scope or described.get("idScope")
    if not id_scope:
        raise click.UsageError("The service does not tell its ID scope: give it with --id-scope.")
    dps = _dps(invocation, options.dps_host, described)
    hubs = described.get("hubs", ())
    plan = Plan(
        count=options.count,
        prefix=options.prefix or f"sim-{Randomness().token_bytes(2).hex()}-",
        dps=dps,
        id_scope=id_scope,
        group_key=b"",
        hubs={host.lower(): Place(name=host, address=dps.target, port=dps.port) for host in hubs},
        policies=_policies(invocation, hubs) if options.edge else {},
        rate=options.rate,
        size=options.size,
        report_every_s=options.report_every,
        edge=options.edge,
        at_once=options.at_once,
        token_lifetime_s=options.token_lifetime,
    )
    last = plan.registration_id(options.count)
    try:
        check_registration_id(last)
    except InvalidArgumentError:
        raise click.UsageError(f"--prefix: {last!r} is no registration ID.") from None
    key = _managed_key(invocation.dps(), options) if options.managed else _given_key(options)
    return msgspec.structs.replace(plan, group_key=key)


def _check(options: Options) -> None:
    ways = (options.group, options.create_group, options.group_key, options.group_key_file)
    if sum(each is not None for each in ways) != 1:
        raise click.UsageError(
            "Give exactly one of --group, --create-group, --group-key-file and --group-key."
        )
    if options.tags is not None and options.create_group is None:
        raise click.UsageError("--tags are those of a group that is created: --create-group.")


def _describe(client: RestClient) -> dict[str, Any]:
    """Return ID scope, device host and local hubs; nothing of a service that is not a Muster."""
    try:
        found: dict[str, Any] = client.get("/admin/v1/dps")
        hubs = client.get("/admin/v1/hubs")
    except RefusedError as error:
        if error.status not in {400, 404}:
            raise
        return {}
    return {**found, "hubs": [str(hub["host"]) for hub in hubs if hub.get("local")]}


def _dps(invocation: Invocation, given: str | None, described: dict[str, Any]) -> Place:
    if given is not None:
        name, _, port = given.partition(":")
        if not name or (port and not port.isdecimal()):
            raise click.UsageError(f"--dps-host: {given!r} is no HOST[:PORT].")
        return Place(name=name, port=int(port or DEFAULT_MQTT_PORT))
    instance = invocation.instance_if_any()
    address = invocation.dps().target.login.host
    return Place(
        name=str(described.get("deviceHost") or address).partition(":")[0],
        address=address,
        port=DEFAULT_MQTT_PORT if instance is None else instance.ports.mqtt,
    )


def _given_key(options: Options) -> bytes:
    if options.group_key is not None:
        warn("a key on the command line is visible in process lists; prefer --group-key-file")
        return check_key(options.group_key, "--group-key")
    lines = read_text(str(options.group_key_file), "--group-key-file").split()
    if len(lines) != 1:
        raise click.UsageError("--group-key-file: expected one line with the group's key.")
    return check_key(lines[0], "--group-key-file")


def _managed_key(client: RestClient, options: Options) -> bytes:
    name = str(options.group or options.create_group)
    if options.create_group is not None:
        entry = new_entry("enrollmentGroupId", name)
        entry["capabilities"] = {"iotEdge": options.edge}
        if options.tags is not None:
            entry["initialTwin"] = {"tags": options.tags}
        client.put(GROUPS, name, body=entry)
    key = _key_of(client, name)
    if options.edge and not is_edge(client.get(GROUPS, name)):
        raise FailedError(
            f"The enrollment group {name} is not one of IoT Edge devices",
            next_step=f"muster enrollment-group update {name} --edge, or leave --edge out",
        )
    return key


def _key_of(client: RestClient, name: str) -> bytes:
    try:
        return group_key(client, name)
    except RefusedError as error:
        if error.status != 404:
            raise
        raise error.with_next("muster enrollment-group list, or --create-group") from None


def _policies(invocation: Invocation, hubs: Iterable[str]) -> dict[str, HubPolicy]:
    policies: dict[str, HubPolicy] = {}
    for host in hubs:
        login = invocation.hub(host).target.login
        policies[host.lower()] = HubPolicy(
            name=login.key_name or "", key=symmetric_keys.decode(login.key or "")
        )
    return policies
