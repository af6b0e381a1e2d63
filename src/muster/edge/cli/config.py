"""`iotedge config …`: write the configuration, check it, apply it (edge.md 4.3)."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from muster.auth import private_file, symmetric_keys
from muster.edge.cli import service
from muster.edge.cli.failures import CommandError
from muster.edge.configuration import values
from muster.edge.configuration.document import ConfigurationError
from muster.edge.configuration.load import (
    DEFAULT_FILE,
    OLD_FILE,
    Configuration,
    is_yaml,
    load,
    parse,
    usual_file,
)
from muster.edge.configuration.render import render
from muster.edge.settings import (
    DEFAULT_HOME,
    DpsProvisioning,
    Reprovisioning,
    Settings,
    SymmetricKeyAttestation,
)
from muster.errors import InvalidArgumentError
from muster.ids import check_registration_id
from muster.terminal.examples import examples
from muster.terminal.output import remark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GLOBAL_ENDPOINT: Final = "https://global.azure-devices-provisioning.net"
_MAX_KEY_TEXT: Final = 4096
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.group()
@examples(
    "sudo iotedge config dps --id-scope 0ne00000001 --registration-id gateway-01 --symmetric-key -",
    "sudo iotedge config apply",
)
def config() -> None:
    """Write, check and apply the configuration of this device."""


_trust_option = click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="PEM certificates to trust besides those of the machine; copied beside the configuration.",
)


def _out_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")(
        command
    )
    command = click.option(
        "-o",
        "--out-config-file",
        "out",
        type=_FILE,
        default=DEFAULT_FILE,
        show_default=True,
        help="Where to write it.",
    )(command)
    return click.option(
        "--hostname",
        metavar="NAME",
        help="Name by which leaf devices reach this one [default: that of the machine].",
    )(command)


def _secret(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    # Who names a secret on the command line shows it to everybody who may run `ps`.
    return sys.stdin.readline(_MAX_KEY_TEXT).strip() if value == "-" else value


@config.command()
@click.option("--id-scope", required=True, metavar="SCOPE", help="ID scope of the service.")
@click.option(
    "--registration-id", required=True, metavar="ID", help="What the device is enrolled as."
)
@click.option(
    "--symmetric-key",
    required=True,
    metavar="KEY",
    callback=_secret,
    help="The device's own key, or the one derived for it from its group's; - reads it from stdin.",
)
@click.option(
    "--endpoint",
    default=_GLOBAL_ENDPOINT,
    show_default=True,
    metavar="URL",
    help="The provisioning service: https://HOST[:PORT].",
)
@_trust_option
@_out_options
@examples(
    "iotedge config dps --id-scope 0ne00000001 --registration-id gateway-01 --symmetric-key -",
    "iotedge config dps --id-scope 0ne00000001 --registration-id gateway-01 --symmetric-key - "
    "--endpoint https://dps.example.org --trust /etc/ssl/muster-ca.pem",
)
def dps(  # noqa: PLR0917 - click passes options by name
    id_scope: str,
    registration_id: str,
    symmetric_key: str,
    endpoint: str,
    trust: Path | None,
    hostname: str | None,
    out: Path,
    *,
    force: bool,
) -> None:
    """Write a configuration for DPS with a symmetric key."""
    with _checking("--registration-id"):
        check_registration_id(registration_id)
    with _checking("--id-scope"):
        id_scope = values.read_id_scope(id_scope)
    with _checking("--endpoint"):
        endpoint = values.read_endpoint(endpoint if "://" in endpoint else f"https://{endpoint}")
    with _checking("--symmetric-key"):
        key = symmetric_keys.decode(symmetric_key)
    _write(
        Settings(
            source=out,
            hostname=hostname or socket.gethostname(),
            provisioning=DpsProvisioning(
                endpoint=endpoint,
                id_scope=id_scope,
                attestation=SymmetricKeyAttestation(registration_id=registration_id, key=key),
            ),
        ),
        out,
        trust=trust,
        force=force,
    )


@config.command()
@click.option(
    "-c",
    "--connection-string",
    required=True,
    callback=_secret,
    metavar="STRING",
    help="Connection string of the device; - reads it from stdin.",
)
@click.option(
    "--parent-hostname",
    metavar="NAME",
    help="The edge device above this one, which it reaches the hub through; for nested devices.",
)
@_trust_option
@_out_options
@examples(
    "iotedge config mp -c - --trust /etc/ssl/muster-ca.pem",
    "iotedge config mp -c - --force < connection-string",
    "iotedge config mp -c - --parent-hostname gateway-01 --trust gateway-01-root.pem",
)
def mp(
    connection_string: str,
    parent_hostname: str | None,
    trust: Path | None,
    hostname: str | None,
    out: Path,
    *,
    force: bool,
) -> None:
    """Write a configuration with the device's connection string.

    It is for devices that are provisioned by hand.
    """
    with _checking("--parent-hostname"):
        parent = None if parent_hostname is None else values.read_host_name(parent_hostname)
    try:
        provisioning = values.read_connection_string(connection_string)
    except InvalidArgumentError as error:  # exit code 1, as the official command's (edge.md 4.3)
        raise CommandError("The connection string cannot be used", error.message) from None
    _write(
        Settings(
            source=out,
            hostname=hostname or socket.gethostname(),
            provisioning=provisioning,
            parent_hostname=parent,
            reprovisioning=Reprovisioning.ON_ERROR_ONLY,
        ),
        out,
        trust=trust,
        force=force,
    )


@config.command("import")
@click.option(
    "-c",
    "--config-file",
    "old",
    type=_FILE,
    default=OLD_FILE,
    show_default=True,
    help="The config.yaml of IoT Edge 1.1.",
)
@click.option(
    "-o",
    "--out-config-file",
    "out",
    type=_FILE,
    default=DEFAULT_FILE,
    show_default=True,
    help="Where to write it.",
)
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there.")
@examples("iotedge config import", "iotedge config import -c config.yaml -o config.toml")
def import_(old: Path, out: Path, *, force: bool) -> None:
    """Write a configuration that says what the one of IoT Edge 1.1 says.

    State is not taken over: the device provisions itself and fetches its modules anew.
    """
    if not old.exists():
        raise CommandError(
            f"There is no old configuration at {old} to import", "another one is named with -c"
        )
    found = _load(old)
    if not is_yaml(old):
        raise CommandError(f"{old} is no configuration of 1.1", "its name must end with .yaml")
    settings = msgspec.structs.replace(found.settings, source=out, home=DEFAULT_HOME)
    _write(settings, out, force=force)
    for note in _left_behind(found.settings):
        click.echo(note)


def _left_behind(old: Settings) -> Iterator[str]:
    """Yield what importing does not take over, and what that means."""
    yield f"Not taken over is the state of 1.1 in {old.home}:"
    if isinstance(old.provisioning, DpsProvisioning):
        yield "- the identity: the device registers anew, and is given its own again"
    yield "- modules and their deployment: they come from the hub again"
    yield "- messages that wait in the storage of edgeHub: let them drain before the change"
    if old.edge_ca.certificate is None:
        yield (
            "- certificates that were made there: leaf devices must trust "
            f"{DEFAULT_HOME / 'certificates' / 'root.pem'}, once the daemon has run"
        )
    paths = (old.trust_bundle, old.edge_ca.certificate, old.edge_ca.private_key)
    for path in (each for each in paths if each is not None):
        yield f"Read where it is, so leave it there: {path}"


@config.command()
@click.option(
    "-c",
    "--config-file",
    "path",
    type=_FILE,
    default=usual_file,
    show_default=f"{DEFAULT_FILE}, or {OLD_FILE} where only that is there",
    help="The configuration; from elsewhere it is put where the daemon reads it.",
)
@examples("sudo iotedge config apply", "sudo iotedge config apply -c gateway.toml")
def apply(path: Path) -> None:
    """Check the configuration and let the daemon start anew with it."""
    service.must_be_root("iotedge config apply")
    settings = _load(path).settings
    used = usual_file()
    if path.resolve() != used.resolve():
        if is_yaml(path):
            raise CommandError(
                f"{path} is of the format of 1.1",
                f"write it anew first: iotedge config import --force -c '{path}'",
            )
        used = DEFAULT_FILE
        content = path.read_bytes()
        if DEFAULT_FILE.exists():
            backup = DEFAULT_FILE.with_suffix(".toml.before")
            private_file.replace(backup, DEFAULT_FILE.read_bytes(), 0o600)
            remark(f"The configuration before is kept in {backup}")
        DEFAULT_FILE.parent.mkdir(parents=True, exist_ok=True)
        private_file.replace(DEFAULT_FILE, content, 0o600)
        if settings.trust_bundle is not None:
            remark(f"Note: {settings.trust_bundle} is read where it is, so leave it there")
    click.echo(f"{path} is correct.")
    if not service.installed():
        raise CommandError(
            "The daemon was not restarted",
            f"systemd knows no {service.UNIT}; start it by hand: iotedged -c {used}",
        )
    service.restart()
    click.echo(f"{service.UNIT} is running with it. See: iotedge system status, iotedge check")


def _load(path: Path) -> Configuration:
    try:
        found = load(path)
    except ConfigurationError as error:
        causes = [error.message]
        if not path.exists():
            causes.append("write one: iotedge config dps --help; another is named with -c")
        raise CommandError("The configuration cannot be used", *causes) from None
    for notice in found.notices:
        remark(f"Note: {notice}")
    return found


def _write(settings: Settings, out: Path, *, trust: Path | None = None, force: bool) -> None:
    if is_yaml(out):
        raise CommandError(f"{out} cannot be written", "the file is TOML: name it config.toml")
    anchors = b"" if trust is None else _certificates(trust)
    if trust is not None:
        settings = msgspec.structs.replace(settings, trust_bundle=_trust_file(out))
    text = render(settings)
    with _checking("--hostname"):  # all else was checked before
        parse(out, text, hostname=settings.hostname)
    there = CommandError(f"{out} is there already", "--force replaces it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not force:
            raise there
        if anchors:
            # A copy, because what was downloaded is tidied away some day. It is no secret.
            private_file.replace(_trust_file(out), anchors, 0o644)
        if force:
            private_file.replace(out, text.encode(), 0o600)
        elif not private_file.create(out, text.encode(), 0o600):
            raise there
    except OSError as error:
        causes = [error.strerror or str(error)]
        if isinstance(error, PermissionError):
            causes.append("try again with sudo, or write it elsewhere with -o")
        raise CommandError(f"{out} cannot be written", *causes) from None
    click.echo(f"Written to {out}, readable by its owner only.")
    if anchors:
        click.echo(f"{trust} is copied to {_trust_file(out)}.")
    option = "" if out == DEFAULT_FILE else f" -c '{out}'"
    click.echo(f"To let the daemon use it: sudo iotedge config apply{option}")


def _trust_file(out: Path) -> Path:
    """Return where the certificates that a configuration trusts are kept."""
    return out.resolve().with_suffix(".trust.pem")


def _certificates(path: Path) -> bytes:
    from cryptography import x509  # noqa: PLC0415 - slow to import

    try:
        content = path.read_bytes()
        x509.load_pem_x509_certificates(content)
    except (OSError, ValueError):
        raise CommandError(f"{path} cannot be used", "it holds no PEM certificates") from None
    return content


@contextlib.contextmanager
def _checking(option: str) -> Iterator[None]:
    """Turn what is wrong with a value into wrong usage of its option."""
    try:
        yield
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message, param_hint=f"'{option}'") from None
