from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from muster.edge.cli.root import iotedge

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Return a function that runs `iotedge` in this process."""

    def call(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(iotedge, list(arguments), input=stdin, prog_name="iotedge")

    return call
