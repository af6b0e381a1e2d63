"""JSON that somebody else has written: a hub, a module, whoever edited a file.

msgspec tells of nonsense in three ways, by where it is; whoever reads it wants one.
"""

from __future__ import annotations

import threading
from typing import Any, Final, TypeVar, overload

import msgspec

from muster.model.nesting import MAX_DEPTH, is_too_deep

T = TypeVar("T")

_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}
# msgspec learns what a type is when it first meets it. Another thread that decodes the type at that
# moment uses what is not all there, and the process dies (seen with 0.22).
_learning: Final = threading.Lock()


class ForeignJsonError(ValueError):
    """It is no JSON, nested deeper than `MAX_DEPTH`, or not of the form that it should have."""


@overload
def decode(content: bytes | msgspec.Raw) -> Any: ...
@overload
def decode(content: bytes | msgspec.Raw, kind: type[T]) -> T: ...
def decode(content: bytes | msgspec.Raw, kind: Any = Any) -> Any:
    """Return the value of a text.

    Args:
        content: UTF-8.
        kind: as msgspec takes them.

    Raises:
        ForeignJsonError: see there.
    """
    if is_too_deep(bytes(content)):
        raise ForeignJsonError(f"it is nested deeper than {MAX_DEPTH} levels")
    try:
        return _decoder(kind).decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ForeignJsonError(str(error)) from None


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    found = _decoders.get(kind)
    if found is None:
        with _learning:
            found = _decoders.setdefault(kind, msgspec.json.Decoder(kind))
    return found
