"""How SQL is written for a database: all that differs between one and another.

PostgreSQL is to be a second `Dialect` beside `SQLITE`, and a second column of `functions.TABLE`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from muster.language.values import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.language.functions import Function


class Dialect(Protocol):
    """Writes the parts of SQL that differ. `document` is SQL for a JSON document."""

    def value(self, document: str, names: Sequence[str | int]) -> str:
        """Return SQL for the primitive value at the end of a path, NULL where it leads nowhere.

        Booleans are 1 and 0. It must be the same text for the same path: indexes are made on it.
        """

    def type(self, document: str, names: Sequence[str | int]) -> str:
        """Return SQL for the name of the type there (see `TYPES`), NULL where it leads nowhere."""

    def elements(self, document: str, names: Sequence[str | int]) -> str:
        """Return SQL for a table of an array's elements with the columns `type` and `value`."""

    def call(self, function: Function, arguments: list[str]) -> str:
        """Return SQL for a function of the table."""

    def arithmetic(self, symbol: str, left: str, right: str) -> str:
        """Return SQL that computes as `functions.arithmetic`, NULL for undefined."""


class Types(NamedTuple):
    """Names of the types of JSON that a dialect's `type` gives for a kind."""

    names: tuple[str, ...]

    def test(self, sql: str) -> str:
        """Return SQL that tells whether `sql` is one of the names."""
        if len(self.names) == 1:
            return f"{sql} = '{self.names[0]}'"
        names = "', '".join(self.names)
        return f"{sql} IN ('{names}')"


TYPES: Final = {
    Kind.NULL: Types(("null",)),
    Kind.BOOLEAN: Types(("true", "false")),
    Kind.NUMBER: Types(("integer", "real")),
    Kind.STRING: Types(("text",)),
    Kind.OBJECT: Types(("object",)),
    Kind.ARRAY: Types(("array",)),
}


class _Sqlite:
    """SQLite with its JSON and mathematical functions, both built in by default since 3.38/3.35."""

    def value(self, document: str, names: Sequence[str | int]) -> str:
        return f"json_extract({document}, {self._path(names)})"

    def type(self, document: str, names: Sequence[str | int]) -> str:
        return f"json_type({document}, {self._path(names)})"

    def elements(self, document: str, names: Sequence[str | int]) -> str:
        return f"json_each({document}, {self._path(names)})"

    def call(self, function: Function, arguments: list[str]) -> str:
        if function.sqlite is None:
            raise ValueError(f"{function.name} has no SQL")
        return function.sqlite(*arguments)

    def arithmetic(self, symbol: str, left: str, right: str) -> str:
        left, right = f"CAST({left} AS REAL)", f"CAST({right} AS REAL)"
        return f"mod({left}, {right})" if symbol == "%" else f"({left} {symbol} {right})"

    def _path(self, names: Sequence[str | int]) -> str:
        # Names have neither quotation marks nor backslashes (`lexer`).
        steps = (f"[{name}]" if isinstance(name, int) else f'."{name}"' for name in names)
        return "'$" + "".join(steps).replace("'", "''") + "'"


SQLITE: Final[Dialect] = _Sqlite()
