"""Who is asked before something is deleted, and who is not."""

from __future__ import annotations

import sys

import click
import pytest
from click.testing import CliRunner

from muster.cli.options import confirm


def outcome(*, terminal: bool, answer: str = "", yes: bool = False, grave: bool = False) -> int:
    @click.command()
    def command() -> None:
        sys.stdin.isatty = lambda: terminal  # type: ignore[method-assign]
        confirm("Delete it?", yes=yes, grave=grave)

    return CliRunner().invoke(command, input=answer).exit_code


@pytest.mark.parametrize("grave", [False, True])
def test_a_person_is_asked(grave: bool) -> None:  # noqa: FBT001
    assert outcome(terminal=True, answer="y\n", grave=grave) == 0
    assert outcome(terminal=True, answer="n\n", grave=grave) == 1
    assert outcome(terminal=True, answer="n\n", grave=grave, yes=True) == 0


def test_a_script_is_not_but_for_what_shuts_devices_out() -> None:
    assert outcome(terminal=False) == 0
    assert outcome(terminal=False, grave=True) == 2
    assert outcome(terminal=False, grave=True, yes=True) == 0
