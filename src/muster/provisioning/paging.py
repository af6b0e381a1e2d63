"""Pages of a query: keyset paging behind an opaque continuation token (dps.md 3.1)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, Generic, TypeVar

import msgspec

from muster.errors import InvalidArgumentError

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1_000

_T = TypeVar("_T")
_COUNT: Final = re.compile(r"[0-9]{1,9}")
_QUERY: Final = re.compile(r"\s*select\s+\*(\s+from\s+[\w.]+)?\s*;?\s*", re.IGNORECASE)


class Page(msgspec.Struct, Generic[_T]):
    """One page.

    Attributes:
        items: in the order of their IDs.
        continuation: asks for the next page; `None` on the last one.
    """

    items: list[_T]
    continuation: str | None = None


def check_query(text: str) -> None:
    """Accept the one query every client sends.

    Raises:
        InvalidArgumentError: any other; code `unsupported-query`.
    """
    if not _QUERY.fullmatch(text):
        raise InvalidArgumentError(
            "Only the query 'SELECT *' is supported here", code="unsupported-query"
        )


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


def after(continuation: str | None) -> str:
    """Return the key after which a page starts.

    Raises:
        InvalidArgumentError: the token is not one of ours; code `invalid-continuation`.
    """
    if not continuation:
        return ""
    try:
        kind, _, key = base64.urlsafe_b64decode(continuation.encode()).decode().partition(":")
    except (binascii.Error, ValueError):
        kind = key = ""
    if kind != "after" or not key:
        raise InvalidArgumentError("Invalid continuation token", code="invalid-continuation")
    return key


def cut(keys: list[str], items: list[_T], size: int) -> Page[_T]:
    """Make a page of what was read, one item more than fits telling that there is another."""
    if len(items) <= size:
        return Page(items)
    token = base64.urlsafe_b64encode(f"after:{keys[size - 1]}".encode()).decode()
    return Page(items[:size], token)
