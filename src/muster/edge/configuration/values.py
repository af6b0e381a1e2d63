"""Values that both formats write alike: file URIs, keys, hosts."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from muster.auth import connection_string, private_file, symmetric_keys
from muster.edge.settings import ManualProvisioning
from muster.errors import InvalidArgumentError
from muster.ids import check_device_id, check_registration_id

if TYPE_CHECKING:
    from muster.edge.configuration.section import Section

_SPAN: Final = re.compile(r"([0-9]{1,9})\s*([a-z]+)\s*")
_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}
_MOST_S: Final = 36_500 * 86_400
_TIME: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
MAX_HOSTNAME: Final = 64
"""What fits into the common name of a certificate."""


def file(section: Section, key: str, *, plain: bool = False) -> Path | None:
    """Return the path of a file URI.

    Args:
        section: where the key is.
        key: of it.
        plain: whether an absolute path will do, as it did in 1.1.
    """
    text = section.text(key)
    if text is None:
        return None
    if plain and text.startswith("/"):
        return Path(text)
    parts = urlsplit(text)
    if parts.scheme == "pkcs11":
        raise section.error(key, "keys in hardware (pkcs11:) cannot be used; name a file")
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        raise section.error(key, "must be the URI of a file, such as file:///etc/aziot/file.pem")
    return Path(unquote(parts.path))


def secret(section: Section, key: str) -> bytes:
    """Return a symmetric key given as `{value = "<base64>"}` or `{uri = "file:///…"}`.

    The file has the raw bytes or base64 text; only its owner may read it.
    """
    found = section.value(key)
    if found is None:
        raise section.error(None, f"{key} is missing")
    if not isinstance(found, dict):
        raise section.error(key, 'must be { value = "<base64>" } or { uri = "file:///…" }')
    inner = section.section(key)
    value, path = inner.text("value"), file(inner, "uri")
    inner.finish()
    if (value is None) == (path is None):
        raise section.error(key, "must have one of value and uri")
    if value is not None:
        return key_of(inner, "value", value)
    assert path is not None  # noqa: S101 - for the type checker
    try:
        content = private_file.read_private(path)
    except InvalidArgumentError as error:
        raise inner.error("uri", error.message) from None
    except OSError as error:
        raise inner.error("uri", f"{path} cannot be read: {error.strerror}") from None
    try:
        return symmetric_keys.decode(content.decode("ascii").strip())
    except (UnicodeDecodeError, InvalidArgumentError):
        pass  # no text, so the bytes themselves, as the official runtime writes them
    if not symmetric_keys.MIN_KEY_SIZE <= len(content) <= symmetric_keys.MAX_KEY_SIZE:
        raise inner.error("uri", f"{path} holds no symmetric key: raw bytes or base64")
    return content


def key_of(section: Section, key: str, text: str) -> bytes:
    """Return the bytes of a base64 key."""
    try:
        return symmetric_keys.decode(text.strip())
    except InvalidArgumentError as error:
        raise section.error(key, error.message) from None


def host_name(section: Section, key: str) -> str | None:
    """Return the name of an edge device, as devices below it dial it."""
    text = section.text(key)
    if text is None:
        return None
    try:
        return read_host_name(text)
    except InvalidArgumentError as error:
        raise section.error(key, error.message) from None


def read_host_name(text: str) -> str:
    """Return the name of an edge device.

    Raises:
        InvalidArgumentError: it is none, or too long.
    """
    if len(text) > MAX_HOSTNAME:
        raise InvalidArgumentError(f"must be at most {MAX_HOSTNAME} characters, is {len(text)}")
    if not _HOST.fullmatch(text):
        raise InvalidArgumentError("must be a host name or an IP address")
    return text


def endpoint(section: Section, key: str) -> str:
    """Return `https://host[:port]`."""
    text = section.required(key)
    try:
        return read_endpoint(text)
    except InvalidArgumentError as error:
        raise section.error(key, error.message) from None


def read_endpoint(text: str) -> str:
    """Return `https://host[:port]`.

    Raises:
        InvalidArgumentError: it is something else.
    """
    with contextlib.suppress(ValueError):  # a port that is no number
        parts = urlsplit(text)
        plain = not (parts.username or parts.query or parts.fragment or parts.path.strip("/"))
        named = _HOST.fullmatch(parts.hostname or "") or parts.netloc.startswith("[")
        if parts.scheme == "https" and named and parts.port != 0 and plain:
            return f"https://{parts.netloc}"
    raise InvalidArgumentError("must be https://HOST or https://HOST:PORT")


def id_scope(section: Section, key: str) -> str:
    """Return an ID scope."""
    text = section.required(key)
    try:
        return read_id_scope(text)
    except InvalidArgumentError as error:
        raise section.error(key, error.message) from None


def read_id_scope(text: str) -> str:
    """Return an ID scope.

    Raises:
        InvalidArgumentError: it is none.
    """
    if not text.isascii() or not text.isalnum():
        raise InvalidArgumentError("must be letters and digits, such as 0ne00000001")
    return text


def registration_id(section: Section, key: str) -> str | None:
    """Return a registration ID."""
    text = section.text(key)
    if text is not None:
        try:
            check_registration_id(text)
        except InvalidArgumentError:
            raise section.error(
                key, "must be 1 to 128 letters, digits and - . _ :, no mark at its ends"
            ) from None
    return text


def device_id(section: Section, key: str) -> str:
    """Return a device ID."""
    text = section.required(key)
    try:
        return check_device_id(text)
    except InvalidArgumentError as error:
        raise section.error(key, error.message) from None


def hub_host(section: Section, key: str) -> str:
    """Return the host name of a hub, with a port where it has one."""
    text = section.required(key)
    try:
        return connection_string.parse(f"HostName={text}").host_name
    except InvalidArgumentError:
        raise section.error(key, "must be HOST or HOST:PORT") from None


def from_connection_string(section: Section, key: str) -> ManualProvisioning:
    """Return what the connection string of a device says."""
    text = section.required(key)
    try:
        return read_connection_string(text)
    except InvalidArgumentError as error:
        raise section.error(key, error.message) from None


def read_connection_string(text: str) -> ManualProvisioning:
    """Return what the connection string of a device says.

    Raises:
        InvalidArgumentError: it is none, or not one of a device with a key.
    """
    found = connection_string.parse(text)
    if found.device_id is None or found.key is None or found.module_id is not None:
        raise InvalidArgumentError(
            "The connection string must be one of a device: HostName, DeviceId, SharedAccessKey",
            code="invalid-connection-string",
        )
    return ManualProvisioning(
        hub_host=found.host_name,
        device_id=check_device_id(found.device_id),
        key=symmetric_keys.decode(found.key),
    )


def socket_uri(section: Section, key: str) -> str | None:
    """Return a `unix://` URI; `fd://…` is the service manager's, so our default takes its place."""
    text = section.text(key)
    if text is None or text.startswith("fd://"):
        return None
    parts = urlsplit(text)
    if parts.scheme in ("http", "https"):
        raise section.error(
            key, "over HTTP nobody could tell who calls; must be unix:///path/of.sock"
        )
    if parts.scheme != "unix" or not parts.path.startswith("/"):
        raise section.error(key, "must be unix:///path/of.sock")
    return f"unix://{parts.path}"


def duration(section: Section, key: str, default_s: int) -> int:
    """Return seconds, written as `7d`, `36h` or `1 day 12 hours`."""
    text = section.text(key)
    if text is None:
        return default_s
    parts = _SPAN.findall(text.strip())
    seconds = sum(int(number) * _UNITS.get(unit, _MOST_S + 1) for number, unit in parts)
    if not parts or _SPAN.sub("", text.strip()) or seconds > _MOST_S:
        raise section.error(key, 'must be a time such as "7d" or "36h", at most 36500 days')
    return seconds


def minute_of_day(section: Section, key: str) -> int:
    """Return a minute of the day, written as `HH:MM`; 0 where the key is not there."""
    text = section.text(key)
    if text is None:
        return 0
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise section.error(key, 'must be a time of day such as "03:30"')
    return int(found[1]) * 60 + int(found[2])
