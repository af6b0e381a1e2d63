"""A bounded memory of the latest things."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar, final

_T = TypeVar("_T")


@final
class Latest(Generic[_T]):
    """A value for each of the latest keys; the longest unused one goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[str, _T] = OrderedDict()

    def get(self, key: str) -> _T | None:
        """Return the value of a key, or `None`."""
        return self._values.get(key)

    def put(self, key: str, value: _T) -> None:
        """Set the value of a key, the latest now."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._values.pop(key, None)

    def __len__(self) -> int:
        """Count the keys."""
        return len(self._values)
