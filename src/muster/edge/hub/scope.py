"""Who may connect to this edge hub: the hub's device scope, kept on disk (edge.md 6.3, 6.4).

The copy on disk is what counts while the hub is out of reach, also after a reboot.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, Protocol, cast, final

import msgspec
import structlog
from msgspec import Struct

from muster.auth import symmetric_keys
from muster.edge.hub.database import SQL
from muster.edge.upstream.errors import RefusedError, UpstreamError
from muster.errors import InvalidArgumentError
from muster.model.identity import IdentityRef
from muster.model.pacing import Pace
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from muster.clock import Clock
    from muster.edge.upstream.authentication import Authentication
    from muster.edge.upstream.device_scope import ScopePage
    from muster.store.engine import Engine

REFRESH_S: Final = 3_600.0
"""The whole scope is asked for so often."""
ASK_AGAIN_S: Final = 10.0
"""One identity is asked for at most so often, however often somebody claims to be it."""
ASK_PACE: Final = Pace(rate=2.0, burst=20)
"""Questions about all identities together: names cost nothing to make up."""
_ASK_S: Final = 20.0
_MOST_ASKED: Final = 1_024

_NOT_THERE: Final = 404
_log = structlog.get_logger(__name__)


class ScopeSource(Protocol):
    """Asks the hub: `upstream.device_scope.DeviceScope`. Both raise `UpstreamError`."""

    def pages(self) -> AsyncIterator[ScopePage]:
        """Yield the whole scope."""

    async def one(self, device_id: str, module_id: str | None = None) -> ScopePage:
        """Return one identity."""


class Member(Struct, frozen=True, kw_only=True):
    """An identity of the scope.

    Attributes:
        device_id: of the device.
        module_id: empty for the device itself.
        generation_id: tells identities of one name apart.
        enabled: whether it may connect.
        kind: how it proves itself, `sas`, `selfSigned`, `certificateAuthority` or `none`.
        keys: base64, for `sas`.
        thumbprints: for `selfSigned`.
    """

    device_id: str
    module_id: str = ""
    generation_id: str = ""
    enabled: bool = True
    kind: str = "none"
    keys: tuple[str, ...] = ()
    thumbprints: tuple[str, ...] = ()

    @property
    def ref(self) -> IdentityRef:
        """Its name."""
        return local(self.device_id, self.module_id)

    def raw_keys(self) -> list[bytes]:
        """Return its keys, those that are none left out."""
        found = []
        for key in self.keys:
            with contextlib.suppress(InvalidArgumentError):
                found.append(symmetric_keys.decode(key))
        return found

    def __repr__(self) -> str:
        return f"Member({self.ref.text!r}, keys=***)"


def local(device_id: str, module_id: str = "") -> IdentityRef:
    """Name an identity; there is one hub here."""
    return IdentityRef(0, device_id, module_id)


@final
class Scope:
    """The members.

    Args:
        engine: keeps them.
        source: asks the hub.
        clock: for pauses between questions.
        gone: called with each identity that is not or not any more to be served.
    """

    def __init__(
        self,
        engine: Engine,
        source: ScopeSource,
        clock: Clock,
        gone: Callable[[IdentityRef], None],
    ) -> None:
        self._engine = engine
        self._source = source
        self._clock = clock
        self._gone = gone
        self._members: dict[IdentityRef, Member] = {}
        self._asked: dict[IdentityRef, float] = {}
        self._arrival = 0.0
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the copy on disk."""
        for (document,) in await self._engine.read(SQL["scope"], {}):
            member = _decode(cast("str", document))
            self._members[member.ref] = member

    def find(self, ref: IdentityRef) -> Member | None:
        """Return a member as it was known last."""
        return self._members.get(ref)

    def names(self) -> list[IdentityRef]:
        """Return all members."""
        return list(self._members)

    async def refresh(self) -> None:
        """Ask for the whole scope.

        Raises:
            UpstreamError: the hub did not say; what was known stays.
            UnavailableError: the disk does not answer.
        """
        async with self._lock:
            found: dict[IdentityRef, Member] = {}
            async for page in self._source.pages():
                found.update((member.ref, member) for member in _members(page))
            await self._put(found, dropped=self._members.keys() - found.keys())

    async def ask(self, ref: IdentityRef) -> bool:
        """Ask for one identity, unless that was done just now or too much is asked.

        Returns:
            Whether what is known of it is what the hub says now.
        """
        now = self._clock.monotonic()
        if now - self._asked.get(ref, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        if ASK_PACE.wait_s(self._arrival, now):
            return False
        self._arrival = ASK_PACE.after(self._arrival, now)
        if len(self._asked) >= _MOST_ASKED:
            self._asked.clear()
        self._asked[ref] = now
        try:
            async with asyncio.timeout(_ASK_S), self._lock:
                page = await self._source.one(ref.device_id, ref.module_id or None)
                found = {member.ref: member for member in _members(page)}
                await self._put(found, dropped=set())
        except RefusedError as error:
            if error.status != _NOT_THERE:
                return False
            async with self._lock:
                await self._put({}, dropped={ref} & self._members.keys())
        except (UpstreamError, TimeoutError) as error:
            _log.info("identity not asked for", identity=ref.text, reason=str(error))
            return False
        return True

    async def _put(self, found: dict[IdentityRef, Member], dropped: set[IdentityRef]) -> None:
        changed = {ref: each for ref, each in found.items() if self._members.get(ref) != each}
        statements: list[Statement] = []
        if changed:
            rows = [
                {"identity": ref.text, "document": _encode(each).decode()}
                for ref, each in changed.items()
            ]
            statements.append(Statement(SQL["put_scope"], rows))
        if dropped:
            rows = [{"identity": ref.text} for ref in dropped]
            statements.append(Statement(SQL["drop_scope"], rows))
        if not statements:
            return
        await self._engine.write(*statements)
        # An identity that was changed proves itself anew.
        ended = {ref for ref in changed if ref in self._members} | dropped
        self._members.update(changed)
        for ref in dropped:
            del self._members[ref]
        for ref in ended:
            self._gone(ref)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Member).decode


def _members(page: ScopePage) -> list[Member]:
    found = [
        Member(
            device_id=each.device_id,
            generation_id=each.generation_id,
            enabled=each.status.lower() == "enabled",
            **_proof(each.authentication),
        )
        for each in page.devices or ()
    ]
    # A module has no status of its own that would count (edge.md 6.4).
    found += [
        Member(
            device_id=each.device_id,
            module_id=each.module_id,
            generation_id=each.generation_id,
            **_proof(each.authentication),
        )
        for each in page.modules or ()
    ]
    return found


def _proof(authentication: Authentication | None) -> dict[str, Any]:
    if authentication is None:
        return {}
    keys, prints = authentication.symmetric_key, authentication.x509_thumbprint
    pair = () if keys is None else (keys.primary_key, keys.secondary_key)
    known = () if prints is None else (prints.primary_thumbprint, prints.secondary_thumbprint)
    return {
        "kind": authentication.type,
        "keys": tuple(each for each in pair if each),
        "thumbprints": tuple(each for each in known if each),
    }
