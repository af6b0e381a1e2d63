"""SAS tokens: what clients send, what must be refused, and what must never show."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.auth import sas_token
from muster.errors import UnauthorizedError

KEY = bytes(range(48))
EXPIRY = 1_700_003_600
RESOURCE = "0ne00111111/registrations/Dev-1:a"


def signature_of(raw_sr: str, expiry: object = EXPIRY, key: bytes = KEY) -> str:
    """Base64 of the signature, by the book and apart from the code under test."""
    text = f"{raw_sr}\n{expiry}".encode()
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def token_text(raw_sr: str, *rest: str, signature: str | None = None) -> str:
    sig = quote(signature or signature_of(raw_sr), safe="")
    return "SharedAccessSignature " + "&".join([f"sr={raw_sr}", f"sig={sig}", *rest])


def key_with(*wanted: str) -> tuple[bytes, str]:
    """A key whose signature over RESOURCE contains all the given characters."""
    raw_sr = quote(RESOURCE, safe="")
    for number in itertools.count():
        key = number.to_bytes(16)
        if all(character in signature_of(raw_sr, key=key) for character in wanted):
            return key, signature_of(raw_sr, key=key)
    raise AssertionError


@pytest.mark.parametrize(
    "raw_sr",
    [
        pytest.param(quote(RESOURCE, safe=""), id="python, node, c#"),
        pytest.param(quote_plus(RESOURCE), id="service client"),
        pytest.param(quote(RESOURCE, safe="").replace("%2F", "%2f").lower(), id="c, lower hex"),
        pytest.param(RESOURCE.lower(), id="aziot: lower case, slash as it is"),
        pytest.param(quote(RESOURCE.lower(), safe=""), id="iotedged 1.1"),
        pytest.param(RESOURCE, id="plain"),
    ],
)
def test_signature_covers_the_resource_as_it_was_sent(raw_sr: str) -> None:
    token = sas_token.parse(token_text(raw_sr, f"se={EXPIRY}", "skn=registration"))
    assert token.raw_sr == raw_sr
    assert token.resource.lower() == RESOURCE.lower()
    assert token.expiry == EXPIRY
    assert token.key_name == "registration"
    assert sas_token.signed_by(token, KEY)
    assert not sas_token.signed_by(token, KEY[:-1])


@pytest.mark.parametrize("order", list(itertools.permutations(["sr", "sig", "se", "skn"])))
def test_parameters_in_any_order(order: tuple[str, ...]) -> None:
    raw_sr = quote(RESOURCE, safe="")
    values = {
        "sr": raw_sr,
        "sig": quote(signature_of(raw_sr), safe=""),
        "se": str(EXPIRY),
        "skn": "a%20policy",
    }
    text = "SharedAccessSignature " + "&".join(f"{name}={values[name]}" for name in order)
    token = sas_token.parse(text)
    assert (token.raw_sr, token.resource, token.expiry) == (raw_sr, RESOURCE, EXPIRY)
    assert token.key_name == "a policy"
    assert sas_token.signed_by(token, KEY)


@pytest.mark.parametrize("form", ["upper", "lower", "slash", "bare"])
def test_signature_escapes(form: str) -> None:
    key, signature = key_with("/", "+", "=")
    escaped = {
        "upper": quote(signature, safe=""),
        "lower": signature.replace("/", "%2f").replace("+", "%2b").replace("=", "%3d"),
        "slash": quote(signature),
        "bare": signature,
    }[form]
    raw_sr = quote(RESOURCE, safe="")
    text = f"SharedAccessSignature sr={raw_sr}&sig={escaped}&se={EXPIRY}"
    assert sas_token.signed_by(sas_token.parse(text), key)


@pytest.mark.parametrize("scheme", ["sharedaccesssignature", "SHAREDACCESSSIGNATURE"])
def test_scheme_in_any_case(scheme: str) -> None:
    text = sas_token.sign(RESOURCE, KEY, EXPIRY).replace("SharedAccessSignature", scheme)
    assert sas_token.signed_by(sas_token.parse(text), KEY)


@pytest.mark.parametrize("tail", ["", "&skn="])
def test_no_key_name(tail: str) -> None:
    assert sas_token.parse(sas_token.sign(RESOURCE, KEY, EXPIRY) + tail).key_name is None


def test_unknown_parameters_are_ignored() -> None:
    token = sas_token.parse(sas_token.sign(RESOURCE, KEY, EXPIRY) + "&x=1")
    assert sas_token.signed_by(token, KEY)


def test_percent_that_escapes_nothing_stays() -> None:
    raw_sr = "host/devices/a%zz%2525"
    token = sas_token.parse(token_text(raw_sr, f"se={EXPIRY}"))
    assert token.resource == "host/devices/a%zz%25"
    assert sas_token.signed_by(token, KEY)


GOOD_SIG = quote(signature_of("r"), safe="")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SharedAccessSignature",
        "SharedAccessSignature ",
        "Bearer eyJhbGciOi",
        f"sr=r&sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sr=&sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sr=r&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig=&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=",
        f"SharedAccessSignature sr=r&sr=r&sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se={EXPIRY}&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se={EXPIRY}&skn=a&skn=b",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=soon",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=-1",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=+1",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se= 1",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=1_0",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=1e9",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=1.5",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se=\N{ARABIC-INDIC DIGIT ONE}",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se={EXPIRY}\n",
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se={EXPIRY}000",  # milliseconds
        f"SharedAccessSignature sr=r&sig={GOOD_SIG}&se={'9' * 400}",
        f"SharedAccessSignature sr=r&sig=not*base64&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig=QUJD%0A&se={EXPIRY}",
        f"SharedAccessSignature sr=r&sig=QUJDRA&se={EXPIRY}",
        f"SharedAccessSignature sr=r\N{SNOWMAN}&sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sr=r\udc80&sig={GOOD_SIG}&se={EXPIRY}",
        f"SharedAccessSignature sr={'r' * 5000}&sig={GOOD_SIG}&se={EXPIRY}",
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        sas_token.parse(text)
    assert caught.value.code == "malformed-token"
    assert GOOD_SIG not in str(caught.value)


def test_other_sized_signature_is_wrong_but_well_formed() -> None:
    token = sas_token.parse(f"SharedAccessSignature sr=r&sig=QUJD&se={EXPIRY}")
    assert not sas_token.signed_by(token, KEY)


def test_expiry_counts_from_se_and_only_beyond_the_skew() -> None:
    token = sas_token.parse(sas_token.sign(RESOURCE, KEY, EXPIRY))
    assert sas_token.expired_for_s(token, EXPIRY - 1000) is None
    assert sas_token.expired_for_s(token, EXPIRY + sas_token.CLOCK_SKEW_S) is None
    assert sas_token.expired_for_s(token, EXPIRY + sas_token.CLOCK_SKEW_S + 0.5) == 300.5
    assert sas_token.expired_for_s(token, EXPIRY + 1, skew_s=0) == 1


def test_signature_is_not_shown() -> None:
    token = sas_token.parse(sas_token.sign(RESOURCE, KEY, EXPIRY, "owner"))
    assert "***" in repr(token)
    for shown in (repr(token), str(token), f"{token!r}"):
        assert repr(token.signature) not in shown
        assert base64.b64encode(token.signature).decode() not in shown
        assert token.signature.hex() not in shown


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60)
anything = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(
    resource=anything,
    key=st.binary(min_size=16, max_size=64),
    expiry=st.integers(0, 253_402_300_799),
    name=st.none() | anything,
)
def test_what_is_signed_is_read_back(
    resource: str, key: bytes, expiry: int, name: str | None
) -> None:
    token = sas_token.parse(sas_token.sign(resource, key, expiry, name))
    assert (token.resource, token.expiry, token.key_name) == (resource, expiry, name)
    assert sas_token.signed_by(token, key)
    assert not sas_token.signed_by(token, key + b"x")


@given(
    raw_sr=printable.filter(lambda text: "&" not in text),
    name=printable.filter(lambda text: "&" not in text),
    data=st.data(),
)
def test_order_changes_nothing(raw_sr: str, name: str, data: st.DataObject) -> None:
    sig = quote(signature_of(raw_sr), safe=data.draw(st.sampled_from(["", "/", "/+="])))
    parts = [f"sr={raw_sr}", f"sig={sig}", f"se={EXPIRY}", f"skn={name}"]
    usual = sas_token.parse("SharedAccessSignature " + "&".join(parts))
    shuffled = data.draw(st.permutations(parts))
    other = sas_token.parse("SharedAccessSignature " + "&".join(shuffled))
    for attribute in ("raw_sr", "resource", "signature", "expiry", "key_name", "signed"):
        assert getattr(usual, attribute) == getattr(other, attribute)
    assert sas_token.signed_by(other, KEY)


@given(
    position=st.integers(0, 10_000), character=st.characters(min_codepoint=32, max_codepoint=126)
)
def test_no_single_changed_character_passes_for_another_token(
    position: int, character: str
) -> None:
    text = sas_token.sign(RESOURCE, KEY, EXPIRY)
    position %= len(text)
    changed = text[:position] + character + text[position + 1 :]
    try:
        token = sas_token.parse(changed)
    except UnauthorizedError:
        return
    if sas_token.signed_by(token, KEY):
        original = sas_token.parse(text)
        assert (token.raw_sr, token.expiry) == (original.raw_sr, original.expiry)


@settings(max_examples=300)
@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(["sr=", "sig=", "se=", "skn=", "&", "=", "%", "%2", "%2F", "AAAA", "1"]),
        max_size=20,
    ).map(lambda parts: "SharedAccessSignature " + "".join(parts))
)
def test_garbage_is_malformed_or_a_token(text: str) -> None:
    try:
        token = sas_token.parse(text)
    except UnauthorizedError:
        return
    assert not sas_token.signed_by(token, KEY)
