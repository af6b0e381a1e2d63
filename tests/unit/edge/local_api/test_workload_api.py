from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from unit.edge.local_api.conftest import IDENTITY, Apis, ask

KEYED = "/modules/temperature/genid/g1"
DATA = base64.b64encode(b"to sign").decode()


def _json(answer: Any, status: int = 200) -> Any:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)


async def test_sign(apis: Apis) -> None:
    body = json.dumps({"keyId": "primary", "algo": "HMACSHA256", "data": DATA})
    found = _json(await apis.workload("POST", f"{KEYED}/sign", body))
    expected = hmac.digest(IDENTITY.key, b"to sign", "sha256")
    assert found == {"digest": base64.b64encode(expected).decode()}


async def test_ids_are_percent_encoded(apis: Apis) -> None:
    apis.runtime.running["edgeX"] = frozenset([os.getpid()])
    apis.identities.found["$edgeX"] = IDENTITY
    body = json.dumps({"data": DATA})
    _json(await apis.workload("POST", "/modules/%24edgeX/genid/1/sign", body))


async def test_what_was_encrypted_is_decrypted(apis: Apis) -> None:
    vector = base64.b64encode(b"iv").decode()
    asked = {"plaintext": DATA, "initializationVector": vector}
    sealed = _json(await apis.workload("POST", f"{KEYED}/encrypt", json.dumps(asked)))
    assert set(sealed) == {"ciphertext"}
    asked = {"ciphertext": sealed["ciphertext"], "initializationVector": vector}
    opened = _json(await apis.workload("POST", f"{KEYED}/decrypt", json.dumps(asked)))
    assert opened == {"plaintext": DATA}
    other = await apis.workload("POST", "/modules/temperature/genid/g2/decrypt", json.dumps(asked))
    assert "could not decrypt" in _json(other, 400)["message"]


async def test_a_server_certificate(apis: Apis) -> None:
    asked = {"commonName": "gateway", "expiration": "2026-11-26T12:00:00Z"}
    found = _json(
        await apis.workload("POST", f"{KEYED}/certificate/server", json.dumps(asked)), 201
    )
    assert found["privateKey"]["type"] == "key"
    assert "BEGIN PRIVATE KEY" in found["privateKey"]["bytes"]
    assert len(x509.load_pem_x509_certificates(found["certificate"].encode())) == 2
    assert found["expiration"] == "2026-11-26T12:00:00Z"


@pytest.mark.parametrize("body", [None, "{}", '{"expiration": "2026-11-25T13:00:00+00:00"}'])
async def test_an_identity_certificate(body: str | None, apis: Apis) -> None:
    answer = await apis.workload("POST", "/modules/temperature/certificate/identity", body)
    found = _json(answer, 201)
    assert found["expiration"] == f"2026-11-25T1{3 if body and len(body) > 2 else 4}:00:00Z"


async def test_trust_bundles(apis: Apis) -> None:
    found = _json(await apis.workload("GET", "/trust-bundle"))
    assert found == {"certificate": apis.certificates.trust_bundle()}
    assert _json(await apis.workload("GET", "/manifest-trust-bundle")) == {"certificate": ""}


async def test_modules(apis: Apis) -> None:
    found = _json(await apis.workload("GET", "/modules"))
    assert [module["name"] for module in found["modules"]] == ["edgeAgent", "edgeHub"]


@pytest.mark.parametrize(
    ("target", "body", "said"),
    [
        (f"{KEYED}/sign", '{"data": "?"}', "data is not base64"),
        (f"{KEYED}/sign", "{}", "Object missing required field `data`"),
        (f"{KEYED}/sign", "not json", "The body is not JSON"),
        (f"{KEYED}/encrypt", '{"plaintext": ""}', "`initializationVector`"),
        (
            f"{KEYED}/certificate/server",
            '{"commonName": "no host", "expiration": "2026-11-26T12:00:00Z"}',
            "neither a host name nor an IP address",
        ),
        (
            f"{KEYED}/certificate/server",
            '{"commonName": "a", "expiration": "soon"}',
            "'soon' is no time in RFC 3339",
        ),
    ],
)
async def test_bad_requests(target: str, body: str, said: str, apis: Apis) -> None:
    assert said in _json(await apis.workload("POST", target, body), 400)["message"]


@pytest.mark.parametrize(
    ("target", "status", "message"),
    [
        ("/trust-bundle?x", 400, "api-version not specified"),
        ("/trust-bundle?api-version=2017-01-01", 400, "invalid api-version"),
        ("/manifest-trust-bundle?api-version=2018-06-28", 404, "before api-version 2020-07-07"),
        ("/nothing?api-version=2018-06-28", 404, "There is nothing at this path."),
    ],
)
async def test_versions(target: str, status: int, message: str, apis: Apis) -> None:
    answer = await ask(apis.sockets.socket("temperature"), "GET", target)
    assert message in _json(answer, status)["message"]


async def test_no_identity(apis: Apis) -> None:
    del apis.identities.found["temperature"]
    answer = await apis.workload("POST", f"{KEYED}/sign", json.dumps({"data": DATA}))
    assert _json(answer, 404)["message"] == "there is no identity of module temperature"


@pytest.mark.parametrize(
    "target",
    [
        f"{KEYED}/sign",
        f"{KEYED}/encrypt",
        f"{KEYED}/decrypt",
        f"{KEYED}/certificate/server",
        "/modules/temperature/certificate/identity",
    ],
)
async def test_other_processes_are_refused(target: str, apis: Apis) -> None:
    apis.runtime.running["temperature"] = frozenset([1])
    answer = await apis.workload("POST", target, json.dumps({"data": DATA}))
    assert _json(answer, 403) == {"message": "forbidden"}


async def test_a_module_cannot_speak_for_another_or_for_the_runtime(apis: Apis) -> None:
    apis.identities.found["other"] = IDENTITY
    answer = await apis.workload("POST", "/modules/other/genid/1/sign", json.dumps({"data": DATA}))
    assert _json(answer, 403) == {"message": "forbidden"}
    # `$edgeHub` is this process, which a child of it is not.
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'POST /modules/%24edgeHub/genid/1/sign?api-version=2018-06-28 HTTP/1.1\\r\\n'\n"
        "  b'host: x\\r\\nconnection: close\\r\\ncontent-length: 0\\r\\n\\r\\n')\n"
        "sys.stdout.buffer.write(s.recv(100))\n"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(apis.sockets.socket("temperature"))),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await child.communicate()
    assert out.startswith(b"HTTP/1.1 403 ")


async def test_a_process_that_ended_in_between_is_refused(apis: Apis) -> None:
    apis.runtime.running.clear()
    answer = await apis.workload("POST", f"{KEYED}/sign", json.dumps({"data": DATA}))
    assert answer.status == 403


NEXT_PID = Path("/proc/sys/kernel/ns_last_pid")
HEIR = """\
import json, os, socket, sys
path, target, body = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
if os.fork():
    os._exit(0)  # whoever connected is gone, and its connection is not
os.setsid()
sys.stdin.readline()
head = f"POST {target} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n"
head += f"content-type: application/json\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n"
connection.sendall(head.encode() + body.encode())
while data := connection.recv(65536):
    sys.stdout.buffer.write(data)
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not NEXT_PID.exists(), reason="to choose a process ID needs root"
)
async def test_a_process_id_that_a_module_got_later_lets_nobody_in(apis: Apis) -> None:
    stranger = await asyncio.to_thread(_stranger, apis.sockets.socket("temperature"))
    await asyncio.to_thread(stranger.wait)
    module = await asyncio.to_thread(_process_with, stranger.pid)
    try:
        apis.runtime.running["temperature"] = frozenset([module.pid])
        out, _ = await asyncio.to_thread(stranger.communicate, b"go\n")
        assert out.startswith(b"HTTP/1.1 403 ")
    finally:
        module.kill()
        module.wait()


def _stranger(path: Path) -> subprocess.Popen[bytes]:
    body = json.dumps({"data": DATA})
    return subprocess.Popen(
        [sys.executable, "-c", HEIR, path, f"{KEYED}/sign?api-version=2022-08-03", body],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _process_with(pid: int) -> subprocess.Popen[bytes]:
    """Start a process that has a certain ID, which is free."""
    while True:
        NEXT_PID.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "600"])
        if process.pid == pid:
            return process
        # Another process was quicker.
        process.kill()
        process.wait()


# Sockets.


async def test_each_module_has_its_own_directory(apis: Apis) -> None:
    path = apis.sockets.socket("temperature")
    assert path == apis.directory / "mnt" / "temperature" / "workload.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(apis.management.stat().st_mode) == 0o660
    await apis.sockets.open("temperature", "temperature")
    assert (await apis.workload("GET", "/trust-bundle")).status == 200
    await apis.sockets.close("temperature")
    assert not path.parent.exists()
    await apis.sockets.close("temperature")


async def test_a_long_name_fits_into_a_path(apis: Apis) -> None:
    one, other = "m" * 128, "m" * 127 + "n"
    assert apis.sockets.socket(one) != apis.sockets.socket(other)
    await apis.sockets.open(one, one)
    assert (await ask(apis.sockets.socket(one), "GET", "/modules?api-version=2018-06-28")).status


async def test_sockets_are_there_again_after_a_restart(apis: Apis) -> None:
    await apis.sockets.shut_down()
    path = apis.sockets.socket("temperature")
    assert path.exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(str(path))
    await apis.sockets.start_up()
    assert (await apis.workload("GET", "/trust-bundle")).status == 200


async def test_a_socket_that_somebody_removed_is_made_again(apis: Apis) -> None:
    apis.sockets.socket("temperature").unlink()
    await apis.sockets.open("temperature", "temperature")
    assert (await apis.workload("GET", "/trust-bundle")).status == 200


async def test_more_requests_than_allowed_are_turned_away(apis: Apis) -> None:
    waiting = asyncio.Event()

    async def processes(_name: str) -> frozenset[int]:
        await waiting.wait()
        return frozenset([os.getpid()])

    apis.runtime.processes = processes  # type: ignore[method-assign]
    body = json.dumps({"data": DATA})
    calls = [
        asyncio.ensure_future(apis.workload("POST", f"{KEYED}/sign", body))
        for _ in range(apis.most + 1)
    ]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    (refused,) = done
    assert _json(refused.result(), 429)["message"].startswith("too many requests")
    waiting.set()
    statuses = sorted([(await call).status for call in calls])
    assert statuses == [200] * apis.most + [429]
