"""How deep JSON may be nested: what takes it apart goes a call deeper for each level."""

from __future__ import annotations

import itertools
import re
from typing import Final

MAX_DEPTH: Final = 100
"""Levels; twins have ten (hub-device.md 9)."""

# A string without an end reaches to the end of the body: it must not be looked for at every quote.
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets to bytes that are 1 and -1 when they have a sign."""
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def is_too_deep(body: bytes) -> bool:
    """Tell whether JSON is nested deeper than `MAX_DEPTH`; anything may be said of what is none."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    # Whoever sends megabytes of brackets must not keep everybody waiting: no step of Python for
    # each of them.
    steps = _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS)
    return max(itertools.accumulate(memoryview(steps).cast("b")), default=0) > MAX_DEPTH
