"""What the agent counts, under the official names, in the Prometheus text format (edge.md 5.5)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from muster.edge.agent.machine_metrics import JsonObject, MachineMetrics
from muster.edge.measures import Exposition, Histogram, Labels

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_MODULE: Final = ("module_name", "module_version")
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
        self._common: Final = {
            "iothub": hub_host,
            "edge_device": device_id,
            "instance_number": instance,
        }
        self._version: Final = version
        self._watched_at: float | None = None
        self._began_at: float | None = None
        self._started: Final = Counter[Labels]()
        self._stopped: Final = Counter[Labels]()
        self._prepared: Final = Counter[Labels]()
        self._latency: Final[dict[Labels, Histogram]] = {}
        self._syncs = 0
        self._failed_syncs = 0
        self._deployments: Final = Histogram(_SECONDS)
        self._methods: Final = Counter[Labels]()
        self._correct: Final[dict[Labels, float]] = {}
        self._expected: Final[dict[Labels, float]] = {}
        self._machine: Final = MachineMetrics(os.cpu_count() or 1)

    def started(self, name: str, version: str) -> None:
        """Count a start."""
        self._started[name, version] += 1

    def stopped(self, name: str, version: str) -> None:
        """Count a stop."""
        self._stopped[name, version] += 1

    def prepared(self, name: str, version: str) -> None:
        """Count that what a module is made of was fetched."""
        self._prepared[name, version] += 1

    def took(self, act: str, seconds: float) -> None:
        """Note how long an act took."""
        self._latency.setdefault((act,), Histogram(_SECONDS)).observe(seconds)

    def synced(self, *, well: bool) -> None:
        """Count a twin that was read, or a report that was sent."""
        self._syncs += 1
        self._failed_syncs += not well

    def deploys(self, now: float) -> None:
        """Note that another deployment is in force, at so many monotonic seconds."""
        self._began_at = now

    def deployed(self, now: float) -> None:
        """Note that nothing of it is left to be done; nothing if that was noted before."""
        if self._began_at is not None:
            self._deployments.observe(now - self._began_at)
            self._began_at = None

    def called(self, method: str) -> None:
        """Count a direct method; `method` is a name of ours, so that nobody can multiply them."""
        self._methods[method,] += 1

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
            key = (name,)
            self._expected[key] = self._expected.get(key, 0.0) + seconds
            ran = seconds if name in running else 0.0
            self._correct[key] = self._correct.get(key, 0.0) + ran

    def exposition(self, resources: JsonObject, usage: Iterable[JsonObject], now: float) -> bytes:
        """Return all of it; for what it takes see `MachineMetrics.add`."""
        to = Exposition(self._common)
        self._add_modules(to)
        self._add_acts(to)
        to.counter("edgeAgent_iothub_syncs", "Twins read and reports sent.", (), {(): self._syncs})
        to.counter(
            "edgeAgent_unsuccessful_iothub_syncs",
            "Those that failed.",
            (),
            {(): self._failed_syncs},
        )
        to.gauge(
            "edgeAgent_metadata",
            "What runs here.",
            ("edge_agent_version",),
            {(self._version,): 1},
        )
        self._machine.add(to, resources, usage, now)
        return to.content()

    def _add_modules(self, to: Exposition) -> None:
        to.counter("edgeAgent_module_start", "Starts of a module.", _MODULE, self._started)
        to.counter("edgeAgent_module_stop", "Stops of a module.", _MODULE, self._stopped)
        to.counter(
            "edgeAgent_module_prepare_update",
            "How often what a module is made of was fetched.",
            _MODULE,
            self._prepared,
        )
        for name, text, values in (
            (
                "running_correctly",
                "How long a module ran while the deployment wanted it to.",
                self._correct,
            ),
            (
                "expected_running",
                "How long the deployment wanted a module to run.",
                self._expected,
            ),
        ):
            to.gauge(f"edgeAgent_total_time_{name}_seconds", text, ("module_name",), values)

    def _add_acts(self, to: Exposition) -> None:
        to.histogram(
            "edgeAgent_command_latency_seconds",
            "How long an act took.",
            ("command",),
            self._latency,
        )
        to.histogram(
            "edgeAgent_deployment_time_seconds",
            "From a deployment's arrival until nothing more was to be done.",
            (),
            {(): self._deployments},
        )
        to.gauge(
            "edgeagent_direct_method_invocations_count",
            "Direct methods, by name.",
            ("method_name",),
            self._methods,
        )
