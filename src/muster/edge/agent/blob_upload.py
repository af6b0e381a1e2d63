"""Uploads to a blob container that a URL with a shared access signature opens (edge.md 5.4).

Whatever goes wrong, the URL is in no message: it is a key.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

BLOCK_SIZE: Final = 4 * 1024 * 1024
"""Bytes of a blob that are held at once."""

_TIMEOUT_S: Final = 600
_CONNECT_S: Final = 20
_PAUSES_S: Final = (5.0, 20.0)
"""Between the three attempts at one request."""


class UploadError(Exception):
    """An upload failed. The message may be shown to whoever asked for it."""


def blob_name(hub_host: str, device_id: str, what: str, extension: str, now: datetime) -> str:
    """Return the name of a blob: `{hub}/{device}/{what}-{time}.{extension}`."""
    return f"{hub_host}/{device_id}/{what}-{now:%Y-%m-%d--%H-%M-%S}.{extension}"


class Container:
    """A blob container.

    Args:
        sas_url: of the container.
        trust: whom to trust.

    Raises:
        UploadError: the URL is none.
    """

    def __init__(self, sas_url: str, trust: ssl.SSLContext) -> None:
        try:
            parts = urlsplit(sas_url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UploadError("the SAS URL is no URL of a container")
        self._base: Final = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._host: Final = parts.hostname
        self._signature: Final = parts.query
        self._trust: Final = trust

    async def upload(
        self,
        name: str,
        content: AsyncIterator[bytes],
        *,
        content_type: str,
        content_encoding: str | None = None,
    ) -> None:
        """Write a blob, a block at a time.

        Raises:
            UploadError: it could not be written.
        """
        # Imported when it is used, which is seldom: it takes 10 MB.
        import aiohttp  # noqa: PLC0415 - as said above

        described = {"x-ms-blob-content-type": content_type}
        if content_encoding is not None:
            described["x-ms-blob-content-encoding"] = content_encoding
        connector = aiohttp.TCPConnector(ssl=self._trust)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S, sock_connect=_CONNECT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
            blocks: list[str] = []
            async for block, is_last in _blocks(content):
                if is_last and not blocks:
                    headers = {"x-ms-blob-type": "BlockBlob", **described}
                    await self._put(client, name, "", block, headers)
                    return
                block_id = base64.b64encode(f"{len(blocks):08}".encode()).decode()
                query = f"comp=block&blockid={quote(block_id, safe='')}"
                await self._put(client, name, query, block, {})
                blocks.append(block_id)
            listed = "".join(f"<Latest>{block_id}</Latest>" for block_id in blocks)
            body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'
            await self._put(client, name, "comp=blocklist", body.encode(), described)

    async def _put(
        self,
        client: aiohttp.ClientSession,
        name: str,
        query: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> None:
        from yarl import URL  # noqa: PLC0415 - comes with aiohttp

        query = "&".join(part for part in (query, self._signature) if part)
        url = URL(f"{self._base}/{quote(name)}?{query}", encoded=True)
        for pause_s in (*_PAUSES_S, None):
            problem, final = await self._attempt(client, url, body, headers)
            if problem is None:
                return
            if final or pause_s is None:
                raise UploadError(problem)
            await asyncio.sleep(pause_s)

    async def _attempt(
        self, client: aiohttp.ClientSession, url: URL, body: bytes, headers: Mapping[str, str]
    ) -> tuple[str | None, bool]:
        """Put something once; return what went wrong, and whether it will go wrong again."""
        import aiohttp  # noqa: PLC0415 - it is there already

        try:
            async with client.put(
                url, data=body, headers={"x-ms-version": "2021-12-02", **headers}
            ) as answer:
                if answer.status < 300:
                    return None, True
                code = answer.headers.get("x-ms-error-code", answer.reason)
                busy = answer.status in {408, 429} or answer.status >= 500
                return f"{self._host} answers {answer.status} {code}", not busy
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{self._host} cannot be reached: {type(error).__name__}", False


async def _blocks(content: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield content in blocks, each with whether it is the last; at least one."""
    held = bytearray()
    async for data in content:
        held += data
        while len(held) > BLOCK_SIZE:
            yield bytes(held[:BLOCK_SIZE]), False
            del held[:BLOCK_SIZE]
    yield bytes(held), True
