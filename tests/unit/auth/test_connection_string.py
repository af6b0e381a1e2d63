"""Connection strings, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.auth import connection_string
from muster.auth.connection_string import ConnectionString
from muster.errors import InvalidArgumentError

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ=="


def test_service() -> None:
    text = f"HostName=dps.muster.localhost;SharedAccessKeyName=owner;SharedAccessKey={KEY}"
    found = connection_string.parse(text)
    assert found == ConnectionString(host="dps.muster.localhost", key_name="owner", key=KEY)
    assert found.host_name == "dps.muster.localhost"
    assert connection_string.format(found) == text


def test_module_behind_a_gateway() -> None:
    text = (
        "HostName=hub.example:8443;DeviceId=d=1;ModuleId=$edgeHub;"
        f"SharedAccessKey={KEY};GatewayHostName=gw.local"
    )
    found = connection_string.parse(text)
    assert (found.host, found.port, found.host_name) == ("hub.example", 8443, "hub.example:8443")
    assert (found.device_id, found.module_id) == ("d=1", "$edgeHub")
    assert found.gateway_host == "gw.local"
    assert connection_string.format(found) == text


def test_signature_instead_of_a_key() -> None:
    token = "SharedAccessSignature sr=h&sig=c2ln&se=1"  # no secret: made up
    found = connection_string.parse(f"HostName=h;DeviceId=d;SharedAccessSignature={token}")
    assert found.signature == token
    assert token not in repr(found)


def test_names_in_any_case_any_order_spaces_and_a_last_semicolon() -> None:
    found = connection_string.parse(f" sharedaccesskey={KEY}; hostname = h ;DEVICEID=d;\n")
    assert found == ConnectionString(host="h", device_id="d", key=KEY)


@pytest.mark.parametrize(
    ("host_name", "host", "port"),
    [
        ("h", "h", None),
        ("h:1", "h", 1),
        ("h:65535", "h", 65535),
        ("[::1]:443", "[::1]", 443),
        ("[::1]", "[::1]", None),
        ("::1", "::1", None),
    ],
)
def test_port(host_name: str, host: str, port: int | None) -> None:
    found = connection_string.parse(f"HostName={host_name}")
    assert (found.host, found.port) == (host, port)
    assert found.host_name == host_name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "HostName is missing"),
        (f"SharedAccessKey={KEY}", "HostName is missing"),
        (f"HostName=h;{KEY}", "part 2"),
        (f"{KEY}", "part 1"),
        ("HostName=h;HostName=h", "part 2 is given twice"),
        ("HostName=h;hostname=h", "part 2 is given twice"),
        ("HostName=", "part 1 is empty"),
        ("HostName=h;ModuleId=m", "ModuleId needs DeviceId"),
        ("HostName=h;SharedAccessKey=zzz", "SharedAccessKey"),
        ("HostName=h:0", "port"),
        ("HostName=h:65536", "port"),
        ("HostName=h:x", "port"),
        ("HostName=h:", "port"),
        ("HostName=:443", "host"),
        ("HostName=" + "h" * 9000, "longer than"),
    ],
)
def test_refused_with_a_reason_and_without_quoting(text: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        connection_string.parse(text)
    assert caught.value.code == "invalid-connection-string"
    assert says in caught.value.message
    assert KEY not in caught.value.message


def test_semicolon_cannot_be_written() -> None:
    with pytest.raises(InvalidArgumentError, match="DeviceId contains a semicolon"):
        connection_string.format(ConnectionString(host="h", device_id="a;b"))


def test_key_is_not_shown() -> None:
    shown = repr(ConnectionString(host="h", port=1, key_name="owner", key=KEY))
    assert shown == "ConnectionString(host_name='h:1', key_name='owner', key=***)"


plain = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
part = plain.filter(lambda text: ";" not in text)


@given(key_name=st.none() | part, device_id=part, port=st.none() | st.integers(1, 65535))
def test_read_back_what_was_written(key_name: str | None, device_id: str, port: int | None) -> None:
    written = ConnectionString(
        host="hub.example", port=port, key_name=key_name, key=KEY, device_id=device_id
    )
    assert connection_string.parse(connection_string.format(written)) == written


@given(st.text(max_size=100))
def test_garbage_is_refused_or_read(text: str) -> None:
    try:
        found = connection_string.parse(text)
    except InvalidArgumentError:
        return
    assert found.host
