"""Logs and support bundles of an edge device, asked for by method and uploaded to Muster itself.

The device is the real runtime, and what it has uploaded is read with Azure's own client, too.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient

from support.device import unique
from support.edge_daemon import EdgeDaemon, deploy, process
from support.events import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)
PATIENCE_S = 90.0


class Uploading:
    """An edge device, and what people do to have its files."""

    def __init__(self, instance: Instance, daemon: EdgeDaemon, directory: Path) -> None:
        self._instance = instance
        self._directory = directory
        self.hub = instance.place.hubs[0]
        self.device_id = unique("uploading")
        key, _ = instance.dps.enroll(
            self.device_id,
            capabilities={"iotEdge": True},
            iotHubs=[self.hub],
            allocationPolicy="hashed",
        )
        daemon.configure(self.device_id, key)
        daemon.start()
        path = f"/devices/{self.device_id}"
        wait_for(lambda: instance.hub().call("GET", path).status == 200, PATIENCE_S)
        module = process("sh", "-c", "echo it is warm; exec sleep infinity")
        deploy(instance, self.device_id, {"counter": module})
        wait_for(lambda: daemon.status("counter") == "running", PATIENCE_S)
        wait_for(lambda: "warm" in daemon.iotedge("logs", "counter").stdout, PATIENCE_S)

    def sas_url(self, *options: str) -> str:
        made = self._instance.cli("file", "container-sas", "--hub", self.hub, *options)
        return str(made["sasUrl"])

    def ask(self, method: str, **wanted: Any) -> dict[str, Any]:
        """Call a method of the agent as people do, with what it needs in a file."""
        request = self._directory / "request.json"
        request.write_text(json.dumps({"schemaVersion": "1.0", **wanted}))
        answer = self._instance.cli(
            *("method", "invoke", self.device_id, method, "--module", "$edgeAgent"),
            *("--payload", f"@{request}", "--hub", self.hub),
        )
        assert answer["status"] == 200, answer
        return dict(answer["payload"])

    def upload(self, method: str, **wanted: Any) -> None:
        """Ask for an upload, and wait until it is done."""
        asked = self.ask(method, **wanted)["correlationId"]

        def is_done() -> bool:
            told = self.ask("GetTaskStatus", correlationId=asked)
            assert told["status"] != "Failed", told
            return bool(told["status"] == "Completed")

        wait_for(is_done, PATIENCE_S)

    def files(self) -> list[dict[str, Any]]:
        listed = ("--container", "edge-files", "--device", self.device_id, "--hub", self.hub)
        return list(self._instance.cli("file", "list", *listed))

    def download(self, name: str) -> bytes:
        target = self._directory / name.rpartition("/")[2]
        self._instance.cli(
            *("file", "download", name, "--out", str(target), "--container", "edge-files"),
            *("--hub", self.hub),
        )
        return target.read_bytes()


@pytest.fixture
def uploading(instance: Instance, tmp_path: Path) -> Iterator[Uploading]:
    with EdgeDaemon(instance) as daemon:
        yield Uploading(instance, daemon, tmp_path)


def test_logs_and_bundles(uploading: Uploading, instance: Instance) -> None:
    writing = uploading.sas_url()
    items = [{"id": "counter", "filter": {"tail": 10}}]
    uploading.upload(
        "UploadModuleLogs", sasUrl=writing, items=items, encoding="gzip", contentType="text"
    )
    (log,) = uploading.files()
    assert log["name"].startswith(f"{uploading.hub}/{uploading.device_id}/counter-")
    assert log["name"].endswith(".log.gz")
    assert b"it is warm" in gzip.decompress(uploading.download(log["name"]))

    uploading.upload("UploadSupportBundle", sasUrl=writing)
    names = [each["name"] for each in uploading.files()]
    (bundle,) = set(names) - {log["name"]}
    with zipfile.ZipFile(io.BytesIO(uploading.download(bundle))) as archive:
        assert "logs/counter_log.txt" in archive.namelist()

    url = uploading.sas_url("--permissions", "rld")
    with ContainerClient.from_container_url(
        url, connection_verify=str(instance.ca_file)
    ) as container:
        prefix = f"{uploading.hub}/{uploading.device_id}/"
        assert sorted(container.list_blob_names(name_starts_with=prefix)) == sorted(names)
        assert gzip.decompress(container.download_blob(log["name"]).readall())
        with pytest.raises(HttpResponseError) as refused:
            container.upload_blob(f"{prefix}more", b"x")
        assert refused.value.error_code == "AuthorizationPermissionMismatch"
        container.delete_blob(bundle)
    assert [each["name"] for each in uploading.files()] == [log["name"]]
    with ContainerClient.from_container_url(
        writing, connection_verify=str(instance.ca_file)
    ) as container:
        container.upload_blob(f"{prefix}more", b"x" * (1 << 20), max_concurrency=2)
    assert len(uploading.files()) == 2
