"""`muster configuration`: desired properties of many devices or modules at once."""

from __future__ import annotations

from typing import Final

import click

from muster.cli.configuration_commands import Noun, add_commands

_NOUN: Final = Noun(
    "configuration", False, """'{"deviceContent": {"properties.desired.interval": 30}}'"""
)


@click.group()
def configuration() -> None:
    """Automatic configurations: desired properties of all devices that match a condition."""


add_commands(configuration, _NOUN)
