"""`createOptions`: JSON in text, in pieces where it is long (edge.md 5.1, 5.3).

A twin's strings are short, so the text is cut into `createOptions`, `createOptions01` … up to
`createOptions99`, and put together in the order of these names, which are the same in any case.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import msgspec

JsonObject: TypeAlias = dict[str, Any]

CHUNK_SIZE: Final = 512
"""Characters of a piece."""
MAX_CHUNKS: Final = 100

_NAME: Final = re.compile(r"createoptions([0-9]{2})?", re.IGNORECASE).fullmatch


def is_chunk(name: str) -> bool:
    """Tell whether a member of `settings` is a piece of the options."""
    return _NAME(name) is not None


def join(settings: JsonObject) -> JsonObject:
    """Put the options of a module together.

    Args:
        settings: of the module, as they stand in the deployment.

    Returns:
        The options decoded; `{}` where there are none, or only blanks or `null`.

    Raises:
        ValueError: they are no JSON object in text; the message says what they are.
    """
    names = sorted((name for name in settings if is_chunk(name)), key=str.lower)
    if len(names) > MAX_CHUNKS:
        raise ValueError(f"there are {len(names)} pieces, more than {MAX_CHUNKS}")
    if len(names) == 1 and isinstance(settings[names[0]], dict):
        # What a person writes by hand, and what the official agent takes, too.
        return dict(settings[names[0]])
    for name in names:
        if not isinstance(settings[name], str):
            raise ValueError(f"{name} is not a string")  # noqa: TRY004 - one error for callers
    text = "".join(settings[name] for name in names).strip()
    if not text or text.lower() == "null":
        return {}
    try:
        options = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(options, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - as above
    return options


def split(options: JsonObject) -> dict[str, str]:
    """Write options as they stand in reported properties; what does not fit is left out."""
    text = msgspec.json.encode(options).decode()
    pieces = [text[start : start + CHUNK_SIZE] for start in range(0, len(text), CHUNK_SIZE)]
    return {
        f"createOptions{number:02}" if number else "createOptions": piece
        for number, piece in enumerate(pieces[:MAX_CHUNKS])
    }
