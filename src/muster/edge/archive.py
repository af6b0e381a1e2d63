"""Entries of archives, dated by a clock that may be wrong."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import datetime as dt

_FIRST: Final = (1980, 1, 1, 0, 0, 0)
_LAST: Final = (2107, 12, 31, 23, 59, 58)
"""What fits into an entry; a device without a clock of its own may be in 1970."""


def entry(name: str, now: dt.datetime) -> zipfile.ZipInfo:
    """Return a compressed entry.

    Args:
        name: in the archive.
        now: when it is written; years that no entry can have give way to the nearest.
    """
    made = zipfile.ZipInfo(name, min(max(now.timetuple()[:6], _FIRST), _LAST))
    made.compress_type = zipfile.ZIP_DEFLATED
    made.external_attr = 0o600 << 16
    return made
