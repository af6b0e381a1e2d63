"""The pure parts of what a device says upstream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.auth import sas_token
from muster.edge.upstream import topics
from muster.edge.upstream.backoff import REFUSED, UNREACHABLE, Backoff
from muster.edge.upstream.hub_time import STEP_S, HubTime
from muster.edge.upstream.login import Gateway, Login, Transport, transports
from muster.edge.upstream.topics import CloudMessage, DesiredPatch, MethodCall, TwinAnswer
from muster.model import auth_chain
from muster.model.auth_chain import AuthChain
from muster.wire.mqtt.device_names import parse_user_name
from support.edge import ShiftedClock

CHANCES = st.floats(0, 1)


@given(st.integers(1, 10**6), CHANCES, st.sampled_from([UNREACHABLE, REFUSED]))
def test_pauses_keep_their_bounds(failures: int, chance: float, pauses: Backoff) -> None:
    assert pauses.floor_s <= pauses.pause_s(failures, chance) <= pauses.cap_s


@given(st.integers(1, 60), st.sampled_from([UNREACHABLE, REFUSED]))
def test_pauses_grow_and_are_random_over_their_length(failures: int, pauses: Backoff) -> None:
    longest = pauses.pause_s(failures, 1.0)
    assert longest >= pauses.first_s
    assert longest == min(pauses.first_s * 2 ** (failures - 1), pauses.cap_s)
    assert pauses.pause_s(failures, 0.0) == pauses.floor_s
    assert pauses.pause_s(failures + 1, 1.0) >= longest


@given(st.integers(1, 60), CHANCES, st.floats(0, 3600))
def test_no_pause_is_shorter_than_asked_for(failures: int, chance: float, asked_s: float) -> None:
    assert (
        asked_s
        <= UNREACHABLE.pause_s(failures, chance, asked_s)
        <= max(UNREACHABLE.cap_s, 1.2 * asked_s)
    )


# Topics.

MODULE = Login(hub_host="hub", device_id="d", module_id="m", key=b"k")
DEVICE = Login(hub_host="hub", device_id="d", key=b"k")


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("$iothub/twin/res/200/?$rid=7", TwinAnswer(200, "7")),
        ("$iothub/twin/res/204/?$rid=7&$version=12", TwinAnswer(204, "7")),
        ("$iothub/twin/res/2x4/?$rid=7", None),
        ("$iothub/twin/res/204/", None),
        ("$iothub/twin/PATCH/properties/desired/?$version=3", DesiredPatch()),
        ("$iothub/methods/POST/reboot/?$rid=1f", MethodCall("reboot", "1f")),
        ("$iothub/methods/POST/reboot", None),
        ("devices/d/messages/devicebound/%24.to=x", CloudMessage("%24.to=x")),
        ("devices/other/messages/devicebound/", None),
        ("nonsense", None),
    ],
)
def test_what_the_hub_says(topic: str, said: object) -> None:
    assert topics.read(DEVICE, topic) == said


@given(st.text())
def test_any_topic_can_be_read(topic: str) -> None:
    for start in ("", "$iothub/twin/res/", "$iothub/methods/POST/", "devices/d/"):
        topics.read(DEVICE, start + topic)


def test_messages_to_a_module() -> None:
    topic = "devices/d/modules/m/messages/devicebound/a=b"
    assert topics.read(MODULE, topic) == CloudMessage("a=b")
    assert topics.read(DEVICE, topic) is None
    assert topics.telemetry(MODULE, "a=b") == "devices/d/modules/m/messages/events/a=b"


# Who connects, and where.


def test_tokens_are_of_the_identity() -> None:
    token = sas_token.parse(MODULE.token(1_700_000_000))
    assert token.resource == "hub/devices/d/modules/m"
    assert token.expiry == 1_700_000_000
    assert sas_token.signed_by(token, b"k")
    assert "key=***" in repr(MODULE)


def test_a_certificate_makes_no_token() -> None:
    login = Login(hub_host="hub", device_id="d", key=None)
    assert login.connect(0, 60).password is None
    with pytest.raises(ValueError, match="certificate"):
        login.token(0)


@pytest.mark.parametrize(
    ("text", "client_id", "path"),
    [
        ("leaf;low;edge", "leaf", "devices/leaf"),
        ("leaf/m;leaf;edge", "leaf/m", "devices/leaf/modules/m"),
        ("edge/m;edge", "edge/m", "devices/edge/modules/m"),
    ],
)
def test_an_edge_hub_speaks_for_others_with_its_own_token(
    text: str, client_id: str, path: str
) -> None:
    edge_hub = Login(hub_host="hub:8443", device_id="edge", module_id="$edgeHub", key=b"k")
    login = Login.on_behalf(edge_hub, auth_chain.parse(text))
    connect = login.connect(0, 60)
    assert connect.client_id == client_id
    name = parse_user_name(connect.username or "")
    assert (name.host, name.client_id, name.auth_chain) == ("hub", client_id, text)
    assert "/" not in (connect.username or "").partition("/?")[2]
    token = sas_token.parse((connect.password or b"").decode())
    assert token.resource == "hub/devices/edge/modules/$edgeHub"
    assert sas_token.signed_by(token, b"k")
    assert login.path == path


# An ID that begins with ? looks like parameters in a user name.
_IDS = st.text("abcXYZ019-.+%_#*!(),:=@$'", min_size=1, max_size=20)


@given(st.lists(_IDS, min_size=2, max_size=6, unique=True), st.none() | _IDS)
def test_a_chain_arrives_as_it_was_meant(devices: list[str], module_id: str | None) -> None:
    identity = devices[0] if module_id is None else f"{devices[0]}/{module_id}"
    chain = AuthChain(identity, tuple(devices))
    edge_hub = Login(hub_host="hub", device_id=devices[-1], module_id="$edgeHub", key=b"k")
    name = parse_user_name(Login.on_behalf(edge_hub, chain).connect(0, 60).username or "")
    assert (name.client_id, auth_chain.parse(name.auth_chain)) == (identity, chain)


@pytest.mark.parametrize(
    ("hub", "parent", "host", "port"),
    [
        ("hub.example", None, "hub.example", 443),
        ("hub.example:8443", None, "hub.example", 8443),
        ("hub.example:8443", "parent", "parent", 443),
        ("hub.example:odd", None, "hub.example", 443),
    ],
)
def test_where_the_hub_is(hub: str, parent: str | None, host: str, port: int) -> None:
    gateway = Gateway.of(hub, parent, {})
    assert (gateway.host, gateway.https_port, gateway.mqtt_port) == (host, port, 8883)


@pytest.mark.parametrize(
    ("said", "ways"),
    [
        (None, [Transport.MQTT, Transport.WEBSOCKET]),
        ("Amqp", [Transport.MQTT, Transport.WEBSOCKET]),
        ("Mqtt", [Transport.MQTT]),
        ("MqttWs", [Transport.WEBSOCKET]),
        ("AMQPWS", [Transport.WEBSOCKET]),
    ],
)
def test_how_to_get_there(said: str | None, ways: list[Transport]) -> None:
    assert list(transports(said)) == ways


# What time it is.


def test_a_clock_that_is_right_is_believed() -> None:
    clock = ShiftedClock()
    time = HubTime(clock)
    assert not time.learn(clock.time() + 100)
    assert time.correction_s == 0


def test_a_clock_that_is_wrong_is_corrected_until_it_is_set() -> None:
    clock = ShiftedClock(-86_400)
    time = HubTime(clock)
    mark = time.mark()
    right = clock.time() + 86_400
    assert time.learn(right)
    assert abs(time.now() - right) < 5
    assert time.stepped(mark)  # tokens are to be made anew
    mark = time.mark()
    assert not time.learn(right)  # nothing new
    clock.shift_s = 0  # now it is set, and right: nothing has changed for tokens
    assert not time.stepped(mark)
    assert abs(time.now() - clock.time()) < 5
    assert time.correction_s == 0


@given(st.floats(-1e9, 1e9))
def test_a_step_is_seen_in_both_directions(step_s: float) -> None:
    clock = ShiftedClock()
    time = HubTime(clock)
    mark = time.mark()
    clock.shift_s = step_s
    if abs(abs(step_s) - STEP_S) > 5:
        assert time.stepped(mark) == (abs(step_s) > STEP_S)
