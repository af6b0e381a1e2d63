"""Who is below whom, as an edge hub knows it (edge.md 6.4, 6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.clock import ManualClock
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.members import Member, Members, local, of_page, page_of
from muster.edge.hub.scope import ASK_AGAIN_S, Scope
from muster.edge.upstream.authentication import Authentication, Keys
from muster.edge.upstream.device_scope import (
    ScopeCapabilities,
    ScopeDevice,
    ScopeModule,
    ScopePage,
)
from muster.edge.upstream.errors import RefusedError, UnreachableError
from muster.store.sqlite import SqliteEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SAS = Authentication(type="sas", symmetric_key=Keys("AA==", "AQ=="))


def edge(name: str, above: str = "", status: str = "enabled") -> ScopeDevice:
    return ScopeDevice(
        device_id=name,
        generation_id="1",
        status=status,
        device_scope=f"scope-{name}",
        parent_scopes=[f"scope-{above}"] if above else [],
        capabilities=ScopeCapabilities(iot_edge=True),
        authentication=SAS,
    )


def leaf(name: str, above: str) -> ScopeDevice:
    # As hubs that know of one level tell it.
    return ScopeDevice(device_id=name, device_scope=f"scope-{above}", authentication=SAS)


def module(device: str, name: str) -> ScopeModule:
    return ScopeModule(device_id=device, module_id=name, authentication=SAS)


def site(status: str = "enabled") -> Members:
    """Return what `p` knows: `c` is below it, and `g` below that."""
    made = Members("p")
    page = ScopePage(
        devices=[
            *(leaf("l", "g"), edge("g", "c"), edge("c", "p", status), leaf("m", "p")),
            *(edge("p", "top"), leaf("stray", "elsewhere")),
        ],
        modules=[module("c", "x"), module("p", "x")],
    )
    made.put(of_page(page).values())
    return made


@pytest.mark.parametrize(
    ("ref", "chain"),
    [
        (local("p"), "p"),
        (local("p", "$edgeHub"), "p/$edgeHub;p"),
        (local("c"), "c;p"),
        (local("c", "x"), "c/x;c;p"),
        (local("c", "unknown"), "c/unknown;c;p"),
        (local("g"), "g;c;p"),
        (local("l"), "l;g;c;p"),
        (local("m"), "m;p"),
        (local("stray"), None),
        (local("nobody"), None),
    ],
)
def test_chains_lead_up_to_this_device(ref, chain):
    assert site().auth_chain(ref) == chain


def test_nobody_speaks_through_a_device_that_is_disabled():
    members = site("disabled")
    for ref in (local("c"), local("c", "x"), local("g"), local("l")):
        assert members.auth_chain(ref) is None
        assert members.lineage(ref)[-1] == "p"
    assert members.auth_chain(local("m")) == "m;p"


def test_who_is_below_and_who_is_in_a_scope():
    members = site()
    assert members.below("c") == {local("c"), local("c", "x"), local("g"), local("l")}
    assert [each.device_id for each in members.scope_of("p")] == ["c", "m", "p"]
    assert [each.device_id for each in members.scope_of("g")] == ["g", "l"]
    assert members.scope_of("nobody") == []
    assert [each.ref for each in members.modules_of({"c", "g"})] == [local("c", "x")]
    # A device without a scope of its own has nobody below it.
    assert [each.device_id for each in members.scope_of("m")] == ["m"]


def test_devices_above_each_other_have_no_chain():
    members = Members("p")
    page = ScopePage(devices=[edge("p"), edge("a", "b"), edge("b", "a")])
    members.put(of_page(page).values())
    assert members.auth_chain(local("a")) is None
    assert members.below("a") == set()


def test_a_device_that_moved_is_below_the_new_one_only():
    members = site()
    members.put(of_page(ScopePage(devices=[edge("g", "p")])).values())
    assert members.auth_chain(local("l")) == "l;g;p"
    members.drop(local("g"))
    assert members.auth_chain(local("l")) is None


NAMES = st.sampled_from("abcdef")


@given(
    st.lists(
        st.builds(
            lambda name, iot_edge, enabled, above, keys: Member(
                device_id=name,
                generation_id="1",
                enabled=enabled,
                kind="sas" if keys else "none",
                keys=keys,
                iot_edge=iot_edge,
                scope=f"scope-{name}" if iot_edge else "",
                parent=above and f"scope-{above}",
            ),
            NAMES,
            st.booleans(),
            st.booleans(),
            st.one_of(st.just(""), NAMES),
            st.sampled_from([(), ("AA==",), ("AA==", "AQ==")]),
        )
    )
)
def test_what_is_told_is_what_is_known_and_chains_end(devices):
    members = Members("a")
    members.put(devices)
    modules = [Member(device_id=each.device_id, module_id="m") for each in devices[:2]]
    told = page_of(devices, modules)
    assert of_page(told) == {each.ref: each for each in [*devices, *modules]}
    for name in "abcdef":
        names = members.lineage(local(name))
        assert len(names) == len(set(names)) <= 6
        assert not names or (names[0], names[-1]) == (name, "a")


class Hub:
    """Knows `page`, of which it tells what a chain leads to."""

    def __init__(self) -> None:
        self.page = ScopePage(devices=[edge("p")])
        self.asked: list[tuple[str, str | None]] = []
        self.reachable = True
        self.shut = False

    async def pages(self, auth_chain: str | None = None) -> AsyncIterator[ScopePage]:
        self.asked.append(("*", auth_chain))
        if not self.reachable:
            raise UnreachableError("no link")
        if self.shut:
            raise RefusedError("disabled", status=403)
        yield self.page

    async def one(
        self, device_id: str, module_id: str | None = None, auth_chain: str | None = None
    ) -> ScopePage:
        ref = local(device_id, module_id or "")
        self.asked.append((ref.text, auth_chain))
        if not self.reachable:
            raise UnreachableError("no link")
        found = of_page(self.page)
        if ref not in found:
            raise RefusedError("not in the scope", status=404)
        return page_of([found[local(device_id)]], [found[ref]] if module_id else [])


class Parts:
    def __init__(self, engine: SqliteEngine) -> None:
        self.hub, self.clock, self.gone = Hub(), ManualClock(), list[str]()
        self.scope = Scope(
            "p", engine, self.hub, self.clock, lambda ref: self.gone.append(ref.text)
        )


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    engine = await SqliteEngine.open(tmp_path / FILE_NAME, PROFILE)
    yield Parts(engine)
    await engine.close()


async def test_each_is_asked_for_where_it_is(parts):
    hub, scope = parts.hub, parts.scope
    hub.page = ScopePage(
        devices=[edge("p"), edge("c", "p"), leaf("l", "c")],
        modules=[module("c", "x"), module("p", "x")],
    )
    await scope.refresh()
    for ref in (local("l"), local("c", "x"), local("c"), local("p", "x"), local("p")):
        assert await scope.ask(ref)
    # A device below asks for one that nobody knows here.
    assert await scope.ask(local("new"), "c")
    assert hub.asked[1:] == [
        *(("l", "c;p"), ("c/x", "c;p"), ("c", "p"), ("p/x", "p"), ("p", None)),
        ("new", "c;p"),
    ]


async def test_with_a_new_edge_device_come_those_below_it(parts):
    hub, scope = parts.hub, parts.scope
    await scope.refresh()
    hub.page = ScopePage(
        devices=[edge("p"), edge("c", "p"), leaf("l", "c")], modules=[module("c", "x")]
    )
    assert await scope.ask(local("c"))
    assert hub.asked == [("*", None), ("c", None), ("*", "c;p")]
    assert scope.auth_chain(local("l")) == "l;c;p"
    assert scope.find(local("c", "x")) is not None


async def test_nobody_is_forgotten_because_another_device_asks(parts):
    hub, scope = parts.hub, parts.scope
    page = ScopePage(devices=[edge("p"), edge("c", "p"), leaf("l", "c"), leaf("m", "p")])
    hub.page = page
    await scope.refresh()
    hub.page = ScopePage(devices=[edge("c", "p")])
    for name in ("m", "p", "nobody", "l"):
        assert await scope.ask(local(name), "c")
    assert set(scope.names()) == {local(name) for name in "pcm"}
    assert parts.gone == ["l"]


async def test_a_question_of_a_device_below_is_another_one(parts):
    hub, scope = parts.hub, parts.scope
    hub.page = ScopePage(devices=[edge("p"), edge("c", "p")])
    await scope.refresh()
    for _ in range(2):
        await scope.ask(local("new"), "c")
        await scope.ask(local("new"))
    assert hub.asked[1:] == [("new", "c;p"), ("new", None)]
    # What has changed may be asked for at once.
    scope.outdated(local("new"))
    assert await scope.ask(local("new"))
    assert await scope.ask(local("new"), "c")


async def test_a_new_edge_device_is_known_though_nothing_is_told_of_those_below_it(parts):
    hub, scope = parts.hub, parts.scope
    await scope.refresh()
    hub.page = ScopePage(devices=[edge("p"), edge("c", "p")])
    hub.shut = True
    assert await scope.ask(local("c"))
    assert hub.asked[1:] == [("c", None), ("*", "c;p")]
    assert scope.auth_chain(local("c")) == "c;p"


async def test_a_scope_below_is_renewed_and_nothing_beside_it(parts):
    hub, scope = parts.hub, parts.scope
    hub.page = ScopePage(
        devices=[edge("p"), edge("c", "p"), leaf("l", "c"), leaf("m", "p")],
        modules=[module("c", "x")],
    )
    await scope.refresh()
    hub.page = ScopePage(devices=[edge("c", "p"), leaf("n", "c")])
    await scope.renew("c")
    assert hub.asked[1:] == [("*", "c;p")]
    assert set(scope.names()) == {local(name) for name in "pcmn"}
    assert sorted(parts.gone) == ["c/x", "l"]
    # Not again at once, and nothing is forgotten where nobody answers.
    await scope.renew("c")
    parts.clock.advance(ASK_AGAIN_S)
    hub.reachable = False
    await scope.renew("c")
    await scope.renew("stranger")
    assert len(hub.asked) == 3
    assert set(scope.names()) == {local(name) for name in "pcmn"}


async def test_pages_of_a_scope(parts):
    hub, scope = parts.hub, parts.scope
    leaves = [leaf(f"l{number}", "c") for number in range(5)]
    hub.page = ScopePage(
        devices=[edge("p"), edge("c", "p"), *leaves],
        modules=[module("c", "x"), module("l4", "y")],
    )
    await scope.refresh()
    found, modules, after = [], [], ""
    while after is not None:
        page = scope.page("c", 4, after)
        found += [each.device_id for each in page.devices]
        modules += [each.module_id for each in page.modules]
        after = page.continuation_link
    assert found == ["c", "l0", "l1", "l2", "l3", "l4"]
    assert modules == ["x", "y"]
    one = scope.one(local("l4", "y"))
    assert [each.device_id for each in one.devices] == ["l4"]
    assert [each.module_id for each in one.modules] == ["y"]
    nobody = scope.one(local("nobody"))
    assert (nobody.devices, nobody.modules) == ([], [])


async def test_who_asks_for_somebody_elses_takes_nothing_away(parts):
    hub, scope = parts.hub, parts.scope
    known = [edge("p"), edge("c", "p"), edge("d", "p"), leaf("l", "c")]
    hub.page = ScopePage(devices=known, modules=[module("c", "x")])
    await scope.refresh()
    hub.page = ScopePage(devices=known[:3])
    for ref, others in ((local("l"), "dp"), (local("c", "x"), "d")):
        for other in others:
            parts.clock.advance(ASK_AGAIN_S)
            assert await scope.ask(ref, other)
            assert scope.find(ref) is not None
        parts.clock.advance(ASK_AGAIN_S)
        assert await scope.ask(ref, "c")
        assert scope.find(ref) is None
    assert parts.gone == ["l", "c/x"]
