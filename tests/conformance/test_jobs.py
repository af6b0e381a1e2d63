"""Jobs as the official service clients ask for them: `azure-iot-hub` and `azure-iothub`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubJobManager, IoTHubRegistryManager
from azure.iot.hub.models import (
    CloudToDeviceMethod,
    JobRequest,
    QuerySpecification,
    Twin,
    TwinProperties,
)
from msrest.exceptions import HttpOperationError
from test_methods import answering, python_client

from support.device import unique
from support.node import run_script, value_of

if TYPE_CHECKING:
    from support.instance import Instance

PATIENCE_S = 30.0


def fleet(instance: Instance) -> tuple[str, list[str], str]:
    """Two devices with a tag of their own, and the key of the first."""
    name = unique("job")
    devices = [f"{name}-{number}" for number in range(2)]
    keys = [instance.hub().create_device(device_id)[0] for device_id in devices]
    for device_id in devices:
        instance.hub().must("PATCH", f"/twins/{device_id}", {"tags": {"fleet": name}})
    return name, devices, keys[0]


def ended(manager: IoTHubJobManager, job_id: str) -> Any:
    """Poll as the CLI does."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job = manager.get_scheduled_job(job_id)
        if job.status in {"completed", "failed", "cancelled"}:
            return job
        assert time.monotonic() < deadline, job.status
        time.sleep(0.1)


def test_the_python_job_manager(instance: Instance, subtests: pytest.Subtests) -> None:
    name, devices, key = fleet(instance)
    condition = f"tags.fleet = '{name}'"
    manager = IoTHubJobManager.from_connection_string(
        instance.hub_connection_string(instance.place.hubs[0])
    )
    registry = IoTHubRegistryManager.from_connection_string(
        instance.hub_connection_string(instance.place.hubs[0])
    )

    with subtests.test(msg="twin update"):
        patch = Twin(etag="*", properties=TwinProperties(desired={"interval": 5}))
        request = JobRequest(
            job_id=f"{name}-twin",
            type="scheduleUpdateTwin",
            update_twin=patch,
            query_condition=condition,
            start_time="",
            max_execution_time_in_seconds=60,
        )
        request.start_time = None
        created = manager.create_scheduled_job(request.job_id, request)
        assert created.status in {"queued", "running", "completed"}
        job = ended(manager, request.job_id)
        assert (job.status, job.query_condition) == ("completed", condition)
        assert job.device_job_statistics.device_count == 2
        assert job.device_job_statistics.succeeded_count == 2
        assert job.update_twin.properties.desired == {"interval": 5}
        assert registry.get_twin(devices[1]).properties.desired["interval"] == 5

    with subtests.test(msg="method"):
        client = python_client(instance, devices[0], key)
        with answering(client) as seen:
            call = CloudToDeviceMethod(method_name="setRate", payload={"n": 1})
            request = JobRequest(
                job_id=f"{name}-method",
                type="scheduleDeviceMethod",
                cloud_to_device_method=call,
                query_condition=condition,
            )
            manager.create_scheduled_job(request.job_id, request)
            job = ended(manager, request.job_id)
            assert seen.get(timeout=PATIENCE_S).payload == {"n": 1}
        assert job.cloud_to_device_method.method_name == "setRate"
        statistics = job.device_job_statistics
        assert (statistics.succeeded_count, statistics.failed_count) == (1, 1)
        query = f"SELECT * FROM devices.jobs WHERE devices.jobs.jobId = '{request.job_id}'"
        result = registry.query_iot_hub(QuerySpecification(query=query))
        assert {each.status for each in result.items} == {
            "completed",
            "failed",
        }

    with subtests.test(msg="cancel and refusals"):
        later = JobRequest(
            job_id=f"{name}-later",
            type="scheduleUpdateTwin",
            update_twin=Twin(tags={"a": 1}),
            query_condition="*",
            start_time="2099-01-01T00:00:00Z",
        )
        assert manager.create_scheduled_job(later.job_id, later).status == "scheduled"
        with pytest.raises(HttpOperationError) as refused:
            manager.create_scheduled_job(later.job_id, later)
        assert refused.value.response.headers["iothub-errorcode"] == "JobAlreadyExists"
        assert manager.cancel_scheduled_job(later.job_id).status == "cancelled"
        with pytest.raises(HttpOperationError) as refused:
            manager.get_scheduled_job("no-such-job")
        assert refused.value.response.headers["iothub-errorcode"] == "JobNotFound"


def test_the_node_job_client(instance: Instance, subtests: pytest.Subtests) -> None:
    name, devices, key = fleet(instance)
    client = python_client(instance, devices[0], key)
    context = {
        "connectionString": instance.hub_connection_string(instance.place.hubs[0]),
        "condition": f"tags.fleet = '{name}'",
        "name": name,
    }
    assert isinstance(client, IoTHubDeviceClient)
    with answering(client):
        results = run_script(instance, "jobs.js", context)

    with subtests.test(msg="twin update"):
        job = value_of(results, "twin")
        assert (job["status"], job["deviceJobStatistics"]["succeededCount"]) == ("completed", 2)
        assert instance.hub().must("GET", f"/twins/{devices[0]}")["tags"]["node"] is True
    with subtests.test(msg="method"):
        done = value_of(results, "method")
        assert done["job"]["deviceJobStatistics"]["deviceCount"] == 2
        outcomes = {each["deviceId"]: each for each in done["devices"]}
        assert outcomes[devices[0]]["outcome"]["deviceMethodResponse"]["status"] == 207
        assert outcomes[devices[1]]["error"]["code"] == "DeviceNotOnline"
    with subtests.test(msg="cancel and list"):
        done = value_of(results, "cancel")
        assert done["cancelled"] == "cancelled"
        assert f"{name}-later" in done["listed"]
        assert done["conflict"]["statusCode"] == 409
        assert done["gone"]["statusCode"] == 404
