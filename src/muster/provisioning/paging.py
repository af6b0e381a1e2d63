"""Pages of a query: keyset paging by ID (dps.md 3.1)."""

from __future__ import annotations

import re
from typing import Final, TypeVar

from muster.errors import InvalidArgumentError
from muster.model import paging
from muster.model.paging import Page

_T = TypeVar("_T")
_QUERY: Final = re.compile(r"select\s+\*(\s+from\s+[\w.]+)?(\s*;)?", re.IGNORECASE)
_WRAPPING: Final = ("{'additional_properties': {}, 'query': '", "'}")
"""What `az iot dps` puts around it: its model as Python text. The official service answers that."""


def check_query(text: str) -> None:
    """Accept the one query every client sends.

    Raises:
        InvalidArgumentError: any other; code `unsupported-query`.
    """
    before, after_it = _WRAPPING
    if not _QUERY.fullmatch(text.strip().removeprefix(before).removesuffix(after_it)):
        raise InvalidArgumentError(
            "Only the query 'SELECT *' is supported here", code="unsupported-query"
        )


def after(continuation: str | None) -> str:
    """Return the key after which a page starts.

    Raises:
        InvalidArgumentError: the token is not one of ours; code `invalid-continuation`.
    """
    return paging.key(continuation) if continuation else ""


def cut(keys: list[str], items: list[_T], size: int) -> Page[_T]:
    """Make a page of what was read, one item more than fits telling that there is another."""
    if len(items) <= size:
        return Page(items)
    return Page(items[:size], paging.token(keys[size - 1]))
