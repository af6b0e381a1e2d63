"""An instance on an interpreter where client certificates cannot be had."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from muster.app.instance import Instance
from muster.config import Settings
from muster.net import client_certificates
from support.certificates import ClientCertificate
from unit.net.loopback import HOST, connect, hang_up

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("trouble", [None, "the pointer is elsewhere"])
async def test_it_serves_in_any_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str | None
) -> None:
    if trouble is not None:
        monkeypatch.setattr(client_certificates, "trouble", lambda: trouble)
    settings = Settings(
        data_dir=tmp_path / "data", listen=HOST, https_port=0, mqtt_port=0, amqp_port=0
    )
    instance = await Instance.start(settings)
    try:
        assert any(trouble in note for note in instance.notes) if trouble else not instance.notes
        context = ssl.create_default_context(cafile=instance.info.ca_file)
        context.load_cert_chain(ClientCertificate.make(tmp_path).file)
        for port in (instance.info.ports.mqtt, instance.info.ports.amqp, instance.info.ports.https):
            _, writer = await connect(port, context)
            await hang_up(writer)
    finally:
        await instance.stop()
