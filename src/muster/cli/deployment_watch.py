"""`muster deployment watch`: its counts, live, until every device has answered."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.configuration_commands import (
    APPLIED,
    COLLECTION,
    FAILED,
    SUCCESSFUL,
    TARGETED,
    count_matches,
    counts,
)
from muster.cli.options import hub_option, service_command
from muster.clock import SystemClock
from muster.terminal.examples import examples
from muster.terminal.output import decorated, remark, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

_WIDTH: Final = 30
_NAMES: Final = (
    ("targeted", TARGETED),
    ("applied", APPLIED),
    ("succeeded", SUCCESSFUL),
    ("failed", FAILED),
)


@click.command()
@click.argument("name")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--forever", is_flag=True, help="Go on when all devices have answered.")
@hub_option
@service_command
@examples("muster deployment watch line-7", "muster deployment watch line-7 --forever --json")
def watch(
    invocation: Invocation, *, name: str, interval: float, forever: bool, hub_host: str | None
) -> None:
    """Show the counts of a deployment while they move; ends when all devices have answered.

    Matching are the devices that meet the condition now, targeted those it has reached, applied
    those whose modules it decides about; of these, succeeded and failed is what their agents say.
    """
    client = invocation.hub(hub_host)
    live = decorated() and not invocation.as_json
    last: dict[str, int] | None = None
    for look in _looks(client, name, interval):
        if look != last:
            last = look
            _tell(look, live=live, as_json=invocation.as_json)
        if not forever and _settled(look):
            break
    if live:
        click.echo()
    if last and last["failed"]:
        remark(
            f"{last['failed']:,} failed. Which: muster deployment show-metric {name} {FAILED}; "
            f"and why: muster deployment explain {name} --device ID"
        )


def _looks(client: RestClient, name: str, interval: float) -> Iterator[dict[str, int]]:
    clock = SystemClock()
    while True:
        began = clock.monotonic()
        found: dict[str, Any] = client.get(COLLECTION, name)
        condition = found["targetCondition"]
        matching = count_matches(client, condition, edge=True) if condition else 0
        counted = counts(found)
        yield {"matching": matching} | {word: counted.get(key, 0) for word, key in _NAMES}
        time.sleep(max(0.0, interval - (clock.monotonic() - began)))


def _settled(look: dict[str, int]) -> bool:
    answered = look["succeeded"] + look["failed"]
    return look["matching"] == look["targeted"] and answered == look["applied"]


def _tell(look: dict[str, int], *, live: bool, as_json: bool) -> None:
    if as_json:
        click.echo(to_json(look, indent=None))
        return
    text = "  ".join(f"{word} {count:,}" for word, count in look.items())
    if not live:
        click.echo(text)
        sys.stdout.flush()
        return
    total = max(look["applied"], look["matching"], 1)
    good = look["succeeded"] * _WIDTH // total
    bad = -(-look["failed"] * _WIDTH // total)
    bar = click.style("━" * good, fg="green") + click.style("━" * bad, fg="red")
    rest = click.style("━" * max(0, _WIDTH - good - bad), dim=True)
    click.echo(f"\r\x1b[2K{bar}{rest}  {text}", nl=False)
