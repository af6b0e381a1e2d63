"""JSON of others: one error for every kind of nonsense."""

from __future__ import annotations

import pytest

from muster.edge import foreign_json
from muster.edge.foreign_json import ForeignJsonError
from muster.edge.upstream.errors import NonsenseError
from muster.edge.upstream.http import Answer
from muster.edge.upstream.modules import RemoteModule

NONSENSE = [
    b"",
    b"{",
    b"\xff",
    b'{"a":"\xff"}',
    b'{"a":"\\ud800"}',
    b'{"a":' * 100_000,
    b'{"a":' + b"[" * 100_000,
    b'{"a":1e999}',
    b"[]",
]


@pytest.mark.parametrize("content", NONSENSE)
def test_nonsense_is_told_in_one_way(content: bytes) -> None:
    with pytest.raises(ForeignJsonError):
        foreign_json.decode(content, dict[str, object])


@pytest.mark.parametrize("content", NONSENSE)
def test_a_service_that_answers_nonsense(content: bytes) -> None:
    with pytest.raises(NonsenseError):
        Answer(200, content).read(RemoteModule)


def test_sense() -> None:
    assert foreign_json.decode(b'{"a":[1]}') == {"a": [1]}
    assert foreign_json.decode(b'{"a":[1]}', dict[str, list[int]]) == {"a": [1]}
