"""Removes images that modules were made of and nothing uses any more (edge.md 3.5).

Only images that this runtime has used are touched: what else is on the device is its owner's. The
file that remembers them is written when one comes into use or goes out of it, so hardly ever.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

import msgspec
import structlog

from muster.edge.engine.base import EngineError, KeepsImages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.clock import Clock
    from muster.edge.engine.base import Engine
    from muster.edge.settings import ImageCollection
    from muster.edge.state import StateDirectory

_FILE: Final = "images.json"
_LOOK_S: Final = 600.0
"""Between two looks at what is in use; a module that ends sooner has used its image all the same,
for the runtime says so while it is about to make it."""
_log = structlog.get_logger(__name__)


class _Remembered(msgspec.Struct, kw_only=True):
    """The file.

    Attributes:
        unused_since: by the ID of an image, unix seconds; `None` while it is used.
        collected_on: local day of the last collection, counted from 0001-01-01; 0 for none.
    """

    unused_since: dict[str, float | None] = {}
    collected_on: int = 0


@final
class ImageCollector:
    """Looks after the images of all runtimes that keep any.

    Args:
        settings: when.
        engines: the runtimes; the sequence may grow.
        state: where what was used is remembered.
        clock: of the machine.
    """

    def __init__(
        self,
        settings: ImageCollection,
        engines: Sequence[Engine],
        state: StateDirectory,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._state = state
        self._clock = clock

    async def watch(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                await self.look()
            except (EngineError, OSError) as error:
                _log.warning("images were not looked after", reason=str(error))
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Note which images are in use, and remove those that are due when it is time to.

        Raises:
            EngineError: a runtime does not answer.
            OSError: the file cannot be written.
        """
        keepers = [engine for engine in self._engines if isinstance(engine, KeepsImages)]
        if not keepers:
            return
        uses = [await keeper.image_use() for keeper in keepers]
        busy = frozenset[str]().union(*(use.busy for use in uses))
        remembered = await asyncio.to_thread(self._state.read, _FILE, _Remembered)
        remembered = remembered or _Remembered()
        known = remembered.unused_since
        now = self._clock.time()
        for image in frozenset(known).union(*(use.ours for use in uses)):
            since = known.get(image)
            # A time to come was noted while the clock was wrong.
            known[image] = None if image in busy else now if since is None else min(since, now)
        if self._settings.enabled and self._is_time(remembered):
            remembered.collected_on = self._today
            for image, since in sorted(known.items()):
                if since is not None and now - since >= self._settings.age_s:
                    await self._remove(keepers, image, known)
        await asyncio.to_thread(self._state.write, _FILE, remembered)

    async def _remove(
        self, keepers: Sequence[KeepsImages], image: str, known: dict[str, float | None]
    ) -> None:
        gone = [await keeper.remove_image(image) for keeper in keepers]
        if all(gone):
            del known[image]
            _log.info("image removed: no module uses it any more", image=image)

    @property
    def _today(self) -> int:
        return self._clock.now().astimezone().toordinal()

    def _is_time(self, remembered: _Remembered) -> bool:
        """Tell whether a collection is due; one that was missed is made up for."""
        local = self._clock.now().astimezone()
        if local.hour * 60 + local.minute < self._settings.at_minute:
            return False
        days = self._today - remembered.collected_on
        # Days to come: the clock was wrong.
        return days >= self._settings.every_days or days < 0
