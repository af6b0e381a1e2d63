"""`muster policy`: access policies of the provisioning service and of hubs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from muster.auth.access_policies import Right
from muster.cli.failures import FailedError, RefusedError
from muster.cli.noun import NounGroup
from muster.cli.options import (
    confirm,
    key_options,
    read_keys,
    service_command,
    show_keys_option,
    yes_option,
)
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.connection import Invocation

F = TypeVar("F", bound="Callable[..., Any]")

COLLECTION: Final = "/admin/v1/policies"

_RIGHTS: Final = {right.value.lower(): right.value for right in Right}


@click.group(cls=NounGroup)
@examples(
    "muster policy list --hub localhost",
    "muster policy create reader --rights RegistryRead --hub localhost",
)
def policy() -> None:
    """Access policies: who may call the provisioning service or a hub, and what they may do.

    Rights of the provisioning service: ServiceConfig, EnrollmentRead, EnrollmentWrite,
    RegistrationStatusRead, RegistrationStatusWrite. Of a hub: RegistryRead, RegistryWrite,
    ServiceConnect, DeviceConnect.
    """


_hub = click.option(
    "--hub", "hub_host", metavar="HOST", help="Of this hub [default: of the provisioning service]."
)


def _read_rights(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> list[str]:
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name.lower() not in _RIGHTS]
    if unknown:
        raise click.BadParameter(
            f"there is no right {unknown[0]!r}. Rights: {', '.join(_RIGHTS.values())}"
        )
    return [_RIGHTS[name.lower()] for name in names]


def _rights_option(*, required: bool) -> Callable[[F], F]:
    return click.option(
        "--rights",
        multiple=True,
        required=required,
        callback=_read_rights,
        metavar="RIGHT",
        help="A right it grants; repeat, or separate by commas.",
    )


@policy.command("list")
@_hub
@show_keys_option
@service_command
@examples("muster policy list", "muster policy list --hub plant-a.example.org")
def list_policies(invocation: Invocation, *, hub_host: str | None, show_keys: bool) -> None:
    """List the access policies."""
    found = invocation.dps().get(*_place(hub_host))
    if invocation.as_json:
        show_json(found if show_keys else without_secrets(found))
        return
    columns = ("NAME", "RIGHTS") + (("PRIMARY KEY", "SECONDARY KEY") if show_keys else ())
    names = ("name", "rights", "primaryKey", "secondaryKey")[: len(columns)]
    show_table(
        columns,
        [[each.get(name) for name in names] for each in found],
        empty="There are no access policies.",
    )


@policy.command()
@click.argument("name")
@_hub
@show_keys_option
@service_command
@examples("muster policy show iothubowner --hub plant-a.example.org --show-keys")
def show(invocation: Invocation, *, name: str, hub_host: str | None, show_keys: bool) -> None:
    """Show an access policy; with --show-keys its keys and connection string, too."""
    _show(invocation, invocation.dps().get(*_place(hub_host), name), show_keys=show_keys)


@policy.command()
@click.argument("name")
@_rights_option(required=True)
@key_options
@_hub
@show_keys_option
@service_command
@examples("muster policy create enroller --rights EnrollmentRead,EnrollmentWrite --show-keys")
def create(
    invocation: Invocation,
    *,
    name: str,
    rights: list[str],
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Create an access policy. Without keys the service makes a pair."""
    keys = read_keys(primary_key, secondary_key, key_file)
    client = invocation.dps()
    place = _place(hub_host)
    try:
        client.get(*place, name)
    except RefusedError as error:
        if error.status != 404:
            raise
    else:
        raise FailedError(
            f"The access policy {name} exists already", next_step=f"muster policy update {name}"
        )
    created = client.put(*place, name, body={"name": name, "rights": rights, **keys})
    _show(invocation, created, show_keys=show_keys)


@policy.command()
@click.argument("name")
@_rights_option(required=False)
@key_options
@_hub
@show_keys_option
@service_command
@examples(
    "muster policy update enroller --rights EnrollmentRead",
    "muster policy update enroller --key-file new.keys",
)
def update(
    invocation: Invocation,
    *,
    name: str,
    rights: list[str],
    primary_key: str | None,
    secondary_key: str | None,
    key_file: str | None,
    hub_host: str | None,
    show_keys: bool,
) -> None:
    """Change the rights or the keys of an access policy; what is not given stays."""
    keys = read_keys(primary_key, secondary_key, key_file)
    if not rights and not keys:
        raise click.UsageError("Give --rights or keys.")
    client = invocation.dps()
    place = _place(hub_host)
    current: dict[str, Any] = client.get(*place, name)
    present = {each: current.get(each) for each in ("primaryKey", "secondaryKey")}
    body = {"name": name, "rights": rights or current.get("rights"), **present, **keys}
    _show(invocation, client.put(*place, name, body=body), show_keys=show_keys)


@policy.command()
@click.argument("name")
@yes_option
@_hub
@service_command
@examples("muster policy delete enroller")
def delete(invocation: Invocation, *, name: str, yes: bool, hub_host: str | None) -> None:
    """Delete an access policy. Whoever uses it is shut out at once."""
    confirm(f"Delete the access policy {name}?", yes=yes)
    invocation.dps().delete(*_place(hub_host), name)
    if not invocation.as_json:
        remark(f"The access policy {name} is deleted.")


def _place(hub_host: str | None) -> tuple[str, ...]:
    return (COLLECTION, "dps") if hub_host is None else (COLLECTION, "hubs", hub_host)


def _show(invocation: Invocation, found: dict[str, Any], *, show_keys: bool) -> None:
    shown = found if show_keys else without_secrets(found)
    if invocation.as_json:
        show_json(shown)
        return
    show_record(
        [
            ("Name", shown.get("name")),
            ("Rights", shown.get("rights")),
            ("Primary key", shown.get("primaryKey")),
            ("Secondary key", shown.get("secondaryKey")),
            ("Connection string", shown.get("connectionString")),
        ]
    )
