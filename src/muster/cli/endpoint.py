"""`muster endpoint`: where routes send messages besides the built-in endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from muster.cli.noun import NounGroup
from muster.cli.options import confirm, hub_option, read_text, service_command, yes_option
from muster.cli.quantities import DURATION, SIZE, duration_text, size_text
from muster.cli.route import must_be_new, place
from muster.model.routing import WEBHOOK_AUTH
from muster.terminal.examples import examples
from muster.terminal.output import remark, show_json, show_record, show_table, to_the_second, warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.connection import Invocation

_FILE_FIELDS: Final = {
    "directory": "directory",
    "max_file_size": "maxFileBytes",
    "max_file_age": "maxFileAgeS",
}
_WEBHOOK_FIELDS: Final = {
    "url": "url",
    "auth": "auth",
    "max_batch": "maxBatchEvents",
    "timeout_s": "timeoutS",
}


@click.group(cls=NounGroup)
@examples("muster endpoint create-file archive", "muster endpoint list")
def endpoint() -> None:
    """Where routes send messages: files and webhooks. The built-in endpoint is events."""


def _file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--max-file-age",
            type=DURATION,
            help="Age at which a file is closed and the next begun [default: 1h].",
        ),
        click.option("--max-file-size", type=SIZE, help="The same for its size [default: 64MiB]."),
        click.option(
            "--directory",
            metavar="DIR",
            help="Below the service's directory of files [default: the endpoint's name].",
        ),
    ):
        command = option(command)
    return command


def _webhook_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(1, 300),
            metavar="S",
            help="Seconds an answer may take [default: 30].",
        ),
        click.option(
            "--max-batch",
            type=click.IntRange(1, 10_000),
            metavar="N",
            help="Messages of one request at most [default: 200].",
        ),
        click.option(
            "--secret-file",
            metavar="FILE",
            help="Read the token or the signing key from FILE (or - for stdin).",
        ),
        click.option(
            "--auth",
            type=click.Choice(WEBHOOK_AUTH),
            help="How it knows that it is us: bearer token, or HMAC of the body [default: none].",
        ),
    ):
        command = option(command)
    return command


@endpoint.command("list")
@hub_option
@service_command
@examples("muster endpoint list")
def list_endpoints(invocation: Invocation, *, hub_host: str | None) -> None:
    """List the endpoints of a hub and how they do."""
    found = invocation.dps().get(*place(invocation.own_hub(hub_host), "endpoints"))
    if invocation.as_json:
        show_json(found)
        return
    show_table(
        ("NAME", "KIND", "TARGET", "DELIVERED", "WAITING", "STATE"),
        [
            (
                each["name"],
                each["kind"],
                each.get("url") or each.get("directory") or _own_directory(each),
                *_state(each.get("status")),
            )
            for each in found
        ],
        empty="There are no endpoints.",
    )


@endpoint.command()
@click.argument("name")
@hub_option
@service_command
@examples("muster endpoint show hook")
def show(invocation: Invocation, *, name: str, hub_host: str | None) -> None:
    """Show an endpoint: its settings, what it delivered, and why it does not."""
    host = invocation.own_hub(hub_host)
    _show(invocation, invocation.dps().get(*place(host, "endpoints", name)))


@endpoint.command("create-file")
@click.argument("name")
@_file_options
@hub_option
@service_command
@examples(
    "muster endpoint create-file archive",
    "muster endpoint create-file alarms --directory plant/alarms --max-file-age 15m",
)
def create_file(
    invocation: Invocation, /, *, name: str, hub_host: str | None, **given: Any
) -> None:
    """Create an endpoint that writes JSON Lines files on the service's machine.

    current.jsonl grows; a file with a time in its name is finished and may be taken away.
    """
    _create(invocation, hub_host, name, {"kind": "file", **_named(given, _FILE_FIELDS)})


@endpoint.command("create-webhook")
@click.argument("name")
@click.argument("url")
@_webhook_options
@hub_option
@service_command
@examples(
    "muster endpoint create-webhook hook https://alarms.example.org/in",
    "muster endpoint create-webhook hook https://x.example.org --auth hmac --secret-file key.txt",
)
def create_webhook(
    invocation: Invocation,
    /,
    *,
    name: str,
    secret_file: str | None,
    hub_host: str | None,
    **given: Any,
) -> None:
    """Create an endpoint that POSTs batches of messages, a JSON array each, to a URL.

    Any answer but 2xx means: not taken; the batch is offered again, ever more seldom.
    """
    body = {"kind": "webhook", **_named(given, _WEBHOOK_FIELDS), **_secret(secret_file)}
    _create(invocation, hub_host, name, body)


@endpoint.command("update-file")
@click.argument("name")
@_file_options
@hub_option
@service_command
@examples("muster endpoint update-file archive --max-file-size 256MiB")
def update_file(
    invocation: Invocation, /, *, name: str, hub_host: str | None, **given: Any
) -> None:
    """Change a file endpoint."""
    _update(invocation, hub_host, name, {"kind": "file", **_named(given, _FILE_FIELDS)})


@endpoint.command("update-webhook")
@click.argument("name")
@click.option("--url", help="Another URL.")
@_webhook_options
@hub_option
@service_command
@examples("muster endpoint update-webhook hook --max-batch 50")
def update_webhook(
    invocation: Invocation,
    /,
    *,
    name: str,
    secret_file: str | None,
    hub_host: str | None,
    **given: Any,
) -> None:
    """Change a webhook; the secret stays unless another one is given."""
    body = {"kind": "webhook", **_named(given, _WEBHOOK_FIELDS), **_secret(secret_file)}
    _update(invocation, hub_host, name, body)


@endpoint.command()
@click.argument("name")
@yes_option
@hub_option
@service_command
@examples("muster endpoint delete hook --yes")
def delete(invocation: Invocation, *, name: str, yes: bool, hub_host: str | None) -> None:
    """Delete an endpoint that no route uses. What it has not delivered yet is dropped."""
    host = invocation.own_hub(hub_host)
    confirm(f"Delete the endpoint {name} of {host}?", yes=yes)
    invocation.dps().delete(*place(host, "endpoints", name))
    if not invocation.as_json:
        remark(f"The endpoint {name} is deleted.")


def _create(invocation: Invocation, hub_host: str | None, name: str, body: dict[str, Any]) -> None:
    client, at = invocation.dps(), place(invocation.own_hub(hub_host), "endpoints", name)
    verb = f"update-{body['kind']}"
    must_be_new(client, at, f"The endpoint {name} exists already", f"muster endpoint {verb} {name}")
    url = str(body.get("url", ""))
    if url.startswith("http:") and body.get("auth") == "bearer":
        warn(f"{url} is not encrypted: the token can be read on the way")
    _show(invocation, client.put(*at, body=body))


def _update(invocation: Invocation, hub_host: str | None, name: str, body: dict[str, Any]) -> None:
    client, at = invocation.dps(), place(invocation.own_hub(hub_host), "endpoints", name)
    current: dict[str, Any] = client.get(*at)
    if current["kind"] != body["kind"]:
        raise click.UsageError(f"{name} is a {current['kind']} endpoint.")
    settings = {
        name: value for name, value in current.items() if name not in ("hasSecret", "status")
    }
    _show(invocation, client.put(*at, body={**settings, **body}))


def _named(given: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
    return {fields[name]: value for name, value in given.items() if value is not None}


def _secret(file: str | None) -> dict[str, str]:
    if file is None:
        return {}
    secret = read_text(file, "--secret-file").strip()
    if not secret:
        raise click.UsageError(f"--secret-file: {file} is empty.")
    return {"secret": secret}


def _state(status: dict[str, Any] | None) -> tuple[Any, Any, str]:
    if status is None:
        return None, None, ""
    failing = status["failingSince"]
    state = "ok" if failing is None else f"failing since {to_the_second(failing)}"
    return status["delivered"], status["waiting"], state


def _show(invocation: Invocation, found: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(found)
        return
    status = found["status"]
    fields = [("Name", found["name"]), ("Kind", found["kind"])]
    if found["kind"] == "file":
        fields += [
            ("Directory", found["directory"] or found["name"]),
            ("File size", size_text(found["maxFileBytes"])),
            ("File age", duration_text(found["maxFileAgeS"])),
        ]
    else:
        fields += [
            ("URL", found["url"]),
            ("Authentication", found["auth"]),
            ("Messages of a request", found["maxBatchEvents"]),
            ("Time for an answer", duration_text(found["timeoutS"])),
        ]
    fields += [
        ("Delivered since start", status["delivered"]),
        ("Waiting records", status["waiting"]),
        ("Lost to retention", status["lost"] or None),
        ("Failing since", status["failingSince"]),
        ("Because", status["lastError"]),
    ]
    show_record(fields)


def _own_directory(found: dict[str, Any]) -> str | None:
    return str(found["name"]) if found["kind"] == "file" else None
