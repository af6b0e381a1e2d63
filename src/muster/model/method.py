"""Direct methods: what a service asks, what a device answers, and the limits of both.

Sources: hub-service.md 1.7, hub-device.md 8.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Struct

from muster.errors import InvalidArgumentError, TooLargeError

METHOD_NAME: Final = r"[A-Za-z0-9!%&'*.^_`|~-]{1,100}"
"""Pattern of a name: printable ASCII without the separators of HTTP headers (hub-device.md 8).

`#` and `+` are left out, too: no MQTT topic may hold them.
"""

MAX_PAYLOAD: Final = 128 * 1024
"""Bytes of a payload, either way."""

MIN_RESPONSE_TIMEOUT_S: Final = 5
MAX_TIMEOUT_S: Final = 300
DEFAULT_RESPONSE_TIMEOUT_S: Final = 30

NO_PAYLOAD: Final = b"null"
"""What stands for no payload. Node reads the body as JSON, Python takes nothing for null."""

_NAME: Final = re.compile(METHOD_NAME)
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode


class MethodCall(Struct, kw_only=True):
    """A method to call.

    Attributes:
        name: of the method.
        payload: JSON text.
        response_timeout_s: seconds the client has for its answer, 5 to 300.
        connect_timeout_s: seconds to wait for a client that is not there, 0 to 300.
    """

    name: str
    payload: bytes = NO_PAYLOAD
    response_timeout_s: int = DEFAULT_RESPONSE_TIMEOUT_S
    connect_timeout_s: int = 0


class MethodRequest(Struct, rename="camel"):
    """`CloudToDeviceMethod`, as services send it."""

    method_name: str
    payload: msgspec.Raw = msgspec.Raw(NO_PAYLOAD)
    response_timeout_in_seconds: int | None = None
    connect_timeout_in_seconds: int | None = None

    def call(self) -> MethodCall:
        """Return the call it asks for; see `check` for its limits."""
        seconds = self.response_timeout_in_seconds
        return MethodCall(
            name=self.method_name,
            payload=bytes(self.payload),
            response_timeout_s=DEFAULT_RESPONSE_TIMEOUT_S if seconds is None else seconds,
            connect_timeout_s=self.connect_timeout_in_seconds or 0,
        )


class MethodResult(Struct):
    """What the client answered, as the service API shows it.

    Attributes:
        status: the client's own.
        payload: JSON text, as the client wrote it.
    """

    status: int
    payload: msgspec.Raw


def check(call: MethodCall) -> None:
    """Refuse a call that breaks a limit.

    Raises:
        InvalidArgumentError: codes `invalid-method-name`, `invalid-timeout`, `malformed-json`.
        TooLargeError: the payload; code `payload-too-large`.
    """
    if not _NAME.fullmatch(call.name):
        raise InvalidArgumentError(
            "methodName must be 1 to 100 printable ASCII characters without separators.",
            code="invalid-method-name",
        )
    for name, seconds, least in (
        ("responseTimeoutInSeconds", call.response_timeout_s, MIN_RESPONSE_TIMEOUT_S),
        ("connectTimeoutInSeconds", call.connect_timeout_s, 0),
    ):
        if not least <= seconds <= MAX_TIMEOUT_S:
            raise InvalidArgumentError(
                f"{name} must be within [{least}; {MAX_TIMEOUT_S}].", code="invalid-timeout"
            )
    if len(call.payload) > MAX_PAYLOAD:
        raise TooLargeError(
            f"The payload is larger than {MAX_PAYLOAD} bytes.", code="payload-too-large"
        )
    if not is_json(call.payload):
        raise InvalidArgumentError("The payload is not JSON.", code="malformed-json")


def is_json(payload: bytes) -> bool:
    """Tell whether a payload is JSON text, without building what it stands for."""
    try:
        # msgspec does not look into the strings it skips.
        payload.decode()
        _decode_raw(payload)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True
