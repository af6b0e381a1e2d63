"""`muster query`: ask a hub's devices and modules with its query language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.noun import NounGroup
from muster.cli.options import hub_option, service_command, top_option
from muster.errors import InvalidArgumentError
from muster.language import collections
from muster.language.conditions import parse_job
from muster.language.explain import why
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, warn

if TYPE_CHECKING:
    from muster.cli.connection import Invocation
    from muster.language.conditions import Condition

_TWIN: Final = ("deviceId", "etag", "properties")
"""Members by which a whole twin is known."""


@click.group(cls=NounGroup)
@examples(
    "muster query run 'SELECT * FROM devices'",
    "muster query explain \"tags.site = 'a'\" --device gateway-01",
)
def query() -> None:
    """Queries over devices and modules, and why a condition holds or not."""


@query.command()
@click.argument("text", metavar="QUERY")
@top_option
@hub_option
@service_command
@examples(
    "muster query run 'SELECT * FROM devices'",
    'muster query run "SELECT deviceId, tags.site FROM devices WHERE tags.line = 5"',
    "muster query run 'SELECT tags.site, COUNT() AS devices FROM devices GROUP BY tags.site'",
    "muster query run 'SELECT * FROM devices.modules' --top 5 --json",
)
def run(invocation: Invocation, *, text: str, top: int | None, hub_host: str | None) -> None:
    """Run a query and show what it finds."""
    client = invocation.hub(hub_host)
    rows = list(client.pages("POST", "/devices", "query", body={"query": text}, top=top))
    if invocation.as_json:
        show_json(rows)
    elif rows and all(name in rows[0] for name in _TWIN):
        _show_twins(rows)
    else:
        # A member that is undefined for one row may be there in another.
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = ([row.get(name) for name in names] for row in rows)
        show_table(names, table, empty="Nothing found.")


@query.command()
@click.argument("condition")
@click.option("--device", "device_id", metavar="ID", required=True, help="Of this device's twin.")
@click.option("--module", "module_id", metavar="ID", help="Of the twin of this module.")
@hub_option
@service_command
@examples(
    "muster query explain \"tags.site = 'a' AND tags.line = 5\" --device gateway-01",
    "muster query explain 'properties.reported.on = true' --device gateway-01 --module camera",
)
def explain(
    invocation: Invocation,
    *,
    condition: str,
    device_id: str,
    module_id: str | None,
    hub_host: str | None,
) -> None:
    """Say why a condition holds for a device or not, part by part.

    CONDITION is what stands behind WHERE, as in queries and target conditions.
    """
    parsed = _condition(condition, modules=module_id is not None)
    place = (device_id, *(("modules", module_id) if module_id is not None else ()))
    twin = invocation.hub(hub_host).get("/twins", *place)
    holds, reasons = why(parsed.expression, twin)
    if invocation.as_json:
        show_json(
            {
                "holds": holds,
                "reasons": [
                    {
                        "condition": reason.condition,
                        "outcome": reason.outcome,
                        "found": [
                            {"path": each.path, "type": each.kind.value, "value": each.value}
                            for each in reason.found
                        ],
                        "explanation": reason.sentence,
                    }
                    for reason in reasons
                ],
            }
        )
        return
    show_record(
        [
            ("Condition", condition),
            ("Holds", holds),
            *(("Because" if holds else "Because not", reason.sentence) for reason in reasons),
        ]
    )
    for name in parsed.unknown_names:
        warn(f"no twin has '{name}' at its top; user data is in tags and properties")


def _condition(text: str, *, modules: bool) -> Condition:
    try:
        condition = parse_job(text)
    except InvalidArgumentError as error:
        raise click.UsageError(error.message) from None
    if modules and condition.collection is collections.DEVICES:
        return parse_job(f"FROM devices.modules WHERE {text}")
    return condition


def _show_twins(twins: list[dict[str, Any]]) -> None:
    modules = "moduleId" in twins[0]
    table = (
        [
            twin.get("deviceId"),
            *([twin.get("moduleId")] if modules else []),
            twin.get("status"),
            twin.get("connectionState"),
            twin.get("tags"),
        ]
        for twin in twins
    )
    columns = ["DEVICE ID", *(["MODULE ID"] if modules else []), "STATUS", "CONNECTION", "TAGS"]
    show_table(columns, table, empty="Nothing found.")
    remark(f"{len(twins):,} twin{'s' * (len(twins) != 1)}; --json shows all that is in them.")
