"""`muster hub retention`: how long a hub keeps telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.options import service_command
from muster.cli.quantities import DURATION, SIZE, duration_text, size_text
from muster.terminal.examples import examples
from muster.terminal.output import show_json, show_record

if TYPE_CHECKING:
    from muster.cli.connection import Invocation

COLLECTION: Final = "/admin/v1/retention/hubs"


@click.command()
@click.argument("host", required=False)
@click.option("--age", type=DURATION, help="Keep telemetry so long, for example 7d.")
@click.option("--size", type=SIZE, help="Keep so much of it, for example 10GiB.")
@click.option("--default", "reset", is_flag=True, help="Keep what the service keeps by default.")
@service_command
@examples(
    "muster hub retention",
    "muster hub retention plant-a.example.org --age 30d --size 50GiB",
    "muster hub retention plant-a.example.org --default",
)
def retention(
    invocation: Invocation,
    *,
    host: str | None,
    age: float | None,
    size: int | None,
    reset: bool,
) -> None:
    """Show or set how long a hub keeps telemetry, and how much of it.

    What is older or more is deleted, oldest first. The same holds for messages on their way to the
    hub's own endpoints.
    """
    if reset and (age is not None or size is not None):
        raise click.UsageError("Give --default or values, not both.")
    client, host = invocation.dps(), invocation.own_hub(host)
    found: dict[str, Any] = client.get(COLLECTION, host)
    if reset or age is not None or size is not None:
        body: dict[str, Any] = {"maxAgeS": None, "maxBytes": None}
        if not reset:
            body = {
                "maxAgeS": found["maxAgeS"] if age is None else age,
                "maxBytes": found["maxBytes"] if size is None else size,
            }
        found = client.put(COLLECTION, host, body=body)
    if invocation.as_json:
        show_json(found)
        return
    effective = found["effective"]
    show_record(
        [
            ("Age", duration_text(effective["maxAgeS"]) + _origin(found["maxAgeS"])),
            ("Size", size_text(effective["maxBytes"]) + _origin(found["maxBytes"])),
        ]
    )


def _origin(own: float | None) -> str:
    return " (default)" if own is None else ""
