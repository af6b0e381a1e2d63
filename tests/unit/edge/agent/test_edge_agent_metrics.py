"""What the agent counts (edge.md 5.5)."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muster.edge.agent.metrics import AgentMetrics

COMMON = {"iothub": "hub.example", "edge_device": "dev-1", "instance_number": "one"}


@pytest.fixture
def metrics() -> AgentMetrics:
    return AgentMetrics("hub.example", "dev-1", "one", "9.9")


def value(metrics: AgentMetrics, name: str, **labels: str) -> float | None:
    """Return the number a scraper reads."""
    for family in text_string_to_metric_families(metrics.exposition().decode()):
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
    labels["module_version"] = ""
    assert value(metrics, "edgeAgent_module_stop_total", **labels) == 1


def test_acts_and_deployments_have_durations(metrics: AgentMetrics) -> None:
    metrics.took("prepare", 2.5)
    assert value(metrics, "edgeAgent_command_latency_seconds_sum", command="prepare") == 2.5
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
