"""Text to tokens.

A path is one token: names with dots between them, `[[any name]]` for names with other characters
in them, `[3]` for an element of an array (hub-service.md 5.1, trap 23). A single bare name may
still turn out to be a keyword or a function.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, NamedTuple

from muster.errors import InvalidArgumentError

MAX_LENGTH: Final = 8192
"""Characters of a query or condition (hub-service.md 1.6)."""

_LARGEST_INTEGER: Final = 2**63 - 1

_BRACKETED: Final = r"\[\[(?:(?!\]\]).)+\]\]"
_NAME: Final = r"[^\W\d][\w$]*|\$[\w$]+(?:-[^\W\d]\w*)*"
_PART: Final = r"[\w$]+"
_HYPHENS: Final = r"(?:-[\w$]+)*"


def _pattern(name: str, part: str, *more: str) -> re.Pattern[str]:
    """Return what finds one token.

    Args:
        name: finds a bare name.
        part: finds one behind a dot.
        more: find symbols besides those of every text.
    """
    symbols = "".join(f"{each} |" for each in more)
    return re.compile(
        rf"""
      (?P<blank>   \s+ | /\*.*?\*/ )
    | (?P<path>    (?:{_BRACKETED}|{name}) (?:\.(?:{_BRACKETED}|{part})|\[[0-9]{{1,9}}\])* )
    | (?P<hex>     0[xX][0-9a-fA-F]+ (?!\w) )
    | (?P<number>  (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)? (?!\w) )
    | (?P<string>  '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" )
    | (?P<symbol>  {symbols} <> | != | <= | >= | \[(?!\[) | /(?!\*) | [=<>()\],*+\-%] )
    """,
        re.VERBOSE | re.DOTALL,
    )


_TOKEN: Final = _pattern(_NAME, _PART)
_HYPHENATED: Final = _pattern(
    rf"\$?[^\W\d][\w$]*{_HYPHENS}|\$[\w$]+{_HYPHENS}", _PART + _HYPHENS, r"\|\|", r"\?\?"
)
_STEP: Final = re.compile(rf"\.?(?:({_BRACKETED})|\[([0-9]+)\]|([\w$-]+))", re.DOTALL)
_ESCAPE: Final = re.compile(r"''|\"\"|\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED: Final = {
    **{each: each for each in "'\"\\/"},
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
}


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: `path`, `number`, `string`, `symbol` or `end`.
        value: names of a path, the value of a constant, the symbol.
        text: as it stands; for a single bare name it may be a keyword.
        position: of its first character, counted from 1.
    """

    kind: str
    value: Any
    text: str
    position: int

    @property
    def word(self) -> str:
        """The text of a single bare name in capitals, nothing for everything else."""
        bare = self.kind == "path" and len(self.value) == 1 and self.text[0] != "["
        return self.text.upper() if bare else ""

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else f"'{self.text[:40]}'"


def wrong(problem: str, position: int) -> InvalidArgumentError:
    """Return the error for a text that is wrong at a position, counted from 1."""
    return InvalidArgumentError(
        f"Syntax error at position {position}: {problem}.", code="invalid-query"
    )


def tokens(text: str, *, hyphens: bool = False) -> list[Token]:
    """Split a text; the last token is of the kind `end`.

    Args:
        text: what to split.
        hyphens: a hyphen between characters of names is part of the name, as in the conditions of
            routes, and there are `||` and `??`. Otherwise it is a minus.

    Raises:
        InvalidArgumentError: something is no token, or the text is too long; code
            `invalid-query`.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidArgumentError(
            f"The text has {len(text)} characters, more than the {MAX_LENGTH} allowed.",
            code="invalid-query",
        )
    found: list[Token] = []
    pattern = _HYPHENATED if hyphens else _TOKEN
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            raise _no_token(text, at)
        kind, part = match.lastgroup or "", match[0]
        if kind != "blank":
            found.append(_token(kind, part, at + 1))
        at = match.end()
    found.append(Token("end", None, "", len(text) + 1))
    return found


def _token(kind: str, part: str, position: int) -> Token:
    match kind:
        case "path":
            return Token(kind, _names(part, position), part, position)
        case "hex" | "number":
            return Token("number", _number(part, position), part, position)
        case "string":
            return Token(kind, _unescaped(part, position), part, position)
    return Token(kind, "!=" if part == "<>" else part, part, position)


def _names(part: str, position: int) -> tuple[str | int, ...]:
    names: list[str | int] = []
    for bracketed, number, name in _STEP.findall(part):
        if number:
            names.append(int(number))
            continue
        name = name or bracketed[2:-2]  # noqa: PLW2901 - one or the other
        if '"' in name or "\\" in name or not name.isprintable():
            raise wrong("a name has a quotation mark, a backslash or a control character", position)
        names.append(name)
    return tuple(names)


def _number(part: str, position: int) -> int | float:
    try:
        whole = int(part, 16) if part[:2] in {"0x", "0X"} else int(part)
        if whole <= _LARGEST_INTEGER:
            return whole
        number = float(whole)
    except OverflowError:
        number = math.inf
    except ValueError:
        # It has a fraction or an exponent, or more digits than Python reads at once.
        number = float(part)
    if math.isinf(number):
        raise wrong("the number is too large", position)
    return number


def _unescaped(part: str, position: int) -> str:
    def replace(match: re.Match[str]) -> str:
        code, letter = match.groups()
        if code:
            return chr(int(code, 16))
        if letter is None:
            # A quotation mark twice; the other one stands for itself.
            return match[0][0] if match[0][0] == part[0] else match[0]
        if letter not in _ESCAPED:
            raise wrong(f"'\\{letter}' is no escape", position + match.start() + 1)
        return _ESCAPED[letter]

    text = _ESCAPE.sub(replace, part[1:-1])
    try:
        # Halves of surrogate pairs come together here.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise wrong("the text has half of a surrogate pair", position) from None


def _no_token(text: str, at: int) -> InvalidArgumentError:
    rest = text[at:]
    if rest[0] in "'\"":
        return wrong("a text in quotation marks has no end", at + 1)
    if rest.startswith("/*"):
        return wrong("a comment has no end", at + 1)
    if rest.startswith("[["):
        return wrong("a name in [[ ]] has no end", at + 1)
    if rest[0].isdigit():
        return wrong(f"'{rest[:20].split()[0]}' is no number", at + 1)
    return wrong(f"unexpected character {rest[0]!a}", at + 1)
