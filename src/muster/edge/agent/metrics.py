"""What the agent counts, under the official names, in the Prometheus text format (edge.md 5.5)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_COMMON: Final = ("iothub", "edge_device", "instance_number")
_MODULE: Final = (*_COMMON, "module_name", "module_version")
_SECONDS: Final = (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)


class AgentMetrics:
    """The metrics of one run of the agent.

    Args:
        hub_host: of the assigned hub.
        device_id: of this device.
        instance: tells one run from another.
        version: of this runtime.
    """

    def __init__(self, hub_host: str, device_id: str, instance: str, version: str) -> None:
        self._common: Final = (hub_host, device_id, instance)
        self._watched_at: float | None = None
        self._began_at: float | None = None
        self._registry: Final = CollectorRegistry()
        self._started: Final = self._counter(
            "edgeAgent_module_start", "Starts of a module.", _MODULE
        )
        self._stopped: Final = self._counter("edgeAgent_module_stop", "Stops of a module.", _MODULE)
        self._latency: Final = self._histogram(
            "edgeAgent_command_latency_seconds", "How long an act took.", (*_COMMON, "command")
        )
        self._syncs: Final = self._counter(
            "edgeAgent_iothub_syncs", "Twins read and reports sent.", _COMMON
        )
        self._failed_syncs: Final = self._counter(
            "edgeAgent_unsuccessful_iothub_syncs", "Those that failed.", _COMMON
        )
        self._deployments: Final = self._histogram(
            "edgeAgent_deployment_time_seconds",
            "From a deployment's arrival until nothing more was to be done.",
            _COMMON,
        )
        self._methods: Final = self._gauge(
            "edgeagent_direct_method_invocations_count",
            "Direct methods, by name.",
            (*_COMMON, "method_name"),
        )
        self._correct: Final = self._gauge(
            "edgeAgent_total_time_running_correctly_seconds",
            "How long a module ran while the deployment wanted it to.",
            (*_COMMON, "module_name"),
        )
        self._expected: Final = self._gauge(
            "edgeAgent_total_time_expected_running_seconds",
            "How long the deployment wanted a module to run.",
            (*_COMMON, "module_name"),
        )
        metadata = self._gauge(
            "edgeAgent_metadata", "What runs here.", (*_COMMON, "edge_agent_version")
        )
        metadata.labels(*self._common, version).set(1)

    def started(self, name: str, version: str) -> None:
        """Count a start."""
        self._started.labels(*self._common, name, version).inc()

    def stopped(self, name: str, version: str) -> None:
        """Count a stop."""
        self._stopped.labels(*self._common, name, version).inc()

    def took(self, act: str, seconds: float) -> None:
        """Note how long an act took."""
        self._latency.labels(*self._common, act).observe(seconds)

    def synced(self, *, well: bool) -> None:
        """Count a twin that was read, or a report that was sent."""
        self._syncs.labels(*self._common).inc()
        if not well:
            self._failed_syncs.labels(*self._common).inc()

    def deploys(self, now: float) -> None:
        """Note that another deployment is in force, at so many monotonic seconds."""
        self._began_at = now

    def deployed(self, now: float) -> None:
        """Note that nothing of it is left to be done; nothing if that was noted before."""
        if self._began_at is not None:
            self._deployments.labels(*self._common).observe(now - self._began_at)
            self._began_at = None

    def called(self, method: str) -> None:
        """Count a direct method; `method` is a name of ours, so that nobody can multiply them."""
        self._methods.labels(*self._common, method).inc()

    def watched(self, wanted: Iterable[str], running: Collection[str], now: float) -> None:
        """Note which modules are wanted to run, and which do, since this was last noted.

        Args:
            wanted: by a deployment.
            running: of all that is there.
            now: monotonic seconds.
        """
        seconds = now - self._watched_at if self._watched_at is not None else 0.0
        self._watched_at = now
        for name in wanted:
            self._expected.labels(*self._common, name).inc(seconds)
            self._correct.labels(*self._common, name).inc(seconds if name in running else 0.0)

    def exposition(self) -> bytes:
        """Return all of it."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=_SECONDS)
