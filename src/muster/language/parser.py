"""Tokens to trees: recursive descent over the grammar of hub-service.md 5.1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, final

from muster.errors import InvalidArgumentError
from muster.language import collections
from muster.language.functions import BY_NAME
from muster.language.lexer import Token, tokens, wrong
from muster.language.tree import (
    TRUE,
    Aggregate,
    Arithmetic,
    Call,
    Coalesce,
    Comparison,
    Constant,
    Expression,
    Item,
    Logical,
    Membership,
    Not,
    Path,
    Query,
    walk,
)
from muster.language.values import COMPLEMENT, UNDEFINED

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.language.collections import Collection

MAX_DEPTH: Final = 24
"""Expressions inside each other."""
MAX_TOP: Final = 2**31 - 1
MAX_ITEMS: Final = 500
"""Members that are selected, and paths that are grouped by. Each may be two columns in SQL."""

_CONSTANTS: Final[dict[str, Any]] = {
    "TRUE": True,
    "FALSE": False,
    "NULL": None,
    "UNDEFINED": UNDEFINED,
}
_CLAUSES: Final = frozenset({"SELECT", "TOP", "FROM", "WHERE", "GROUP", "BY", "AS"})
_OPERATORS: Final = frozenset({"AND", "OR", "NOT", "IN", "NIN"})
RESERVED: Final = _CLAUSES | _OPERATORS | _CONSTANTS.keys()
"""Words that are no names unless they stand in [[ ]] or behind a dot."""
_CHANGES: Final = (("properties", "reported"), ("properties", "desired"), ("tags",))
AGGREGATES: Final = frozenset({"COUNT", "AVG", "SUM", "MIN", "MAX"})


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        InvalidArgumentError: it is not one; the message names the position; code `invalid-query`.
    """
    found = tokens(text)
    if found[0].kind == "end":
        raise InvalidArgumentError("The query is empty.", code="invalid-query")
    # How paths are read depends on what they are about, which stands behind them.
    collection = next(
        (_collection(found[at + 1]) for at, each in enumerate(found) if each.word == "FROM"),
        collections.DEVICES,
    )
    parser = _Parser(found, collection.path, collection.knows)
    query = parser.query(collection)
    parser.end()
    return query


def parse_condition(text: str, collection: Collection = collections.DEVICES) -> Expression:
    """Read what stands behind WHERE.

    Raises:
        InvalidArgumentError: as `parse_query`.
    """
    return condition_of(tokens(text), collection.path, collection.knows)


def condition_of(
    found: list[Token],
    name: Callable[[tuple[str | int, ...]], Path],
    knows: Callable[[Path], bool] | None = None,
    *,
    coalesce: bool = False,
    change: Path | None = None,
) -> Expression:
    """Read a condition from tokens.

    Args:
        found: the tokens.
        name: makes a path of the names in it.
        knows: tells whether a path can lead anywhere; without it every one can.
        coalesce: whether there is `??`.
        change: where a changed twin stands, which `twin_change_includes` looks into; without it
            there is no such function.

    Raises:
        InvalidArgumentError: as `parse_query`.
    """
    parser = _Parser(found, name, knows, coalesce=coalesce, change=change)
    condition = parser.condition()
    parser.end()
    return condition


def _collection(token: Token) -> Collection:
    for each in collections.ALL:
        if token.kind == "path" and token.text.lower() == each.name:
            return each
    names = ", ".join(each.name for each in collections.ALL)
    raise wrong(f"expected one of {names}, found {token}", token.position)


@final
class _Parser:
    def __init__(
        self,
        found: list[Token],
        name: Callable[[tuple[str | int, ...]], Path],
        knows: Callable[[Path], bool] | None,
        *,
        coalesce: bool = False,
        change: Path | None = None,
    ) -> None:
        self._tokens = found
        self._at = 0
        self._name = name
        self._knows = knows
        self._coalesce = coalesce
        self._change = change
        self._depth = 0

    # -- queries -------------------------------------------------------------------------------

    def query(self, collection: Collection) -> Query:
        start = self._peek().position
        self._expect_word("SELECT")
        top = None
        if self._take_word("TOP"):
            token = self._next()
            if token.kind != "number" or type(token.value) is not int:
                raise wrong(f"expected a whole number behind TOP, found {token}", token.position)
            if not 0 < token.value <= MAX_TOP:
                raise wrong("TOP must be at least 1", token.position)
            top = token.value
        items: tuple[Item, ...] = ()
        if not self._take("*"):
            items = self._several(self._item)
        self._expect_word("FROM")
        self._next()
        condition = self.condition() if self._take_word("WHERE") else TRUE
        group_by: tuple[Path, ...] = ()
        if self._take_word("GROUP"):
            self._expect_word("BY")
            group_by = self._several(self._path)
        query = Query(collection, items, top, condition, group_by)
        if collection is collections.JOBS and (items or group_by):
            raise wrong(f"of {collection.name} only * can be selected", start)
        if query.aggregates:
            _check_groups(query, start)
        return query

    def _item(self) -> Item:
        token = self._peek()
        source: Path | Aggregate
        if token.word in AGGREGATES and self._tokens[self._at + 1].text == "(":
            source = self._aggregate()
            # The real service documents no name for these.
            name = source.function.lower()
        else:
            source = self._path()
            name = str(source.names[-1])
        if self._take_word("AS"):
            alias = self._next()
            if alias.kind != "path" or len(alias.value) != 1 or alias.word in RESERVED:
                raise wrong(f"expected a name behind AS, found {alias}", alias.position)
            name = str(alias.value[0])
        return Item(source, name)

    def _aggregate(self) -> Aggregate:
        function = self._next().word
        self._expect("(")
        path = None
        if function == "COUNT":
            self._take("*")
        else:
            path = self._path()
        self._expect(")")
        return Aggregate(function, path)

    # -- conditions, from the weakest binding to the strongest -----------------------------------

    def condition(self) -> Expression:
        token = self._peek()
        condition = self._any()
        if any(depth > MAX_DEPTH for _, depth in walk(condition)):
            raise _too_deep(token)
        return condition

    def end(self) -> None:
        token = self._peek()
        if token.kind != "end":
            raise wrong(f"unexpected {token}", token.position)

    def _any(self) -> Expression:
        # Binds less than everything else, as in the language the official engine is written in.
        operands = [self._or()]
        while self._coalesce and self._take("??"):
            operands.append(self._or())
        return Coalesce(tuple(operands)) if len(operands) > 1 else operands[0]

    def _or(self) -> Expression:
        return self._joined("OR", self._and, lambda: self._take_word("OR"))

    def _and(self) -> Expression:
        # The documentation also writes `a NOT b` for `a AND NOT b` (hub-service.md 5.2).
        return self._joined(
            "AND", self._not, lambda: self._take_word("AND") or self._peek().word == "NOT"
        )

    def _joined(
        self,
        operator: Literal["AND", "OR"],
        operand: Callable[[], Expression],
        more: Callable[[], bool],
    ) -> Expression:
        first = operand()
        operands = [first]
        while more():
            operands.append(operand())
        return Logical(operator, tuple(operands)) if len(operands) > 1 else first

    def _not(self) -> Expression:
        if self._peek().word != "NOT":
            return self._comparison()
        self._enter(self._next())
        negated = Not(self._not())
        self._depth -= 1
        return negated

    def _comparison(self) -> Expression:
        left = self._text()
        token = self._peek()
        if token.kind == "symbol" and token.value in COMPLEMENT:
            self._next()
            return Comparison(token.value, left, self._text())
        negated = token.word == "NIN"
        if token.word == "NOT" and self._tokens[self._at + 1].word == "IN":
            self._next()
            negated = True
        if negated or token.word == "IN":
            self._next()
            return Membership(left, self._array(), negated)
        return left

    def _text(self) -> Expression:
        # Only conditions of routes have this operator; the lexer knows which those are.
        operands = [self._sum()]
        while self._take("||"):
            operands.append(self._sum())
        return Call("CONCAT", tuple(operands)) if len(operands) > 1 else operands[0]

    def _sum(self) -> Expression:
        return self._computed("+-", self._product)

    def _product(self) -> Expression:
        return self._computed("*/%", self._factor)

    def _computed(self, symbols: str, operand: Callable[[], Expression]) -> Expression:
        left = operand()
        while (token := self._peek()).kind == "symbol" and token.text in symbols:
            self._next()
            right = operand()
            if token.text == "-" and isinstance(right, Path):
                self._check_hyphen(token, right)
            left = Arithmetic(token.text, left, right)
        return left

    def _check_hyphen(self, minus: Token, right: Path) -> None:
        """Refuse what is meant as a name with a hyphen, and could never be anything but undefined.

        The language of twins has it in brackets (hub-service.md 5.1).
        """
        at = self._tokens.index(minus)
        before, behind = self._tokens[at - 1], self._tokens[at + 1]
        together = before.position + len(before.text) == behind.position - 1
        if self._knows is None or self._knows(right) or before.kind != "path" or not together:
            return
        first, dot, last = before.text.rpartition(".")
        name, more, rest = behind.text.partition(".")
        raise wrong(
            f"'{before.text}-{behind.text}' is a subtraction; a name with a hyphen stands in "
            f"brackets: {first}{dot}[[{last}-{name}]]{more}{rest}",
            before.position,
        )

    def _factor(self) -> Expression:
        token = self._peek()
        if self._take("("):
            self._enter(token)
            inner = self._any()
            self._expect(")")
            self._depth -= 1
            return inner
        if self._take("-") or self._take("+"):
            return self._signed(token)
        if token.text == "[":
            return Constant(self._array())
        if token.kind == "path" and token.word not in _CONSTANTS:
            if self._tokens[self._at + 1].text == "(":
                return self._call()
            return self._path()
        return Constant(self._constant())

    def _signed(self, token: Token) -> Expression:
        self._enter(token)
        operand = self._factor()
        self._depth -= 1
        if isinstance(operand, Constant) and type(operand.value) in {int, float}:
            return Constant(-operand.value) if token.text == "-" else operand
        return Arithmetic(token.text, Constant(0), operand)

    def _call(self) -> Expression:
        token = self._next()
        if token.word == "TWIN_CHANGE_INCLUDES" and self._change is not None:
            return self._changed(self._change)
        function = BY_NAME.get(token.word)
        if function is None:
            raise wrong(f"there is no function {token}", token.position)
        self._enter(token)
        self._expect("(")
        arguments = () if self._peek().text == ")" else self._many(self._any)
        self._expect(")")
        self._depth -= 1
        if not function.accepts(len(arguments)):
            raise wrong(f"it is called as {function.signature}", token.position)
        return Call(function.name, arguments)

    def _changed(self, root: Path) -> Expression:
        """Read what `twin_change_includes` looks for: there, and not removed (edge.md 6.2)."""
        self._expect("(")
        token = self._next()
        names = token.value if token.kind == "path" else ()
        inside = any(names[: len(each)] == each and len(names) > len(each) for each in _CHANGES)
        if not inside or any(isinstance(name, int) for name in names):
            raise wrong(
                "twin_change_includes takes a path in properties.reported, properties.desired or "
                f"tags, found {token}",
                token.position,
            )
        self._expect(")")
        path = Path((*root.names, *names))
        return Logical("AND", (Call("IS_DEFINED", (path,)), Not(Call("IS_NULL", (path,)))))

    def _path(self) -> Path:
        token = self._next()
        if token.kind != "path" or token.word in RESERVED:
            raise wrong(f"expected a name, found {token}", token.position)
        return self._name(token.value)

    def _array(self) -> tuple[Any, ...]:
        self._expect("[")
        elements = () if self._peek().text == "]" else self._many(self._constant)
        self._expect("]")
        return elements

    def _constant(self) -> Any:
        token = self._next()
        if token.word in _CONSTANTS:
            return _CONSTANTS[token.word]
        if token.kind in {"number", "string"}:
            return token.value
        if token.text in {"-", "+"} and self._peek().kind == "number":
            value = self._next().value
            return -value if token.text == "-" else value
        raise wrong(f"expected a value, found {token}", token.position)

    # -- tokens --------------------------------------------------------------------------------

    def _many(self, one: Callable[[], Any]) -> tuple[Any, ...]:
        found = [one()]
        while self._take(","):
            found.append(one())
        return tuple(found)

    def _several(self, one: Callable[[], Any]) -> tuple[Any, ...]:
        token = self._peek()
        found = self._many(one)
        if len(found) > MAX_ITEMS:
            raise wrong(f"more than {MAX_ITEMS} names are listed", token.position)
        return found

    def _enter(self, token: Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep(token)

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _take(self, symbol: str) -> bool:
        token = self._peek()
        taken = token.kind == "symbol" and token.text == symbol
        self._at += taken
        return taken

    def _take_word(self, word: str) -> bool:
        taken = self._peek().word == word
        self._at += taken
        return taken

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise wrong(f"expected '{symbol}', found {self._peek()}", self._peek().position)

    def _expect_word(self, word: str) -> None:
        if not self._take_word(word):
            raise wrong(f"expected {word}, found {self._peek()}", self._peek().position)


def _check_groups(query: Query, position: int) -> None:
    if not query.items:
        raise wrong("SELECT * cannot be grouped", position)
    for item in query.items:
        if isinstance(item.source, Path) and item.source not in query.group_by:
            raise wrong(f"'{item.name}' must be in GROUP BY or inside an aggregate", position)


def _too_deep(token: Token) -> InvalidArgumentError:
    return wrong(f"more than {MAX_DEPTH} expressions are inside each other", token.position)
