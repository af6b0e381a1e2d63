"""JSON of others: one error for every kind of nonsense."""

from __future__ import annotations

import subprocess
import sys

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


PROGRAM = """
import sys, threading
import msgspec
from muster.edge import foreign_json

sys.setswitchinterval(1e-6)
for _ in range(200):
    inner = msgspec.defstruct("Inner", [("x", int | None, None), ("y", dict[str, int], {})])
    outer = msgspec.defstruct("Outer", [("many", list[inner]), ("one", inner)])
    barrier = threading.Barrier(3)
    found = []

    def decode():
        barrier.wait()
        found.append(foreign_json.decode(b'{"many": [{"x": 1}], "one": {"x": 2}}', outer))

    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.one.x for each in found] == [2, 2, 2], found
"""


def test_threads_that_meet_a_type_at_the_same_moment() -> None:
    # In a process of its own: what went wrong was its end.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
