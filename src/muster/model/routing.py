"""What people say about where messages go: routes, enrichments, endpoints (hub-service.md 7).

Values and the rules each of them keeps by itself. What they mean together says `hub.routing_table`.
"""

from __future__ import annotations

import enum
import re
from pathlib import PurePosixPath
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.model.message import TELEMETRY

EVENTS: Final = "events"
"""Name of the built-in endpoint."""
FALLBACK: Final = "$fallback"
"""Name of the fallback route; no other route can have it."""

MAX_ROUTES: Final = 100
MAX_ENDPOINTS: Final = 100
MAX_ENRICHMENTS: Final = 50

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TWIN_VALUE: Final = re.compile(
    r"\$twin\.(tags|properties\.desired|properties\.reported)((?:\.[^.\s$]+)*)", re.IGNORECASE
)
_RESERVED: Final = frozenset({".", ".."})


class Source(enum.StrEnum):
    """What a route takes messages from."""

    MESSAGES = "DeviceMessages"
    CONNECTION_STATE = "DeviceConnectionStateEvents"
    LIFECYCLE = "DeviceLifecycleEvents"
    TWIN_CHANGES = "TwinChangeEvents"


SOURCES: Final[dict[str, Source]] = {
    TELEMETRY: Source.MESSAGES,
    "deviceConnectionStateEvents": Source.CONNECTION_STATE,
    "deviceLifecycleEvents": Source.LIFECYCLE,
    "twinChangeEvents": Source.TWIN_CHANGES,
}
"""By the `iothub-message-source` of their messages."""


class Route(Struct, rename="camel", frozen=True, kw_only=True):
    """A rule that sends messages to endpoints.

    Attributes:
        name: unique in the hub.
        source: what it takes messages from.
        condition: in the language of `muster.language.routes`.
        endpoint_names: where the messages go that meet it.
        is_enabled: whether it counts.
    """

    name: str = ""
    source: str = Source.MESSAGES.value
    condition: str = "true"
    endpoint_names: tuple[str, ...] = (EVENTS,)
    is_enabled: bool = True


class Enrichment(Struct, rename="camel", frozen=True, kw_only=True):
    """An application property that messages get on their way to endpoints.

    Attributes:
        key: its name.
        value: the text itself, `$iothubname`, or a path into the twin such as `$twin.tags.site`.
        endpoint_names: where.
    """

    key: str = ""
    value: str = ""
    endpoint_names: tuple[str, ...] = (EVENTS,)


class FileSettings(Struct, rename="camel", frozen=True, kw_only=True, tag="file", tag_field="kind"):
    """An endpoint that writes JSON Lines files.

    Attributes:
        directory: below the directory of all file endpoints; empty for the endpoint's name.
        max_file_bytes: size at which a file is closed and the next begun.
        max_file_age_s: the same for its age, in seconds.
    """

    directory: str = ""
    max_file_bytes: int = 64 << 20
    max_file_age_s: float = 3600.0


class WebhookSettings(
    Struct, rename="camel", frozen=True, kw_only=True, tag="webhook", tag_field="kind"
):
    """An endpoint that is an HTTP server of somebody.

    Attributes:
        url: where batches are POSTed to.
        auth: `none`, `bearer` (the secret is a token) or `hmac` (the secret signs the body).
        max_batch_events: messages of one request at most.
        timeout_s: seconds an answer may take.
    """

    url: str
    auth: str = "none"
    max_batch_events: int = 200
    timeout_s: float = 30.0


Settings: TypeAlias = FileSettings | WebhookSettings
WEBHOOK_AUTH: Final = ("none", "bearer", "hmac")


def check_route(route: Route) -> None:
    """Check what can be checked of a route by itself, its condition aside.

    Raises:
        InvalidArgumentError: code `invalid-route`.
    """
    if not _NAME.fullmatch(route.name):
        raise _invalid_route(
            "A route's name is 1 to 64 letters, digits, dots, hyphens and underscores."
        )
    if route.source not in tuple(Source):
        raise _invalid_route(
            f"There is no source '{route.source[:64]}'; there are {', '.join(Source)}."
        )
    if not route.endpoint_names:
        raise _invalid_route("A route needs an endpoint.")


def check_enrichment(enrichment: Enrichment) -> None:
    """Check what can be checked of an enrichment by itself.

    Raises:
        InvalidArgumentError: code `invalid-enrichment`.
    """
    if not _KEY.fullmatch(enrichment.key):
        raise _invalid_enrichment(
            "An enrichment's key is 1 to 128 letters, digits, dots, hyphens and underscores."
        )
    value = enrichment.value
    if not value or len(value) > 4096:
        raise _invalid_enrichment("An enrichment's value is 1 to 4096 characters.")
    if value.startswith("$") and value.lower() != "$iothubname" and twin_path(value) is None:
        raise _invalid_enrichment(
            "A value that begins with $ is $iothubname, or a path like $twin.tags.site, "
            "$twin.properties.desired.interval or $twin.properties.reported.firmware."
        )
    if not enrichment.endpoint_names:
        raise _invalid_enrichment("An enrichment needs an endpoint.")


def check_endpoint(name: str, settings: Settings) -> None:
    """Check name and settings of an endpoint.

    Raises:
        InvalidArgumentError: code `invalid-endpoint`.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise _invalid_endpoint(
            "An endpoint's name is 1 to 64 letters, digits, dots, hyphens and underscores."
        )
    if name.lower() == EVENTS:
        raise _invalid_endpoint("The endpoint 'events' is built in.")
    if isinstance(settings, FileSettings):
        _check_file(settings)
    else:
        _check_webhook(settings)


def twin_path(value: str) -> tuple[str, ...] | None:
    """Return the names an enrichment's value leads along in the twin; `None` for a plain text."""
    found = _TWIN_VALUE.fullmatch(value)
    if found is None:
        return None
    return (*found[1].lower().split("."), *found[2].split(".")[1:])


def _check_file(settings: FileSettings) -> None:
    path = PurePosixPath(settings.directory)
    if path.is_absolute() or _RESERVED & set(path.parts) or "\0" in settings.directory:
        raise _invalid_endpoint(
            "The directory of a file endpoint is relative to the service's directory of files, "
            "without '..'."
        )
    if len(settings.directory) > 512:
        raise _invalid_endpoint("The name of the directory is too long.")
    if not 1024 <= settings.max_file_bytes <= 1 << 40:
        raise _invalid_endpoint("A file is 1 KiB to 1 TiB at most.")
    if not 1 <= settings.max_file_age_s <= 366 * 86_400:
        raise _invalid_endpoint("A file lasts 1 second to 366 days at most.")


def _check_webhook(settings: WebhookSettings) -> None:
    try:
        parts = urlsplit(settings.url)
        usable = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and len(settings.url) <= 2048
            and settings.url.isprintable()
            and " " not in settings.url
        )
    except ValueError:
        usable = False
    else:
        if parts.username or parts.password:
            raise _invalid_endpoint("A secret in a URL is seen by many: give it as the secret.")
    if not usable:
        raise _invalid_endpoint("A webhook needs a URL that begins with http:// or https://.")
    if settings.auth not in WEBHOOK_AUTH:
        raise _invalid_endpoint(f"Authentication is one of {', '.join(WEBHOOK_AUTH)}.")
    if not 1 <= settings.max_batch_events <= 10_000:
        raise _invalid_endpoint("A request carries 1 to 10,000 messages at most.")
    if not 1 <= settings.timeout_s <= 300:
        raise _invalid_endpoint("An answer may take 1 to 300 seconds.")


def _invalid_route(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="invalid-route")


def _invalid_enrichment(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="invalid-enrichment")


def _invalid_endpoint(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="invalid-endpoint")
