"""Files that devices upload: URLs, blobs, notifications (hub-device.md 4, hub-service.md 3.5)."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

import pytest

from muster.auth import blob_token
from muster.hub import blobs as blobs_module
from muster.hub.blobs import DEVICE_FILES, STALE_S, BlobRef
from muster.hub.file_uploads import LIFETIME_S, MAX_UPLOADS
from muster.store import blob_files
from unit.hub.hub_parts import HOST
from unit.hub.hub_rest import Reply, Rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from unit.hub.hub_parts import Parts

BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


class Upload:
    """What a device got, and calls with it."""

    def __init__(self, rest: Rest, told: dict[str, Any]) -> None:
        self._rest = rest
        self.told = told
        self.name: str = told["blobName"]
        self.correlation_id: str = told["correlationId"]
        assert told["sasToken"].startswith("?sv=")
        self.token: str = told["sasToken"][1:]

    async def call(
        self,
        method: str,
        body: bytes = b"",
        query: str = "",
        *,
        name: str | None = None,
        token: str | None = None,
        **headers: str,
    ) -> Reply:
        return await self._rest.call(
            method,
            f"/{self.told['containerName']}/{name or self.name}",
            body,
            query=f"{query}{'&' if query else ''}{self.token if token is None else token}",
            authorization="",
            headers={key.replace("_", "-"): value for key, value in headers.items()},
        )

    async def put(self, body: bytes, **headers: str) -> Reply:
        return await self.call("PUT", body, x_ms_blob_type="BlockBlob", **headers)

    async def block(self, name: str, body: bytes) -> Reply:
        return await self.call("PUT", body, f"comp=block&blockid={block_id(name)}")

    async def commit(self, *names: str) -> Reply:
        entries = "".join(f"<Latest>{block_id(name)}</Latest>" for name in names)
        body = f'<?xml version="1.0" encoding="utf-8"?>\n<BlockList>{entries}</BlockList>'
        return await self.call("PUT", body.encode(), "comp=blocklist")


def block_id(name: str) -> str:
    return base64.b64encode(name.encode()).decode()


async def begin(parts: Parts, rest: Rest, name: str = "a/log.txt", device: str = "d1") -> Upload:
    ref = parts_ref(parts, device)
    reply = await rest.call(
        "POST", f"/devices/{device}/files", {"blobName": name}, authorization=parts.token(ref)
    )
    assert reply.status == 200, reply.body
    return Upload(rest, reply.json)


def parts_ref(parts: Parts, device: str = "d1") -> Any:
    from muster.model.identity import IdentityRef

    return IdentityRef(parts.hub.id, device)


async def end(
    parts: Parts, rest: Rest, body: dict[str, Any], path: str = "", device: str = "d1"
) -> Reply:
    token = parts.token(parts_ref(parts, device))
    place = f"/devices/{device}/files/notifications{path}"
    return await rest.call("POST", place, body, authorization=token)


def error(reply: Reply) -> tuple[int, str]:
    name = reply.headers["x-ms-error-code"]
    assert f"<Code>{name}</Code>".encode() in reply.body
    return reply.status, name


def files(directory: Path) -> int:
    return len(list(directory.glob("??/*")))


async def notification(rest: Rest) -> Any:
    reply = await rest.call("GET", "/messages/serviceBound/filenotifications")
    if reply.status == 204:
        return None
    assert reply.headers["content-type"] == (
        "application/vnd.microsoft.iothub.filenotification.json"
    )
    token = reply.headers["etag"].strip('"')
    await rest.must("DELETE", f"/messages/serviceBound/filenotifications/{token}")
    return json.loads(reply.body)


async def test_a_file_is_uploaded_and_told(parts: Parts, rest: Rest) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    assert (upload.told["hostName"], upload.name) == (HOST, "d1/a/log.txt")
    reply = await upload.put(b"hello", x_ms_blob_content_type="text/plain")
    assert reply.status == 201
    assert reply.headers["etag"].startswith('"0x')
    body = {
        "correlationId": upload.correlation_id,
        "isSuccess": True,
        "statusCode": 200,
        "statusDescription": "ok",
    }
    assert await notification(rest) is None
    assert (await end(parts, rest, body)).status == 204
    told = await notification(rest)
    assert told == {
        "deviceId": "d1",
        "blobUri": f"https://{HOST}/{DEVICE_FILES}/d1/a/log.txt",
        "blobName": "d1/a/log.txt",
        "lastUpdatedTime": "2023-11-14T22:13:20Z",
        "blobSizeInBytes": 5,
        "enqueuedTimeUtc": "2023-11-14T22:13:20Z",
    }
    # Once.
    reply = await end(parts, rest, body)
    assert reply.error == (400, "InvalidFileUploadCorrelationId")
    assert await notification(rest) is None


@pytest.mark.parametrize(
    ("host", "told"), [("evil.example", HOST), ("evil.example:8443", f"{HOST}:8443")]
)
async def test_back_ends_are_told_of_this_service_only(
    parts: Parts, rest: Rest, host: str, told: str
) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    await upload.put(b"hello")
    body = {"correlationId": upload.correlation_id, "isSuccess": True}
    reply = await rest.call(
        "POST",
        "/devices/d1/files/notifications",
        body,
        authorization=parts.token(parts_ref(parts)),
        host=host,
    )
    assert reply.status == 204
    notified = await notification(rest)
    assert notified is not None
    assert notified["blobUri"] == f"https://{told}/{DEVICE_FILES}/d1/a/log.txt"


async def test_a_failed_upload_tells_nobody(parts: Parts, rest: Rest) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    # Node's form: the ID is in the path, the description is null.
    body = {"isSuccess": False, "statusCode": -1, "statusDescription": None}
    assert (await end(parts, rest, body, f"/{upload.correlation_id}")).status == 204
    assert await notification(rest) is None


async def test_uploads_that_are_refused(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.device("d2")
    upload = await begin(parts, rest)
    done = {"correlationId": upload.correlation_id, "isSuccess": True}
    assert (await end(parts, rest, done)).error == (400, "InvalidFileUploadCompletionStatus")
    other = await end(parts, rest, done, device="d2")
    assert other.error == (400, "InvalidFileUploadCorrelationId")
    for _ in range(MAX_UPLOADS - 1):
        await begin(parts, rest)
    token = parts.token(parts_ref(parts))
    reply = await rest.call("POST", "/devices/d1/files", {"blobName": "x"}, authorization=token)
    assert reply.error == (403, "DeviceMaximumActiveFileUploadLimitExceeded")
    assert (await begin(parts, rest, device="d2")).name == "d2/a/log.txt"
    assert (await end(parts, rest, {**done, "isSuccess": False})).status == 204
    # The oldest form asks with the path.
    reply = await rest.call("GET", "/devices/d1/files/b/c.txt", authorization=token)
    assert reply.json["blobName"] == "d1/b/c.txt"
    parts.clock.advance(LIFETIME_S)
    late = {"correlationId": reply.json["correlationId"], "isSuccess": False}
    assert (await end(parts, rest, late)).error == (400, "ExpiredFileUploadCorrelationId")
    for name in ("", "a/../b", "./a", "a\n", "a/", "x" * 1025):
        token = parts.token(parts_ref(parts))
        reply = await rest.call(
            "POST", "/devices/d1/files", {"blobName": name}, authorization=token
        )
        assert reply.error == (400, "ArgumentInvalid"), name
    reply = await rest.call("POST", "/devices/d1/files", {"blobName": "x"}, policy="service")
    assert reply.status == 401


async def test_a_url_is_good_for_one_blob_one_hour_and_what_it_says(
    parts: Parts, rest: Rest
) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    refused = (403, "AuthenticationFailed")
    assert error(await upload.call("GET", token="")) == (401, "NoAuthenticationInformation")
    assert error(await upload.call("PUT", name="d1/b")) == refused
    assert error(await upload.call("PUT", name="d2/a/log.txt")) == refused
    assert error(await upload.call("DELETE")) == (403, "AuthorizationPermissionMismatch")
    fields = {name: value[0] for name, value in parse_qs(upload.token).items()}
    for name, value in (("sp", "rcwd"), ("se", "2099-01-01T00:00:00Z"), ("sr", "c"), ("sig", "x")):
        token = urlencode({**fields, name: value})
        assert error(await upload.call("PUT", token=token)) == refused, name
    listing = await rest.call(
        "GET",
        f"/{DEVICE_FILES}",
        query=f"restype=container&comp=list&{upload.token}",
        authorization="",
    )
    assert error(listing) == refused
    parts.clock.advance(LIFETIME_S)
    assert error(await upload.put(b"late")) == refused
    checks = await parts.checks(f"/{DEVICE_FILES}/{upload.name}")
    assert {"authorization-missing", "expired-blob-token", "wrong-blob-signature"} <= set(checks)
    assert not any("sig=" in str(each) for each in await parts.decisions.find(upload.name))


async def test_blocks_become_a_blob(parts: Parts, rest: Rest, directory: Path) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    for name, body in (("1", b"hello "), ("2", b"old"), ("2", b"world"), ("3", b"unused")):
        assert (await upload.block(name, body)).status == 201
    assert error(await upload.call("GET")) == (404, "BlobNotFound")
    assert error(await upload.commit("1", "9")) == (400, "InvalidBlockList")
    assert error(await upload.commit("1", "1")) == (400, "InvalidBlockList")
    assert files(directory) == 3
    assert (await upload.commit("1", "2")).status == 201
    assert (await upload.call("GET")).body == b"hello world"
    # What is not part of it is gone.
    assert files(directory) == 2
    # Blocks that are part of it can be used again, beside new ones.
    await upload.block("0", b"> ")
    listed = await upload.call("GET", query="comp=blocklist")
    assert listed.body.count(b"<Block>") == 3
    assert (await upload.commit("0", "2", "1")).status == 201
    assert (await upload.call("GET")).body == b"> worldhello "
    assert (await upload.put(b"whole")).status == 201
    assert (await upload.call("GET")).body == b"whole"
    assert files(directory) == 1
    assert (await upload.commit()).status == 201
    assert (await upload.call("GET")).body == b""
    assert files(directory) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<BlockList>",
        b"<BlockList><Latest>YQ==</Latest>x</BlockList>",
        b"<BlockList><Other>YQ==</Other></BlockList>",
        b"<BlockList><Latest>&x;</Latest></BlockList>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><BlockList/>',
        b"<BlockList/></BlockList>",
        # Read in one go, or it takes days.
        b"<BlockList>" + b" " * 4_000_000,
        b"<BlockList>" + b"<Latest>YQ==" * 300_000,
    ],
)
async def test_block_lists_that_are_none(parts: Parts, rest: Rest, body: bytes) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    await upload.block("a", b"x")
    assert error(await upload.call("PUT", body, "comp=blocklist")) == (400, "InvalidBlockList")


async def test_reading_a_part(parts: Parts, rest: Rest) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    for number in range(4):
        await upload.block(str(number), bytes(range(10 * number, 10 * number + 10)))
    await upload.commit("0", "1", "2", "3")
    for wanted, expected in (
        ("bytes=0-", range(40)),
        ("bytes=5-14", range(5, 15)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=35-99", range(35, 40)),
    ):
        reply = await upload.call("GET", x_ms_range=wanted)
        assert (reply.status, reply.body) == (206, bytes(expected))
        first, last = expected[0], expected[-1]
        assert reply.headers["content-range"] == f"bytes {first}-{last}/40"
    assert error(await upload.call("GET", range="bytes=40-50")) == (416, "InvalidRange")
    head = await upload.call("HEAD")
    assert (head.headers["content-length"], head.body) == ("40", b"")
    assert head.headers["x-ms-blob-type"] == "BlockBlob"
    assert head.headers["content-disposition"] == "attachment"


async def test_what_is_sent_is_compared_with_its_md5(
    parts: Parts, rest: Rest, directory: Path
) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    right = base64.b64encode(hashlib.md5(b"x", usedforsecurity=False).digest()).decode()
    assert error(await upload.put(b"y", content_md5=right)) == (400, "Md5Mismatch")
    assert files(directory) == 0
    assert (await upload.put(b"x", content_md5=right)).status == 201
    assert (await upload.call("GET")).headers["content-md5"] == right


async def test_conditions(parts: Parts, rest: Rest) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    etag = (await upload.put(b"1", if_none_match="*")).headers["etag"]
    assert error(await upload.put(b"2", if_none_match="*")) == (409, "BlobAlreadyExists")
    assert (await upload.put(b"2", if_match=etag)).status == 201
    assert error(await upload.put(b"3", if_match=etag)) == (412, "ConditionNotMet")
    create_only = parts.blobs.token(
        blob_token.Target(1, DEVICE_FILES, upload.name), blob_token.CREATE, 60
    )
    reply = await upload.call("PUT", b"4", token=create_only, x_ms_blob_type="BlockBlob")
    assert error(reply) == (409, "BlobAlreadyExists")


async def test_what_is_not_supported(parts: Parts, rest: Rest) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    unsupported = (400, "UnsupportedQueryParameter")
    assert error(await upload.call("PUT", b"x")) == unsupported
    assert error(await upload.call("PUT", b"x", x_ms_blob_type="AppendBlob")) == unsupported
    assert error(await upload.call("PUT", b"x", "comp=metadata")) == unsupported
    assert error(await upload.call("PUT", b"x", "comp=block&blockid=%21")) == (
        400,
        "InvalidBlobOrBlock",
    )
    copy = {"x_ms_blob_type": "BlockBlob", "x_ms_copy_source": "https://elsewhere/x"}
    assert error(await upload.call("PUT", **copy)) == unsupported  # type: ignore[arg-type]


async def test_limits(
    parts: Parts, rest: Rest, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    monkeypatch.setattr(blobs_module, "MAX_BLOB", 10)
    await upload.block("1", b"12345")
    assert error(await upload.block("2", b"123456")) == (413, "RequestBodyTooLarge")
    assert (await upload.block("2", b"12345")).status == 201
    # By what the header says: all of it need not come first.
    declared = {"content_length": str((256 << 20) + 1)}
    assert error(await upload.put(b"x", **declared)) == (413, "RequestBodyTooLarge")
    block = await upload.call("PUT", b"x", f"comp=block&blockid={block_id('3')}", **declared)
    assert error(block) == (413, "RequestBodyTooLarge")
    assert files(directory) == 2
    monkeypatch.setattr(blob_files, "MIN_FREE", 1 << 60)
    assert error(await upload.put(b"x")) == (503, "ServerBusy")
    assert files(directory) == 2


async def test_stale_blocks_and_what_a_crash_left_go(
    parts: Parts, rest: Rest, directory: Path
) -> None:
    await parts.device()
    upload = await begin(parts, rest)
    await upload.put(b"kept")
    await upload.block("1", b"stale")
    parts.clock.advance(STALE_S + 1)
    other = await begin(parts, rest, "other")
    await other.block("1", b"fresh")
    (directory / "ab").mkdir(exist_ok=True)
    (directory / "ab" / "abc").write_bytes(b"half of somethi")
    assert files(directory) == 4
    await parts.blobs.tend()
    await parts.blobs.open()
    assert files(directory) == 2
    assert [chunk async for chunk in content(parts, upload)] == [b"kept"]


def content(parts: Parts, upload: Upload) -> AsyncIterator[bytes]:
    return parts.blobs.content(BlobRef(1, DEVICE_FILES, upload.name))


async def test_back_ends_list_download_and_delete(parts: Parts, rest: Rest) -> None:
    await parts.device()
    await parts.device("d10")
    for name in ("b &<.txt", "a.txt", "c.txt"):
        await (await begin(parts, rest, name)).call(
            "PUT", name.encode(), name=f"d1/{name}".replace(" ", "%20"), x_ms_blob_type="BlockBlob"
        )
    await (await begin(parts, rest, "x", "d10")).put(b"x")
    path = "/admin/v1/files"
    reply = await rest.call(
        "GET",
        path,
        query="api-version=2021-04-12&deviceId=d1",
        policy="service",
        headers={"x-ms-max-item-count": "2"},
    )
    assert [each["name"] for each in reply.json] == ["d1/a.txt", "d1/b &<.txt"]
    more = {"x-ms-continuation": reply.headers["x-ms-continuation"]}
    reply = await rest.call(
        "GET", path, query="api-version=2021-04-12&deviceId=d1", policy="service", headers=more
    )
    assert [each["name"] for each in reply.json] == ["d1/c.txt"]
    assert "x-ms-continuation" not in reply.headers
    assert (await rest.call("GET", f"{path}/d1/a.txt", policy="service")).body == b"a.txt"
    assert (await rest.call("GET", f"{path}/d1/a.txt", policy="registryRead")).status == 401
    assert (await rest.call("DELETE", f"{path}/d1/a.txt")).status == 204
    assert (await rest.call("DELETE", f"{path}/d1/a.txt")).status == 404
    token = parts.blobs.token(blob_token.Target(1, DEVICE_FILES), blob_token.LIST, 60)
    listing = await rest.call(
        "GET",
        f"/{DEVICE_FILES}",
        query=f"restype=container&comp=list&prefix=d1&maxresults=2&{token}",
        authorization="",
    )
    assert b"<Name>d1/b &amp;&lt;.txt</Name>" in listing.body
    assert b"<NextMarker>d1/c.txt</NextMarker>" in listing.body


async def test_the_url_of_a_container(parts: Parts, rest: Rest) -> None:
    async def ask(**wanted: Any) -> Reply:
        return await rest.call("POST", "/admin/v1/file-sas", wanted, policy="service")

    async def use(method: str, name: str, url: str, query: str = "", body: bytes = b"") -> Reply:
        return await rest.call(
            method,
            f"/edge-files{name}",
            body,
            query=f"{query}&{url.partition('?')[2]}".strip("&"),
            authorization="",
            headers=BLOCK_BLOB,
        )

    writing = (await ask()).json["sasUrl"]
    assert writing.startswith(f"https://{HOST}/edge-files?sv=")
    granted = parse_qs(writing.partition("?")[2])
    assert (granted["sr"], granted["sp"]) == (["c"], ["cw"])
    name = f"/{HOST}/d1/counter-2026-01-01--00-00-00.log"
    assert (await use("PUT", name, writing, body=b"count 1")).status == 201
    assert error(await use("GET", name, writing)) == (403, "AuthorizationPermissionMismatch")
    # For that container alone, and not for long.
    other = await rest.call(
        "PUT",
        f"/{DEVICE_FILES}/d1/a",
        b"x",
        query=writing.partition("?")[2],
        authorization="",
        headers=BLOCK_BLOB,
    )
    assert error(other) == (403, "AuthenticationFailed")
    reading = (await ask(permissions="lr", validForS=60)).json["sasUrl"]
    assert parse_qs(reading.partition("?")[2])["sp"] == ["rl"]
    listing = await use("GET", "", reading, "restype=container&comp=list")
    assert f"<Name>{name[1:]}</Name>".encode() in listing.body
    assert (await use("GET", name, reading)).body == b"count 1"
    parts.clock.advance(60)
    assert error(await use("GET", name, reading)) == (403, "AuthenticationFailed")

    listed = "api-version=2021-04-12&container=edge-files&deviceId="
    for device, count in (("d1", 1), ("d", 0)):
        reply = await rest.call(
            "GET", "/admin/v1/files", query=f"{listed}{device}", policy="service"
        )
        assert len(reply.json) == count
    stored = f"/admin/v1/files{name}"
    query = "api-version=2021-04-12&container=edge-files"
    assert (await rest.call("GET", stored, query=query, policy="service")).body == b"count 1"
    assert (await rest.call("GET", stored, policy="service")).status == 404
    assert (await rest.call("DELETE", stored, query=query, policy="service")).status == 204

    refused: list[dict[str, Any]] = [
        {"permissions": ""},
        {"permissions": "rx"},
        {"validForS": 0},
        {"validForS": 8 * 86_400},
        {"container": "identity-files"},
    ]
    for wanted in refused:
        assert (await ask(**wanted)).status == 400
    query = "api-version=2021-04-12&container=identity-files"
    assert (await rest.call("GET", "/admin/v1/files", query=query)).status == 400
