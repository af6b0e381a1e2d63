"""Where messages of the hubs are kept and where they are delivered: which part does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from muster.hub.telemetry import LogKind
from muster.model.routing import FileSettings
from muster.store.journal import Journal
from muster.store.json_lines import JsonLinesFiles

if TYPE_CHECKING:
    import ssl

    from muster.clock import Clock
    from muster.config import Settings
    from muster.hub.hubs import Hub, Retention
    from muster.hub.routing_endpoints import Endpoint, Target
    from muster.hub.telemetry import EventLog
    from muster.store.data_directory import DataDirectory


@final
class MessagePlaces:
    """Opens logs and targets of endpoints.

    Args:
        directory: of the instance.
        settings: of the instance.
        clock: for all of them.
        trust: which webhooks to trust over TLS.
    """

    def __init__(
        self, directory: DataDirectory, settings: Settings, clock: Clock, trust: ssl.SSLContext
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._trust = trust

    async def open_log(self, hub: Hub, kind: LogKind) -> EventLog:
        """Open a log of a hub."""
        settings = self._settings
        max_age_s, max_bytes = self.retention(hub.retention)
        return await Journal.open(
            self._directory.journal_directory(hub.host)
            if kind is LogKind.EVENTS
            else self._directory.routed_directory(hub.host),
            partitions=settings.partitions,
            clock=self._clock,
            max_age_s=max_age_s,
            max_bytes=max_bytes,
        )

    def retention(self, wanted: Retention) -> tuple[float, int]:
        """Return seconds and bytes that are kept of a log."""
        return (
            self._settings.retention_s if wanted.max_age_s is None else wanted.max_age_s,
            self._settings.retention_bytes if wanted.max_bytes is None else wanted.max_bytes,
        )

    def target(self, endpoint: Endpoint) -> Target:
        """Return what an endpoint delivers to."""
        settings = endpoint.settings
        if isinstance(settings, FileSettings):
            files = self._settings.files_dir or self._directory.files
            return JsonLinesFiles(
                files / endpoint.host / (settings.directory or endpoint.name),
                self._clock,
                max_bytes=settings.max_file_bytes,
                max_age_s=settings.max_file_age_s,
            )
        # Its HTTP client takes a fifth of the start-up time; most instances have no such endpoint.
        from muster.net.webhook import Webhook  # noqa: PLC0415 - see above

        return Webhook(
            settings.url,
            self._clock,
            self._trust,
            headers={"X-Muster-Hub": endpoint.host, "X-Muster-Endpoint": endpoint.name},
            auth=settings.auth,
            secret=endpoint.secret,
            max_events=settings.max_batch_events,
            timeout_s=settings.timeout_s,
        )
