"""How a direct method is called, at once or by a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muster.cli.options import JSON_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable


def method_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options whose values `method_call` takes."""
    for option in (
        click.option(
            "--connect-timeout",
            "connect_timeout_s",
            type=click.IntRange(0, 300),
            default=0,
            show_default=True,
            metavar="SECONDS",
            help="Time to wait for a device that is not connected, 0 to 300.",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.IntRange(5, 300),
            default=30,
            show_default=True,
            metavar="SECONDS",
            help="Time a device has for its answer, 5 to 300.",
        ),
        click.option("--payload", type=JSON_VALUE, help="What to call it with, as JSON or @FILE."),
    ):
        command = option(command)
    return command


def method_call(
    name: str, *, payload: Any, timeout_s: int, connect_timeout_s: int
) -> dict[str, Any]:
    """Return the call as the service API takes it (hub-service.md 1.1)."""
    return {
        "methodName": name,
        "payload": payload,
        "responseTimeoutInSeconds": timeout_s,
        "connectTimeoutInSeconds": connect_timeout_s,
    }
