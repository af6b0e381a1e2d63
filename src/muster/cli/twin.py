"""`muster twin`: tags, desired and reported properties of devices and modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.identity_fields import moment, quoted
from muster.cli.noun import NounGroup
from muster.cli.options import JSON_DOCUMENT, etag_option, hub_option, service_command
from muster.model.merge_patches import difference
from muster.terminal.examples import examples
from muster.terminal.output import decorated, show_json, show_record, to_json

if TYPE_CHECKING:
    from muster.cli.connection import Invocation


@click.group(cls=NounGroup)
@examples(
    "muster twin show gateway-01", 'muster twin update gateway-01 --tags \'{"site": "plant-a"}\''
)
def twin() -> None:
    """Twins: tags, desired and reported properties of devices and modules."""


_device = click.argument("device_id")
_module = click.option("--module", "module_id", metavar="ID", help="The twin of this module.")
_tags = click.option("--tags", type=JSON_DOCUMENT, help="Tags, as JSON or @FILE.")
_desired = click.option(
    "--desired", type=JSON_DOCUMENT, help="Desired properties, as JSON or @FILE."
)


@twin.command()
@_device
@_module
@hub_option
@service_command
@examples("muster twin show gateway-01", "muster twin show gateway-01 --module '$edgeHub' --json")
def show(
    invocation: Invocation, *, device_id: str, module_id: str | None, hub_host: str | None
) -> None:
    """Show a twin."""
    _show(invocation, invocation.hub(hub_host).get(*_place(device_id, module_id)))


@twin.command()
@_device
@_module
@_tags
@_desired
@etag_option
@hub_option
@service_command
@examples(
    "muster twin update gateway-01 --desired '{\"interval\": 10}'",
    'muster twin update gateway-01 --tags \'{"site": "plant-b", "old": null}\'',
)
def update(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str | None,
    tags: dict[str, Any] | None,
    desired: dict[str, Any] | None,
    etag: str | None,
    hub_host: str | None,
) -> None:
    """Merge into a twin: what is given changes, null removes, the rest stays."""
    if tags is None and desired is None:
        raise click.UsageError("Give --tags, --desired or both.")
    patch: dict[str, Any] = {}
    if tags is not None:
        patch["tags"] = tags
    if desired is not None:
        patch["properties"] = {"desired": desired}
    client = invocation.hub(hub_host)
    place = _place(device_id, module_id)
    _show(invocation, client.patch(*place, body=patch, if_match=quoted(etag)))


@twin.command()
@_device
@_module
@_tags
@_desired
@etag_option
@hub_option
@service_command
@examples(
    "muster twin replace gateway-01 --desired @desired.json",
    "muster twin replace gateway-01 --tags '{}'",
)
def replace(
    invocation: Invocation,
    *,
    device_id: str,
    module_id: str | None,
    tags: dict[str, Any] | None,
    desired: dict[str, Any] | None,
    etag: str | None,
    hub_host: str | None,
) -> None:
    """Replace tags or desired properties as a whole; what is not given stays."""
    if tags is None and desired is None:
        raise click.UsageError("Give --tags, --desired or both.")
    client = invocation.hub(hub_host)
    place = _place(device_id, module_id)
    if tags is not None and desired is not None:
        body = {"tags": tags, "properties": {"desired": desired}}
        _show(invocation, client.put(*place, body=body, if_match=quoted(etag)))
        return
    # A PUT without one of the two would clear it, and one with both counts as a change of the
    # desired properties, of which devices are told.
    current = client.get(*place)
    etag = etag or current.get("etag")
    if tags is not None:
        patch: dict[str, Any] = {"tags": difference(current.get("tags") or {}, tags)}
    else:
        before = _bare(_section(current, "desired"))
        patch = {"properties": {"desired": difference(before, desired or {})}}
    _show(invocation, client.patch(*place, body=patch, if_match=quoted(etag)))


def _place(device_id: str, module_id: str | None) -> tuple[str, ...]:
    return ("/twins", device_id, *(("modules", module_id) if module_id is not None else ()))


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = (document.get("properties") or {}).get(name) or {}
    return found


def _bare(section: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in section.items() if not name.startswith("$")}


def _show(invocation: Invocation, document: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(document)
        return
    show_record(
        [
            ("Device ID", document.get("deviceId")),
            ("Module ID", document.get("moduleId")),
            ("Status", document.get("status")),
            ("Connection", document.get("connectionState")),
            ("Last activity", moment(document.get("lastActivityTime"))),
            ("ETag", document.get("etag")),
            ("Version", document.get("version")),
        ]
    )
    _show_document("Tags", document.get("tags") or {})
    for title, name in (("Desired properties", "desired"), ("Reported properties", "reported")):
        section = _section(document, name)
        _show_document(f"{title} (version {section.get('$version', '?')})", _bare(section))


def _show_document(title: str, document: dict[str, Any]) -> None:
    click.echo()
    click.echo(click.style(title, bold=True) if decorated() else title)
    click.echo(to_json(document))
