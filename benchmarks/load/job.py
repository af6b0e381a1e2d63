"""What a load process is asked to do and what it answers; JSON over stdin and stdout."""

from __future__ import annotations

import msgspec


class Device(msgspec.Struct):
    """One client: who it says it is, and where it sends: a topic, or an AMQP address."""

    client_id: str
    username: str = ""
    password: str = ""
    topic: str = ""


class Job(msgspec.Struct, kw_only=True):
    """A job.

    Attributes:
        kind: `registration`, `telemetry`, `idle`, `http`, `methods`, `nats`, `twins`, `amqp`,
            `amqp-idle` or `devicebound`.
        address, port, host: where the server is, and its name in TLS.
        ca_file: whom to trust.
        pids: processes whose CPU time counts as the server's.
        websocket: path and subprotocol, when the connections carry a WebSocket.
        connections: at a time.
        warm_up_s, seconds: before the measured window, and the window.
        count: operations in all, instead of a window; 0 for a window.
        timeout_s: the job fails after this.
        sources: local addresses to connect from, in turn; empty for any.
        prefix: of registration IDs; a number follows.
        id_scope, group_key: of the provisioning service; no `id_scope` means a plain broker with
            a responder.
        picks: registration numbers to use instead of 0, 1, 2, …
        devices: who sends telemetry, stays idle, answers methods or reports properties.
        https_port, authorization: where methods are called, and as whom.
        backend, amqp_port: who sends messages to the devices over AMQP, and where; nobody stands
            for a plain broker, where they are sent over MQTT.
        batch, window: messages in one write, and how many may be unacknowledged.
        payload_bytes: size of a telemetry message.
        offline_subscriber: leave a persistent subscription behind first, so that a broker that
            keeps only what somebody waits for keeps everything.
    """

    kind: str
    address: str
    port: int
    host: str
    ca_file: str
    pids: list[int]
    websocket: tuple[str, str] | None = None
    connections: int = 32
    warm_up_s: float = 1.0
    seconds: float = 4.0
    count: int = 0
    timeout_s: float = 120.0
    sources: list[str] = msgspec.field(default_factory=list)
    prefix: str = ""
    id_scope: str = ""
    group_key: str = ""
    picks: list[int] = msgspec.field(default_factory=list)
    devices: list[Device] = msgspec.field(default_factory=list)
    https_port: int = 0
    authorization: str = ""
    backend: Device | None = None
    amqp_port: int = 0
    batch: int = 1
    window: int = 1
    payload_bytes: int = 256
    offline_subscriber: bool = False


class Result(msgspec.Struct, kw_only=True):
    """What came of a job.

    Attributes:
        operations: finished in the window.
        wall_s: its length.
        server_cpu_s: CPU time of each watched process in the window, in the order of `pids`.
        client_cpu_s: CPU time of the client itself.
        server_memory: growth of resident memory in bytes, of all watched processes (`idle`).
        latencies_ms: `p50`, `p99`, `slowest`.
        failures: operations that failed, by reason.
    """

    operations: int
    wall_s: float
    server_cpu_s: list[float]
    client_cpu_s: float
    server_memory: int = 0
    latencies_ms: dict[str, float] = msgspec.field(default_factory=dict)
    failures: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.wall_s

    @property
    def server_us(self) -> float:
        """Server CPU of one operation, in microseconds."""
        return sum(self.server_cpu_s) / max(self.operations, 1) * 1e6

    @property
    def client_bound(self) -> bool:
        """Whether the client had no time left, so that the rate says nothing of the server."""
        return self.client_cpu_s / self.wall_s > 0.9 > sum(self.server_cpu_s) / self.wall_s


def percentiles(latencies_s: list[float]) -> dict[str, float]:
    """Summarise latencies, in milliseconds."""
    if not latencies_s:
        return {}
    ordered = sorted(latencies_s)
    last = len(ordered) - 1
    return {
        "p50": ordered[last // 2] * 1e3,
        "p99": ordered[last * 99 // 100] * 1e3,
        "slowest": ordered[-1] * 1e3,
    }
