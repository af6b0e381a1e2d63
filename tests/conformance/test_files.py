"""Files uploaded with the official clients: of devices, of Azure Storage, from Python and npm."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient
from test_methods import connection, python_client

from support.device import unique
from support.node import run_script, value_of

if TYPE_CHECKING:
    from support.instance import Instance

# A notification goes to one of those who ask for them.
pytestmark = pytest.mark.xdist_group("files")


def blob_client(instance: Instance, told: dict[str, Any], **options: Any) -> BlobClient:
    """Make the client as the samples of the device SDK do."""
    url = f"https://{told['hostName']}/{told['containerName']}/{told['blobName']}{told['sasToken']}"
    return BlobClient.from_blob_url(url, connection_verify=str(instance.ca_file), **options)


def stored(instance: Instance, name: str) -> bytes:
    reply = instance.hub().call("GET", f"/admin/v1/files/{name}")
    assert reply.status == 200, reply.body
    return reply.body


def notifications(instance: Instance) -> dict[str, dict[str, Any]]:
    """Take what there is."""
    path = "/messages/serviceBound/filenotifications"
    found: dict[str, dict[str, Any]] = {}
    while (reply := instance.hub().call("GET", path)).status == 200:
        found[reply.json["blobName"]] = reply.json
        instance.hub().must("DELETE", f"{path}/{reply.headers['etag'].strip(chr(34))}")
    return found


def test_python(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id = unique("upload")
    key, _ = instance.hub().create_device(device_id)
    client = python_client(instance, device_id, key)
    try:
        with subtests.test(msg="in one piece"):
            told = client.get_storage_info_for_blob("logs/a b.txt")
            with blob_client(instance, told) as blob:
                blob.upload_blob(b"hello", overwrite=True)
                assert blob.download_blob().readall() == b"hello"
                properties = blob.get_blob_properties()
                assert (properties.size, properties.blob_type) == (5, "BlockBlob")
                with pytest.raises(HttpResponseError) as refused:
                    blob.delete_blob()
                assert refused.value.error_code == "AuthorizationPermissionMismatch"
            client.notify_blob_upload_status(told["correlationId"], True, 200, "OK")
            assert stored(instance, f"{device_id}/logs/a%20b.txt") == b"hello"
            told_back_ends = notifications(instance)[f"{device_id}/logs/a b.txt"]
            assert told_back_ends["blobSizeInBytes"] == 5

        with subtests.test(msg="in blocks"):
            content = bytes(range(256)) * 4096 * 3
            told = client.get_storage_info_for_blob("large")
            sizes = {"max_single_put_size": 1 << 18, "max_block_size": 1 << 19}
            with blob_client(instance, told, **sizes) as blob:
                blob.upload_blob(io.BytesIO(content), max_concurrency=3)
                assert len(blob.get_block_list("all")[0]) == 6
                assert (
                    blob.download_blob(offset=5, length=1 << 20).readall()
                    == content[5 : 5 + (1 << 20)]
                )
                with pytest.raises(HttpResponseError) as refused:
                    blob.upload_blob(b"again")
                assert refused.value.error_code == "BlobAlreadyExists"
            client.notify_blob_upload_status(told["correlationId"], True, 200, "OK")
            assert stored(instance, f"{device_id}/large") == content

        with subtests.test(msg="not uploaded"):
            told = client.get_storage_info_for_blob("never")
            client.notify_blob_upload_status(told["correlationId"], False, 500, "no network")
            assert f"{device_id}/never" not in notifications(instance)
    finally:
        client.shutdown()


def test_node(instance: Instance, subtests: pytest.Subtests) -> None:
    device_id = unique("upload")
    key, _ = instance.hub().create_device(device_id)
    results = run_script(
        instance, "files.js", {"connectionString": connection(instance, device_id, key)}
    )
    with subtests.test(msg="uploadToBlob"):
        assert value_of(results, "uploadToBlob") == "done"
        content = stored(instance, f"{device_id}/node/upload.bin")
        assert content == b"n" * (9 << 20)
        assert f"{device_id}/node/upload.bin" in notifications(instance)
    with subtests.test(msg="by hand"):
        told = value_of(results, "byHand")
        assert told["blobName"] == f"{device_id}/by-hand.txt"
        assert stored(instance, f"{device_id}/by-hand.txt") == b"by hand"
