"""Options that many commands share, and the kinds of values they take."""

from __future__ import annotations

import functools
import io
import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, final

import click

from muster.auth import symmetric_keys
from muster.cli.connection import Invocation
from muster.config import DEFAULT_DATA_DIR
from muster.errors import InvalidArgumentError
from muster.ids import check_registration_id
from muster.terminal.output import warn

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
F = TypeVar("F", bound="Callable[..., Any]")

ENABLED: Final = click.Choice(["enabled", "disabled"])


def service_command(command: Callable[Concatenate[Invocation, P], None]) -> Callable[..., None]:
    """Give a command the options every one has, as an `Invocation` in its first argument."""

    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="MUSTER_DATA_DIR",
        default=DEFAULT_DATA_DIR,
        show_default=True,
        help="Data directory of the running instance [env: MUSTER_DATA_DIR].",
    )
    @click.option(
        "--login",
        envvar="MUSTER_CONNECTION_STRING",
        metavar="CONNECTION_STRING",
        help="Talk to this service instead. Better in MUSTER_CONNECTION_STRING: it holds a key.",
    )
    @click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Certificates to trust, PEM [default: the instance's, MUSTER_CA_FILE, the system's].",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(command)
    def run(
        data_dir: Path,
        login: str | None,
        ca_file: Path | None,
        as_json: bool,  # noqa: FBT001 - click passes it by name
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        invocation = Invocation(data_dir=data_dir, login=login, ca_file=ca_file, as_json=as_json)
        command(invocation, *args, **kwargs)

    return run


def etag_option(command: F) -> F:
    """Add `--etag`."""
    return click.option(
        "--etag", metavar="ETAG", help="Do it only if this is still the entity's etag."
    )(command)


def show_keys_option(command: F) -> F:
    """Add `--show-keys`."""
    return click.option("--show-keys", is_flag=True, help="Show the keys, too.")(command)


def top_option(command: F) -> F:
    """Add `--top`."""
    return click.option(
        "--top", type=click.IntRange(min=1), metavar="N", help="Show N at most [default: all]."
    )(command)


def hub_option(command: F) -> F:
    """Add `--hub` for commands about one hub."""
    return click.option(
        "--hub", "hub_host", metavar="HOST", help="Which hub; needed when there are several."
    )(command)


def yes_option(command: F) -> F:
    """Add `--yes`, for `confirm`: every command that deletes something has it."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)


def key_options(command: F) -> F:
    """Add the ways to give a pair of keys; `read_keys` reads them."""
    for option in (
        click.option(
            "--key-file",
            metavar="FILE",
            help="Read the keys from FILE (or - for stdin): primary, then secondary, a line each.",
        ),
        click.option(
            "--secondary-key", metavar="KEY", help="Base64. Visible to other users: see --key-file."
        ),
        click.option(
            "--primary-key", metavar="KEY", help="Base64. Visible to other users: see --key-file."
        ),
    ):
        command = option(command)
    return command


def read_keys(
    primary_key: str | None, secondary_key: str | None, key_file: str | None
) -> dict[str, str]:
    """Return the given keys under their names on the wire; empty when none was given.

    Raises:
        click.UsageError: one is no key, or the file cannot be read.
    """
    if key_file is not None:
        if primary_key or secondary_key:
            raise click.UsageError("Give keys by --key-file or by options, not both.")
        lines = read_text(key_file, "--key-file").split()
        if not 1 <= len(lines) <= 2:
            raise click.UsageError("--key-file: expected one or two lines with a key each.")
        primary_key, secondary_key = (*lines, None)[:2]
    elif primary_key or secondary_key:
        warn("a key on the command line is visible in process lists; prefer --key-file")
    given = {"primaryKey": primary_key, "secondaryKey": secondary_key}
    for name, key in given.items():
        if key:
            check_key(key, name)
    return {name: key for name, key in given.items() if key}


def check_key(key: str, what: str) -> bytes:
    """Return the bytes of a key.

    Raises:
        click.UsageError: it is none. The message does not repeat it.
    """
    try:
        return symmetric_keys.decode(key.strip())
    except InvalidArgumentError as error:
        raise click.UsageError(f"{what}: {error.message}.") from None


def stdin() -> IO[str]:
    """Return standard input as files are read: UTF-8 in any locale, with or without a mark."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    return sys.stdin


def read_text(name: str, what: str) -> str:
    """Return the text of a file, or of stdin for `-`.

    Raises:
        click.UsageError: it cannot be read.
    """
    try:
        if name == "-":
            return stdin().read()
        return Path(name).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise click.UsageError(f"{what}: cannot read {name}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{what}: {name} is not UTF-8 text.") from None


class JsonValue(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """JSON of any kind, on the command line or as `@FILE` (`@-` for stdin)."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        if not isinstance(value, str):
            return value
        text = read_text(value[1:], self._label(param)) if value.startswith("@") else value
        try:
            return json.loads(text, parse_constant=_no_constant)
        except RecursionError:
            self.fail("the JSON is nested too deeply.", param, ctx)
        except ValueError as error:
            self.fail(
                f'this is not JSON: {error}. Put it in single quotes: \'{{"site": "a"}}\', or '
                "give a file: @tags.json",
                param,
                ctx,
            )

    @staticmethod
    def _label(param: click.Parameter | None) -> str:
        return param.opts[0] if param is not None else "JSON"


@final
class JsonDocument(JsonValue):
    """A JSON object, in the same ways."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        """Read it."""
        document = super().convert(value, param, ctx)
        if not isinstance(document, dict):
            self.fail('a JSON object is needed, like {"site": "a"}.', param, ctx)
        return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


JSON_VALUE: Final = JsonValue()
JSON_DOCUMENT: Final = JsonDocument()


@final
class RegistrationId(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A registration ID or enrollment group ID (dps.md 2.3)."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        try:
            return check_registration_id(str(value))
        except InvalidArgumentError:
            self.fail(
                f"{value!r} is not 1 to 128 of A-Z a-z 0-9 - . _ : that begin with a letter or "
                "digit and end with a letter, digit or hyphen.",
                param,
                ctx,
            )


REGISTRATION_ID: Final = RegistrationId()


def confirm(question: str, *, yes: bool, grave: bool = False) -> None:
    """Ask a person before something is gone.

    Args:
        question: what is about to happen.
        yes: it was confirmed on the command line.
        grave: whether a script must confirm, too, because devices are shut out at once.

    Raises:
        click.UsageError: nobody can be asked.
        click.Abort: the answer was no.
    """
    if yes:
        return
    if sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
    elif grave:
        raise click.UsageError(f"{question} Say --yes to do it without being asked.")
