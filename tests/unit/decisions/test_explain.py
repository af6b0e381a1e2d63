"""Every check that is recorded has its words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import muster
from muster.decisions.explain import EXPLANATIONS, explain
from muster.model.decision import Decision

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SOURCE = Path(muster.__file__).parent
# Where the check stands among what is passed; `None` for a keyword only.
RECORDERS = {"RefusalError": 0, "Cause": 0, "RefusedError": 1, "turn_away": 1, "_finish": 2}


def _recorded() -> Iterator[tuple[str, str]]:
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [each.value for each in node.keywords if each.arg == "check"]
            at = RECORDERS.get(name)
            if at is not None and at < len(node.args):
                given.append(node.args[at])
            for each in given:
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value, file.name


def test_every_recorded_check_has_an_explanation() -> None:
    recorded = dict(_recorded())
    assert len(recorded) > 20
    assert {check: file for check, file in recorded.items() if check not in EXPLANATIONS} == {}


@pytest.mark.parametrize("check", ["enrollment-disabled", "group-disabled"])
def test_which_entry_is_disabled_is_said_once(check: str) -> None:
    facts = {"entry": "individual enrollment d1"}
    decided = Decision("t", NOW, "dps", "register", "d1", "disabled", check, facts)
    assert explain(decided).cause.endswith("but the individual enrollment d1 is disabled.")
