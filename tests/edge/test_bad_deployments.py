"""One hostile deployment after the other for a whole device: its code, and what runs goes on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from muster.model.merge_patches import difference
from support.device import unique
from support.edge_daemon import EdgeDaemon, manifest, process
from support.events import wait_for

if TYPE_CHECKING:
    from support.instance import Instance

pytestmark = pytest.mark.timeout(240)

Json = dict[str, Any]
WRITER = """\
import os, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(3600)
"""
DOCKER = {
    "type": "docker",
    "status": "running",
    "restartPolicy": "always",
    "settings": {"image": "registry.invalid/none:1"},
}
PATIENCE_S = 60.0


class BesetDevice:
    """A device with one module that runs, whatever it is told to do.

    Args:
        instance: where its hub is.
        daemon: not yet configured.
    """

    def __init__(self, instance: Instance, daemon: EdgeDaemon) -> None:
        self._instance = instance
        self.daemon = daemon
        device_id = unique("beset")
        self._twin = f"/twins/{device_id}/modules/%24edgeAgent"
        self._desired: Json = {}
        key, _ = instance.dps.enroll(
            device_id,
            capabilities={"iotEdge": True},
            iotHubs=[instance.place.hubs[0]],
            allocationPolicy="hashed",
        )
        daemon.configure(device_id, key)
        program = daemon.directory / "steady.py"
        program.write_text(WRITER)
        self._started = daemon.directory / "started"
        self.steady = process(sys.executable, str(program), str(self._started))

    @property
    def pids(self) -> list[str]:
        """Process IDs of the module: one for each time that it was started."""
        return self._started.read_text().split() if self._started.exists() else []

    def wanted(self, **modules: Any) -> Json:
        """Return desired properties with the module that runs, and others."""
        modules = copy.deepcopy({"steady": self.steady, **modules})
        content = manifest(modules)["modulesContent"]
        desired = content["$edgeAgent"]["properties.desired"]
        assert isinstance(desired, dict)
        return desired

    def desire(self, desired: Json, method: str = "PATCH") -> int:
        """Have all desired properties be these; return their version, 0 where the hub refuses."""
        said = desired if method == "PUT" else difference(self._desired, desired)
        reply = self._instance.hub().call(
            method, self._twin, {"properties": {"desired": said}}, if_match="*"
        )
        if reply.status == 400:
            return 0
        assert reply.status == 200, reply.body
        self._desired = desired
        return int(reply.json["properties"]["desired"]["$version"])

    def reported(self) -> Json:
        found = self._instance.hub().must("GET", self._twin)["properties"]["reported"]
        assert isinstance(found, dict)
        return found

    def judged(self, version: int) -> tuple[int, str]:
        """Return code and description for a version, once they are reported."""
        found: Json = {}

        def is_reported() -> bool:
            found.update(self.reported())
            return found.get("lastDesiredVersion") == version and found["lastDesiredStatus"][
                "code"
            ] not in {0, 406}

        wait_for(is_reported, PATIENCE_S)
        status = found["lastDesiredStatus"]
        return status["code"], status["description"]

    def bring_up(self) -> None:
        """Have the module run, by a good deployment."""
        self.daemon.start()
        self.daemon.wait(lambda: self.daemon.status("edgeHub") == "running", "the identity")
        assert self.judged(self.desire(self.wanted())) == (200, "")
        wait_for(lambda: len(self.pids) == 1, PATIENCE_S)

    def settle(self) -> None:
        """See that a good deployment is taken, and that the module was never touched."""
        again = self.wanted(other=self.steady | {"status": "stopped"})
        assert self.judged(self.desire(again)) == (200, "")
        assert len(self.pids) == 1
        assert Path(f"/proc/{self.pids[0]}").exists()
        assert self.daemon.status("steady") == "running"
        assert self.daemon.end() == 0
        assert "Traceback" not in self.daemon.log_text()


@contextmanager
def beset_device(instance: Instance, engine_uri: str | None = None) -> Iterator[BesetDevice]:
    if instance.place.why_not_official is not None:
        pytest.skip(instance.place.why_not_official)
    uri = {} if engine_uri is None else {"engine_uri": engine_uri}
    with EdgeDaemon(instance, **uri) as daemon:
        device = BesetDevice(instance, daemon)
        device.bring_up()
        yield device


# What is no deployment.


def put(path: str, value: Any) -> Callable[[Json], None]:
    *parents, last = path.split("/")

    def change(document: Json) -> None:
        for name in parents:
            document = document[name]
        document[last] = value
        if value is None:
            del document[last]

    return change


def named(name: str) -> Callable[[Json], None]:
    def change(document: Json) -> None:
        document["modules"][name] = DOCKER

    return change


def options(**settings: Any) -> Callable[[Json], None]:
    image = DOCKER["settings"]
    return put("modules/bad", {**DOCKER, "settings": {**image, **settings}})


NOT_DEPLOYMENTS: dict[str, tuple[int, Callable[[Json], None], str]] = {
    "nothing": (417, dict.clear, "This device has an empty configuration"),
    "a schema of later": (412, put("schemaVersion", "2.0"), "version 2.0 is not compatible"),
    "a schema of soon": (412, put("schemaVersion", "1.2"), "version 1.2 is not compatible"),
    "a schema that is none": (412, put("schemaVersion", "one"), "Invalid desired properties"),
    "no schema": (400, put("schemaVersion", None), "schemaVersion is missing"),
    "a schema in a list": (400, put("schemaVersion", ["1.1"]), "schemaVersion is not a string"),
    "no runtime": (400, put("runtime", None), "runtime is missing"),
    "another runtime": (400, put("runtime/type", "magic"), "runtime.type is 'magic'"),
    "no system modules": (400, put("systemModules", None), "systemModules is missing"),
    "modules in text": (400, put("modules", "none"), "modules is not an object"),
    "a module in text": (400, put("modules/bad", "x"), "modules.bad is not an object"),
    "no settings": (400, put("modules/steady/settings", None), "settings is missing"),
    "a state that is none": (400, put("modules/steady/status", "asleep"), "status is 'asleep'"),
    "an order below all": (400, put("modules/steady/startupOrder", -1), "startupOrder is not"),
    "an image in a list": (400, options(image=["a"]), "settings.image is not a string"),
    "an image that is none": (400, options(image="a:b:c"), "settings.image is not usable"),
    "a path": (400, named("a/b"), "is not a name of a module"),
    "a path from the root": (400, named("/etc/passwd"), "is not a name of a module"),
    "a path of Windows": (400, named("C:\\x"), "is not a name of a module"),
    "percent signs": (400, named("%2e%2e%2fx"), "is not a name of a module"),
    "letters of others": (400, named("módulo"), "is not a name of a module"),
    "right to left": (400, named("a\u202eb"), "is not a name of a module"),
    "emoji": (400, named("\U0001f4a5"), "is not a name of a module"),
    "a long name": (400, named("m" * 129), "is not a name of a module"),
    "a very long name": (400, named("m" * 1000), "is not a name of a module"),
    "the agent again": (400, named("edgeAgent"), "is a system module"),
    "no JSON": (400, options(createOptions="{'Hostname': 'x'}"), "createOptions is not usable"),
    "half of JSON": (400, options(createOptions='{"HostConfig": {'), "createOptions is not usable"),
    "JSON in a list": (400, options(createOptions="[]"), "not a JSON object"),
    "chunks amiss": (
        400,
        options(createOptions='{"Env": ', createOptions02="]", createOptions01="["),
        "createOptions is not usable",
    ),
    "a chunk that is a number": (
        400,
        options(createOptions="{}", createOptions01=1),
        "createOptions01 is not a string",
    ),
    "two chunks of one number": (
        400,
        options(createOptions="{", createoptions="x}"),
        "createOptions is not usable",
    ),
}
"""By what it is: the code, what is done to a good deployment, and words of the description."""

REFUSED_BY_THE_HUB = ["", "../x", "..", ".", "$x", "$edgeHub", "a b", "a\x00b", "a\nb"]
"""Names of modules that no twin takes (hub-device.md 4)."""


def test_what_is_no_deployment_has_its_code_and_touches_nothing(shared_instance: Instance) -> None:
    with beset_device(shared_instance) as device:
        seen, expected = {}, {}
        for name, (code, change, words) in NOT_DEPLOYMENTS.items():
            desired = device.wanted()
            change(desired)
            version = device.desire(desired)
            assert version, f"{name}: refused by the hub"
            found, description = device.judged(version)
            seen[name], expected[name] = (found, words in description, description), code
        assert {name: found[:2] for name, found in seen.items()} == {
            name: (code, True) for name, code in expected.items()
        }, seen
        last = device.reported()["lastDesiredVersion"]
        for name in REFUSED_BY_THE_HUB:
            desired = device.wanted()
            named(name)(desired)
            assert device.desire(desired) == 0, name
        assert device.reported()["lastDesiredVersion"] == last
        # The longest name that is one.
        longest = device.wanted(**{"m" * 128: process("sleep", "3600")})
        assert device.judged(device.desire(longest)) == (200, "")
        device.settle()


# What is a deployment, with a module that cannot be.

CANNOT_BE: dict[str, tuple[Json, str]] = {
    "no engine": (DOCKER, "runtime docker: "),
    "no command": (process(), "settings.command must be a program"),
    "a command in a number": (process(settings={"command": 7}), "settings.command must be"),
    "a quote that is open": (process(settings={"command": "sh 'x"}), "No closing quotation"),
    "a program that is nowhere": (process("/nowhere/x"), "/nowhere/x"),
    "a directory as program": (process("/tmp"), "/tmp"),
    "a zero byte": (process("echo", "a\0b"), "zero bytes"),
    "a name that is none": (process("true", env={"A=B": {"value": "x"}}), "zero bytes"),
    "nobody": (process(settings={"command": "true", "user": "nobody-here"}), "no user nobody"),
    "a user over all": (process(settings={"command": "true", "user": "9" * 30}), "numbers go up"),
    "a directory from here": (
        process(settings={"command": "true", "workingDirectory": "../../etc"}),
        "settings.workingDirectory must be an absolute path",
    ),
    "a directory that is nowhere": (
        process(settings={"command": "true", "workingDirectory": "/nowhere"}),
        "/nowhere",
    ),
    "no limit": (
        process(settings={"command": "true", "limits": {"memory": -1}}),
        "settings.limits.memory must be bytes",
    ),
    "an unknown limit": (
        process(settings={"command": "true", "limits": {"joy": 1}}),
        "settings.limits.joy is no limit",
    ),
    "something unknown": (process(settings={"command": "true", "shell": 1}), "settings.shell is"),
    "options of containers": (
        process(settings={"command": "true", "createOptions": '{"Cmd": ["x"]}'}),
        "createOptions are of containers",
    ),
    "packages in text": (
        process(settings={"command": "true", "packages": "azure-iot-device"}),
        "settings.packages must be a list",
    ),
    "packages of nowhere": (
        process(settings={"command": "true", "packages": ["x"], "packageSource": "/nowhere"}),
        "module bad: ",
    ),
    "options of pip": (
        process(settings={"command": "true", "packages": ["--target=/"], "packageSource": "/"}),
        "module bad: ",
    ),
}
"""By what is wrong with it: the module, and words of the description."""


def test_a_module_that_cannot_be_is_500_and_stops_nobody_else(shared_instance: Instance) -> None:
    with beset_device(shared_instance) as device:
        seen = {}
        for name, (module, words) in CANNOT_BE.items():
            code, description = device.judged(device.desire(device.wanted(bad=module)))
            seen[name] = (code, words in description, description)
        assert {name: found[:2] for name, found in seen.items()} == dict.fromkeys(
            CANNOT_BE, (500, True)
        ), seen
        # What goes with a document that is put in place of another goes here, too.
        beside = device.wanted(bad=process("/nowhere/x", env={"K": {"value": "v"}}))
        assert device.judged(device.desire(beside, "PUT"))[0] == 500
        assert device.judged(device.desire(device.wanted(), "PUT")) == (200, "")
        device.settle()
