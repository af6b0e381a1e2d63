"""Blobs in containers: what devices upload, and lists of identities that are imported or exported.

A blob is a list of files that are never changed (`muster.store.blob_files`): one for a blob that
came in one piece, one for each block otherwise. So a list of blocks becomes a blob without copying,
and a blob is replaced in one commit.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast, final

from msgspec import Struct

from muster.auth import blob_token
from muster.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    TooLargeError,
)
from muster.hub.lines import Lines
from muster.net.tasks import repeat
from muster.store.engine import Statement
from muster.store.queries import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from muster.auth.blob_token import Target
    from muster.auth.keyring import Keyring
    from muster.clock import Clock
    from muster.store.blob_files import BlobFile, BlobFiles
    from muster.store.engine import Engine, Params, Value

DEVICE_FILES: Final = "device-files"
"""Container of what devices upload; names begin with the device's ID."""
EDGE_FILES: Final = "edge-files"
"""Container of what edge devices upload when they are asked to: logs and support bundles.

Names begin with the hub's and the device's (edge.md 5.4)."""
IDENTITY_FILES: Final = "identity-files"
"""Container of lists of identities."""
CONTAINERS: Final = (DEVICE_FILES, EDGE_FILES, IDENTITY_FILES)

MAX_NAME: Final = 1024
MAX_PIECE: Final = 256 << 20
"""Bytes of a blob in one piece, and of a block."""
MAX_BLOCKS: Final = 50_000
MAX_BLOB: Final = 16 << 30
"""Bytes of a blob, and of its blocks together."""
DEFAULT_TYPE: Final = "application/octet-stream"
STALE_S: Final = 7 * 86_400.0
"""Seconds after which blocks that became nothing are removed, as Azure does."""
_TEND_EVERY_S: Final = 3_600.0

SQL: Final = load("blobs")
_Columns: TypeAlias = tuple[int, str, int, str, bytes | None, float, float]


class BlobRef(NamedTuple):
    """Names a blob.

    Attributes:
        hub: the hub's number.
        container: one of `CONTAINERS`.
        name: any text; a slash has no meaning.
    """

    hub: int
    container: str
    name: str

    @property
    def params(self) -> dict[str, Value]:
        """The parameters that name it in SQL."""
        return self._asdict()


class Blob(Struct, frozen=True):
    """A blob without its content. Times are unix seconds.

    Attributes:
        number: changes with the content.
        name: in its container.
        size: bytes.
        content_type: as it was given.
        md5: of the content, `None` when it is not known.
        created_at: when there first was one of this name.
        modified_at: when the content was written.
    """

    number: int
    name: str
    size: int
    content_type: str
    md5: bytes | None
    created_at: float
    modified_at: float

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f"0x{self.number:016X}"


class _Part(NamedTuple):
    file: str
    block: str
    position: int | None
    size: int


@final
class Blobs:
    """All blobs of all hubs.

    Args:
        engine: where it is written what there is.
        clock: for times.
        keyring: has the key of URLs.
        files: the bytes.
    """

    def __init__(self, engine: Engine, clock: Clock, keyring: Keyring, files: BlobFiles) -> None:
        self._engine = engine
        self._clock = clock
        self._key = keyring.subkey("blob-urls")
        self._files = files
        self._lines: Lines[BlobRef] = Lines()

    async def open(self) -> None:
        """Remove what an earlier run left half-written."""
        rows = await self._engine.read(SQL["files"], {})
        await self._files.keep_only([str(row[0]) for row in rows])

    async def run(self) -> None:
        """Remove blocks that became nothing, for ever. The composition root runs this."""
        await repeat(_TEND_EVERY_S, self.tend, "blobs")

    async def tend(self) -> None:
        """Remove blocks that became nothing for long."""
        before = self._clock.time() - STALE_S
        rows = await self._engine.read(SQL["stale"], {"before": before})
        files = [str(row[0]) for row in rows]
        if files:
            await self._engine.write(
                Statement(SQL["remove_part"], [{"file": each} for each in files])
            )
            await self._files.remove(files)

    # -- URLs ----------------------------------------------------------------------------------

    def token(self, target: Target, permissions: str, lifetime_s: float) -> str:
        """Return the query of a URL that grants access; see `muster.auth.blob_token.sign`."""
        expires_at = self._clock.time() + lifetime_s
        return blob_token.sign(self._key, target, permissions, expires_at)

    def check_token(self, query: Mapping[str, str], target: Target, permissions: str) -> None:
        """Refuse a URL that may not be used for this; see `muster.auth.blob_token.check`."""
        blob_token.check(query, self._key, target, permissions, self._clock.time())

    # -- reading -------------------------------------------------------------------------------

    async def get(self, ref: BlobRef) -> Blob:
        """Return a blob.

        Raises:
            NotFoundError: there is none; code `blob-not-found`.
        """
        found = await self.find(ref)
        if found is None:
            raise NotFoundError("The specified blob does not exist.", code="blob-not-found")
        return found

    async def find(self, ref: BlobRef) -> Blob | None:
        """Return a blob, `None` when there is none."""
        rows = await self._engine.read(SQL["get"], ref.params)
        return Blob(*cast("_Columns", rows[0])) if rows else None

    async def content(
        self, ref: BlobRef, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the content of a blob, or a part of it.

        Raises:
            OSError: it cannot be read, or was replaced meanwhile.
        """
        rows = await self._engine.read(SQL["content"], ref.params)
        for file, size in cast("list[tuple[str, int]]", rows):
            if start >= size:
                start -= size
                continue
            take = size - start if length is None else min(size - start, length)
            if take == 0:
                return
            async for chunk in self._files.read(file, start, take):
                yield chunk
            start = 0
            length = None if length is None else length - take

    async def page(
        self, hub: int, container: str, prefix: str, after: str, limit: int
    ) -> list[Blob]:
        """Return blobs in the order of their names.

        Args:
            hub: the hub's number.
            container: which.
            prefix: of their names.
            after: the last name of the page before, '' for the first.
            limit: how many at most.
        """
        params: Params = {
            "hub": hub,
            "container": container,
            "prefix": prefix,
            "prefix_end": prefix + "\U0010ffff" if prefix else None,
            "after": after,
            "limit": limit,
        }
        rows = await self._engine.read(SQL["list"], params)
        return [Blob(*cast("_Columns", row)) for row in rows]

    # -- writing -------------------------------------------------------------------------------

    async def put(
        self,
        ref: BlobRef,
        content: AsyncIterator[bytes],
        content_type: str = DEFAULT_TYPE,
        *,
        md5: str | None = None,
        create: bool = False,
        limit: int = MAX_PIECE,
    ) -> Blob:
        """Write a blob in one piece, in place of the one that is there.

        Args:
            ref: which.
            content: its bytes.
            content_type: what they are.
            md5: base64 of what their MD5 must be; `None` for anything.
            create: whether there must be none yet.
            limit: bytes at most.

        Raises:
            AlreadyExistsError: with `create`, there is one; code `blob-exists`.
            InvalidArgumentError: codes `invalid-blob-name`, `md5-mismatch`.
            TooLargeError: it is too large; code `body-too-large`.
            UnavailableError: the disk is full or fails; code `storage-unavailable`.
        """
        check_name(ref.name)
        if create and await self.find(ref) is not None:
            raise _exists()
        file = await self._write(content, md5, limit)
        part: Params = {
            **ref.params,
            "file": file.name,
            "block": "",
            "position": 0,
            "size": file.size,
            "now": self._clock.time(),
        }
        async with self._lines.turn(ref):
            try:
                return await self._replace(
                    ref,
                    [Statement(SQL["insert_part"], part)],
                    {file.name},
                    size=file.size,
                    content_type=content_type,
                    md5=file.md5,
                    create=create,
                )
            except BaseException:
                await self._files.remove([file.name])
                raise

    async def put_block(
        self, ref: BlobRef, block: str, content: AsyncIterator[bytes], *, md5: str | None = None
    ) -> None:
        """Write a block, which is not part of the blob yet.

        Raises:
            InvalidArgumentError: codes `invalid-blob-name`, `invalid-block-id`, `md5-mismatch`.
            TooLargeError: it, or all of the blob's blocks, are too large; code `body-too-large`.
            UnavailableError: the disk is full or fails; code `storage-unavailable`.
        """
        check_name(ref.name)
        _check_block_id(block)
        file = await self._write(content, md5, MAX_PIECE)
        try:
            async with self._lines.turn(ref):
                older = await self._add_block(ref, block, file)
        except BaseException:
            await self._files.remove([file.name])
            raise
        await self._files.remove(older)

    async def put_block_list(
        self,
        ref: BlobRef,
        blocks: Sequence[str],
        content_type: str = DEFAULT_TYPE,
        *,
        create: bool = False,
    ) -> Blob:
        """Make a blob of blocks, in the order given; other blocks of it are gone after that.

        Raises:
            AlreadyExistsError: with `create`, there is one; code `blob-exists`.
            InvalidArgumentError: a block does not exist, or is named twice; code
                `invalid-block-list`.
            TooLargeError: they are too large together; code `body-too-large`.
        """
        check_name(ref.name)
        async with self._lines.turn(ref):
            # The newest of an ID wins: what is not part of the blob yet comes before what is.
            parts = await self._parts(ref)
            by_block = {each.block: each for each in parts if each.position is not None}
            by_block |= {each.block: each for each in parts if each.position is None}
            if len(set(blocks)) != len(blocks) or not set(blocks) <= by_block.keys():
                raise InvalidArgumentError(
                    "The specified block list is invalid.", code="invalid-block-list"
                )
            chosen = [by_block[block] for block in blocks]
            size = sum(each.size for each in chosen)
            if size > MAX_BLOB:
                raise TooLargeError("The blob is too large.", code="body-too-large")
            places: list[Params] = [
                {"file": each.file, "position": place} for place, each in enumerate(chosen)
            ]
            return await self._replace(
                ref,
                [Statement(SQL["place_part"], places)] if places else [],
                {each.file for each in chosen},
                size=size,
                content_type=content_type,
                md5=None,
                create=create,
            )

    async def block_list(self, ref: BlobRef) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """Return the blocks of a blob and those that wait to be part of it, with their sizes."""
        parts = [each for each in await self._parts(ref) if each.block]
        return (
            [(each.block, each.size) for each in parts if each.position is not None],
            [(each.block, each.size) for each in parts if each.position is None],
        )

    async def delete(self, ref: BlobRef) -> None:
        """Delete a blob, waiting blocks included.

        Raises:
            NotFoundError: there is none; code `blob-not-found`.
        """
        async with self._lines.turn(ref):
            parts = await self._parts(ref)
            gone = NotFoundError("The specified blob does not exist.", code="blob-not-found")
            steps = [Statement(SQL["forget"], ref.params, expect=1, otherwise=gone)]
            if parts:
                steps.append(Statement(SQL["remove_part"], [{"file": each.file} for each in parts]))
            await self._engine.write(*steps)
        await self._files.remove([each.file for each in parts])

    # -- inside --------------------------------------------------------------------------------

    async def _write(self, content: AsyncIterator[bytes], md5: str | None, limit: int) -> BlobFile:
        file = await self._files.write(content, limit)
        if md5 is not None and base64.b64encode(file.md5).decode() != md5:
            await self._files.remove([file.name])
            raise InvalidArgumentError(
                "The MD5 value specified in the request did not match with the MD5 value "
                "calculated by the server.",
                code="md5-mismatch",
            )
        return file

    async def _add_block(self, ref: BlobRef, block: str, file: BlobFile) -> list[str]:
        """Note a block; return the files it replaces."""
        waiting = [each for each in await self._parts(ref) if each.position is None]
        older = [each.file for each in waiting if each.block == block]
        size = sum(each.size for each in waiting) + file.size
        if size > MAX_BLOB or len(waiting) - len(older) >= MAX_BLOCKS:
            raise TooLargeError("There are too many blocks.", code="body-too-large")
        part: Params = {
            **ref.params,
            "file": file.name,
            "block": block,
            "position": None,
            "size": file.size,
            "now": self._clock.time(),
        }
        steps = [Statement(SQL["insert_part"], part)]
        if older:
            steps.append(Statement(SQL["remove_part"], [{"file": each} for each in older]))
        await self._engine.write(*steps)
        return older

    async def _parts(self, ref: BlobRef) -> list[_Part]:
        rows = await self._engine.read(SQL["parts"], ref.params)
        return [_Part(*cast("tuple[str, str, int | None, int]", row)) for row in rows]

    async def _replace(
        self,
        ref: BlobRef,
        steps: list[Statement],
        keep: set[str],
        *,
        size: int,
        content_type: str,
        md5: bytes | None,
        create: bool,
    ) -> Blob:
        """Make a blob of the parts that the steps leave; call it in the blob's line."""
        before = await self.find(ref)
        if create and before is not None:
            raise _exists()
        now = self._clock.time()
        gone = [each.file for each in await self._parts(ref) if each.file not in keep]
        row: Params = {
            **ref.params,
            "size": size,
            "content_type": content_type,
            "md5": md5,
            "created_at": before.created_at if before else now,
            "now": now,
        }
        steps = [
            *steps,
            Statement(SQL["forget"], ref.params),
            Statement(SQL["insert"], row, expect=1),
        ]
        if gone:
            steps.append(Statement(SQL["remove_part"], [{"file": each} for each in gone]))
        await self._engine.write(*steps)
        await self._files.remove(gone)
        return await self.get(ref)


def check_name(name: str) -> str:
    """Return the name of a blob when it can be one.

    Raises:
        InvalidArgumentError: it cannot; code `invalid-blob-name`.
    """
    if (
        not 0 < len(name) <= MAX_NAME
        or not name.isprintable()
        or name.endswith("/")
        # Clients would take these out of the URL.
        or {".", ".."} & set(name.split("/"))
    ):
        raise InvalidArgumentError(
            f"A blob's name has 1 to {MAX_NAME} printable characters, does not end with a slash, "
            "and no part of it is '.' or '..'.",
            code="invalid-blob-name",
        )
    return name


def _check_block_id(block: str) -> None:
    try:
        size = len(base64.b64decode(block, validate=True))
    except ValueError:
        size = 0
    if not 1 <= size <= 64:
        raise InvalidArgumentError(
            "A block ID is base64 of 1 to 64 bytes.", code="invalid-block-id"
        )


def _exists() -> AlreadyExistsError:
    return AlreadyExistsError("The specified blob already exists.", code="blob-exists")
