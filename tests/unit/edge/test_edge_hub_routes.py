"""Routes and desired properties of the edge hub (edge.md 6.1, 6.2)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.hub import desired, routes
from muster.edge.hub.routes import LOWEST_PRIORITY, UPSTREAM, Delivery, Input
from muster.errors import InvalidArgumentError
from muster.language.routes import Message

PLAIN = Message({}, {}, b"")
NAMES = st.text("abcdefgXYZ019_-", min_size=1, max_size=8)


def goes(text: str, module: str = "", output: str = "", message: Message = PLAIN) -> bool:
    path = routes.telemetry_path(module, output)
    return bool(routes.deliveries([routes.parse("r", text)], path, message))


@pytest.mark.parametrize(
    ("source", "module", "output", "matches"),
    [
        ("/messages/*", "", "", True),
        ("/messages/*", "a", "o", True),
        ("/*", "a", "", True),
        ("/messages/modules/*", "", "", False),
        ("/messages/modules/*", "a", "", True),
        ("/messages/modules/a", "a", "o", True),
        ("/messages/modules/a", "ab", "o", False),
        ("/messages/modules/a/*", "a", "", True),
        ("/messages/modules/a/outputs/*", "a", "", False),
        ("/messages/modules/a/outputs/*", "a", "o", True),
        ("/messages/modules/*/outputs/o", "b", "o", True),
        ("/messages/modules/*/outputs/o", "b", "o2", False),
        ("/messages/modules/a/outputs/o/", "a", "o", True),
        ("/Messages/Modules/A", "a", "o", True),
        ("/twinChangeNotifications", "a", "o", False),
    ],
)
def test_a_source_is_a_prefix_by_segments(source, module, output, matches):
    assert goes(f"FROM {source} INTO $upstream", module, output) is matches


def test_keywords_come_in_any_case_and_with_select():
    route = routes.parse("r", " select * from /messages/* where 1 = 1 into $UPSTREAM ;")
    assert route.sink == UPSTREAM
    route = routes.parse("r", "FROM /messages/* INTO brokeredendpoint('/modules/m/inputs/i')")
    assert route.sink == Input("m", "i")


def test_into_in_a_text_of_the_condition_ends_nothing():
    text = (
        "FROM /messages/* WHERE a = ' INTO $upstream' INTO BrokeredEndpoint(\"modules/m/inputs/i\")"
    )
    assert routes.parse("r", text).sink == Input("m", "i")
    assert goes(text, message=Message({"a": " INTO $upstream"}, {}, b""))


@pytest.mark.parametrize(
    "text",
    [
        "FROM /messages/*",
        "FROM messages INTO $upstream",
        "FROM /messages/* INTO $downstream",
        'FROM /messages/* INTO BrokeredEndpoint("/modules/m/inputs/i/x")',
        'FROM /messages/* INTO BrokeredEndpoint("/modules/m")',
        'FROM /messages/* INTO BrokeredEndpoint("/devices/m/inputs/i")',
        "FROM /messages/* WHERE INTO $upstream",
        "FROM /messages/* WHERE a = INTO $upstream",
        "FROM /messages/* WHERE nothing(a) INTO $upstream",
    ],
)
def test_what_is_no_route_is_refused(text):
    with pytest.raises(InvalidArgumentError):
        routes.parse("r", text)


def test_conditions_see_application_system_and_body():
    message = Message(
        {"Alert": "yes"},
        {"connectionModuleId": "m", "contentType": "application/json", "contentEncoding": "utf-8"},
        b'{"machine": {"temperature": 31}}',
    )
    for condition, holds in [
        ("alert = 'yes'", True),
        ("$connectionModuleId = 'm'", True),
        ("NOT IS_DEFINED($connectionModuleId)", False),
        ("$body.machine.temperature > 30", True),
        ("$body.machine.temperature > 31", False),
        ("missing = 1", False),
    ]:
        text = f"FROM /messages/* WHERE {condition} INTO $upstream"
        assert goes(text, message=message) is holds, condition


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ("twin_change_includes(properties.reported.a)", True),
        ("twin_change_includes(properties.reported.a.b)", True),
        ("twin_change_includes(properties.reported.b)", False),
        ("twin_change_includes(tags.a)", False),
    ],
)
def test_changes_of_twins_are_asked_what_they_include(condition, matches):
    route = routes.parse("r", f"FROM /twinChangeNotifications WHERE {condition} INTO $upstream")
    system = {"contentType": "application/json", "contentEncoding": "utf-8"}
    message = Message({}, system, b'{"properties": {"reported": {"a": {"b": 1}, "$version": 2}}}')
    path = routes.twin_change_path()
    assert bool(routes.deliveries([route], path, message)) is matches


def test_what_may_be_no_change_of_a_twin_is_not_asked():
    text = "WHERE twin_change_includes(properties.reported.a) INTO $upstream"
    for source in ("/*", "/messages/*"):
        with pytest.raises(InvalidArgumentError, match="no function"):
            routes.parse("r", f"FROM {source} {text}")


def test_each_sink_gets_a_message_once_by_its_first_route_in_priority():
    found = [
        routes.parse("a", "FROM /messages/* INTO $upstream", priority=5, ttl_s=5),
        routes.parse("b", "FROM /* INTO $upstream", priority=1, ttl_s=1),
        routes.parse("c", "FROM /* WHERE no = 1 INTO $upstream", priority=0),
        routes.parse("d", 'FROM /* INTO BrokeredEndpoint("/modules/m/inputs/one")'),
        routes.parse("e", 'FROM /* INTO BrokeredEndpoint("/modules/m/inputs/two")'),
    ]
    assert routes.deliveries(found, routes.telemetry_path("x", ""), PLAIN) == [
        Delivery(UPSTREAM, 1, 1),
        Delivery(Input("m", "one"), LOWEST_PRIORITY, 0),
        Delivery(Input("m", "two"), LOWEST_PRIORITY, 0),
    ]


@given(st.lists(st.one_of(NAMES, st.just("*")), max_size=4), NAMES, NAMES)
def test_any_source_matches_as_its_text_read_segment_by_segment(segments, module, output):
    text = "/messages/modules/" + "/".join(segments) if segments else "/messages"
    path = ["messages", "modules", module.lower(), "outputs", output.lower()]
    wanted = [each for each in text.lower().split("/") if each]
    while wanted and wanted[-1] == "*":
        wanted.pop()
    expected = len(wanted) <= len(path) and all(
        a in ("*", b) for a, b in zip(wanted, path, strict=False)
    )
    assert goes(f"FROM {text} INTO $upstream", module, output) is expected


# Desired properties.


def config(**members):
    return {
        "schemaVersion": "1.1",
        "routes": {},
        "storeAndForwardConfiguration": {"timeToLiveSecs": 60},
        **members,
    }


def test_schema_1_0_has_texts_and_empty_ones_are_deleted_routes():
    found = desired.parse(
        {
            "schemaVersion": "1.0",
            "routes": {"up": "FROM /* INTO $upstream", "gone": "", "gone2": None},
            "storeAndForwardConfiguration": {"timeToLiveSecs": 60},
            "$version": 3,
        }
    )
    assert [route.name for route in found.routes] == ["up"]
    assert found.ttl_s == 60
    assert found.max_bytes == desired.DEFAULT_MAX_BYTES


@pytest.mark.parametrize("version", ["1.1", "1.2", "1.3", "1.1.0"])
def test_later_schemas_have_priorities_ttls_and_limits(version):
    found = desired.parse(
        config(
            schemaVersion=version,
            routes={
                "a": "FROM /* INTO $upstream",
                "b": {"route": "FROM /* INTO $upstream", "priority": 0, "timeToLiveSecs": 9},
            },
            storeAndForwardConfiguration={"timeToLiveSecs": -1, "storeLimits": {"maxBytes": 9000}},
        )
    )
    assert found.ttl_s is None
    assert found.max_bytes == 9000
    assert [(each.priority, each.ttl_s) for each in found.routes] == [(LOWEST_PRIORITY, 0), (0, 9)]


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "EdgeHub config missing SchemaVersion"),
        (config(schemaVersion="2.0"), "unsupported SchemaVersion: 2.0"),
        (config(schemaVersion="1.4"), "unsupported SchemaVersion: 1.4"),
        (config(schemaVersion="one"), "Error parsing schema version string: one"),
        (config(routes=[]) | {"routes": ["x"]}, "routes must be an object"),
        (config(routes={"r": "FROM"}), "Error parsing route r - "),
        (config(routes={"a.b": "FROM /* INTO $upstream"}), "Error parsing route a.b - "),
        (config(routes={"r": {"route": "FROM /* INTO $upstream", "priority": 10}}), "0 to 9"),
        (config(routes={"r": {"route": "FROM /* INTO $upstream", "priority": "1"}}), "priority"),
        (
            config(schemaVersion="1.0", routes={"r": {"route": "FROM /* INTO $upstream"}}),
            "Error parsing route r - ",
        ),
        (config(storeAndForwardConfiguration=None), "storeAndForwardConfiguration is missing"),
        (config(storeAndForwardConfiguration={"timeToLiveSecs": "x"}), "timeToLiveSecs"),
        (
            config(storeAndForwardConfiguration={"storeLimits": {"maxBytes": 0}}),
            "storeLimits.maxBytes",
        ),
    ],
)
def test_what_cannot_be_read_says_so_as_the_official_hub_does(document, says):
    with pytest.raises(InvalidArgumentError) as caught:
        desired.parse(document)
    assert caught.value.message.startswith("Error while parsing desired properties - ")
    assert says in caught.value.message


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 20)
    | st.floats(allow_nan=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["schemaVersion", "routes", "storeAndForwardConfiguration"]), JSON
    )
)
def test_any_document_is_read_or_refused(document):
    document.setdefault("schemaVersion", "1.1")
    with contextlib.suppress(InvalidArgumentError):
        assert isinstance(desired.parse(document), desired.Configuration)
