"""Random twins and random conditions over the few names that they have."""

from __future__ import annotations

from hypothesis import strategies as st

from muster.language.collections import DEVICES
from muster.language.functions import BY_NAME, TABLE, Function
from muster.language.tree import (
    Arithmetic,
    Call,
    Comparison,
    Constant,
    Logical,
    Membership,
    Not,
)
from muster.language.values import UNDEFINED, Kind

NAMES = ("a", "b", "long name", "it's", "ä", "NOT")
TEXTS = ["", "a", "A", "ab", "abc", "true", "1", "5", "{}", "[]", "it's", 'q"\\', "ä💧"]
texts = st.sampled_from(TEXTS)
NUMBERS = [0, 1, -1, 2, 5, 0.5, 1.0, 2.5, -7, 1e6, 2**52 - 1]
numbers = st.sampled_from(NUMBERS)
scalars = st.one_of(texts, numbers, st.booleans())
constants = st.one_of(scalars, scalars, st.sampled_from([None, UNDEFINED]))

documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(st.one_of(scalars, inner), max_size=3),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    ),
    max_leaves=8,
)
tags = st.one_of(
    st.dictionaries(st.sampled_from(NAMES[:3]), scalars, min_size=2),
    st.dictionaries(st.sampled_from(NAMES), documents, max_size=4),
)

_steps = st.one_of(st.sampled_from(NAMES), st.sampled_from([0, 1]))
_inside = st.lists(_steps, min_size=1, max_size=2).map(tuple)
_system = st.sampled_from(
    [
        ("deviceId",),
        ("status",),
        ("statusReason",),
        ("capabilities", "iotEdge"),
        ("capabilities",),
        ("parentScopes",),
        ("deviceScope",),
        ("tags",),
        ("nonsense",),
        ("deviceId", "a"),
        ("version",),
    ]
)
paths = st.one_of(
    st.builds(lambda inside: ("tags", *inside), _inside),
    st.builds(lambda inside: ("tags", *inside), _inside),
    _system,
).map(DEVICES.path)

_NAMED = st.sampled_from(NAMES[:3]).map(lambda name: DEVICES.path(("tags", name)))
_FITTING = {
    Kind.STRING: st.one_of(_NAMED, st.builds(Constant, texts)),
    Kind.NUMBER: st.one_of(_NAMED, st.builds(Constant, numbers)),
}


def _fitting(function: Function):
    """Calls of which the constant arguments are of the kinds the function takes."""
    anything = st.one_of(_NAMED, st.builds(Constant, scalars))
    arguments = [
        _FITTING.get(next(iter(kinds)), anything) if len(kinds) == 1 else anything
        for kinds in function.takes[: function.least]
    ]
    return st.tuples(*arguments).map(lambda given: Call(function.name, given))


# Parts that often are true of something, where purely random ones hardly ever are.
typical = st.one_of(
    st.builds(
        Comparison,
        st.sampled_from(["=", "!=", "<", ">="]),
        _NAMED,
        st.one_of(_NAMED, st.builds(Constant, scalars)),
    ),
    st.builds(
        Membership, _NAMED, st.lists(scalars, min_size=1, max_size=4).map(tuple), st.booleans()
    ),
    st.sampled_from(TABLE)
    .flatmap(_fitting)
    .map(
        lambda call: (
            call
            if BY_NAME[call.name].gives is Kind.BOOLEAN
            else Comparison(
                "=" if BY_NAME[call.name].gives is Kind.STRING else ">=",
                call,
                Constant("a" if BY_NAME[call.name].gives is Kind.STRING else 1),
            )
        )
    ),
)


def _calls(inner):
    def of(function: Function):
        count = len(function.takes)
        return st.integers(function.least, count + function.endless).flatmap(
            lambda given: st.tuples(*[inner] * given).map(
                lambda arguments: Call(function.name, arguments)
            )
        )

    return st.sampled_from(TABLE).flatmap(of)


def _extend(inner):
    return st.one_of(
        st.builds(Not, inner),
        st.builds(
            Logical,
            st.sampled_from(["AND", "OR"]),
            st.lists(inner, min_size=2, max_size=3).map(tuple),
        ),
        st.builds(Comparison, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), inner, inner),
        st.builds(Membership, inner, st.lists(constants, max_size=3).map(tuple), st.booleans()),
        st.builds(Arithmetic, st.sampled_from(list("+-*/%")), inner, inner),
        _calls(inner),
    )


arrays = st.lists(constants, max_size=3).map(tuple)
expressions = st.recursive(
    st.one_of(typical, typical, typical, paths, st.builds(Constant, st.one_of(constants, arrays))),
    _extend,
    max_leaves=8,
)
