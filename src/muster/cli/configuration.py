"""`muster configuration`: desired properties of many devices or modules at once."""

from __future__ import annotations

from typing import Final

import click

from muster.cli.configuration_commands import Noun, add_commands
from muster.cli.noun import NounGroup
from muster.terminal.examples import examples

_NOUN: Final = Noun(
    "configuration", False, """'{"deviceContent": {"properties.desired.interval": 30}}'"""
)


@click.group(cls=NounGroup)
@examples("muster configuration list", "muster configuration show slow")
def configuration() -> None:
    """Automatic configurations: desired properties of all devices that match a condition."""


add_commands(configuration, _NOUN)
