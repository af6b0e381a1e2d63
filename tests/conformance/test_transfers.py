"""Exports and imports of identities with the official service clients."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.hub import IoTHubJobManager
from azure.iot.hub.models import JobProperties
from azure.storage.blob import ContainerClient

from support.device import unique
from support.node import run_script, value_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.instance import Instance

# A hub has one export or import at a time.
pytestmark = pytest.mark.xdist_group("transfers")

PATIENCE_S = 60.0


def ended(manager: IoTHubJobManager, job: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while job.status not in {"completed", "failed", "cancelled"}:
        assert time.monotonic() < deadline, job.status
        time.sleep(0.1)
        job = manager.get_import_export_job(job.job_id)
    return job


def container_uri(instance: Instance) -> str:
    uri: str = instance.hub().must("POST", "/admin/v1/identity-files")["containerUri"]
    return uri


def test_python(instance: Instance) -> None:
    device_id = unique("transfer")
    key, _ = instance.hub().create_device(device_id)
    connection_string = instance.hub_connection_string(instance.place.hubs[0])
    manager = IoTHubJobManager.from_connection_string(connection_string)
    uri = container_uri(instance)
    container = ContainerClient.from_container_url(uri, connection_verify=str(instance.ca_file))
    with container:
        request = JobProperties(
            type="export", output_blob_container_uri=uri, output_blob_name="out.txt"
        )
        job = ended(manager, manager.create_import_export_job(request))
        assert (job.status, job.progress) == ("completed", 100)
        assert "out.txt" in [each.name for each in container.list_blobs()]
        text = container.download_blob("out.txt").readall()
        (line,) = [each for each in map(json.loads, text.splitlines()) if each["id"] == device_id]
        assert line["authentication"]["symmetricKey"]["primaryKey"] == key

        lines = [{**line, "importMode": "delete"}, {"id": f"{device_id}-2", "importMode": "update"}]
        container.upload_blob("in.txt", "\n".join(map(json.dumps, lines)), overwrite=True)
        request = JobProperties(
            type="import",
            input_blob_container_uri=uri,
            input_blob_name="in.txt",
            output_blob_container_uri=uri,
        )
        assert ended(manager, manager.create_import_export_job(request)).status == "completed"
        assert instance.hub().call("GET", f"/devices/{device_id}").status == 404
        errors = container.download_blob("importErrors.log").readall().splitlines()
        assert [json.loads(each)["errorCode"] for each in errors] == ["DeviceNotFound"]
        container.delete_blob("in.txt")
        container.delete_blob("out.txt")
    assert job.job_id in [each.job_id for each in manager.get_import_export_jobs()]


def test_node(instance: Instance) -> None:
    context = {
        "connectionString": instance.hub_connection_string(instance.place.hubs[0]),
        "containerUri": container_uri(instance),
    }
    done = value_of(run_script(instance, "transfers.js", context), "transfers")
    assert (done["exported"]["status"], done["imported"]["status"]) == ("completed", "completed")
    assert done["ours"]
    assert (done["wrong"]["statusCode"], done["gone"]["statusCode"]) == (400, 404)


def test_the_command_line(instance: Instance, tmp_path: Path) -> None:
    device_id = unique("transfer")
    instance.hub().create_device(device_id)
    host = instance.place.hubs[0]
    out = tmp_path / "devices.txt"
    instance.cli("job", "export", "--out", str(out), "--hub", host)
    assert out.stat().st_mode & 0o777 == 0o600
    (line,) = [each for each in out.read_text().splitlines() if f'"{device_id}"' in each]
    instance.hub().must("DELETE", f"/devices/{device_id}", if_match="*")
    again = tmp_path / "again.txt"
    again.write_text(line)
    assert instance.cli("job", "import", str(again), "--hub", host)["errors"] == []
    identity = instance.hub().must("GET", f"/devices/{device_id}")
    assert identity["authentication"] == json.loads(line)["authentication"]
    again.write_text(json.dumps({"id": device_id, "importMode": "create"}))
    failed = instance.run_cli("job", "import", str(again), "--hub", host)
    assert failed.returncode == 1
    assert f"{device_id}: DeviceAlreadyExists" in failed.stderr
