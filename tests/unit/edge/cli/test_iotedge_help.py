from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from muster.edge.cli.root import iotedge, with_host_first
from muster.edge.daemon.command import iotedged
from unit.edge.cli.conftest import Run


def _commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        yield path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from _commands(found, (*path, name))


COMMANDS = list(_commands(iotedge, ()))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_can_be_typed(path: tuple[str, ...], run: Run) -> None:
    shown = run(*path, "--help").stdout
    lines = shown.partition("Example")[2].partition("\n\n")[0].splitlines()[1:]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[words.index("iotedge") + 1 :]
        end = next((at for at, word in enumerate(words) if word in ("|", ">", "<")), len(words))
        words = words[:end]
        assert tuple(words[: len(path)]) == path
        command: click.Command = iotedge
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        arguments = ["x" if word == "-" else word for word in words[len(path) :]]
        command.make_parser(click.Context(command)).parse_args(arguments)


def test_the_help_of_the_daemon_has_examples_on_lines_of_their_own() -> None:
    shown = CliRunner().invoke(iotedged, ["--help"]).stdout
    assert "Examples:\n    iotedged\n    iotedged -c gateway.toml --log-level debug\n" in shown
    assert "\\b" not in shown


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["list", "-H", "unix:///a"], ["-H", "unix:///a", "list"]),
        (["--host=unix:///a", "list"], ["--host=unix:///a", "list"]),
        (["logs", "m", "--host", "unix:///a", "-f"], ["--host", "unix:///a", "logs", "m", "-f"]),
        (["system", "logs", "--", "-H", "x"], ["system", "logs", "--", "-H", "x"]),
        (["config", "dps", "--hostname", "x"], ["config", "dps", "--hostname", "x"]),
        (["list", "-H"], ["-H", "list"]),
    ],
)
def test_the_socket_is_named_anywhere(given: list[str], read: list[str]) -> None:
    assert with_host_first(given) == read


@pytest.mark.parametrize("arguments", [(), ("config",), ("system",)])
def test_help_is_shown_where_nothing_is_asked_for(arguments: tuple[str, ...], run: Run) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lst",), "No such command 'lst'"),
        (("config", "aply"), "No such command 'aply'"),
        (("list", "--all"), "No such option '--all'"),
        (("restart",), "Missing argument 'MODULE'"),
        (("logs", "a", "b"), "unexpected extra argument (b)"),
        (("check", "-o", "xml"), "'xml' is not one of 'text', 'json'"),
        (("system", "set-log-level", "loud"), "'loud' is not one of"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], said: str, run: Run) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "--help' for help" in done.stderr


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['iotedge', '--help']\n"
        "from muster.edge.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'asyncio', 'cryptography', 'requests', 'rich', 'yaml'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
