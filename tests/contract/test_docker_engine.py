"""What only containers do: images, registries, create options, networks, engines that go away."""

from __future__ import annotations

import asyncio
import json
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from engine_harness import (
    PATIENCE_S,
    DockerHarness,
    WorkloadListener,
    find,
    read_log,
    run_module,
    wait_for,
    wait_for_log,
)

from muster.edge.engine import docker
from muster.edge.engine.base import (
    EngineError,
    LogRange,
    ModuleSpec,
    PullPolicy,
    RegistryLogin,
    Status,
)
from muster.edge.engine.docker import DockerEngine
from muster.edge.engine.engine_api import EngineApi
from muster.edge.settings import ContainerEngine, Network
from support.docker import PASSWORD, USER, DockerHost, Registry
from support.run import Run
from support.secrets import CLOCK, remember

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.xdist_group("docker")

RUNS = "import time\nprint('up')\nwhile True: time.sleep(60)"
# The first process of a container ends at SIGTERM only if it says so.
POLITE = f"import signal\nsignal.signal(signal.SIGTERM, lambda *_: exit())\n{RUNS}"


@pytest.fixture
async def harness(docker_host: DockerHost, registry: Registry) -> AsyncIterator[DockerHarness]:
    harness = DockerHarness(docker_host, registry.base)
    yield harness
    await harness.end()


def login(registry: Registry, password: str = PASSWORD) -> RegistryLogin:
    return RegistryLogin(address=registry.address, username=USER, password=remember(password))


def image(name: str, **fields: Any) -> ModuleSpec:
    return ModuleSpec(name="pulls", module_id="pulls", settings={"image": name}, **fields)


# Images.


async def test_an_image_is_pulled_with_credentials(
    harness: DockerHarness, docker_host: DockerHost, registry: Registry
) -> None:
    private = f"{registry.address}/private/module:1"
    docker_host.build(private, registry.base, ["true"], {"/app/main.py": "print(1)"})
    docker_host.push(private)
    docker_host.forget(private)
    engine = harness.engine
    for refused in (None, login(registry, "another-passphrase-than-that")):
        with pytest.raises(EngineError, match=r"no basic auth credentials|unauthorized") as caught:
            await engine.prepare(image(private, login=refused))
        assert caught.value.status == 500  # as the Docker Engine has it
        assert PASSWORD not in str(caught.value)
    with pytest.raises(EngineError) as caught:
        await engine.create(image(private))
    assert caught.value.status == 404
    spec = image(private, login=login(registry))
    await engine.prepare(spec)
    await engine.create(spec)
    module = await find(engine, "pulls")
    assert module is not None
    digest = docker_host.must("GET", f"/images/{private}/json")["Id"]
    assert module.settings == {"image": private, "imageHash": digest}


async def test_an_image_that_no_registry_has(harness: DockerHarness, registry: Registry) -> None:
    with pytest.raises(EngineError, match="manifest unknown") as caught:
        await harness.engine.prepare(
            image(f"{registry.address}/private/nothing:1", login=login(registry))
        )
    assert caught.value.status == 404


@pytest.mark.parametrize("policy", [PullPolicy.ON_CREATE, PullPolicy.IF_NOT_PRESENT])
async def test_an_image_that_is_here_is_used_when_the_registry_is_away(
    harness: DockerHarness, docker_host: DockerHost, registry: Registry, policy: PullPolicy
) -> None:
    """An offline reboot must bring modules back (users.md 22)."""
    local = f"{registry.address}/private/local:1"
    docker_host.build(local, registry.base, ["true"])
    registry.stop()
    try:
        spec = image(local, pull_policy=policy, login=login(registry))
        await run_module(harness, spec)
        await wait_for(harness.engine, "pulls", Status.STOPPED)
        missing = image(f"{registry.address}/private/absent:1", pull_policy=policy)
        with pytest.raises(EngineError, match="connection refused"):
            await harness.engine.prepare(missing)
    finally:
        registry.start()


async def test_a_registry_that_says_nothing_is_given_up(
    harness: DockerHarness, docker_host: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "_SILENCE_S", 0.5)
    monkeypatch.setattr(docker, "_SILENCE_WITH_IMAGE_S", 0.5)
    # The kernel takes the connection, and nobody ever reads it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        here = f"{address}/private/here:1"
        docker_host.build(here, "scratch", ["/program"], {"/program": "made elsewhere"})
        await harness.engine.prepare(image(here))
        with pytest.raises(EngineError, match="nothing was heard"):
            await harness.engine.prepare(image(f"{address}/private/absent:1"))
        silent.setblocking(False)
        silent.accept()[0].close()  # it was asked


async def test_images_that_came_on_a_disk_are_used(
    harness: DockerHarness, docker_host: DockerHost
) -> None:
    """What `docker load` brought has a name that leads nowhere (users.md 22)."""
    name = "registry.invalid/from-disk:1"
    docker_host.build(name, "scratch", ["/program"], {"/program": "made elsewhere"})
    saved = docker_host.call("GET", f"/images/{name}/get").body
    docker_host.forget(name)
    docker_host.must("POST", "/images/load?quiet=1", saved, Content_Type="application/x-tar")
    spec = image(name)
    await harness.engine.prepare(spec)
    await harness.engine.create(spec)
    assert docker_host.inspect("pulls")["Config"]["Image"] == name


async def test_the_registry_is_asked_when_the_policy_says_so(
    harness: DockerHarness, docker_host: DockerHost, registry: Registry
) -> None:
    moving = f"{registry.address}/private/moving:latest"
    docker_host.build(moving, registry.base, ["true"], {"/version": "2"})
    newer = docker_host.must("GET", f"/images/{moving}/json")["Id"]
    docker_host.push(moving)
    docker_host.build(moving, registry.base, ["true"], {"/version": "1"})
    older = docker_host.must("GET", f"/images/{moving}/json")["Id"]
    here = lambda: docker_host.must("GET", f"/images/{moving}/json")["Id"]  # noqa: E731
    for policy, expected in (
        (PullPolicy.NEVER, older),
        (PullPolicy.IF_NOT_PRESENT, older),
        (PullPolicy.ON_CREATE, newer),
    ):
        await harness.engine.prepare(image(moving, pull_policy=policy, login=login(registry)))
        assert here() == expected, policy


async def test_never_means_never(harness: DockerHarness, registry: Registry) -> None:
    spec = image(f"{registry.address}/private/unseen:1", pull_policy=PullPolicy.NEVER)
    await harness.engine.prepare(spec)
    with pytest.raises(EngineError, match="No such image") as caught:
        await harness.engine.create(spec)
    assert caught.value.status == 404


async def test_an_image_by_its_digest(
    harness: DockerHarness, docker_host: DockerHost, registry: Registry
) -> None:
    (named,) = docker_host.must("GET", f"/images/{registry.base}/json")["RepoDigests"]
    digest = named.partition("@")[2]
    spec = msgspec.structs.replace(
        image(registry.base, login=login(registry)),
        settings={"image": registry.base, "digest": digest},
        create_options={"Cmd": ["true"]},
    )
    await run_module(harness, spec)
    assert docker_host.inspect("pulls")["Config"]["Image"] == named
    wrong = msgspec.structs.replace(
        spec, settings={"image": registry.base, "digest": f"sha256:{'0' * 64}"}
    )
    with pytest.raises(EngineError) as caught:
        await harness.engine.prepare(wrong)
    assert caught.value.status == 404


# Create options.


async def test_create_options_reach_the_engine_as_they_are(
    harness: DockerHarness, docker_host: DockerHost, tmp_path: Any
) -> None:
    options = {
        "Hostname": "inside",
        "User": "nobody",
        "WorkingDir": "/var/tmp",
        "Labels": {"site": "north", "net.azure-devices.edge.owner": "somebody else"},
        "ExposedPorts": {"8080/tcp": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9 * 30},
        "Env": ["FROM_OPTIONS=1", "IOTEDGE_DEVICEID=options", "EMPTY="],
        "HostConfig": {
            "Binds": [f"{tmp_path}:/data:ro"],
            "Memory": 128 << 20,
            "CapAdd": ["NET_ADMIN"],
            "ExtraHosts": ["db.plant.local:10.1.2.3"],
            "LogConfig": {"Type": "local", "Config": {"max-size": "1m"}},
            "RestartPolicy": {"Name": "no"},
            "Ulimits": [{"Name": "nofile", "Soft": 512, "Hard": 512}],
            "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "0"}]},
        },
    }
    script = "import json, os\nprint(json.dumps(dict(os.environ)))"
    async with WorkloadListener("api") as workload:
        spec = harness.spec(
            "full",
            script,
            create_options=options,
            env={"IOTEDGE_DEVICEID": "injected", "IOTEDGE_MODULEID": "full"},
            workload_socket=workload.path,
            device_names=("edge-1.plant.local",),
        )
        await run_module(harness, spec)
        await wait_for(harness.engine, "full", Status.STOPPED)
    made = docker_host.inspect("full")
    config, host = made["Config"], made["HostConfig"]
    for key in ("Hostname", "User", "WorkingDir", "ExposedPorts", "StopSignal", "Healthcheck"):
        assert config[key] == options[key], key
    assert config["Labels"]["site"] == "north"
    assert config["Labels"]["net.azure-devices.edge.owner"] == "Microsoft.Azure.Devices.Edge.Agent"
    assert config["Labels"]["net.azure-devices.edge.original-image"] == spec.settings["image"]
    for key in ("Memory", "CapAdd", "LogConfig", "Ulimits", "PortBindings"):
        assert host[key] == options["HostConfig"][key], key
    assert host["Binds"] == [
        f"{tmp_path}:/data:ro",
        f"{workload.path.parent}:/var/run/iotedge:ro",
    ]
    assert host["NetworkMode"] == "azure-iot-edge"
    assert host["ExtraHosts"][0] == "db.plant.local:10.1.2.3"
    assert host["ExtraHosts"][1].startswith("edge-1.plant.local:10.")
    # A log of another kind than JSON is read all the same, and options have the last word.
    env = json.loads(await read_log(harness.engine, "full"))
    assert env["FROM_OPTIONS"] == "1"
    assert env["IOTEDGE_DEVICEID"] == "options"
    assert env["IOTEDGE_MODULEID"] == "full"
    assert env["EMPTY"] == ""
    assert env["IOTEDGE_WORKLOADURI"] == "unix:///var/run/iotedge/api.sock"


@pytest.mark.parametrize(
    ("options", "statuses", "words"),
    [
        # Older engines call these two their own fault.
        ({"HostConfig": {"Memory": "much"}}, {400, 500}, "cannot unmarshal"),
        ({"HostConfig": {"Binds": ["no-colon"]}}, {400, 500}, "invalid volume specification"),
        ({"HostConfig": {"NetworkMode": "no-such-network"}}, {404}, "network no-such-network"),
        ({"HostConfig": []}, {400}, "HostConfig must be an object"),
        ({"Env": "A=1"}, {400}, "Env must be a list of strings"),
        ({"Labels": ["a"]}, {400}, "Labels must be an object"),
    ],
    ids=["type", "bind", "network", "host-config", "env", "labels"],
)
async def test_create_options_that_are_wrong(
    harness: DockerHarness, options: dict[str, Any], statuses: set[int], words: str
) -> None:
    async with WorkloadListener("api") as workload:
        spec = harness.spec("wrong", RUNS, create_options=options, workload_socket=workload.path)

        async def make() -> None:
            await harness.engine.create(spec)
            await harness.engine.start("wrong")

        with pytest.raises(EngineError, match=words) as caught:
            await make()
    assert caught.value.status in statuses


async def test_privileges_are_taken_away_where_the_device_says_so(
    docker_host: DockerHost, registry: Registry
) -> None:
    engine = DockerEngine(ContainerEngine(uri=docker_host.uri, elevated=False))
    options = {
        "Cmd": ["python3", "-c", "import os\nos.setuid(65534)"],
        "HostConfig": {"Privileged": True, "CapAdd": ["SYS_ADMIN"], "CapDrop": ["NET_RAW"]},
    }
    spec = image(registry.base, create_options=options, pull_policy=PullPolicy.NEVER)
    await engine.create(spec)
    host = docker_host.inspect("pulls")["HostConfig"]
    assert host["Privileged"] is False
    assert not host["CapAdd"]
    assert host["CapDrop"] == ["CHOWN", "SETUID", "NET_RAW"]
    await engine.start("pulls")
    assert (await wait_for(engine, "pulls", Status.FAILED)).exit_code == 1
    assert b"Operation not permitted" in await read_log(engine, "pulls")
    await engine.close()


async def test_a_terminal_has_one_stream(harness: DockerHarness) -> None:
    script = "import sys\nprint('out')\nsys.stdout.flush()\nprint('err', file=sys.stderr)"
    await run_module(harness, harness.spec("terminal", script, create_options={"Tty": True}))
    await wait_for(harness.engine, "terminal", Status.STOPPED)
    assert await read_log(harness.engine, "terminal", stream=1) == b"out\r\nerr\r\n"


async def test_a_log_that_cannot_be_read(harness: DockerHarness) -> None:
    options = {"HostConfig": {"LogConfig": {"Type": "none"}}}
    await run_module(harness, harness.spec("silent", "print(1)", create_options=options))
    with pytest.raises(EngineError, match="does not support reading") as caught:
        await read_log(harness.engine, "silent")
    assert caught.value.status == 501


# The network.


async def test_modules_reach_each_other_and_the_device_by_name(harness: DockerHarness) -> None:
    listen = (
        "import socket\nserver = socket.create_server(('', 4000))\nprint('up')\n"
        "while True: server.accept()[0].sendall(b'from a module')"
    )
    await run_module(harness, harness.spec("listens", listen))
    await wait_for_log(harness.engine, "listens", b"up")
    gateway = await _device_address(harness)
    server = await asyncio.start_server(_answer, gateway, 0)
    port = server.sockets[0].getsockname()[1]
    dial = (
        "import socket\n"
        f"for place in ('listens', 4000), ('edge-1.plant.local', {port}):\n"
        "    with socket.create_connection(place, 30) as peer: print(peer.recv(100).decode())\n"
    )
    async with server:
        await run_module(harness, harness.spec("dials", dial, device_names=("edge-1.plant.local",)))
        await wait_for(harness.engine, "dials", Status.STOPPED)
    log = await read_log(harness.engine, "dials")
    assert log == b"from a module\nfrom the device\n"


async def _device_address(harness: DockerHarness) -> str:
    shown = await harness.engine.inspect("listens")
    return str(shown["NetworkSettings"]["Networks"]["azure-iot-edge"]["Gateway"])


async def _answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"from the device")
    writer.close()


async def test_a_network_is_made_as_the_configuration_says(
    docker_host: DockerHost, registry: Registry
) -> None:
    third = Run.current().slot  # nobody else's at this time
    network = Network(
        name="plant-network",
        ipv6=True,
        ipam=(
            {"Subnet": f"10.99.{third}.0/24", "Gateway": f"10.99.{third}.7"},
            {"Subnet": f"fd99:{third}::/64"},
        ),
    )
    engine = DockerEngine(ContainerEngine(uri=docker_host.uri, network=network))
    await asyncio.gather(*(engine.start_up() for _ in range(3)))
    found = [one for one in docker_host.must("GET", "/networks") if one["Name"] == network.name]
    assert len(found) == 1
    assert found[0]["EnableIPv6"] is True
    assert found[0]["IPAM"]["Config"] == list(network.ipam)
    spec = image(
        registry.base,
        create_options={"Cmd": ["true"]},
        device_names=("edge-1",),
        pull_policy=PullPolicy.NEVER,
    )
    await engine.create(spec)
    host = docker_host.inspect("pulls")["HostConfig"]
    assert host["NetworkMode"] == "plant-network"
    assert host["ExtraHosts"] == [f"edge-1:10.99.{third}.7"]
    await engine.remove("pulls")
    docker_host.must("DELETE", f"/networks/{network.name}")
    await engine.close()


async def test_a_network_that_the_options_choose_is_kept(
    harness: DockerHarness, docker_host: DockerHost
) -> None:
    options = {"HostConfig": {"NetworkMode": "host"}}
    script = "import socket\nprint(socket.gethostbyname('edge-1.plant.local'))"
    await run_module(
        harness,
        harness.spec("host", script, create_options=options, device_names=("edge-1.plant.local",)),
    )
    await wait_for(harness.engine, "host", Status.STOPPED)
    assert await read_log(harness.engine, "host") == b"127.0.0.1\n"
    assert list(docker_host.inspect("host")["NetworkSettings"]["Networks"]) == ["host"]


# Containers of others.


async def test_only_containers_with_the_label_are_ours(
    harness: DockerHarness, docker_host: DockerHost, registry: Registry
) -> None:
    for name, labels in (
        ("stranger", {}),
        ("official", {"net.azure-devices.edge.owner": "Microsoft.Azure.Devices.Edge.Agent"}),
    ):
        body = {"Image": registry.base, "Cmd": ["true"], "Labels": labels}
        docker_host.must("POST", f"/containers/create?name={name}", body)
    (module,) = await harness.engine.modules()
    assert module.name == "official"
    assert module.settings["image"] == registry.base
    assert module.fingerprint == ""
    with pytest.raises(EngineError, match="already in use") as caught:
        await harness.engine.create(harness.spec("stranger", RUNS))
    assert caught.value.status == 409
    assert docker_host.inspect("stranger")["State"]["Status"] == "created"


async def test_states_have_their_status(harness: DockerHarness, docker_host: DockerHost) -> None:
    await run_module(harness, harness.spec("paused", RUNS))
    docker_host.must("POST", "/containers/paused/pause")
    module = await find(harness.engine, "paused")
    assert module is not None
    assert (module.status, module.description) == (Status.STOPPED, "paused")
    docker_host.must("POST", "/containers/paused/unpause")
    options = {"HostConfig": {"RestartPolicy": {"Name": "always"}}}
    await run_module(
        harness, harness.spec("restarts", "raise SystemExit(1)", create_options=options)
    )
    module = await wait_for(
        harness.engine, "restarts", lambda module: module.description == "restarting"
    )
    assert module.status is Status.STOPPED


async def test_out_of_memory_is_told(harness: DockerHarness) -> None:
    options = {"HostConfig": {"Memory": 32 << 20, "MemorySwap": 32 << 20}}
    script = "data = []\nwhile True: data.append(bytearray(1 << 20))"
    await run_module(harness, harness.spec("greedy", script, create_options=options))
    module = await wait_for(harness.engine, "greedy", Status.FAILED)
    assert module.exit_code == 137
    assert module.description == "exited, out of memory"


# Engines that go away.


async def test_an_engine_that_goes_away_and_comes_back(
    harness: DockerHarness, docker_host: DockerHost, registry: Registry
) -> None:
    engine = DockerEngine(ContainerEngine(uri=docker_host.uri))
    await run_module(harness, harness.spec("stays", POLITE))
    await wait_for_log(engine, "stays", b"up")
    following = engine.logs("stays", LogRange(follow=True))
    await anext(following)
    docker_host.kill9()
    with pytest.raises(EngineError) as caught:
        await anext(following)
    assert caught.value.status == 503
    for refused in (
        engine.modules(),
        engine.start_up(),
        engine.start("stays"),
        engine.stop("stays", 1),
        engine.remove("stays"),
        engine.processes("stays"),
        engine.prepare(image(registry.base)),
        engine.create(image(registry.base)),
        engine.facts(),
        read_log(engine, "stays"),
    ):
        with pytest.raises(EngineError) as caught:
            await refused
        assert caught.value.status == 503
    docker_host.start()
    # The same port, not begun anew.
    module = await find(engine, "stays")
    assert module is not None
    await engine.stop("stays", 0)
    await engine.start("stays")
    assert (await wait_for(engine, "stays", Status.RUNNING)).exit_code == 0

    # A container that the engine could not remove whole is dead, and is made anew.
    await engine.stop("stays", 0)
    docker_host.stop()
    _mark_dead(docker_host, "stays")
    docker_host.start()
    assert (await wait_for(engine, "stays", Status.DEAD)).status is Status.DEAD
    await engine.create(harness.spec("stays", POLITE))
    await engine.start("stays")
    await wait_for(engine, "stays", Status.RUNNING)
    await engine.close()


def _mark_dead(docker: DockerHost, name: str) -> None:
    """Leave a container as an engine does that is killed while it removes one."""
    for file in docker.directory.glob("data/containers/*/config.v2.json"):
        config = json.loads(file.read_bytes())
        if config["Name"] == f"/{name}":
            config["State"]["RemovalInProgress"] = True
            file.write_text(json.dumps(config))


async def test_an_engine_that_is_not_there(tmp_path: Any) -> None:
    began = CLOCK.monotonic()
    engine = DockerEngine(ContainerEngine(uri=f"unix://{tmp_path}/none.sock"))
    with pytest.raises(EngineError, match=r"none\.sock") as caught:
        await engine.start_up()
    assert caught.value.status == 503
    assert CLOCK.monotonic() - began < PATIENCE_S
    await engine.close()


async def test_an_engine_that_says_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and does not answer stands for an engine that hangs."""
    closed = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    monkeypatch.setattr(docker, "EngineApi", partial(EngineApi, answer_s=0.2))
    server = await asyncio.start_unix_server(hang, tmp_path / "d.sock")
    async with server:
        engine = DockerEngine(ContainerEngine(uri=f"unix://{tmp_path}/d.sock"))
        with pytest.raises(EngineError, match="does not answer") as caught:
            await engine.modules()
        assert caught.value.status == 503
        await engine.close()
        await asyncio.wait_for(closed.wait(), PATIENCE_S)


async def test_networks_are_shown_with_their_containers(
    harness: DockerHarness, docker_host: DockerHost
) -> None:
    await harness.engine.start_up()
    await run_module(harness, harness.spec("shown", RUNS))
    assert isinstance(harness.engine, DockerEngine)
    found = await harness.engine.networks()
    listed = {network["Name"] for network in docker_host.must("GET", "/networks")}
    assert found.keys() == listed
    (container,) = found[Network().name]["Containers"].values()
    assert container["Name"] == "shown"
