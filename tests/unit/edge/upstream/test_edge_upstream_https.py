"""HTTPS calls to the provisioning service and the hub, and answers that nobody should trust."""

from __future__ import annotations

import asyncio
import email.utils
import json
from typing import TYPE_CHECKING, Any

import pytest

from muster.auth import sas_token
from muster.edge.settings import (
    DpsProvisioning,
    SymmetricKeyAttestation,
    TpmAttestation,
    X509Attestation,
)
from muster.edge.upstream import http, trust
from muster.edge.upstream.device_scope import DeviceScope
from muster.edge.upstream.errors import NonsenseError, RefusedError, UnreachableError
from muster.edge.upstream.http import Https
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway, Login
from muster.edge.upstream.modules import HubModules
from muster.edge.upstream.modules_on_behalf import ModulesOnBehalf
from muster.edge.upstream.registration import Assignment, Registrar
from muster.errors import InvalidArgumentError
from muster.net.tls import server_context
from support.certificates import ClientCertificate
from support.edge import PATIENCE_S, ShiftedClock
from unit.edge.upstream.https_peer import HttpsPeer, reply
from unit.net.loopback import HOST, Certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SCOPE = "0ne00ABCDEF"
KEY = b"k" * 32
BY_KEY = SymmetricKeyAttestation(registration_id="Press-1", key=KEY)
OPERATION = {"operationId": "5.a/b", "status": "assigning"}
STATE = {"assignedHub": "Hub.example", "deviceId": "press-1"}
ASSIGNED = {**OPERATION, "status": "assigned", "registrationState": STATE}
NOW = "0"


@pytest.fixture
def peer() -> HttpsPeer:
    return HttpsPeer()


@pytest.fixture
async def port(
    peer: HttpsPeer, certificate: Certificate, device_certificate: ClientCertificate
) -> AsyncIterator[int]:
    context = server_context(certificate.certificate, certificate.key)
    context.verify_mode = context.verify_mode.CERT_OPTIONAL
    context.load_verify_locations(cadata=device_certificate.certificate)
    # Whether it is still good is not what these tests are about.
    context.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME
    server = await asyncio.start_server(peer.serve, HOST, 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest.fixture(scope="session")
def device_certificate(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificate:
    return ClientCertificate.make(tmp_path_factory.mktemp("device"), "press-1")


@pytest.fixture
async def registrar(port: int, certificate: Certificate) -> Callable[..., Registrar]:
    """Return a function that makes a registrar of the peer."""

    def make(clock: ShiftedClock | None = None, **fields: Any) -> Registrar:
        environment = fields.pop("environment", {})
        provisioning = DpsProvisioning(
            **{
                "endpoint": f"https://localhost:{port}",
                "id_scope": SCOPE,
                "attestation": BY_KEY,
                **fields,
            }
        )
        time = HubTime(clock or ShiftedClock())
        return Registrar(
            provisioning, certificate.certificate, time, environment=environment, address=HOST
        )

    return make


async def register(registrar: Registrar) -> Assignment:
    async with asyncio.timeout(PATIENCE_S):
        return await registrar.register()


# Registration.


async def test_a_registration(
    peer: HttpsPeer, registrar: Callable[..., Registrar], tmp_path: Path
) -> None:
    (tmp_path / "payload.json").write_text('{"line": [1, 2]}')
    peer.replies = [
        reply(202, OPERATION, Retry_After=NOW),
        reply(202, OPERATION, Retry_After=NOW),
        reply(200, {**ASSIGNED, "registrationState": {**STATE, "substatus": "deviceDataReset"}}),
    ]
    found = await register(registrar(payload=tmp_path / "payload.json"))
    assert found == Assignment(
        hub_host="Hub.example", device_id="press-1", substatus="deviceDataReset"
    )
    put, *polls = peer.seen
    assert (put.method, put.path) == (
        "PUT",
        f"/{SCOPE}/registrations/Press-1/register?api-version=2021-06-01",
    )
    assert json.loads(put.body) == {"registrationId": "Press-1", "payload": {"line": [1, 2]}}
    token = sas_token.parse(put.headers["authorization"])
    assert token.resource == f"{SCOPE}/registrations/Press-1".lower()
    assert token.key_name == "registration"
    assert sas_token.signed_by(token, KEY)
    path = f"/{SCOPE}/registrations/Press-1/operations/5.a%2Fb?api-version=2021-06-01"
    assert [(poll.method, poll.path) for poll in polls] == [("GET", path)] * 2


async def test_one_with_a_certificate_signs_nothing(
    peer: HttpsPeer, registrar: Callable[..., Registrar], device_certificate: ClientCertificate
) -> None:
    attestation = X509Attestation(
        registration_id=None,
        certificate=device_certificate.file,
        private_key=device_certificate.file,
    )
    peer.replies = [reply(202, ASSIGNED)]
    await register(registrar(attestation=attestation))
    assert "/registrations/press-1/register" in peer.seen[0].path
    assert peer.seen[0].certificate == device_certificate.der
    assert "authorization" not in peer.seen[0].headers


@pytest.mark.parametrize("status", ["failed", "disabled", "Disabled"])
async def test_a_registration_that_ends_badly(
    peer: HttpsPeer, registrar: Callable[..., Registrar], status: str
) -> None:
    state = {"errorCode": 400208, "errorMessage": "No hub.", "status": status}
    peer.replies = [reply(202, {**OPERATION, "status": status, "registrationState": state})]
    with pytest.raises(RefusedError, match="No hub") as refused:
        await register(registrar())
    assert refused.value.code == 400208
    assert refused.value.is_final


@pytest.mark.parametrize(
    "answer",
    [
        reply(202, b""),
        reply(202, b"<html>captive portal</html>"),
        reply(202, b"[]"),
        reply(202, {"operationId": 7}),
        reply(202, {"operationId": "", "status": "assigning"}),
        reply(202, {**ASSIGNED, "registrationState": None}),
        reply(202, {**ASSIGNED, "registrationState": {"deviceId": "d"}}),
        reply(202, {**ASSIGNED, "registrationState": {**STATE, "deviceId": "../../etc"}}),
        reply(202, {**ASSIGNED, "registrationState": {**STATE, "assignedHub": "a/b"}}),
        reply(202, {**ASSIGNED, "registrationState": {**STATE, "assignedHub": "a..b"}}),
        reply(202, {**ASSIGNED, "registrationState": {**STATE, "assignedHub": "a.b:65536"}}),
        reply(202, {**ASSIGNED, "registrationState": {**STATE, "assignedHub": "x" * 300}}),
        reply(202, b"\xff\xfe"),
        reply(204),
        reply(302, None, Location="https://elsewhere.example/"),
    ],
)
async def test_nonsense(
    peer: HttpsPeer, registrar: Callable[..., Registrar], answer: bytes
) -> None:
    peer.replies = [answer]
    with pytest.raises(NonsenseError) as nonsense:
        await register(registrar())
    assert not nonsense.value.is_final
    assert len(peer.seen) == 1


async def test_an_answer_without_an_end(
    peer: HttpsPeer, registrar: Callable[..., Registrar], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 1000)
    peer.replies = [reply(202, b" " * 70_000)]
    with pytest.raises(NonsenseError, match="too much"):
        await register(registrar())


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (reply(429, {"errorCode": 429001, "message": "Slowly."}, Retry_After="17"), 17),
        (reply(503, b"", Retry_After="999999"), 3600),
        (reply(503, b"", Retry_After="nonsense"), 0),
        (reply(500, {"Message": "Oh."}), 0),
    ],
)
async def test_a_service_that_is_busy(
    peer: HttpsPeer, registrar: Callable[..., Registrar], answer: bytes, wait_s: float
) -> None:
    peer.replies = [answer]
    with pytest.raises(UnreachableError) as busy:
        await register(registrar())
    assert busy.value.retry_after_s == wait_s
    assert not busy.value.is_final


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            reply(401, {"errorCode": 401002, "trackingId": "ab", "message": "Unauthorized"}),
            "Unauthorized (tracking ID ab)",
        ),
        (reply(404, {"code": 404201, "errorMessage": "Not found"}), "Not found"),
        (reply(400, b"<html>"), "HTTP 400"),
        (reply(403, {"Message": "x" * 5000}), "x" * 500),
        (reply(403, {"message": 5}), "HTTP 403"),
    ],
)
async def test_a_refusal_has_the_services_words(
    peer: HttpsPeer, registrar: Callable[..., Registrar], answer: bytes, words: str
) -> None:
    peer.replies = [answer]
    with pytest.raises(RefusedError) as refused:
        await register(registrar())
    assert refused.value.message == f"localhost refuses: {words}"


async def test_a_refusal_that_tells_the_time_is_tried_again(
    peer: HttpsPeer, registrar: Callable[..., Registrar]
) -> None:
    clock = ShiftedClock(-30 * 86_400)
    right = ShiftedClock().time()
    date = email.utils.formatdate(right, usegmt=True)
    peer.replies = [reply(401, b"", Date=date), reply(202, ASSIGNED)]
    await register(registrar(clock))
    first, second = (sas_token.parse(each.headers["authorization"]) for each in peer.seen)
    assert first.expiry < right < second.expiry
    # One that says the same again is a refusal.
    peer.replies = [reply(401, b"", Date=date)]
    with pytest.raises(RefusedError):
        await register(registrar())


@pytest.mark.parametrize("date", ["nonsense", "Mon, 01 Jan 99999999 00:00:00 GMT", ""])
async def test_a_time_that_is_none(
    peer: HttpsPeer, registrar: Callable[..., Registrar], date: str
) -> None:
    peer.replies = [reply(401, b"", Date=date)]
    with pytest.raises(RefusedError):
        await register(registrar())
    assert len(peer.seen) == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"attestation": TpmAttestation(registration_id="t")}, "tpm-unsupported"),
        ({"endpoint": "http://localhost"}, "invalid-endpoint"),
        ({"environment": {"https_proxy": "socks5://proxy"}}, "invalid-proxy"),
        ({"endpoint": "localhost"}, "invalid-endpoint"),
        ({"endpoint": "https://[::1"}, "invalid-endpoint"),
        ({"endpoint": "https://localhost:port"}, "invalid-endpoint"),
        (
            {"attestation": SymmetricKeyAttestation(registration_id="a/b", key=KEY)},
            "invalid-registration-id",
        ),
    ],
)
async def test_what_cannot_be_done_is_said_at_once(
    registrar: Callable[..., Registrar], fields: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidArgumentError) as wrong:
        registrar(**fields)
    assert wrong.value.code == code


async def test_certificates_that_cannot_be_used(
    registrar: Callable[..., Registrar], tmp_path: Path
) -> None:
    for content in (None, b"nonsense"):
        file = tmp_path / "device.pem"
        if content is not None:
            file.write_bytes(content)
        for given in (None, "press-1"):
            attestation = X509Attestation(registration_id=given, certificate=file, private_key=file)
            with pytest.raises(InvalidArgumentError) as wrong:
                registrar(attestation=attestation)
            assert wrong.value.code == "invalid-certificate"


async def test_a_certificate_that_has_gone_may_come_back(
    peer: HttpsPeer,
    registrar: Callable[..., Registrar],
    device_certificate: ClientCertificate,
    tmp_path: Path,
) -> None:
    file = tmp_path / "device.pem"
    file.write_bytes(device_certificate.file.read_bytes())
    attestation = X509Attestation(registration_id="press-1", certificate=file, private_key=file)
    subject = registrar(attestation=attestation)
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(UnreachableError, match="certificate"):
        await register(subject)
    file.write_bytes(content)
    peer.replies = [reply(202, ASSIGNED)]
    await register(subject)


# The hub.


@pytest.fixture
async def https(port: int, certificate: Certificate) -> AsyncIterator[Https]:
    gateway = Gateway(host="localhost", https_port=port, address=HOST)
    made = Https(gateway, trust.context(certificate.certificate), HubTime(ShiftedClock()))
    yield made
    await made.close()


DEVICE = Login(hub_host="hub", device_id="d 1", key=KEY)
MODULE = {"moduleId": "$edgeAgent", "deviceId": "d 1", "generationId": "g"}


async def test_exactly_what_the_contract_says(peer: HttpsPeer, https: Https) -> None:
    modules = HubModules(https, DEVICE)
    peer.replies = [reply(200, MODULE), reply(201, MODULE), reply(200), reply(204)]
    assert (await modules.create("$edgeAgent")).generation_id == "g"
    with pytest.raises(NonsenseError):
        await modules.create("$edgeAgent")
    with pytest.raises(NonsenseError):
        await modules.delete("$edgeAgent")
    await modules.delete("$edgeAgent")
    path = "/devices/d%201/modules/%24edgeAgent?api-version=2017-11-08-preview"
    assert {each.path for each in peer.seen} == {path}
    assert peer.seen[-1].headers["if-match"] == "*"
    token = sas_token.parse(peer.seen[0].headers["authorization"])
    assert token.resource == "hub/devices/d 1"


@pytest.mark.parametrize(
    "answer",
    [
        {**MODULE, "deviceId": "other"},
        {**MODULE, "moduleId": "other"},
        {**MODULE, "generationId": ""},
        {"moduleId": "$edgeAgent"},
    ],
)
async def test_a_module_that_is_another_one(
    peer: HttpsPeer, https: Https, answer: dict[str, Any]
) -> None:
    peer.replies = [reply(200, answer)]
    with pytest.raises(NonsenseError):
        await HubModules(https, DEVICE).create("$edgeAgent")


async def test_a_module_that_somebody_else_has_made(peer: HttpsPeer, https: Https) -> None:
    peer.replies = [reply(409, {"Message": "There is one."}), reply(200, MODULE)]
    assert (await HubModules(https, DEVICE).create("$edgeAgent")).generation_id == "g"


async def test_pages_without_an_end(peer: HttpsPeer, https: Https) -> None:
    login = Login(hub_host="hub", device_id="d 1", module_id="$edgeHub", key=KEY)
    page = {"devices": None, "modules": None, "continuationLink": "https://elsewhere/more"}
    peer.replies = [reply(200, page)] * 3
    with pytest.raises(NonsenseError, match="no end"):
        async for _ in DeviceScope(https, login).pages():
            pass
    # Wherever a link claims to lead, the key goes nowhere else.
    path = "/devices/d%201/modules/%24edgeHub/devicesAndModulesInTargetDeviceScope"
    assert {each.path.partition("?")[0] for each in peer.seen} == {path}
    assert {each.headers["host"].partition(":")[0] for each in peer.seen} == {"localhost"}


async def test_devices_that_are_above_each_other_have_an_end(peer: HttpsPeer, https: Https) -> None:
    login = Login(hub_host="hub", device_id="p", module_id="$edgeHub", key=KEY)

    def page(*names: str) -> bytes:
        devices = [{"deviceId": name, "capabilities": {"iotEdge": True}} for name in names]
        return reply(200, {"devices": devices, "modules": None, "continuationLink": None})

    # Each names itself and the one above as below it; the chain gets no longer than the depth.
    peer.replies = [page("p", "a"), page("a", "p", "b"), page("b", "c"), page("c", "d")]
    peer.replies += [page("d", "e"), page("e")]
    async for _ in DeviceScope(https, login).pages():
        pass
    chains = [json.loads(each.body)["authChain"] for each in peer.seen]
    assert chains == ["p", "a;p", "b;a;p", "c;b;a;p", "d;c;b;a;p"]


async def test_an_edge_device_of_which_nothing_is_told(peer: HttpsPeer, https: Https) -> None:
    login = Login(hub_host="hub", device_id="p", module_id="$edgeHub", key=KEY)
    devices = [{"deviceId": name, "capabilities": {"iotEdge": True}} for name in ("p", "a", "b")]
    page = {"devices": devices, "modules": None, "continuationLink": None}
    none = {"devices": None, "modules": None, "continuationLink": None}
    peer.replies = [reply(200, page), reply(403, {"Message": "no"}), reply(200, none)]
    assert len([each async for each in DeviceScope(https, login).pages()]) == 2
    assert len(peer.seen) == 3
    peer.replies = [reply(403, {"Message": "no"})]
    with pytest.raises(RefusedError):
        async for _ in DeviceScope(https, login).pages():
            pass


async def test_what_is_asked_on_behalf_of_others_is_passed_on(
    peer: HttpsPeer, https: Https
) -> None:
    registry = ModulesOnBehalf(
        https, Login(hub_host="hub", device_id="p 1", module_id="$edgeHub", key=KEY)
    )
    refusal = {"Message": "ErrorCode:ModuleNotFound;"}
    peer.replies = [reply(404, refusal), reply(200, b"as it is"), reply(204), reply(200, MODULE)]
    refused = await registry.get("c;p 1", "x")
    assert (refused.status, json.loads(refused.body)) == (404, refusal)
    assert (await registry.all("c;p 1")).body == b"as it is"
    assert (await registry.delete("c;p 1", "x")).status == 204
    await registry.put("c;p 1", MODULE, "*")
    base = "/devices/p%201/modules/%24edgeHub/"
    version = "?api-version=2020-06-30-preview"
    assert [(each.method, each.path) for each in peer.seen] == [
        ("POST", f"{base}getModuleOnBehalfOf{version}"),
        ("POST", f"{base}getModulesOnTargetDevice{version}"),
        ("POST", f"{base}deleteModuleOnBehalfOf{version}"),
        ("PUT", f"{base}putModuleOnBehalfOf{version}"),
    ]
    assert [json.loads(each.body) for each in peer.seen] == [
        {"authChain": "c;p 1", "targetModuleId": "x"},
        {"authChain": "c;p 1"},
        {"authChain": "c;p 1", "moduleId": "x"},
        {"authChain": "c;p 1", "module": MODULE},
    ]
    assert peer.seen[-1].headers["if-match"] == "*"
    token = sas_token.parse(peer.seen[0].headers["authorization"])
    assert token.resource == "hub/devices/p 1/modules/$edgeHub"

    # Who is not there, or not to be trusted, has said nothing that could be passed on.
    peer.replies = [reply(503), reply(429), reply(302, Location="https://elsewhere")]
    for kind in (UnreachableError, UnreachableError, NonsenseError):
        with pytest.raises(kind):
            await registry.all("c;p 1")
