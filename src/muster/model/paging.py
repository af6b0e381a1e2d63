"""Pages of a query behind an opaque continuation token (dps.md 3.1, hub-service.md 1.6)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, Generic, TypeVar

from msgspec import Struct

from muster.errors import InvalidArgumentError

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000

_T = TypeVar("_T")
_COUNT: Final = re.compile(r"[0-9]{1,9}")


class Page(Struct, Generic[_T]):
    """One page.

    Attributes:
        items: in the order of their keys.
        continuation: asks for the next page; `None` on the last one.
    """

    items: list[_T]
    continuation: str | None = None


def page_size(text: str | None) -> int:
    """Read `x-ms-max-item-count`; more than fits a page gives a full page.

    Raises:
        InvalidArgumentError: it is no positive number; code `invalid-page-size`.
    """
    if text is None:
        return DEFAULT_PAGE
    if not _COUNT.fullmatch(text) or int(text) < 1:
        raise InvalidArgumentError(
            "x-ms-max-item-count must be a positive number", code="invalid-page-size"
        )
    return min(int(text), MAX_PAGE)


def token(key: str) -> str:
    """Return the continuation token that says where the next page starts."""
    return base64.urlsafe_b64encode(f"after:{key}".encode()).decode()


def key(continuation: str) -> str:
    """Return what `token` was made of.

    Raises:
        InvalidArgumentError: the token is not one of ours; code `invalid-continuation`.
    """
    try:
        kind, _, found = base64.urlsafe_b64decode(continuation.encode()).decode().partition(":")
    except (binascii.Error, ValueError):
        kind = found = ""
    if kind != "after" or not found:
        raise invalid_continuation()
    return found


def invalid_continuation() -> InvalidArgumentError:
    """Return the error for a token that is not one of ours."""
    return InvalidArgumentError("Invalid continuation token", code="invalid-continuation")
