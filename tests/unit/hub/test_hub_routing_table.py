"""Where messages go: against a plain model, and in the cases that people ask about."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.hub.routing_table import RoutingTable
from muster.language.routes import Message
from muster.model.message import BUILT_IN, Delivery
from muster.model.routing import EVENTS, FALLBACK, Enrichment, Route, Source

ENDPOINTS = {EVENTS: BUILT_IN, "files": 1, "hook": 2}
JSON = {"contentType": "application/json", "contentEncoding": "utf-8"}

conditions = st.sampled_from(["true", "false", "a = '1'", "b = '1'", "NOT a = '1'", "a < b"])
names = st.lists(st.sampled_from(list(ENDPOINTS)), min_size=1, max_size=3)
routes = st.builds(
    Route,
    name=st.text("abc", min_size=1, max_size=3),
    source=st.sampled_from([source.value for source in Source]),
    condition=conditions,
    endpoint_names=names.map(tuple),
    is_enabled=st.booleans(),
)
properties = st.dictionaries(st.sampled_from("ab"), st.sampled_from("012"))


def meets(condition: str, given: dict[str, str]) -> bool:
    """What the conditions above mean, said in another way."""
    a, b = given.get("a"), given.get("b")
    return {
        "true": True,
        "false": False,
        "a = '1'": a == "1",
        "b = '1'": b == "1",
        # What is not there is neither equal nor different.
        "NOT a = '1'": a is not None and a != "1",
        "a < b": a is not None and b is not None and a < b,
    }[condition]


def model(found: list[Route], source: Source, given: dict[str, str], *, fallback: bool) -> set[int]:
    """Where a message goes, as the documentation says it."""
    goes = {
        ENDPOINTS[name]
        for route in found
        if route.is_enabled and route.source == source and meets(route.condition, given)
        for name in route.endpoint_names
    }
    if not goes and fallback and source is Source.MESSAGES:
        goes = {BUILT_IN}
    return goes


@given(st.lists(routes, max_size=6), st.sampled_from(Source), properties, st.booleans())
def test_messages_go_where_the_model_says(
    found: list[Route],
    source: Source,
    given: dict[str, str],
    fallback: bool,  # noqa: FBT001
) -> None:
    table = RoutingTable("h", found, (), ENDPOINTS, fallback=fallback)
    message = Message(given, {}, b"")
    deliveries = table.decide(source, message)
    goes = [delivery.endpoint for delivery in deliveries]
    wanted = model(found, source, given, fallback=fallback)
    assert sorted(goes) == sorted(wanted)
    assert not any(delivery.enrichments for delivery in deliveries)
    # A table that calls itself plain is one.
    if table.plain:
        assert deliveries == ((Delivery(BUILT_IN),) if source is Source.MESSAGES else ())
    if wanted:
        assert source in table.sources
    if wanted - {BUILT_IN}:
        assert table.custom
    # What is told agrees with what is done.
    told = table.explain(source, message)
    assert {
        ENDPOINTS[name] for each in told if each.matches for name in each.endpoint_names
    } == wanted
    assert all(each.reasons or each.sentence for each in told)
    assert [each.route for each in told] == [*(route.name for route in found), FALLBACK]


def enriched(value: str, twin: dict[str, Any] | None) -> str:
    table = RoutingTable(
        "plant-a",
        (),
        [Enrichment(key="k", value=value, endpoint_names=(EVENTS, EVENTS))],
        ENDPOINTS,
        fallback=True,
    )
    (delivery,) = table.decide(Source.MESSAGES, Message({}, {}, b"", twin))
    return delivery.enrichments


def test_values_of_enrichments() -> None:
    twin = {
        "tags": {"site": "x y", "n": 7, "place": {"hall": "3"}},
        "properties": {"desired": {"on": True}, "reported": {}},
    }
    assert enriched("fixed", twin) == "k=fixed"
    assert enriched("$IoTHubName", twin) == "k=plant-a"
    assert enriched("$twin.tags.site", twin) == "k=x%20y"
    assert enriched("$Twin.Tags.place.hall", twin) == "k=3"
    assert enriched("$twin.tags.n", twin) == "k=7"
    assert enriched("$twin.tags.place", twin) == "k=%7B%22hall%22%3A%223%22%7D"
    assert enriched("$twin.properties.desired.on", twin) == "k=true"
    # What is missing shows as what was asked for.
    assert enriched("$twin.tags.none", twin) == "k=%24twin.tags.none"
    assert enriched("$twin.tags.site", None) == "k=%24twin.tags.site"


def test_enrichments_are_for_their_endpoints_only() -> None:
    table = RoutingTable(
        "h",
        [Route(name="r", endpoint_names=(EVENTS, "hook"))],
        [
            Enrichment(key="a", value="1", endpoint_names=("hook",)),
            Enrichment(key="b", value="2", endpoint_names=("hook", "files")),
        ],
        ENDPOINTS,
        fallback=True,
    )
    assert table.decide(Source.MESSAGES, Message({}, {}, b"")) == (
        Delivery(BUILT_IN),
        Delivery(2, "a=1&b=2"),
    )


@pytest.mark.parametrize(
    ("route", "enrichment", "needs"),
    [
        ("true", "x", False),
        ("$twin.tags.a = 1", "x", True),
        ("$body.twin = 1", "x", False),
        ("true", "$twin.tags.a", True),
    ],
)
def test_twins_are_needed_only_where_something_asks(
    route: str, enrichment: str, *, needs: bool
) -> None:
    table = RoutingTable(
        "h",
        [Route(name="r", condition=route, endpoint_names=("hook",))],
        [Enrichment(key="k", value=enrichment, endpoint_names=("hook",))],
        ENDPOINTS,
        fallback=True,
    )
    assert table.needs_twin == (frozenset({Source.MESSAGES}) if needs else frozenset())


def test_why_a_route_does_not_match() -> None:
    table = RoutingTable(
        "h",
        [
            Route(name="hot", condition="$body.t > 80", endpoint_names=("hook",)),
            Route(name="off", is_enabled=False),
            Route(name="born", source=Source.LIFECYCLE.value),
        ],
        (),
        ENDPOINTS,
        fallback=False,
    )
    told = table.explain(Source.MESSAGES, Message({}, JSON, b'{"t": "90"}'))
    assert [(each.route, each.matches, each.sentence) for each in told] == [
        ("hot", False, ""),
        ("off", False, "It is disabled."),
        ("born", False, "It takes DeviceLifecycleEvents."),
        (FALLBACK, False, "It is disabled."),
    ]
    assert told[0].reasons[0].sentence == (
        '$body.t > 80 can be neither true nor false: $body.t is the string "90", not a number.'
    )
