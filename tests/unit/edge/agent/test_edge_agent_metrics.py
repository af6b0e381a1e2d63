"""What the agent counts (edge.md 5.5)."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muster.edge.agent.metrics import AgentMetrics

COMMON = {"iothub": "hub.example", "edge_device": "dev-1", "instance_number": "one"}


@pytest.fixture
def metrics() -> AgentMetrics:
    return AgentMetrics("hub.example", "dev-1", "one", "9.9")


RESOURCES: dict[str, Any] = {
    "host_uptime": 3600,
    "process_uptime": 60,
    "used_cpu": 12.5,
    "used_ram": 1000,
    "total_ram": 4000,
    "disks": [
        {
            "name": "/dev/sda1",
            "available_space": 10,
            "total_space": 40,
            "file_system": "ext4",
            "file_type": "SSD",
        }
    ],
}
"""As `SystemResources` (edge.md 3.2)."""
PROCESS: dict[str, Any] = {
    "name": "program",
    "memory_stats": {"usage": 77},
    "cpu_stats": {"cpu_usage": {"total_usage": 0}},
    "pids_stats": {"current": 3},
}
CONTAINER: dict[str, Any] = {
    "name": "/box",
    "memory_stats": {"usage": 88, "limit": 512},
    "cpu_stats": {"cpu_usage": {"total_usage": 5_000_000_000}},
    "pids_stats": {"current": 2},
    "networks": {
        "eth0": {"rx_bytes": 5, "tx_bytes": 6},
        "eth1": {"rx_bytes": 10, "tx_bytes": 20},
    },
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"op": "Read", "value": 3},
            {"op": "read", "value": 4},
            {"op": "Write", "value": 9},
            {"op": "Total", "value": 16},
        ]
    },
}


def value(
    metrics: AgentMetrics,
    name: str,
    *,
    usage: tuple[dict[str, Any], ...] = (),
    now: float = 0.0,
    **labels: str,
) -> float | None:
    """Return the number a scraper reads."""
    text = metrics.exposition(RESOURCES, usage, now).decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == {**COMMON, **labels}:
                return sample.value
    return None


def test_starts_and_stops(metrics: AgentMetrics) -> None:
    metrics.started("a", "1.0")
    metrics.started("a", "1.0")
    metrics.stopped("a", "")
    labels = {"module_name": "a", "module_version": "1.0"}
    assert value(metrics, "edgeAgent_module_start_total", **labels) == 2
    metrics.prepared("a", "1.0")
    assert value(metrics, "edgeAgent_module_prepare_update_total", **labels) == 1
    labels["module_version"] = ""
    assert value(metrics, "edgeAgent_module_stop_total", **labels) == 1


def test_acts_and_deployments_have_durations(metrics: AgentMetrics) -> None:
    metrics.took("prepare", 2.5)
    assert value(metrics, "edgeAgent_command_latency_seconds_sum", command="prepare") == 2.5
    for bound, count in {"0.01": 0, "1.0": 0, "5.0": 1, "+Inf": 1}.items():
        labels = {"command": "prepare", "le": bound}
        assert value(metrics, "edgeAgent_command_latency_seconds_bucket", **labels) == count
    metrics.deploys(100.0)
    metrics.deployed(107.0)
    metrics.deployed(200.0)
    assert value(metrics, "edgeAgent_deployment_time_seconds_sum") == 7
    assert value(metrics, "edgeAgent_deployment_time_seconds_count") == 1


def test_what_is_said_to_the_hub(metrics: AgentMetrics) -> None:
    metrics.synced(well=True)
    metrics.synced(well=False)
    assert value(metrics, "edgeAgent_iothub_syncs_total") == 2
    assert value(metrics, "edgeAgent_unsuccessful_iothub_syncs_total") == 1


def test_methods_by_name(metrics: AgentMetrics) -> None:
    metrics.called("ping")
    name = "edgeagent_direct_method_invocations_count"
    assert value(metrics, name, method_name="ping") == 1


def test_how_long_modules_run_as_they_should(metrics: AgentMetrics) -> None:
    metrics.watched(["a", "b"], {"a"}, 10.0)
    metrics.watched(["a", "b"], {"a"}, 15.0)
    metrics.watched(["a"], {"a"}, 16.0)
    expected = "edgeAgent_total_time_expected_running_seconds"
    correct = "edgeAgent_total_time_running_correctly_seconds"
    assert value(metrics, expected, module_name="a") == 6
    assert value(metrics, correct, module_name="a") == 6
    assert value(metrics, expected, module_name="b") == 5
    assert value(metrics, correct, module_name="b") == 0


def test_what_runs_here(metrics: AgentMetrics) -> None:
    assert value(metrics, "edgeAgent_metadata", edge_agent_version="9.9") == 1


def test_the_machine(metrics: AgentMetrics) -> None:
    assert value(metrics, "edgeAgent_host_uptime_seconds") == 3600
    assert value(metrics, "edgeAgent_iotedged_uptime_seconds") == 60
    disk = {"disk_name": "/dev/sda1", "disk_filesystem": "ext4", "disk_filetype": "SSD"}
    assert value(metrics, "edgeAgent_available_disk_space_bytes", **disk) == 10
    assert value(metrics, "edgeAgent_total_disk_space_bytes", **disk) == 40
    assert value(metrics, "edgeAgent_used_memory_bytes", module_name="host") == 1000
    assert value(metrics, "edgeAgent_total_memory_bytes", module_name="host") == 4000
    half = {"module_name": "host", "quantile": "0.5"}
    assert value(metrics, "edgeAgent_used_cpu_percent", **half) == 12.5


@pytest.mark.parametrize(
    ("name", "program", "box"),
    [
        ("used_memory_bytes", 77, 88),
        ("total_memory_bytes", None, 512),
        ("created_pids_total", 3, 2),
        ("total_network_in_bytes", None, 15),
        ("total_network_out_bytes", None, 26),
        ("total_disk_read_bytes", None, 7),
        ("total_disk_write_bytes", None, 9),
    ],
)
def test_what_modules_use(
    metrics: AgentMetrics, name: str, program: float | None, box: float | None
) -> None:
    for module, wanted in (("program", program), ("box", box)):
        usage = (PROCESS, CONTAINER)
        found = value(metrics, f"edgeAgent_{name}", usage=usage, module_name=module)
        assert found == wanted


def test_the_processor_time_of_modules(metrics: AgentMetrics) -> None:
    processors = metrics._machine._processors

    def used(total_s: float) -> tuple[dict[str, Any]]:
        return ({**PROCESS, "cpu_stats": {"cpu_usage": {"total_usage": total_s * 1e9}}},)

    name, module = "edgeAgent_used_cpu_percent", {"module_name": "program"}
    # Of what was before, nobody knows over which time.
    assert value(metrics, f"{name}_count", usage=used(7), now=10.0, **module) is None
    assert value(metrics, f"{name}_sum", usage=used(8), now=20.0, **module) == 10 / processors
    # It was started anew in between.
    assert value(metrics, f"{name}_count", usage=used(1), now=30.0, **module) == 1
    assert value(metrics, f"{name}_count", usage=used(2), now=40.0, **module) == 2
    # It is gone.
    assert value(metrics, f"{name}_count", usage=(), now=50.0, **module) is None


def test_an_engine_that_says_little(metrics: AgentMetrics) -> None:
    usage = {**CONTAINER, "pids_stats": {}, "networks": None, "blkio_stats": None}
    assert value(metrics, "edgeAgent_used_memory_bytes", usage=(usage,), module_name="box") == 88
    usage["blkio_stats"] = {"io_service_bytes_recursive": None}
    assert value(metrics, "edgeAgent_created_pids_total", usage=(usage,), module_name="box") is None
