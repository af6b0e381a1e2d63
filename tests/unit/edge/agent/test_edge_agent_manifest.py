"""Desired properties of `$edgeAgent` (edge.md 5.1), good ones and bad ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.edge.agent.deployment import (
    LAST_IN_ORDER,
    Deployment,
    DeploymentError,
    DesiredStatus,
    RestartPolicy,
)
from muster.edge.agent.manifest import parse
from muster.edge.engine.base import PullPolicy
from unit.edge.agent.agent_cases import JsonObject, desired, docker_module, process_module

RUNTIMES = {"docker", "process"}


def read(document: JsonObject, parent: str | None = None) -> Deployment:
    return parse(document, RUNTIMES, parent)


def refused(document: JsonObject, parent: str | None = None) -> tuple[int, str]:
    with pytest.raises(DeploymentError) as caught:
        parse(document, RUNTIMES, parent)
    return caught.value.status.code, caught.value.status.description


# Good ones.


def test_what_a_module_says_is_read() -> None:
    module = docker_module(
        "registry.example/team/sensor",
        version="1.2",
        status="stopped",
        restartPolicy="Always",
        imagePullPolicy="never",
        startupOrder=7,
        env={"A": {"value": "x"}, "B": {"value": 3}, "C": {"value": True}, "D": {"value": 1.5}},
    )
    deployment = read(desired(9, sensor=module))
    assert deployment.version == 9
    (found,) = deployment.modules.values()
    assert found.name == "sensor"
    assert found.runtime == "docker"
    assert found.status is DesiredStatus.STOPPED
    assert found.restart_policy is RestartPolicy.ALWAYS
    assert found.pull_policy is PullPolicy.NEVER
    assert found.order == 7
    assert found.version == "1.2"
    assert found.env == {"A": "x", "B": "3", "C": "true", "D": "1.5"}
    assert found.settings == {"image": "registry.example/team/sensor:latest"}
    assert found.create_options == {}


def test_what_is_absent_has_the_defaults_of_the_official_agent() -> None:
    module = read(desired(a=docker_module())).modules["a"]
    assert module.restart_policy is RestartPolicy.ON_UNHEALTHY
    assert module.pull_policy is PullPolicy.ON_CREATE
    assert module.order == LAST_IN_ORDER == 4294967295
    assert module.env == {}


def test_system_modules_are_read_and_apart() -> None:
    deployment = read(desired())
    assert deployment.modules == {}
    assert deployment.agent is not None
    assert deployment.agent.order == 0
    assert deployment.agent.settings == {"image": "mcr.example/agent:1.5"}
    assert deployment.hub is not None
    assert deployment.hub.restart_policy is RestartPolicy.ALWAYS
    assert deployment.hub.create_options == {"HostConfig": {"Privileged": False}}
    assert deployment.hub.env == {"OptimizeForPerformance": "false"}


def test_a_deployment_may_name_no_system_module() -> None:
    document = {**desired(), "systemModules": {}}
    deployment = read(document)
    assert deployment.agent is None
    assert deployment.hub is None


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.0.7", "1.1.0", 1.0])
def test_schema_versions_up_to_one_one_are_known(version: Any) -> None:
    assert read({**desired(), "schemaVersion": version}).version == 1


def test_a_process_needs_no_image() -> None:
    module = read(desired(a=process_module("python -m a"))).modules["a"]
    assert module.settings == {"command": "python -m a"}


def test_credentials_of_registries_are_read_and_not_shown() -> None:
    runtime = read(desired()).runtime
    assert runtime.registries["site"].password == "open sesame"
    assert "open sesame" not in repr(read(desired()))


def test_env_is_not_shown() -> None:
    module = docker_module(env={"KEY": {"value": "hush hush"}})
    assert "hush hush" not in repr(read(desired(a=module)))


def test_create_options_in_pieces_are_put_together() -> None:
    module = docker_module()
    module["settings"] = {
        "image": "a",
        "createOptions01": '"x"}',
        "CreateOptions": '{"Hostname":',
    }
    assert read(desired(a=module)).modules["a"].create_options == {"Hostname": "x"}


def test_upstream_is_the_parent() -> None:
    document = desired(a=docker_module("$upstream:8000/team/a:1"))
    credentials = document["runtime"]["settings"]["registryCredentials"]["site"]
    credentials["address"] = "$upstream:8000"
    deployment = read(document, "parent.example")
    assert deployment.modules["a"].settings["image"] == "parent.example:8000/team/a:1"
    assert deployment.runtime.registries["site"].address == "parent.example:8000"


def test_nothing_given_is_changed() -> None:
    document = desired(a=docker_module(), b=process_module())
    before = copy.deepcopy(document)
    read(document)
    assert document == before


# Bad ones.


def test_nothing_at_all_is_417() -> None:
    code, description = refused({"$version": 4, "$metadata": {}})
    assert code == 417
    assert description == (
        "This device has an empty configuration for the edge agent. "
        "Please set a deployment manifest."
    )


@pytest.mark.parametrize("version", ["2.0", "1.2", "1.1.1", "0.9", "1.10"])
def test_another_schema_is_412(version: str) -> None:
    code, description = refused({**desired(), "schemaVersion": version})
    assert code == 412
    assert description == (
        f"The desired properties schema version {version} is not compatible with the expected "
        "version 1.1.0"
    )


@pytest.mark.parametrize(
    "version", ["", "one", "1", "1.", "1.0.0.0.0", "-1.0", "1.\u0660", "1." + "9" * 50]
)
def test_a_schema_version_that_is_none_is_412(version: str) -> None:
    assert refused({**desired(), "schemaVersion": version}) == (
        412,
        f"Invalid desired properties schema version {version}",
    )


def without(path: str) -> Callable[[JsonObject], None]:
    *parents, last = path.split("/")

    def change(document: JsonObject) -> None:
        for name in parents:
            document = document[name]
        del document[last]

    return change


def put(path: str, value: Any) -> Callable[[JsonObject], None]:
    *parents, last = path.split("/")

    def change(document: JsonObject) -> None:
        for name in parents:
            document = document[name]
        document[last] = value

    return change


LONG = "m" * 129

BAD: dict[str, tuple[Callable[[JsonObject], None], str]] = {
    "no schema version": (without("schemaVersion"), "schemaVersion is missing"),
    "odd schema version": (put("schemaVersion", []), "schemaVersion is not a string"),
    "no runtime": (without("runtime"), "runtime is missing"),
    "odd runtime": (put("runtime/type", "magic"), "runtime.type is 'magic'; this device knows"),
    "no system modules": (without("systemModules"), "systemModules is missing"),
    "hub without status": (
        without("systemModules/edgeHub/status"),
        "systemModules.edgeHub.status is missing",
    ),
    "agent of another type": (
        put("systemModules/edgeAgent/type", "process"),
        "systemModules.edgeAgent.type is 'process'",
    ),
    "modules is a list": (put("modules", []), "modules is not an object"),
    "module is text": (put("modules/a", "x"), "modules.a is not an object"),
    "no type": (without("modules/a/type"), "modules.a.type is missing"),
    "unknown type": (
        put("modules/a/type", "podman"),
        "modules.a.type is 'podman'; this device knows docker, process",
    ),
    "no status": (without("modules/a/status"), "modules.a.status is missing"),
    "odd status": (
        put("modules/a/status", "paused"),
        "modules.a.status is 'paused'; it may be running, stopped",
    ),
    "odd restart policy": (
        put("modules/a/restartPolicy", "unless-stopped"),
        "modules.a.restartPolicy is 'unless-stopped'; it may be never, on-failure, ",
    ),
    "odd pull policy": (
        put("modules/a/imagePullPolicy", "always"),
        "modules.a.imagePullPolicy is 'always'; it may be on-create, if-not",
    ),
    "negative order": (put("modules/a/startupOrder", -1), "modules.a.startupOrder is not a whole"),
    "great order": (put("modules/a/startupOrder", 2**32), "modules.a.startupOrder is not a whole"),
    "true order": (put("modules/a/startupOrder", True), "modules.a.startupOrder is not a whole"),
    "no settings": (without("modules/a/settings"), "modules.a.settings is missing"),
    "no image": (without("modules/a/settings/image"), "modules.a.settings.image is missing"),
    "blank image": (put("modules/a/settings/image", "  "), "modules.a.settings.image is not"),
    "odd image": (
        put("modules/a/settings/image", "a:b:c"),
        "modules.a.settings.image is not usable: Image a:b:c is not in the right format",
    ),
    "image of a parent that is not there": (
        put("modules/a/settings/image", "$upstream:80/a"),
        "this device has no parent_hostname",
    ),
    "image of a variable": (
        put("modules/a/settings/image", "$registry/a"),
        "modules.a.settings.image is not usable: $registry/a begins with a variable",
    ),
    "create options are no JSON": (
        put("modules/a/settings/createOptions", "{'Hostname': 'x'}"),
        "modules.a.settings.createOptions is not usable: not JSON",
    ),
    "create options are a list": (
        put("modules/a/settings/createOptions", "[]"),
        "modules.a.settings.createOptions is not usable: not a JSON object",
    ),
    "create options are a number": (
        put("modules/a/settings/createOptions", 3),
        "modules.a.settings.createOptions is not usable: createOptions is not a string",
    ),
    "env is a list": (put("modules/a/env", []), "modules.a.env is not an object"),
    "env value is bare": (put("modules/a/env", {"K": "v"}), "modules.a.env.K is not an object"),
    "env value is an object": (
        put("modules/a/env", {"K": {"value": {}}}),
        "modules.a.env.K.value is not a string, number or boolean",
    ),
    "env name with a dot": (put("modules/a/env", {"a.b": {"value": ""}}), "modules.a.env.a.b is"),
    "env name with a blank": (put("modules/a/env", {"a b": {"value": ""}}), "modules.a.env.a b is"),
    "module name escapes": (put("modules/..", docker_module()), "modules... is not a name"),
    "module name with a dollar": (put("modules/$edgeHub", docker_module()), "is not a name"),
    "long module name": (put(f"modules/{LONG}", docker_module()), "is not a name"),
    "module with a system name": (
        put("modules/edgeHub", docker_module()),
        "modules.edgeHub is a system module",
    ),
    "credentials without password": (
        without("runtime/settings/registryCredentials/site/password"),
        "runtime.settings.registryCredentials.site.password is missing",
    ),
    "credentials with a blank address": (
        put("runtime/settings/registryCredentials/site/address", " "),
        "runtime.settings.registryCredentials.site.address is empty",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_400_and_named(case: str) -> None:
    change, words = BAD[case]
    document = desired(a=docker_module())
    change(document)
    code, description = refused(document)
    assert code == 400
    assert description.startswith("Agent configuration format is invalid. ")
    assert words in description


def test_module_names_with_slashes_are_refused() -> None:
    document = desired(**{"../../etc/passwd": docker_module()})
    code, description = refused(document)
    assert (code, "is not a name of a module" in description) == (400, True)


def test_a_secret_is_never_in_a_description() -> None:
    document = desired(a=docker_module())
    document["runtime"]["settings"]["registryCredentials"]["site"]["username"] = None
    assert "open sesame" not in refused(document)[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
PLACES = st.sampled_from(
    [
        *("schemaVersion", "runtime", "runtime/type", "runtime/settings", "systemModules"),
        *("runtime/settings/registryCredentials", "runtime/settings/registryCredentials/site"),
        *("systemModules/edgeAgent", "systemModules/edgeHub", "systemModules/edgeHub/settings"),
        *("modules", "modules/a", "modules/a/settings", "modules/a/settings/image"),
        *("modules/a/settings/createOptions", "modules/a/settings/createOptions01"),
        *("modules/a/env", "modules/a/env/K", "modules/a/status", "modules/a/startupOrder"),
        *("modules/a/type", "modules/a/version", "modules/b", "$version"),
    ]
)


@settings(deadline=None, max_examples=300)
@given(PLACES, JSON)
def test_nonsense_is_refused_or_read_and_nothing_else(place: str, value: Any) -> None:
    document = desired(a=docker_module(env={"K": {"value": 1}}))
    put(place, value)(document)
    status = None
    try:
        assert isinstance(read(document).version, int)
    except DeploymentError as error:
        status = error.status
    assert status is None or (status.code in {400, 412} and status.description)
