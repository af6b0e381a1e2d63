"""What device and module identities have in common (hub-service.md 1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.auth import connection_string
from muster.auth.connection_string import ConnectionString
from muster.cli.failures import FailedError
from muster.errors import InvalidArgumentError
from muster.terminal.output import show_json

if TYPE_CHECKING:
    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

NEVER: Final = "0001-01-01T00:00:00Z"
"""What a hub says for a time that never came."""

secondary_option = click.option("--secondary", is_flag=True, help="Use the secondary key.")


def moment(text: str | None) -> str | None:
    """Return a time of a hub for people to read; `None` for never."""
    return None if text == NEVER else text


def quoted(etag: str | None) -> str:
    """Return an If-Match header as the SDKs send it; without an etag any will do."""
    return '"' + (etag or "*").strip('"') + '"'


def sas(keys: dict[str, str]) -> dict[str, Any]:
    """Return the authentication of an identity; without keys the hub makes a pair."""
    return {"type": "sas", "symmetricKey": keys}


def authentication(keys: dict[str, str], prints: dict[str, str | None]) -> dict[str, Any]:
    """Return the authentication of a new identity: by its certificates if there are any."""
    return {"type": "selfSigned", "x509Thumbprint": prints} if prints else sas(keys)


def put_thumbprints(identity: dict[str, Any], prints: dict[str, str | None]) -> None:
    """Put new thumbprints into an identity that was read, leaving the other one as it is."""
    if prints:
        present = (identity.get("authentication") or {}).get("x509Thumbprint") or {}
        identity["authentication"] = authentication({}, {**present, **prints})


def put_keys(identity: dict[str, Any], keys: dict[str, str]) -> None:
    """Put new keys into an identity that was read, leaving the other one as it is."""
    if keys:
        present = (identity.get("authentication") or {}).get("symmetricKey") or {}
        identity["authentication"] = sas({**present, **keys})


def key_fields(identity: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the authentication of an identity for people to read."""
    own = identity.get("authentication") or {}
    keys = own.get("symmetricKey") or {}
    prints = own.get("x509Thumbprint") or {}
    return [
        ("Authentication", own.get("type")),
        ("Primary key", keys.get("primaryKey")),
        ("Secondary key", keys.get("secondaryKey")),
        ("Primary thumbprint", prints.get("primaryThumbprint")),
        ("Secondary thumbprint", prints.get("secondaryThumbprint")),
    ]


def connection_fields(identity: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the state of an identity's connection for people to read."""
    return [
        ("Connection", identity.get("connectionState")),
        ("Connection changed", moment(identity.get("connectionStateUpdatedTime"))),
        ("Last activity", moment(identity.get("lastActivityTime"))),
    ]


def show_connection_string(
    invocation: Invocation,
    client: RestClient,
    identity: dict[str, Any],
    *,
    secondary: bool,
) -> None:
    """Print the text that a device or module is configured with.

    The port is that of this service's HTTPS only, so it is left out: devices know their own.

    Raises:
        FailedError: the identity has no such key.
    """
    own = identity.get("authentication") or {}
    certified = own.get("type") == "selfSigned"
    key = (own.get("symmetricKey") or {}).get("secondaryKey" if secondary else "primaryKey")
    if not (key or certified):
        raise FailedError(
            "The identity has no symmetric key",
            next_step="give it one with update --key-file",
        )
    try:
        text = connection_string.format(
            ConnectionString(
                host=client.target.login.host,
                key=None if certified else str(key),
                device_id=str(identity["deviceId"]),
                module_id=identity.get("moduleId"),
                x509="true" if certified else None,
            )
        )
    except InvalidArgumentError as error:
        raise FailedError(error.message, next_step="use the key itself: show --show-keys") from None
    if invocation.as_json:
        show_json({"connectionString": text})
        return
    click.echo(text)
