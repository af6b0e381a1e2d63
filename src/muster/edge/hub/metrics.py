"""What the edge hub counts, under the official names, in the Prometheus text format (edge.md 5.5).

All of it is counted where it happens, since this run of the edge hub began; here it gets its names.
`route_output` is no label: a module names as many outputs as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from muster.edge.hub.broker import UPSTREAM
from muster.edge.measures import Exposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from muster.edge.hub.absence import Absence
    from muster.edge.hub.heads import Services
    from muster.edge.measures import Labels, Summary
    from muster.model.identity import IdentityRef

_Values: TypeAlias = "dict[Labels, float]"
_CLOUD: Final = "iothub"
"""What the official hub calls its endpoint in the cloud."""
_WAY: Final = ("from", "to")


@final
class HubMetrics:
    """Of one run of the edge hub.

    Args:
        services: of which it is told.
        absence: of the link to the hub.
        hub_host: of the assigned hub.
        instance: tells one run from another.
    """

    def __init__(self, services: Services, absence: Absence, hub_host: str, instance: str) -> None:
        self._services = services
        self._absence = absence
        self._common = {
            "iothub": hub_host,
            "edge_device": services.device_id,
            "instance_number": instance,
        }

    def exposition(self) -> bytes:
        """Return all of it."""
        to = Exposition(self._common)
        self._add_messages(to)
        self._add_waiting(to)
        self._add_losses(to)
        self._add_clients(to)
        self._add_twins(to)
        self._add_link(to)
        return to.content()

    def _add_messages(self, to: Exposition) -> None:
        broker, queues = self._services.broker, self._services.queues
        _of_clients(
            to, "edgehub_messages_received", "Messages that were accepted.", broker.received
        )
        sizes: dict[Labels, Summary] = {(ref.text,): size for ref, size in broker.sizes.items()}
        to.summary("edgehub_message_size_bytes", "Sizes of those messages.", ("id",), sizes)
        sent: _Values = {}
        sending: dict[Labels, Summary] = {}
        processing: dict[Labels, Summary] = {}
        for sink, sender, outlet in queues.outlets():
            way = (sender, _endpoint(sink))
            sent[way] = outlet.delivered
            sending[way] = outlet.sending
            for priority, summary in outlet.processing.items():
                processing[*way, str(priority)] = summary
        to.counter(
            "edgehub_messages_sent",
            "Messages that the cloud or a module has acknowledged.",
            _WAY,
            sent,
        )
        to.summary(
            "edgehub_message_send_duration_seconds",
            "From the queue until it was acknowledged.",
            _WAY,
            sending,
        )
        to.summary(
            "edgehub_message_process_duration_seconds",
            "From when a message was accepted until it was acknowledged.",
            (*_WAY, "priority"),
            processing,
        )

    def _add_waiting(self, to: Exposition) -> None:
        lengths: _Values = {}
        for key, count in self._services.queues.waiting():
            labels = (_endpoint(key.sink), str(key.priority))
            lengths[labels] = lengths.get(labels, 0) + count
        to.gauge("edgehub_queue_length", "Messages that wait.", ("endpoint", "priority"), lengths)

    def _add_losses(self, to: Exposition) -> None:
        broker, dropped = self._services.broker, self._services.queues.dropped
        to.counter(
            "edgehub_messages_dropped",
            "Messages that no sink gets.",
            ("reason",),
            {
                ("no_route",): broker.unrouted,
                ("ttl_expiry",): dropped.expired,
                ("queue_full",): dropped.full,
                ("refused",): dropped.refused,
            },
        )
        to.counter(
            "edgehub_messages_unack",
            "Messages that were not accepted.",
            ("reason",),
            {("storage_failure",): broker.unaccepted},
        )

    def _add_clients(self, to: Exposition) -> None:
        clients = self._services.clients
        connected: _Values = {(): float(len(clients.all()))}
        to.gauge("edgehub_connected_clients", "Clients that are there.", (), connected)
        _of_clients(
            to, "edgehub_client_connect_success", "Clients that connected.", clients.connects
        )
        _of_clients(to, "edgehub_client_disconnect", "Clients that went.", clients.disconnects)
        to.counter(
            "edgehub_client_connect_failed",
            "Proofs of identity that were refused.",
            ("reason",),
            {(reason,): count for reason, count in self._services.authenticator.refused.items()},
        )

    def _add_twins(self, to: Exposition) -> None:
        twins, methods = self._services.twins, self._services.methods
        _of_clients(to, "edgehub_gettwin", "Twins that were read.", twins.reads)
        to.summary(
            "edgehub_gettwin_duration_seconds",
            "Reading a twin, from the cloud or the copy.",
            ("source", "id"),
            {(source, ref.text): each for (source, ref), each in twins.reading.items()},
        )
        _of_clients(
            to,
            "edgehub_reported_properties",
            "Patches of reported properties.",
            twins.patches,
        )
        to.summary(
            "edgehub_reported_properties_update_duration_seconds",
            "Passing reported properties on to the cloud.",
            ("target", "id"),
            {("upstream", ref.text): each for ref, each in twins.reporting.items()},
        )
        _of_clients(
            to,
            "edgehub_direct_methods",
            "Direct methods, by whom they were for.",
            methods.calls,
            "to",
        )
        to.summary(
            "edgehub_direct_method_duration_seconds",
            "From a call until its answer.",
            ("to",),
            {(ref.text,): each for ref, each in methods.answering.items()},
        )

    def _add_link(self, to: Exposition) -> None:
        itself = (f"{self._services.device_id}/$edgeHub",)
        to.counter(
            "edgehub_offline_count",
            "How often the cloud was lost.",
            ("id",),
            {itself: self._absence.count},
        )
        to.summary(
            "edgehub_offline_duration_seconds",
            "How long it was away.",
            ("id",),
            {itself: self._absence.lasted},
        )
        retried: _Values = {
            (sender, "send_message"): outlet.repeated
            for sink, sender, outlet in self._services.queues.outlets()
            if sink == UPSTREAM
        }
        to.counter(
            "edgehub_operation_retry",
            "What was on its way to the cloud when the link was lost, and goes again.",
            ("id", "operation"),
            retried,
        )


def _of_clients(
    to: Exposition, name: str, text: str, counts: Mapping[IdentityRef, int], label: str = "id"
) -> None:
    to.counter(name, text, (label,), {(ref.text,): count for ref, count in counts.items()})


def _endpoint(sink: str) -> str:
    return _CLOUD if sink == UPSTREAM else sink
