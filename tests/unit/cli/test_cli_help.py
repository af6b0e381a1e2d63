from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from muster.cli.root import muster
from unit.cli.conftest import Run

NOUNS = (
    *("enrollment", "enrollment-group", "registration", "device", "module", "twin"),
    *("events", "hub", "fault", "policy", "route", "endpoint", "enrichment", "consumer-group"),
)


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if path:
        yield path
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        if not found.hidden:  # an official name of a command of ours
            yield from _commands(found, (*path, name))


def _is_group(path: tuple[str, ...]) -> bool:
    command: click.Command | None = muster
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    return isinstance(command, click.Group)


EVERYTHING = list(_commands(muster, ()))
GROUPS = [path for path in EVERYTHING if _is_group(path)]
COMMANDS = [path for path in EVERYTHING if path not in GROUPS]


def test_every_noun_is_there(run: Run) -> None:
    shown = run("--help").stdout
    assert all(f"  {noun} " in shown for noun in NOUNS)


@pytest.mark.parametrize("path", EVERYTHING, ids=" ".join)
def test_every_command_has_an_example_that_begins_with_it(path: tuple[str, ...], run: Run) -> None:
    shown = run(*path, "--help").stdout
    assert "Example" in shown
    lines = shown.partition("Example")[2].splitlines()
    assert any(line.strip().startswith(f"muster {' '.join(path)}") for line in lines[1:])
    assert "\\b" not in shown


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_the_sentences_about_commands_are_whole(path: tuple[str, ...], run: Run) -> None:
    listed = run(*path, "--help").stdout.partition("Commands:")[2]
    assert listed
    assert "..." not in listed


@pytest.mark.parametrize("path", [path for path in EVERYTHING if path[0] in NOUNS], ids=" ".join)
def test_every_example_can_be_typed_as_it_stands(
    path: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desired.json").write_text("{}")
    shown = run(*path, "--help").stdout.partition("Example")[2].partition("\n\n")[0]
    for line in shown.splitlines()[1:]:
        words = shlex.split(line, comments=True)
        words = words[words.index("muster") + 1 :]
        end = next((at for at, word in enumerate(words) if word in ("|", ">")), len(words))
        command: click.Command = muster
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words[0])
            assert found is not None
            command, words, end = found, words[1:], end - 1
        command.make_context(line, words[:end])  # raises for an option that is not there


@pytest.mark.parametrize("path", [path for path in COMMANDS if path[0] in NOUNS], ids=" ".join)
def test_every_command_of_a_noun_has_the_common_options(path: tuple[str, ...], run: Run) -> None:
    shown = run(*path, "--help").stdout
    assert all(name in shown for name in ("--json", "--data-dir", "--login", "--ca-file"))


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['muster', '--help']\n"
        "from muster.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'requests', 'rich', 'cryptography', 'starlette', 'uvloop'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)


def test_an_unknown_command_is_wrong_usage(run: Run) -> None:
    assert "No such command" in run("enrolment", code=2).stderr


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if path[-1] in ("delete", "purge", "unlink")], ids=" ".join
)
def test_whatever_deletes_can_be_told_not_to_ask(path: tuple[str, ...], run: Run) -> None:
    assert "-y, --yes" in run(*path, "--help").stdout
