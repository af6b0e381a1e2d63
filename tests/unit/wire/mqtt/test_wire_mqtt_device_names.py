"""User names and twin topics (hub-device.md 2.1, 2.3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import InvalidArgumentError
from muster.wire.mqtt.device_names import (
    TwinParameters,
    UserName,
    parse_twin_parameters,
    parse_user_name,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h/d1/?api-version=2019-10-01&DeviceClientType=py%2F2%28x%3B%23%29", ("h", "d1", "", "")),
        ("h/d1/m1/?api-version=2021-04-12", ("h", "d1", "m1", "")),
        ("h/d1/?api-version=1&model-id=dtmi:com:x;1", ("h", "d1", "", "dtmi:com:x;1")),
        ("h/d1/?model-id=dtmi%3Acom%3Ax%3B1", ("h", "d1", "", "dtmi:com:x;1")),
        ("h/d1/?model-id=a&model-id=b", ("h", "d1", "", "a")),
        ("h/d1/?model-id=a=b", ("h", "d1", "", "a=b")),
        ("h/d1/?DeviceClientType=a/b/c&model-id=x", ("h", "d1", "", "x")),
        ("h/d1/m1/?DeviceClientType=a/b/?c", ("h", "d1", "m1", "")),
        ("h/d1/api-version=2016-11-14", ("h", "d1", "", "")),
        ("h/d1/m1/api-version=2018-06-30", ("h", "d1", "m1", "")),
        ("h/d1", ("h", "d1", "", "")),
        ("h/d1/", ("h", "d1", "", "")),
        ("h/d1/m1", ("h", "d1", "m1", "")),
        ("h/?d1/?api-version=1", ("h", "?d1", "", "")),
        ("h/d%41$'!/?api-version=1", ("h", "d%41$'!", "", "")),
        ("h/d1/?api-version=1&auth-chain=d1;e", ("h", "d1", "", "", "d1;e")),
        ("h/d1/?auth-chain=d1%3Be%3bf&model-id=x", ("h", "d1", "", "x", "d1;e;f")),
        ("h/d1/m1/?auth-chain=d1/m1;d1;e&model-id=x", ("h", "d1", "m1", "x", "d1/m1;d1;e")),
        ("h/d1/m1/?auth-chain=d1%2Fm1%3Bd1%3Be", ("h", "d1", "m1", "", "d1/m1;d1;e")),
    ],
)
def test_forms(text: str, expected: tuple[str, ...]) -> None:
    assert parse_user_name(text) == UserName(*expected)


@pytest.mark.parametrize(
    "text", ["", "h", "h/", "/d1/?api-version=1", "h/d1/m1/x", "h//?a=1", "h/d 1", "h/d1//?a=1"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_user_name(text)
    assert caught.value.code == "malformed-username"


@given(st.text(max_size=300))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        name = parse_user_name(text)
    except InvalidArgumentError:
        return
    assert name.client_id in text


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("?$rid=1", ("1", "")),
        ("?$rid=b0-%2F&$version=12", ("b0-%2F", "12")),
        ("?%24rid=x&%24version=3", ("x", "3")),
        ("?$version=&$rid=z", ("z", "")),
        ("?$rid=a&$rid=b", ("a", "")),
        ("", ("", "")),
        ("$rid=1", ("1", "")),
    ],
)
def test_twin_parameters(tail: str, expected: tuple[str, str]) -> None:
    assert parse_twin_parameters(tail) == TwinParameters(*expected)


@given(st.text(max_size=100))
def test_any_twin_parameters(tail: str) -> None:
    try:
        version = parse_twin_parameters(tail).version()
        assert version is None or version >= 0
    except InvalidArgumentError:
        assert "version" in tail
