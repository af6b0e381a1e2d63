"""What can go wrong, by meaning.

One class per meaning, so that a caller can decide by type. No HTTP, MQTT or DPS numbers here:
each endpoint family has one table that turns a meaning (and, where the service has several, the
`code`) into the official status and number (`provisioning/endpoints/errors.py`,
`hub/endpoints/errors.py`).
"""

from __future__ import annotations

from typing import ClassVar


class MusterError(Exception):
    """A failure with a meaning.

    Args:
        message: one sentence a client may see. Never contains a key or a token.
        code: stable name of the exact case within the meaning, in kebab case, for example
            `enrollment-exists`. Endpoint tables and `explain` look at it.
        subject: what it is about (a registration ID, a device ID), for logs.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, code: str | None = None, subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.subject = subject


class InvalidArgumentError(MusterError):
    """The request is malformed or breaks a documented limit."""

    default_code = "invalid-argument"


class UnauthorizedError(MusterError):
    """The caller did not prove who it is, or the proof does not cover this."""

    default_code = "unauthorized"


class ForbiddenError(MusterError):
    """The caller is known, but the thing is barred (disabled device, quota)."""

    default_code = "forbidden"


class NotFoundError(MusterError):
    """The thing does not exist."""

    default_code = "not-found"


class MethodNotAllowedError(MusterError):
    """The thing exists but cannot be used this way.

    Args:
        allowed: the methods it does offer.
    """

    default_code = "method-not-allowed"

    def __init__(
        self, message: str, *, allowed: list[str], code: str | None = None, subject: str = ""
    ) -> None:
        super().__init__(message, code=code, subject=subject)
        self.allowed = allowed


class AlreadyExistsError(MusterError):
    """A create found the thing already there."""

    default_code = "already-exists"


class ConflictError(MusterError):
    """The request contradicts the present state, or a race was lost."""

    default_code = "conflict"


class PreconditionFailedError(MusterError):
    """An If-Match (or `$version`) condition did not hold."""

    default_code = "precondition-failed"


class TooLargeError(MusterError):
    """A body, message or collection is over its limit."""

    default_code = "too-large"


class UnsupportedMediaTypeError(MusterError):
    """The content type or encoding cannot be read."""

    default_code = "unsupported-media-type"


class ThrottledError(MusterError):
    """Too many requests from one caller.

    Args:
        retry_after_s: seconds after which the caller may try again.
    """

    default_code = "throttled"

    def __init__(
        self, message: str, *, retry_after_s: int, code: str | None = None, subject: str = ""
    ) -> None:
        super().__init__(message, code=code, subject=subject)
        self.retry_after_s = retry_after_s


class UnavailableError(MusterError):
    """A part this depends on does not answer (a remote hub, a store that is closing)."""

    default_code = "unavailable"
