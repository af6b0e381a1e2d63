"""Deriving the keys of a group's devices: `base64(HMAC-SHA256(group key, registration ID))`.

Source: dps.md 2.2. The exact characters of the registration ID count, and a stray line end or
blank is the most common mistake, so IDs are cleaned and checked before they are used.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import click

from muster.auth import symmetric_keys
from muster.cli.failures import FailedError
from muster.cli.options import check_key, read_text, service_command
from muster.errors import InvalidArgumentError
from muster.ids import check_registration_id, registration_key
from muster.terminal.examples import examples
from muster.terminal.output import show_json, show_table, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation


def registration_ids(text: str, origin: str) -> list[str]:
    """Return the registration IDs of a text, one a line.

    Line ends of any system and blank lines are skipped; blanks around an ID are cut off with a
    warning.

    Raises:
        click.UsageError: a line holds no registration ID; it names the line.
    """
    found: list[str] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        registration_id = _cleaned(line.rstrip("\r"), f"{origin}, line {number}")
        found.append(registration_id)
        first = lines.setdefault(registration_key(registration_id), number)
        if first != number:
            warn(f"{origin}, line {number}: {registration_id!r} is in line {first} already")
    return found


def _cleaned(text: str, origin: str) -> str:
    registration_id = text.strip()
    if registration_id != text:
        warn(f"{origin}: the blanks around {registration_id!r} are left out")
    return _checked(registration_id, origin)


def _checked(registration_id: str, origin: str) -> str:
    try:
        return check_registration_id(registration_id)
    except InvalidArgumentError:
        raise click.UsageError(
            f"{origin}: {registration_id!r} is no registration ID (1 to 128 of A-Z a-z 0-9 - . _ "
            ": that begin with a letter or digit and end with a letter, digit or hyphen)."
        ) from None


def _command(name: str, *, hidden: bool) -> Callable[[Callable[..., None]], click.Command]:
    def decorate(function: Callable[..., None]) -> click.Command:
        for option in (
            click.option("--csv", "as_csv", is_flag=True, help="Print CSV: registrationId,key."),
            click.option("--secondary", is_flag=True, help="Use the group's secondary key."),
            click.option(
                "--key-file",
                metavar="FILE",
                help="Offline: the group's key from FILE (or - for stdin).",
            ),
            click.option(
                "--key",
                "--symmetric-key",
                "key",
                metavar="KEY",
                help="Offline: the group's key. Visible to other users: see --key-file.",
            ),
            click.option(
                "--group",
                "--enrollment-id",
                "group",
                metavar="ID",
                help="Use the key of this group of the service.",
            ),
            click.option(
                "--from-file",
                metavar="FILE",
                help="Registration IDs, one a line (or - for stdin).",
            ),
            click.option(
                "--registration-id",
                "more_ids",
                multiple=True,
                hidden=True,
                help="As the argument; for scripts written for another CLI.",
            ),
            click.argument("registration_ids_given", metavar="[REGISTRATION_ID]...", nargs=-1),
        ):
            function = option(function)
        return click.command(name, hidden=hidden)(function)

    return decorate


@examples(
    "muster enrollment-group derive-key --group line-7 sensor-01",
    "muster enrollment-group derive-key --group line-7 --from-file ids.txt --csv > keys.csv",
    "muster enrollment-group derive-key --key-file group.key sensor-01 sensor-02",
)
def _derive(
    invocation: Invocation,
    *,
    registration_ids_given: tuple[str, ...],
    more_ids: tuple[str, ...],
    from_file: str | None,
    group: str | None,
    key: str | None,
    key_file: str | None,
    secondary: bool,
    as_csv: bool,
) -> None:
    """Derive the key of one or many devices of a group.

    One registration ID prints just the key. The group's key comes from the service (--group), or
    offline from a file (--key-file), and never shows.
    """
    if sum(each is not None for each in (group, key, key_file)) != 1:
        raise click.UsageError("Give exactly one of --group, --key-file and --key.")
    if key_file == "-" and from_file == "-":
        raise click.UsageError("Only one of --key-file and --from-file can be stdin.")
    if secondary and group is None:
        raise click.UsageError("--secondary needs --group: a given key is used as it is.")
    wanted = [_cleaned(each, "REGISTRATION_ID") for each in (*registration_ids_given, *more_ids)]
    if from_file is not None:
        wanted += registration_ids(read_text(from_file, "--from-file"), from_file)
    if not wanted:
        raise click.UsageError("Give a registration ID, or many with --from-file.")
    group_key = _group_key(invocation, group, key, key_file, secondary=secondary)
    derived = [
        (each, symmetric_keys.encode(symmetric_keys.derive(group_key, each))) for each in wanted
    ]
    if invocation.as_json:
        show_json([{"registrationId": each, "key": found} for each, found in derived])
    elif as_csv:
        _show_csv(derived)
    elif from_file is None and len(derived) == 1:
        click.echo(derived[0][1])
    else:
        show_table(("REGISTRATION ID", "KEY"), derived, empty="")


def _group_key(
    invocation: Invocation,
    group: str | None,
    key: str | None,
    key_file: str | None,
    *,
    secondary: bool,
) -> bytes:
    if key is not None:
        warn("a key on the command line is visible in process lists; prefer --key-file")
        return check_key(key, "--key")
    if key_file is not None:
        lines = read_text(key_file, "--key-file").split()
        if len(lines) != 1:
            raise click.UsageError("--key-file: expected one line with the group's key.")
        return check_key(lines[0], "--key-file")
    return group_key(invocation.dps(), str(group), secondary=secondary)


def group_key(client: RestClient, group: str, *, secondary: bool = False) -> bytes:
    """Return the key of a group of the service.

    Raises:
        FailedError: there is no such group, or it has no symmetric key.
    """
    attestation: dict[str, Any] = client.post("/enrollmentGroups", group, "attestationmechanism")
    keys = attestation.get("symmetricKey") or {}
    found = keys.get("secondaryKey" if secondary else "primaryKey")
    if not found:
        raise FailedError(
            f"The enrollment group {group} has no symmetric key "
            f"(its attestation is {attestation.get('type')})",
            next_step="only devices of groups of attestation symmetricKey have derived keys",
        )
    return check_key(str(found), f"The key of {group}")


def _show_csv(derived: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("registrationId", "key"))
    writer.writerows(derived)
    click.echo(text.getvalue(), nl=False)


derive_key = _command("derive-key", hidden=False)(service_command(_derive))
compute_device_key = _command("compute-device-key", hidden=True)(service_command(_derive))
"""The official CLI's name of the same."""
