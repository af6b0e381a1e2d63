"""Nothing can be said that no test produces by breaking that very thing.

Whoever breaks something says which cause is to come of it, in a call of `problem` or `reported`,
which fail for another one. So it is enough to see that each cause stands in such a call.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import muster.edge.check
from muster.edge.check.causes import Cause
from muster.edge.check.official import ELSEWHERE, RENAMED
from muster.edge.check.run import CHECKS

ROOT = Path(__file__).parents[4]
SOURCES = sorted(Path(muster.edge.check.__file__).parent.glob("*.py"))
BREAKING = [
    *sorted(Path(__file__).parent.glob("test_*_checks.py")),
    Path(__file__).parent / "test_probe.py",
    ROOT / "tests/contract/test_docker_checks.py",
    ROOT / "tests/wire/test_edge_check.py",
    ROOT / "tests/wire/test_edge_check_containers.py",
    ROOT / "tests/install/test_installed_device.py",
]
PROBLEMS = ("Problem", "warning", "skipped", "kind", "_spared", "Outcome")


def _causes_in_calls_of(names: tuple[str, ...], file: Path) -> Iterator[str]:
    for call in ast.walk(ast.parse(file.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names:
            for given in (*call.args, *(each.value for each in call.keywords)):
                yield from _causes_in(given)


def _causes_in(given: ast.expr) -> Iterator[str]:
    for node in ast.walk(given):
        match node:
            case ast.Attribute(value=ast.Name(id="Cause"), attr=name):
                yield name


def test_each_cause_is_said_somewhere() -> None:
    said = Counter(name for file in SOURCES for name in _causes_in_calls_of(PROBLEMS, file))
    assert set(said) == set(Cause.__members__)


def test_each_cause_is_produced_by_a_test_that_breaks_that_very_thing() -> None:
    produced = {
        name for file in BREAKING for name in _causes_in_calls_of(("problem", "reported"), file)
    }
    assert produced == set(Cause.__members__)


@pytest.mark.parametrize("file", BREAKING, ids=lambda file: file.name)
def test_nothing_is_replaced_to_get_there(file: Path) -> None:
    text = file.read_text()
    assert "monkeypatch" not in text
    assert "mock" not in text


def test_what_a_check_needs_comes_before_it() -> None:
    seen: set[str] = set()
    for check in CHECKS:
        assert seen.issuperset(check.needs), check.id
        assert check.id not in seen
        seen.add(check.id)


def test_official_names_lead_somewhere() -> None:
    ids = {check.id for check in CHECKS}
    assert ids.isdisjoint(ELSEWHERE)
    assert ids.isdisjoint(RENAMED)
    assert ids.issuperset(RENAMED.values())
