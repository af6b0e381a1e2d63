"""The service under measurement, and what an operator asks of it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.load.job import Device, Job
from benchmarks.place import ADDRESS, CLOCK, BenchmarkError, server
from muster.auth import connection_string, sas_token, symmetric_keys

HOST: Final = "localhost"
KEY: Final = base64.b64encode(b"benchmarks only, a secret of nobody.....").decode()
OFFICIAL: Final = {"https_port": 443, "mqtt_port": 8883}
"""For devices that know no other ports."""
_MUSTER: Final = Path(sys.executable).parent / "muster"


class Muster:
    """One running instance."""

    def __init__(self, data_dir: Path, process: subprocess.Popen[bytes], started_s: float) -> None:
        self.process = process
        self.started_s = started_s
        self.facts: dict[str, Any] = json.loads((data_dir / "instance.json").read_bytes())
        self._tls = ssl.create_default_context(cafile=self.facts["caFile"])

    def job(self, kind: str, **fields: Any) -> Job:
        """Return a job for the load client against this instance's MQTT port."""
        base: dict[str, Any] = {
            "kind": kind,
            "address": ADDRESS,
            "port": self.facts["ports"]["mqtt"],
            "host": HOST,
            "ca_file": self.facts["caFile"],
            "pids": [self.process.pid],
        }
        return Job(**(base | fields))

    def registrations(self, **fields: Any) -> Job:
        """Return a job of devices that register through the group."""
        scope = self.facts["idScope"]
        return self.job("registration", id_scope=scope, group_key=KEY, **fields)

    def dps(self) -> Caller:
        """Return the provisioning service's REST surface."""
        text = self.facts["dpsConnectionString"]
        return Caller(self._tls, self.facts["ports"]["https"], text, "2021-10-01")

    def hub(self) -> Caller:
        """Return the REST surface of the hub."""
        text = self.facts["hubs"][0]["connectionString"]
        return Caller(self._tls, self.facts["ports"]["https"], text, "2021-04-12")

    def method_calls(self, devices: list[Device], **fields: Any) -> Job:
        """Return a job of devices whose methods are called."""
        port, token = self.facts["ports"]["https"], self.hub().token
        return self.job("methods", devices=devices, https_port=port, authorization=token, **fields)

    def enroll_group(self, name: str = "fleet") -> None:
        """Make the group that simulated devices register through."""
        keys = {"primaryKey": KEY, "secondaryKey": KEY}
        mechanism = {"type": "symmetricKey", "symmetricKey": keys}
        body = {"enrollmentGroupId": name, "attestation": mechanism}
        self.dps().call("PUT", f"/enrollmentGroups/{name}", body)

    def devices(self, count: int, prefix: str = "dev") -> list[Device]:
        """Make devices in the hub, and say how they log in."""
        hub = self.hub()
        names = [f"{prefix}-{number:05}" for number in range(count)]
        keys = {"primaryKey": KEY, "secondaryKey": KEY}
        for start in range(0, count, 100):
            some = [
                {
                    "id": name,
                    "importMode": "createOrUpdate",
                    "authentication": {"type": "sas", "symmetricKey": keys},
                }
                for name in names[start : start + 100]
            ]
            hub.call("POST", "/devices", some)
        raw, expiry = symmetric_keys.decode(KEY), int(CLOCK.time()) + 86_400
        return [
            Device(
                client_id=name,
                username=f"{HOST}/{name}/?api-version=2021-04-12",
                password=sas_token.sign(f"{HOST}/devices/{name}", raw, expiry),
                topic=f"devices/{name}/messages/events/",
            )
            for name in names
        ]


class Caller:
    """Signed calls over one connection that stays open."""

    def __init__(self, tls: ssl.SSLContext, port: int, text: str, api_version: str) -> None:
        policy = connection_string.parse(text)
        expiry = int(CLOCK.time()) + 86_400
        key = symmetric_keys.decode(policy.key or "")
        self.token = sas_token.sign(HOST, key, expiry, policy.key_name)
        self._version = api_version
        self._http = http.client.HTTPConnection(HOST)
        plain = socket.create_connection((ADDRESS, port), 30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http.sock = tls.wrap_socket(plain, server_hostname=HOST)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Call and return the parsed body.

        Raises:
            BenchmarkError: it is refused.
        """
        return self.exchange(method, path, body, **headers)[0]

    def exchange(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[Any, http.client.HTTPMessage]:
        """Call and return the parsed body and the headers.

        Raises:
            BenchmarkError: it is refused.
        """
        sent = {
            "Authorization": self.token,
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        data = None if body is None else json.dumps(body).encode()
        self._http.request(method, f"{path}?api-version={self._version}", data, sent)
        reply = self._http.getresponse()
        content = reply.read()
        if reply.status not in {200, 201, 204}:
            raise BenchmarkError(f"{method} {path}: {reply.status} {content[:200]!r}")
        return (json.loads(content) if content else None), reply.headers


@contextlib.contextmanager
def muster(data_dir: Path, *, https_port: int = 0, mqtt_port: int = 0) -> Iterator[Muster]:
    """Run the service on a data directory, with its defaults; on free ports unless told."""

    def ready(process: subprocess.Popen[bytes]) -> bool:
        try:
            found = json.loads((data_dir / "instance.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return bool(found["pid"] == process.pid)

    command: list[str | Path] = [
        *(_MUSTER, "up", "--data-dir", data_dir, "--listen", ADDRESS, "--hostname", HOST),
        *("--https-port", str(https_port), "--mqtt-port", str(mqtt_port), "--amqp-port", "0"),
    ]
    start = CLOCK.monotonic()
    with server(command, data_dir.with_suffix(".log"), ready) as process:
        yield Muster(data_dir, process, CLOCK.monotonic() - start)
