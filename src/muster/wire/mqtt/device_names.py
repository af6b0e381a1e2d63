"""What a device says in the texts of MQTT: its user name and its topics (hub-device.md 2)."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote

from muster.errors import InvalidArgumentError
from muster.ids import check_device_id

TWIN_GET: Final = "$iothub/twin/GET/"
TWIN_PATCH: Final = "$iothub/twin/PATCH/properties/reported/"

_MAX_MODEL_ID: Final = 1024


class UserName(NamedTuple):
    """Who a client says it is.

    Attributes:
        host: the hub it means.
        device_id: case-sensitive.
        module_id: empty for a device.
        model_id: its Plug and Play model, `''` for none.
        auth_chain: over which an edge hub speaks for it, `''` for none (edge.md 6.4).
    """

    host: str
    device_id: str
    module_id: str
    model_id: str
    auth_chain: str = ""

    @property
    def client_id(self) -> str:
        """The only client ID that goes with this user name."""
        return f"{self.device_id}/{self.module_id}" if self.module_id else self.device_id


def parse_user_name(text: str) -> UserName:
    """Read `{host}/{device}[/{module}]/?api-version=…`.

    Also the older forms without `?` and without any parameters. Node sends a model ID unescaped,
    and an unescaped value may hold a slash, so everything from the first segment that starts the
    parameters belongs to them. Of a parameter given twice the first counts.

    Raises:
        InvalidArgumentError: it is none of that; code `malformed-username`.
    """
    segments = text.split("/")
    end = len(segments)
    for index in (2, 3):
        if index < end and segments[index].startswith(("?", "api-version=")):
            end = index
            break
    names = segments[:end]
    if end == len(segments) > 2 and not names[-1]:
        # A slash at the end and no parameters behind it.
        names.pop()
    if not 2 <= len(names) <= 3 or not names[0]:
        raise _malformed()
    try:
        for name in names[1:]:
            check_device_id(name)
    except InvalidArgumentError:
        raise _malformed() from None
    parameters = _parameters("/".join(segments[end:]))
    model_id = unquote(parameters.get("model-id", ""))
    if len(model_id.encode()) > _MAX_MODEL_ID:
        raise _malformed()
    chain = unquote(parameters.get("auth-chain", ""))
    return UserName(names[0], names[1], names[2] if len(names) == 3 else "", model_id, chain)


class TwinParameters(NamedTuple):
    """What stands behind a twin topic.

    Attributes:
        request_id: `$rid` exactly as sent, `''` when missing; it is echoed, never read.
        version_text: `$version` as sent, `''` when missing.
    """

    request_id: str
    version_text: str

    def version(self) -> int | None:
        """Return the version that is asked for, `None` for any.

        Raises:
            InvalidArgumentError: it is not a whole number; code `invalid-version`.
        """
        text = self.version_text
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise InvalidArgumentError("$version must be a whole number.", code="invalid-version")
        return int(text)


def parse_twin_parameters(tail: str) -> TwinParameters:
    """Read `?$rid={id}[&$version={n}]`."""
    parameters = _parameters(tail)
    return TwinParameters(parameters.get("$rid", ""), parameters.get("$version", ""))


def _parameters(text: str) -> dict[str, str]:
    """Return raw values by decoded name; the first of two counts."""
    found: dict[str, str] = {}
    for pair in text.removeprefix("?").split("&"):
        name, _, value = pair.partition("=")
        found.setdefault(unquote(name), value)
    return found


def _malformed() -> InvalidArgumentError:
    return InvalidArgumentError("The MQTT user name is malformed.", code="malformed-username")
