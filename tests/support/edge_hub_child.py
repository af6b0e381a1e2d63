"""An edge hub in a process of its own, so that tests can kill it. Reads its setting from a file.

Says `ready` when it listens, and its view as a line of JSON for each line it is sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from muster.clock import SystemClock
from muster.edge.certificates.authority import DeviceAuthority
from muster.edge.certificates.issuance import CertificateIssuer, IssuedCertificate
from muster.edge.hub.edge_hub import EdgeHub, HubSettings
from muster.edge.identity import HUB, DeviceIdentity, ModuleIdentity
from muster.edge.settings import EdgeCa
from muster.edge.upstream.hub import Hub
from muster.edge.upstream.hub_time import HubTime
from muster.edge.upstream.login import Gateway
from muster.ids import Randomness
from muster.observe import logs


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def main(setting: dict[str, Any]) -> None:
    directory = Path(setting["directory"])
    clock, randomness = SystemClock(), Randomness()
    device = DeviceIdentity(
        hub_host=setting["hub"],
        device_id=setting["deviceId"],
        key=base64.b64decode(setting["deviceKey"]),
    )
    edge_hub = ModuleIdentity(
        module_id=HUB, generation_id="1", key=base64.b64decode(setting["edgeHubKey"])
    )
    hub = Hub(
        device,
        trust_bundle=Path(setting["ca"]),
        parent_hostname=None,
        upstream_protocol="mqtt",
        time=HubTime(clock),
        randomness=randomness,
        environment={},
        gateway=Gateway(
            host=setting["hub"],
            https_port=setting["httpsPort"],
            mqtt_port=setting["mqttPort"],
            address=setting["gateway"],
        ),
    )
    authority = DeviceAuthority(
        EdgeCa(), directory, device.device_id, clock=clock, randomness=randomness
    )
    issuer = CertificateIssuer(
        authority,
        hub_host=device.hub_host,
        device_id=device.device_id,
        trust_bundle=None,
        clock=clock,
        randomness=randomness,
    )
    (directory / "trust.pem").write_text(issuer.trust_bundle())

    async def certificate() -> IssuedCertificate:
        return issuer.server(HUB, setting["hostname"])

    made = await EdgeHub.open(
        HubSettings(
            hostname=setting["hostname"],
            directory=directory,
            address=setting["address"],
            mqtt_port=setting["ports"][0],
            https_port=setting["ports"][1],
            amqp_port=setting["ports"][2],
        ),
        device=device,
        edge_hub=edge_hub,
        open_session=hub.session,
        scope=hub.scope(edge_hub),
        registry=hub.registry(edge_hub),
        certificates=certificate,
        clock=clock,
        randomness=randomness,
    )
    made.start()
    await made.listening()
    say("ready")
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(0, lambda: os.read(0, 65536) and say(json.dumps(made.view())))
    await stop.wait()
    loop.remove_reader(0)
    await made.stop()
    await hub.close()


if __name__ == "__main__":
    logs.configure()
    uvloop.run(main(json.loads(Path(sys.argv[1]).read_bytes())))
