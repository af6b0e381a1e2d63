"""Values and rules of identities (hub-service.md 1.2, hub-device.md 6)."""

from __future__ import annotations

import base64

import msgspec
import pytest

from muster.errors import InvalidArgumentError
from muster.ids import Randomness
from muster.model import identity
from muster.model.identity import (
    Authentication,
    BulkEntry,
    DeviceRequest,
    IdentityRef,
    Status,
    SymmetricKey,
    Thumbprints,
)


@pytest.mark.parametrize(
    ("text", "status"),
    [("enabled", Status.ENABLED), ("Disabled", Status.DISABLED), (None, Status.ENABLED)],
)
def test_status_in_any_case(text: str | None, status: Status) -> None:
    assert identity.parse_status(text) is status


def test_wrong_values_are_named() -> None:
    with pytest.raises(InvalidArgumentError, match="status"):
        identity.parse_status("on")
    with pytest.raises(InvalidArgumentError, match="statusReason"):
        identity.check_status_reason("x" * 129)
    assert identity.check_status_reason("x" * 128) == "x" * 128
    with pytest.raises(InvalidArgumentError, match="moduleId"):
        identity.check_module_id("a/b")
    with pytest.raises(InvalidArgumentError, match=r"authentication\.type"):
        identity.authentication_type(Authentication(type="magic"))


def test_authorities_are_refused_in_clear_words() -> None:
    with pytest.raises(InvalidArgumentError, match="Use 'selfSigned'") as caught:
        identity.authentication_type(Authentication(type="certificateauthority"))
    assert caught.value.code == "unsupported-authentication"


def test_the_type_may_be_left_out() -> None:
    assert identity.authentication_type(Authentication()) == "sas"
    assert identity.authentication_type(Authentication(x509_thumbprint=Thumbprints())) == "sas"
    assert identity.authentication_type(Authentication(type="None")) == "none"
    certified = Authentication(x509_thumbprint=Thumbprints(None, "AB"))
    assert identity.authentication_type(certified) == "selfSigned"


def test_device_scopes_there_and_back() -> None:
    scope = identity.device_scope("edge-1-x", "637")
    assert scope == "ms-azure-iot-edge://edge-1-x-637"
    assert identity.parse_device_scope(scope) == ("edge-1-x", "637")


@pytest.mark.parametrize("text", ["", "edge-1", "ms-azure-iot-edge://", "ms-azure-iot-edge://a"])
def test_what_is_no_device_scope(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        identity.parse_device_scope(text)


def test_etags_look_like_real_ones_and_differ() -> None:
    etags = {identity.new_etag(Randomness()) for _ in range(200)}
    assert len(etags) == 200
    assert all(base64.b64decode(etag).isdigit() for etag in etags)


@pytest.mark.parametrize("header", ['"*"', "*", "MTIz", '"MTIz"', 'W/"MTIz"', None])
def test_if_match_admits(header: str | None) -> None:
    assert identity.matches(header, "MTIz")


@pytest.mark.parametrize("header", ['"MTI0"', "", "mtiz"])
def test_if_match_refuses(header: str) -> None:
    assert not identity.matches(header, "MTIz")


def test_absent_and_null_are_different_things() -> None:
    absent = msgspec.json.decode(b"{}", type=DeviceRequest)
    null = msgspec.json.decode(b'{"statusReason":null,"unknown":1}', type=DeviceRequest)
    assert absent.status_reason is msgspec.UNSET
    assert null.status_reason is None


def test_names_on_the_wire() -> None:
    entry = msgspec.json.decode(
        b'{"id":"d","eTag":"a","twinETag":"b","importMode":"create","moduleId":"m"}',
        type=BulkEntry,
    )
    assert (entry.e_tag, entry.twin_e_tag, entry.import_mode, entry.module_id) == (
        "a",
        "b",
        "create",
        "m",
    )
    assert msgspec.json.encode(Thumbprints()) == (
        b'{"primaryThumbprint":null,"secondaryThumbprint":null}'
    )
    assert b"x509Thumbprint" in msgspec.json.encode(Authentication())


def test_keys_do_not_show() -> None:
    assert "secret" not in repr(Authentication(SymmetricKey("secret", "secret")))


def test_references() -> None:
    assert IdentityRef(1, "d").text == "d"
    assert IdentityRef(1, "d", "m").text == "d/m"
