"""The same patch for many twins, with few reads and commits.

A batch is read, decided and written as a whole, on the condition that nobody changed any of its
twins meanwhile. When somebody did, it is halved until the twins that are free are done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, cast, final

import msgspec
from msgspec import Struct

from muster.errors import MusterError
from muster.hub import twin_rows
from muster.hub.changes import SectionChange, TwinChanged
from muster.hub.modules import module_not_found
from muster.hub.registry import ATTEMPTS, LostRaceError, device_not_found, etag_mismatch
from muster.hub.twin_rows import SQL
from muster.model import twin as twin_rules
from muster.model.identity import IdentityRef, matches
from muster.store.engine import Statement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from muster.clock import Clock
    from muster.hub.changes import Changes
    from muster.hub.connections import Connections
    from muster.hub.twin_catch_up import TwinCatchUp
    from muster.model.twin import JsonObject, Twin
    from muster.store.engine import Engine, Params

Outcomes: TypeAlias = dict[IdentityRef, MusterError | None]
"""Why twins could not be patched; `None` for those that are."""

_encode: Final = msgspec.json.Encoder().encode


class TwinPatch(Struct):
    """What is written.

    Attributes:
        tags: to be merged into the tags; `None` leaves them alone.
        desired: the same for the desired properties.
        if_match: an etag the twins must have; `None` and `*` for any.
    """

    tags: JsonObject | None
    desired: JsonObject | None
    if_match: str | None = None


@final
class TwinBatches:
    """Patches many twins.

    Args:
        engine: where they are kept.
        clock: for `$lastUpdated`.
        connections: tells devices what changed.
        changes: is told of every write.
        catch_up: keeps what is removed, for clients that are away.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        connections: Connections,
        changes: Changes,
        catch_up: TwinCatchUp,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._connections = connections
        self._changes = changes
        self._catch_up = catch_up

    async def patch(
        self,
        hub: int,
        refs: Sequence[IdentityRef],
        patch: TwinPatch,
        also: Callable[[Outcomes], Sequence[Statement]],
    ) -> None:
        """Patch twins, and have what became of them committed with them.

        Args:
            hub: whose they are.
            refs: which; none twice.
            patch: what is written.
            also: returns the steps that write the outcomes down. Called for all of the twins or
                for some at a time, and again when a write was undone.

        Raises:
            Exception: a step of `also` failed; the twins of that write are as they were.
        """
        for _ in range(ATTEMPTS if len(refs) == 1 else 1):
            try:
                await self._patch(hub, refs, patch, also)
            except LostRaceError:
                continue
            return
        if len(refs) == 1:
            lost = LostRaceError("The twin is being changed by others.", subject=refs[0].text)
            await self._engine.write(*also({refs[0]: lost}))
            return
        middle = len(refs) // 2
        await self.patch(hub, refs[:middle], patch, also)
        await self.patch(hub, refs[middle:], patch, also)

    async def _patch(
        self,
        hub: int,
        refs: Sequence[IdentityRef],
        patch: TwinPatch,
        also: Callable[[Outcomes], Sequence[Statement]],
    ) -> None:
        names = [(ref.device_id, ref.module_id) for ref in refs]
        rows = await self._engine.read(SQL["some"], {"hub": hub, "refs": _encode(names).decode()})
        outcomes: Outcomes = {ref: _gone(ref) for ref in refs}
        written: list[tuple[IdentityRef, Twin]] = []
        updates: list[Params] = []
        removals: list[Statement] = []
        now = self._clock.now()
        for row in rows:
            ref = IdentityRef(hub, *cast("tuple[str, str]", row[:2]))
            before, revision = twin_rows.from_columns(row[2:])
            if not matches(patch.if_match, before.etag):
                outcomes[ref] = etag_mismatch(ref.text)
                continue
            try:
                after = twin_rules.update(before, now, tags=patch.tags, desired=patch.desired)
            except MusterError as error:
                outcomes[ref] = error
                continue
            outcomes[ref] = None
            written.append((ref, after))
            updates.append({**twin_rows.to_params(ref, after), "expected": revision})
            if patch.desired is not None:
                before_it = before.desired.properties
                removals += self._catch_up.removals(ref, before_it, after.desired)
        steps = [*removals, *also(outcomes)]
        if updates:
            lost = LostRaceError("A twin was changed by another.")
            update = Statement(SQL["update"], updates, expect=len(updates), otherwise=lost)
            steps.insert(0, update)
        await self._engine.write(*steps)
        for ref, after in written:
            self._tell(ref, after, patch)

    def _tell(self, ref: IdentityRef, twin: Twin, patch: TwinPatch) -> None:
        change = None
        if patch.desired is not None:
            version = twin.desired.version
            body = _encode(twin_rules.desired_patch_for_device(patch.desired, version))
            self._connections.announce_desired(ref, version, body)
            change = SectionChange(patch.desired, twin.desired)
        self._changes.publish(
            TwinChanged(ref, twin.version, tags=patch.tags, desired=change, twin=twin)
        )


def _gone(ref: IdentityRef) -> MusterError:
    return module_not_found(ref) if ref.module_id else device_not_found(ref.device_id)
