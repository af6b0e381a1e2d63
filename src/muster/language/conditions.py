"""Conditions that are kept: of deployments and configurations, and of jobs.

Devices are chosen by what stands behind WHERE, modules by `FROM devices.modules WHERE …`
(hub-service.md 5.2).
"""

from __future__ import annotations

from typing import Final, final

from muster.errors import InvalidArgumentError
from muster.language import collections
from muster.language.collections import Collection
from muster.language.evaluate import predicate
from muster.language.lexer import Token, tokens, wrong
from muster.language.parser import condition_of
from muster.language.tree import TRUE, Expression, paths

_PREFIXES: Final = (collections.MODULES, collections.DEVICES)


@final
class Condition:
    """What chooses devices or modules.

    Attributes:
        collection: `DEVICES` or `MODULES`.
        expression: `TRUE` for all of them.
        holds: tells whether a document (the twin as services see it) is chosen.
    """

    __slots__ = ("collection", "expression", "holds")

    def __init__(self, collection: Collection, expression: Expression) -> None:
        self.collection = collection
        self.expression = expression
        self.holds = predicate(expression)

    @property
    def unknown_names(self) -> list[str]:
        """Names no twin has at its top: typing errors, `tag.a` for `tags.a`, that never hold."""
        return sorted(
            str(path.names[0]) for path in paths(self.expression) if not self.collection.knows(path)
        )


def parse_job(text: str) -> Condition:
    """Read the `queryCondition` of a job: `*`, a condition, or one behind `FROM … WHERE`.

    Raises:
        InvalidArgumentError: it is not one, or empty; code `invalid-query`.
    """
    found = tokens(text)
    if [each.text for each in found] == ["*", ""]:
        return Condition(collections.DEVICES, TRUE)
    collection, rest = _behind_from(found)
    return Condition(collection, condition_of(rest, collection.path, collection.knows))


def parse_target(text: str, collection: Collection = collections.DEVICES) -> Condition | None:
    """Read the target condition of a deployment or configuration.

    Args:
        text: the condition.
        collection: what the content is for, `DEVICES` or `MODULES`.

    Returns:
        The condition; `None` for an empty one, which targets nothing.

    Raises:
        InvalidArgumentError: it is not one; code `invalid-target-condition`.
    """
    if not text.strip():
        return None
    try:
        condition = parse_job(text)
    except InvalidArgumentError as error:
        raise _unfit(error.message) from None
    if condition.collection is not collection:
        if collection is collections.MODULES:
            raise _unfit("It must begin with 'FROM devices.modules WHERE'.")
        raise _unfit("Devices are targeted, not modules: leave out FROM and WHERE.")
    return condition


def _behind_from(found: list[Token]) -> tuple[Collection, list[Token]]:
    if found[0].word != "FROM":
        return collections.DEVICES, found
    for collection in _PREFIXES:
        if found[1].text.lower() == collection.name and found[2].word == "WHERE":
            return collection, found[3:]
    raise wrong("expected 'FROM devices.modules WHERE'", found[0].position)


def _unfit(text: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"Target condition: {text}", code="invalid-target-condition")
