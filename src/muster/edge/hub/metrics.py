"""What the edge hub counts, under the official names, in the Prometheus text format (edge.md 5.5).

All of it is counted where it happens, since this run of the edge hub began; here it gets its names.
`route_output` is no label: a module names as many outputs as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from muster.edge.hub.broker import UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from muster.edge.hub.heads import Services
    from muster.model.identity import IdentityRef

_COMMON: Final = ("iothub", "edge_device", "instance_number")
_Values: TypeAlias = "dict[tuple[str, ...], float]"
_CLOUD: Final = "iothub"
"""What the official hub calls its endpoint in the cloud."""


@final
class HubMetrics(Collector):
    """Of one run of the edge hub.

    Args:
        services: of which it is told.
        hub_host: of the assigned hub.
        instance: tells one run from another.
    """

    def __init__(self, services: Services, hub_host: str, instance: str) -> None:
        self._services = services
        self._common = (hub_host, services.device_id, instance)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self) -> bytes:
        """Return all of it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Implement `Collector`."""
        parts = self._services
        clients, queues, broker = parts.clients, parts.queues, parts.broker
        lengths: _Values = {}
        for key, count in queues.waiting():
            labels = (_endpoint(key.sink), str(key.priority))
            lengths[labels] = lengths.get(labels, 0) + count
        yield self._gauge(
            "edgehub_queue_length", "Messages that wait.", ("endpoint", "priority"), lengths
        )
        connected: _Values = {(): float(len(clients.all()))}
        yield self._gauge("edgehub_connected_clients", "Clients that are there.", (), connected)
        yield self._of_clients(
            "edgehub_messages_received", "Messages that were accepted.", broker.received
        )
        yield self._counter(
            "edgehub_messages_sent",
            "Messages that the cloud or a module has acknowledged.",
            ("from", "to"),
            {(sender, _endpoint(sink)): count for sink, sender, count in queues.delivered()},
        )
        dropped: _Values = {
            ("no_route",): broker.unrouted,
            ("ttl_expiry",): queues.dropped.expired,
            ("queue_full",): queues.dropped.full,
            ("refused",): queues.dropped.refused,
        }
        yield self._counter(
            "edgehub_messages_dropped", "Messages that no sink gets.", ("reason",), dropped
        )
        yield self._counter(
            "edgehub_messages_unack",
            "Messages that were not accepted.",
            ("reason",),
            {("storage_failure",): broker.unaccepted},
        )
        yield self._of_clients(
            "edgehub_client_connect_success", "Clients that connected.", clients.connects
        )
        yield self._of_clients(
            "edgehub_client_disconnect", "Clients that went.", clients.disconnects
        )
        yield self._counter(
            "edgehub_client_connect_failed",
            "Proofs of identity that were refused.",
            ("reason",),
            {(reason,): count for reason, count in parts.authenticator.refused.items()},
        )
        yield self._of_clients("edgehub_gettwin", "Twins that were read.", parts.twins.reads)
        yield self._of_clients(
            "edgehub_reported_properties", "Patches of reported properties.", parts.twins.patches
        )
        yield self._of_clients(
            "edgehub_direct_methods",
            "Direct methods, by whom they were for.",
            parts.methods.calls,
            "to",
        )

    def _gauge(self, name: str, text: str, labels: tuple[str, ...], values: _Values) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[*_COMMON, *labels])
        for key, value in values.items():
            family.add_metric([*self._common, *key], value)
        return family

    def _counter(self, name: str, text: str, labels: tuple[str, ...], values: _Values) -> Metric:
        family = CounterMetricFamily(name, text, labels=[*_COMMON, *labels])
        for key, value in values.items():
            family.add_metric([*self._common, *key], value)
        return family

    def _of_clients(
        self, name: str, text: str, counts: Mapping[IdentityRef, int], label: str = "id"
    ) -> Metric:
        values: _Values = {(ref.text,): count for ref, count in counts.items()}
        return self._counter(name, text, (label,), values)


def _endpoint(sink: str) -> str:
    return _CLOUD if sink == UPSTREAM else sink
