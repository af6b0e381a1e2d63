"""Resources of tokens: what they name and what they cover."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.auth import sas_token
from muster.auth.audience import HubAudience, hub_audience, same_host, same_resource
from muster.errors import UnauthorizedError

HOSTS = ["plant-a.muster.localhost", "localhost"]


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("hub.example", HubAudience("hub.example", whole_hub=True)),
        ("hub.example/", HubAudience("hub.example", whole_hub=True)),
        ("hub.example:8443", HubAudience("hub.example:8443", whole_hub=True)),
        ("https://hub.example", HubAudience("hub.example", whole_hub=True)),
        ("amqps://hub.example/devices/d", HubAudience("hub.example", "d")),
        ("hub.example/devices", HubAudience("hub.example")),
        ("hub.example/devices/D1", HubAudience("hub.example", "D1")),
        ("hub.example/Devices/D1/", HubAudience("hub.example", "D1")),
        ("hub.example/devices/D1/api-version=2016-11-14", HubAudience("hub.example", "D1")),
        ("hub.example/devices/D1/?api-version=2016-11-14", HubAudience("hub.example", "D1")),
        ("hub.example/devices/d/modules/$edgeHub", HubAudience("hub.example", "d", "$edgeHub")),
        ("hub.example/devices/d/MODULES/m", HubAudience("hub.example", "d", "m")),
    ],
)
def test_reads(resource: str, expected: HubAudience) -> None:
    assert hub_audience(resource) == expected


@pytest.mark.parametrize(
    "resource",
    [
        "",
        "/",
        "/devices/d",
        "hub.example/twins/d",
        "hub.example//d",
        "hub.example/devices//",
        "hub.example/devices//modules/m",
        "hub.example/devices/d/modules",
        "hub.example/devices/d/modules/",
        "hub.example/devices/d/things/m",
        "hub.example/devices/d/modules/m/x",
        "https://",
    ],
)
def test_refuses(resource: str) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        hub_audience(resource)
    assert caught.value.code == "wrong-resource"


def test_names_exactly_one_identity() -> None:
    device = hub_audience("localhost/devices/d1")
    assert device.names("d1")
    assert device.names("D1"), "edge daemons lower-case the audience"
    assert not device.names("d1", "m")
    assert not device.names("d")
    module = hub_audience("localhost/devices/d1/modules/m")
    assert module.names("d1", "M")
    assert not module.names("d1")
    assert not module.names("d1", "m2")
    assert not module.names("d2", "m")
    assert not hub_audience("localhost").names("d1")
    assert not hub_audience("localhost/devices").names("d1")


def test_covers_by_whole_segments() -> None:
    assert hub_audience("localhost").covers("d1", "m")
    assert hub_audience("localhost/devices").covers("d1")
    device = hub_audience("localhost/devices/d1")
    assert device.covers("d1")
    assert device.covers("D1", "m")
    assert not device.covers("d10")
    module = hub_audience("localhost/devices/d1/modules/m")
    assert module.covers("d1", "m")
    assert not module.covers("d1")
    assert not module.covers("d1", "m2")
    assert not module.covers("d2", "m")


def test_id_escaped_inside_the_resource() -> None:
    # The C# SDK escapes twice; one level is left after decoding sr.
    assert hub_audience("localhost/devices/a%40b").names("a@b")
    assert hub_audience("localhost/devices/a%2fb").device_id == "a%2fb"
    # An ID may also contain such a text itself.
    assert hub_audience("localhost/devices/a%40b").names("a%40b")


@pytest.mark.parametrize(
    ("host", "hosts", "same"),
    [
        ("localhost", HOSTS, True),
        ("LocalHost:8443", HOSTS, True),
        ("localhost", ["LOCALHOST"], True),
        ("plant-a.muster.localhost", HOSTS, True),
        ("a.muster.localhost", HOSTS, False),
        ("localhost.evil.example", HOSTS, False),
        ("localhost:", HOSTS, False),
        ("localhost:x", HOSTS, False),
        ("localhost:443", ["localhost:443"], True),
        ("localhost:444", ["localhost:443"], False),
        ("localhost", ["localhost:443"], False),
        ("[::1]:8443", ["[::1]"], True),
        ("::1", ["::1"], True),
        ("::1", [":"], False),
        ("", HOSTS, False),
        ("localhost", [], False),
    ],
)
def test_same_host(host: str, hosts: list[str], same: bool) -> None:  # noqa: FBT001
    assert same_host(host, hosts) is same
    assert HubAudience(host).at(hosts) is same


@pytest.mark.parametrize(
    ("resource", "same"),
    [
        ("0ne00AA/registrations/Dev-1", True),
        ("0NE00aa/REGISTRATIONS/dev-1", True),
        ("0ne00AA/registrations/dev-1/", True),
        ("0ne00AA/registrations/dev-2", False),
        ("0ne00AB/registrations/dev-1", False),
        ("0ne00AA/registrations", False),
        ("0ne00AA", False),
        ("dps.example/0ne00AA/registrations/dev-1", False),
    ],
)
def test_same_resource(resource: str, same: bool) -> None:  # noqa: FBT001
    token = sas_token.parse(sas_token.sign(resource, b"k" * 16, 1))
    assert same_resource(token, "0ne00AA/registrations/Dev-1") is same


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        audience = hub_audience(text)
    except UnauthorizedError:
        return
    assert audience.host
    assert audience.device_id or audience.module_id is None
