"""Conditions to SQL with bound parameters.

The result is true for exactly the rows for whose documents `evaluate` gives true; for all others
it is false or NULL. NOTs are pushed down to the comparisons first. So every part is only ever
asked whether it is exactly true, never whether it is undefined, and stays simple enough for an
index: `tags.site = 'a'` becomes `json_extract(tags, '$."site"') = :p0`.

Values are parameters. Paths are literals: an index on an expression serves only the same text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from msgspec import Struct

from muster.errors import InvalidArgumentError
from muster.language.dialect import SQLITE, TYPES
from muster.language.functions import BY_NAME
from muster.language.tree import (
    Arithmetic,
    Call,
    Comparison,
    Constant,
    Expression,
    Logical,
    Membership,
    Not,
    Path,
)
from muster.language.values import COMPLEMENT, HOLDS_FOR_NULL, PRIMITIVE, UNDEFINED, Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import UnionType

    from muster.language.dialect import Dialect

MAX_SQL: Final = 200_000
"""Characters of SQL one condition may become."""


class Document(Struct, frozen=True):
    """A column that holds JSON; paths lead into it.

    Attributes:
        table: alias of the table in the statement.
        column: its name.
    """

    table: str
    column: str


class Scalar(Struct, frozen=True):
    """A value that stands in a column, or is made of some.

    Attributes:
        table: alias of the table.
        sql: gives the value; booleans as 1 and 0.
        kind: of the value.
        null: NULL is null then, and undefined otherwise.
    """

    table: str
    sql: str
    kind: Kind
    null: bool = False


class Single(Struct, frozen=True):
    """An array of one string, or of none where the column is NULL."""

    table: str
    sql: str


Column: TypeAlias = Document | Scalar | Single
Schema: TypeAlias = "Mapping[tuple[str | int, ...], Column]"
"""Where the members of a collection's documents are, by path; the longest path wins."""


class Lookup(Struct, frozen=True):
    """A comparison that every match must meet, and that an index can answer.

    Attributes:
        table: alias of the table.
        expression: what is compared, as an index on that table is made: without the alias.
        document: the JSON column it looks into, `None` when it is a column itself.
    """

    table: str
    expression: str
    document: str | None


class Compiled(Struct, frozen=True):
    """A condition as SQL.

    Attributes:
        sql: goes behind WHERE.
        params: bound to its `:p0`, `:p1`, … (or another prefix).
        tables: aliases of the tables it mentions.
        lookups: equalities with a constant that every match meets.
    """

    sql: str
    params: dict[str, Any]
    tables: frozenset[str]
    lookups: tuple[Lookup, ...]


class Selected(Struct, frozen=True):
    """A path as SQL, for what is selected, grouped or computed.

    Attributes:
        type: SQL for the name of its type (`dialect.TYPES`), NULL when it is undefined.
        value: SQL for its value; booleans as 1 and 0, objects and arrays as their text.
        number: SQL for its value if that is a number, NULL otherwise.
        ordered: the same for numbers and strings.
        tables: aliases of the tables it mentions.
        whole: whether type and value tell everything; not so for objects that are put together
            from several columns.
    """

    type: str
    value: str
    number: str
    ordered: str
    tables: frozenset[str]
    whole: bool


def compile_condition(
    condition: Expression, schema: Schema, dialect: Dialect = SQLITE, *, prefix: str = "p"
) -> Compiled:
    """Turn a condition into SQL.

    Args:
        condition: the tree.
        schema: where the members of its collection are.
        dialect: of the database.
        prefix: begins the names of the parameters; for several conditions in one statement.

    Raises:
        InvalidArgumentError: it would become too long; code `invalid-query`.
    """
    compiler = _Compiler(schema, dialect, prefix)
    sql = compiler.holds(condition)
    return Compiled(
        sql, compiler.params, frozenset(compiler.tables), tuple(compiler.lookups(condition))
    )


def compile_path(path: Path, schema: Schema, dialect: Dialect = SQLITE) -> Selected:
    """Turn a path into SQL for what is selected, grouped or computed."""
    compiler = _Compiler(schema, dialect, "p")
    term = compiler.term(path)
    return Selected(
        term.type,
        term.value,
        term.only(Kind.NUMBER),
        f"COALESCE({term.only(Kind.NUMBER)}, {term.only(Kind.STRING)})",
        frozenset(compiler.tables),
        compiler.is_whole(path),
    )


class _Term(Struct, frozen=True):
    """An expression as SQL.

    Attributes:
        kinds: what it can be, besides undefined.
        value: SQL; NULL when it is undefined, or null where that is one of several kinds.
        type: SQL for the name of its type; NULL when it is undefined.
        constant: its value if it is known.
        document: JSON and path of an array in a document.
        single: the only element of an array that can have one, as SQL.
    """

    kinds: frozenset[Kind]
    value: str
    type: str
    constant: Any = UNDEFINED
    document: tuple[str, tuple[str | int, ...]] | None = None
    single: str = ""

    def only(self, kind: Kind) -> str:
        """Return SQL for the value if it is of a kind, NULL otherwise."""
        if kind not in self.kinds:
            return "NULL"
        if len(self.kinds) == 1 or self.kinds == {kind, Kind.NULL}:
            return self.value
        if kind is Kind.BOOLEAN:
            return f"CASE {self.type} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"
        return f"CASE WHEN {TYPES[kind].test(self.type)} THEN {self.value} END"

    def is_kind(self, kind: Kind) -> str:
        """Return SQL that tells whether the value is of a kind: 1 or 0, never NULL."""
        if kind not in self.kinds:
            return "0"
        if len(self.kinds) == 1:
            return f"{self.value} IS NOT NULL"
        return f"COALESCE({TYPES[kind].test(self.type)}, 0)"


_EVERY: Final = frozenset(TYPES)
_INDEXED: Final = frozenset({str, int, float, bool})
_NOTHING: Final = _Term(frozenset(), "NULL", "NULL")


def _static(kind: Kind, value: str, constant: Any = UNDEFINED) -> _Term:
    """Return a term of a known kind."""
    name = TYPES[kind].names[0]
    if kind is Kind.BOOLEAN:
        return _Term(
            frozenset({kind}),
            value,
            f"CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END",
            constant,
        )
    type_ = f"CASE WHEN {value} IS NOT NULL THEN '{name}' END"
    return _Term(frozenset({kind}), value, type_, constant)


@final
class _Compiler:
    def __init__(self, schema: Schema, dialect: Dialect, prefix: str) -> None:
        self._schema = schema
        self._dialect = dialect
        self._prefix = prefix
        self._names: dict[tuple[type, Any], str] = {}
        self.params: dict[str, Any] = {}
        self.tables: set[str] = set()

    # -- conditions ----------------------------------------------------------------------------

    def holds(self, node: Expression, wanted: bool = True) -> str:  # noqa: FBT001, FBT002 - polarity
        """Return SQL that is true exactly when the expression is the boolean that is wanted."""
        match node:
            case Not(operand):
                return self.holds(operand, not wanted)
            case Logical(operator, operands):
                joint = "AND" if (operator == "AND") is wanted else "OR"
                return _joined(joint, [self.holds(each, wanted) for each in operands])
            case Comparison(symbol, left, right):
                symbol = symbol if wanted else COMPLEMENT[symbol]
                return self._compared(symbol, self.term(left), self.term(right))
            case Membership(operand, elements, negated):
                return self._among(self.term(operand), elements, wanted=negated is not wanted)
            case Call("ARRAY_CONTAINS", (array, value)):
                return self._contained(self.term(array), self.term(value), wanted=wanted)
            case Call(name, arguments) if BY_NAME[name].tests:
                term = self.term(arguments[0])
                kinds = BY_NAME[name].tests & term.kinds
                found = _joined("OR", [term.is_kind(kind) for kind in _EVERY if kind in kinds])
                return found if wanted else f"NOT {found}"
            case Call(name, arguments) if BY_NAME[name].gives is Kind.BOOLEAN:
                found = self._called(name, arguments)
                return _checked(f"({found})" if wanted else f"NOT ({found})")
        term = self.term(node)
        return f"{term.only(Kind.BOOLEAN)} = {int(wanted)}" if Kind.BOOLEAN in term.kinds else "0"

    def lookups(self, condition: Expression) -> list[Lookup]:
        """Return the equalities that every match meets."""
        match condition:
            case Logical("AND", operands):
                return [found for each in operands for found in self.lookups(each)]
            case Comparison("=", Path() as path, Constant(value)):
                return self._lookup(path, value, Document | Scalar)
            case Comparison("=", Constant(value), Path() as path):
                return self._lookup(path, value, Document | Scalar)
            case Call("ARRAY_CONTAINS", (Path() as path, Constant(value))):
                return self._lookup(path, value, Single)
        return []

    def _lookup(self, path: Path, value: Any, among: type | UnionType) -> list[Lookup]:
        column, rest = self._column(path)
        if column is None or not isinstance(column, among) or type(value) not in _INDEXED:
            return []
        if isinstance(column, Document):
            expression = self._dialect.value(column.column, rest)
            return [Lookup(column.table, expression, column.column)]
        name = column.sql.removeprefix(f"{column.table}.")
        return [Lookup(column.table, name, None)] if name.isidentifier() and not rest else []

    def _compared(self, symbol: str, left: _Term, right: _Term) -> str:
        choices: list[str] = []
        for kind in sorted(left.kinds & right.kinds & PRIMITIVE):
            if kind is Kind.NULL:
                if symbol in HOLDS_FOR_NULL:
                    choices.append(f"({left.is_kind(kind)} AND {right.is_kind(kind)})")
            elif symbol == "=":
                choices.append(self._equal(kind, left, right))
            else:
                choices.append(f"({left.only(kind)} {symbol} {right.only(kind)})")
        return _checked(_joined("OR", choices))

    def _equal(self, kind: Kind, left: _Term, right: _Term) -> str:
        if left.constant is not UNDEFINED:
            left, right = right, left
        if right.constant is UNDEFINED or len(left.kinds) == 1:
            return f"({left.only(kind)} = {right.only(kind)})"
        # The plain value, for an index; it may be equal though its kind is another.
        plain = f"{left.value} = {right.value}"
        if kind is Kind.BOOLEAN:
            return f"({plain} AND {left.only(kind)} = {right.value})"
        if not _ambiguous(kind, right.constant):
            return f"({plain})"
        return f"({plain} AND {left.is_kind(kind)})"

    def _among(self, term: _Term, elements: Sequence[Any], *, wanted: bool) -> str:
        choices: list[str] = []
        for kind in sorted(term.kinds & PRIMITIVE):
            same = [element for element in elements if kind_of(element) is kind]
            if not same:
                continue
            if kind is Kind.NULL:
                if wanted:
                    choices.append(f"({term.is_kind(kind)})")
                continue
            values = ", ".join(self._bound(kind, element) for element in same)
            plain = kind is not Kind.BOOLEAN and not any(_ambiguous(kind, one) for one in same)
            value = term.value if wanted and plain else term.only(kind)
            choices.append(f"({value} {'IN' if wanted else 'NOT IN'} ({values}))")
        return _checked(_joined("OR", choices))

    def _contained(self, array: _Term, value: _Term, *, wanted: bool) -> str:
        kinds = sorted(value.kinds & PRIMITIVE)
        present = _joined("OR", [value.is_kind(kind) for kind in kinds])
        if array.document is not None:
            source = self._dialect.elements(*array.document)
            equal = _joined("OR", [f"({_element(kind, value)})" for kind in kinds])
            found = f"EXISTS (SELECT 1 FROM {source} e WHERE {equal})"  # noqa: S608 - made here
            return _checked(
                f"({array.is_kind(Kind.ARRAY)} AND {present} AND "
                f"{found if wanted else f'NOT {found}'})"
            )
        if array.single:
            found = f"({array.single} = {value.only(Kind.STRING)})"
        elif isinstance(array.constant, tuple):
            found = self._among(value, array.constant, wanted=True)
        else:
            return "0"
        return found if wanted else _checked(f"({present} AND NOT COALESCE({found}, 0))")

    # -- values --------------------------------------------------------------------------------

    def is_whole(self, path: Path) -> bool:
        """Tell whether all of what stands at the path comes from one column."""
        column, _ = self._column(path)
        length = len(path.names)
        has_parts = any(
            len(names) > length and names[:length] == path.names for names in self._schema
        )
        return not has_parts and not isinstance(column, Single)

    def term(self, node: Expression) -> _Term:
        """Return an expression as SQL."""
        match node:
            case Path():
                return self._found(node)
            case Constant(value):
                return self._constant(value)
            case Arithmetic(symbol, left, right):
                sides = [self.term(each).only(Kind.NUMBER) for each in (left, right)]
                return _static(Kind.NUMBER, _checked(self._dialect.arithmetic(symbol, *sides)))
            case Call(name, arguments) if BY_NAME[name].gives is not Kind.BOOLEAN:
                return _static(BY_NAME[name].gives, self._called(name, arguments))
        yes, no = self.holds(node), self.holds(node, wanted=False)
        return _static(Kind.BOOLEAN, _checked(f"CASE WHEN {yes} THEN 1 WHEN {no} THEN 0 END"))

    def _called(self, name: str, arguments: tuple[Expression, ...]) -> str:
        function = BY_NAME[name]
        given: list[str] = []
        for index, argument in enumerate(arguments):
            (kind,) = function.takes_at(index)
            sql = self.term(argument).only(kind)
            given.append(f"CAST({sql} AS REAL)" if kind is Kind.NUMBER else sql)
        return _checked(self._dialect.call(function, given))

    def _constant(self, value: Any) -> _Term:
        if value is UNDEFINED:
            return _NOTHING
        if isinstance(value, tuple):
            return _static(Kind.ARRAY, "1", value)
        kind = kind_of(value)
        if kind is Kind.NULL:
            return _static(kind, "1", None)
        return _static(kind, self._bound(kind, value), value)

    def _bound(self, kind: Kind, value: Any) -> str:
        if kind is Kind.BOOLEAN:
            return str(int(value))
        key = (type(value), value)
        name = self._names.setdefault(key, f"{self._prefix}{len(self._names)}")
        self.params[name] = value
        return f":{name}"

    def _found(self, path: Path) -> _Term:
        column, rest = self._column(path)
        if column is None:
            start = tuple(path.names)
            inner = any(names[: len(start)] == start for names in self._schema)
            return _static(Kind.OBJECT, "1") if inner else _NOTHING
        self.tables.add(column.table)
        match column:
            case Document(table, name):
                document = f"{table}.{name}"
                value = self._dialect.value(document, rest)
                kind = self._dialect.type(document, rest)
                return _Term(_EVERY, value, kind, document=(document, rest))
            case _ if rest:
                return _NOTHING
            case Scalar(_, sql, kind, null):
                term = _static(kind, f"({sql})")
                if not null:
                    return term
                kinds = frozenset({kind, Kind.NULL})
                return _Term(kinds, term.value, f"COALESCE({term.type}, 'null')")
            case Single(_, sql):
                return _Term(frozenset({Kind.ARRAY}), "1", "'array'", single=sql)

    def _column(self, path: Path) -> tuple[Column | None, tuple[str | int, ...]]:
        for length in range(len(path.names), 0, -1):
            column = self._schema.get(path.names[:length])
            if column is not None:
                return column, path.names[length:]
        return None, ()


def _element(kind: Kind, value: _Term) -> str:
    """Return SQL that compares an element `e` of an array with a value."""
    if kind is Kind.NULL:
        return f"e.type = 'null' AND {value.is_kind(kind)}"
    if kind is Kind.BOOLEAN:
        return f"e.type = CASE {value.only(kind)} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
    return f"{TYPES[kind].test('e.type')} AND e.value = {value.only(kind)}"


def _ambiguous(kind: Kind, constant: Any) -> bool:
    """Tell whether something of another kind can look like a constant in SQL."""
    # Booleans are 1 and 0, objects and arrays are their text.
    if kind is Kind.NUMBER:
        return constant in {0, 1}
    return str(constant)[:1] in {"{", "["}


def _joined(operator: str, parts: list[str]) -> str:
    """Join conditions as a balanced tree: the depth of an expression is limited."""
    if not parts:
        return "0"
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_joined(operator, parts[:middle])} {operator} {_joined(operator, parts[middle:])})"


def _checked(sql: str) -> str:
    if len(sql) > MAX_SQL:
        raise InvalidArgumentError("The condition is too complex.", code="invalid-query")
    return sql
