"""The process that searches for a pattern; see `patterns`. Only the standard library is at hand.

The first line it is told is a list: pattern, and whether case counts not. It answers with an empty
line, or what is wrong with the pattern. After that each line is a list of texts, and each answer a
`1` or `0` for every one of them.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from typing import Final

CPU_S: Final = 10
_MEMORY: Final = 256 << 20


def main() -> None:
    """Answer until there are no more questions."""
    with suppress(ImportError):  # Windows has no such limits
        import resource  # noqa: PLC0415 - as said above

        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    text, fold = json.loads(sys.stdin.readline())
    try:
        pattern = re.compile(text, re.IGNORECASE if fold else 0)
    except (re.error, OverflowError, RecursionError) as error:
        _say(" ".join(str(error).split()) or "it cannot be read")
        return
    _say("")
    for line in sys.stdin:
        _say("".join("1" if pattern.search(each) else "0" for each in json.loads(line)))


def _say(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
