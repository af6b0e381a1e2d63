"""The contract of module runtimes (`muster.edge.engine.base.Engine`), held by each of them."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from engine_harness import (
    PATIENCE_S,
    Harness,
    WorkloadListener,
    find,
    read_log,
    run_module,
    wait_for,
    wait_for_log,
)

from muster.edge.engine.base import (
    WORKLOAD_URI,
    EngineError,
    LogRange,
    PullPolicy,
    RegistryLogin,
    Status,
)
from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Awaitable

RUNS = "import time\nprint('up')\nwhile True: time.sleep(60)"
# Ends well when it is asked to.
POLITE = """
import signal, sys, threading
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
print('up')
asked.wait()
print('asked')
"""
# Does not end when it is asked to.
STUBBORN = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{RUNS}"
# Says all of its environment, and its child too, to the workload API.
CALLS = """
import json, os, socket, subprocess, sys, time
if sys.argv[-1] != 'child':
    script = open('/proc/self/cmdline').read().split(chr(0))[3]
    child = subprocess.Popen([sys.executable, '-c', script, 'child'])
api = socket.socket(socket.AF_UNIX)
api.connect(os.environ['IOTEDGE_WORKLOADURI'].removeprefix('unix://'))
api.sendall(json.dumps([sys.argv[-1], dict(os.environ)]).encode() + b'\\n')
time.sleep(600)
"""


async def refusal(of: Awaitable[object]) -> int:
    with pytest.raises(EngineError) as caught:
        await of
    assert str(caught.value)
    return caught.value.status


# Life.


async def test_a_module_lives(harness: Harness) -> None:
    engine, began = harness.engine, CLOCK.now()
    spec = harness.spec("lives", POLITE)
    await engine.prepare(spec)
    await engine.create(spec)
    made = await find(engine, "lives")
    assert made is not None
    assert made.status is Status.STOPPED
    assert made.started_at is None
    assert made.exited_at is None
    assert made.exit_code == 0
    assert made.fingerprint == engine.fingerprint(spec)
    await engine.start("lives")
    running = await find(engine, "lives")
    assert running is not None
    assert running.status is Status.RUNNING
    assert running.started_at is not None
    assert began - timedelta(seconds=1) <= running.started_at <= CLOCK.now()
    await wait_for_log(engine, "lives", b"up")
    await engine.stop("lives", PATIENCE_S)
    stopped = await find(engine, "lives")
    assert stopped is not None
    assert stopped.status is Status.STOPPED
    assert stopped.exit_code == 0
    assert stopped.started_at == running.started_at
    assert stopped.exited_at is not None
    assert running.started_at <= stopped.exited_at <= CLOCK.now()
    assert await read_log(engine, "lives") == b"up\nasked\n"
    await engine.remove("lives")
    assert await find(engine, "lives") is None


@pytest.mark.parametrize(
    ("script", "code", "status"),
    [
        ("", 0, Status.STOPPED),
        ("raise SystemExit(3)", 3, Status.FAILED),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 137, Status.FAILED),
    ],
    ids=["well", "with-a-code", "by-a-signal"],
)
async def test_a_module_ends_by_itself(
    harness: Harness, script: str, code: int, status: Status
) -> None:
    if code == 137 and harness.engine.type == "docker":
        # The first process of a container is spared by its own signals; by a child's too.
        script = "import os, sys\nos.execvp('sh', ['sh', '-c', 'sh -c \"kill -9 $$\"; exit 137'])"
    await run_module(harness, harness.spec("ends", script))
    module = await wait_for(harness.engine, "ends", lambda module: module.exited_at is not None)
    assert module.status is status
    assert module.exit_code == code


async def test_a_module_that_does_not_listen_is_killed(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("stubborn", STUBBORN))
    await wait_for_log(engine, "stubborn", b"up")
    await engine.stop("stubborn", 1)
    module = await find(engine, "stubborn")
    assert module is not None
    assert module.status is Status.FAILED
    assert module.exit_code == 137


async def test_a_module_starts_again(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("again", "print('run')\nraise SystemExit(1)"))
    first = await wait_for(engine, "again", Status.FAILED)
    await engine.start("again")
    second = await wait_for(
        engine,
        "again",
        lambda module: module.status is Status.FAILED and module.started_at != first.started_at,
    )
    assert first.started_at is not None
    assert second.started_at is not None
    assert second.started_at > first.started_at
    assert await read_log(engine, "again") == b"run\nrun\n"


async def test_an_exit_code_belongs_to_the_last_run(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("code", STUBBORN))
    await engine.stop("code", 0)
    await engine.start("code")
    running = await find(engine, "code")
    assert running is not None
    assert running.status is Status.RUNNING
    assert running.exit_code == 0


async def test_what_is_so_already_is_nothing(harness: Harness) -> None:
    engine = harness.engine
    spec = harness.spec("twice", RUNS)
    await engine.prepare(spec)
    await engine.create(spec)
    await engine.stop("twice", 1)
    await engine.start("twice")
    before, who = await find(engine, "twice"), await engine.processes("twice")
    await engine.start("twice")
    assert await find(engine, "twice") == before
    assert await engine.processes("twice") == who
    await engine.stop("twice", 0)
    await engine.stop("twice", 0)
    await engine.remove("twice")
    await engine.remove("twice")


async def test_a_running_module_is_removed_with_its_children(harness: Harness) -> None:
    engine = harness.engine
    async with WorkloadListener("api") as workload:
        await run_module(harness, harness.spec("gone", CALLS, workload_socket=workload.path))
        await workload.called()
        await workload.called()
        members = await engine.processes("gone")
        assert len(members) == 2
        await engine.remove("gone")
    assert await find(engine, "gone") is None
    end = CLOCK.monotonic() + PATIENCE_S
    while any(os.path.exists(f"/proc/{member}") for member in members):  # noqa: ASYNC240, PTH110
        assert CLOCK.monotonic() < end
        await asyncio.sleep(0.05)


async def test_a_daemon_that_begins_anew_finds_its_modules(harness: Harness) -> None:
    await run_module(harness, harness.spec("stays", STUBBORN))
    await run_module(
        harness, harness.spec("ends", "import time\ntime.sleep(1)\nraise SystemExit(9)")
    )
    old = await find(harness.engine, "stays")
    who = await harness.engine.processes("stays")
    await harness.begin_anew()
    assert await find(harness.engine, "stays") == old
    assert await harness.engine.processes("stays") == who
    ended = await wait_for(harness.engine, "ends", Status.FAILED)
    assert ended.exit_code == 9
    await harness.engine.stop("stays", 0)
    stopped = await find(harness.engine, "stays")
    assert stopped is not None
    assert stopped.exit_code == 137


# What a module gets, and who it is.


async def test_a_module_has_its_environment_and_calls_the_workload_api(harness: Harness) -> None:
    engine = harness.engine
    env = {"IOTEDGE_MODULEID": "calls", "GREETING": "grüß 'Gott' = $HOME\tand more"}
    async with WorkloadListener("api") as workload:
        spec = harness.spec("calls", CALLS, env=env, workload_socket=workload.path)
        await run_module(harness, spec)
        callers = dict([await workload.called(), await workload.called()])
        said = dict(map(msgspec.json.decode, callers.values()))
        assert said.keys() == {"-c", "child"}
        for found in said.values():
            assert {key: found.get(key) for key in env} == env
            assert found[WORKLOAD_URI].startswith("unix://")
        # SO_PEERCRED names a process of this module, its child too, and of no other.
        assert await engine.processes("calls") == set(callers)
        assert os.getpid() not in callers
        assert await engine.processes("another") == frozenset()
        await engine.stop("calls", 0)
        assert await engine.processes("calls") == frozenset()


async def test_a_module_finds_a_workload_api_that_listens_anew(harness: Harness) -> None:
    script = """
import os, socket, time
where = os.environ['IOTEDGE_WORKLOADURI'].removeprefix('unix://')
while True:
    time.sleep(0.1)
    with socket.socket(socket.AF_UNIX) as api:
        if api.connect_ex(where) == 0:
            api.sendall(b'here\\n')
"""
    workload = WorkloadListener("api")
    async with workload:
        spec = harness.spec("anew", script, workload_socket=workload.path)
        await run_module(harness, spec)
        await workload.called()
    async with workload:  # another socket at the same path
        assert (await workload.called())[1] == b"here\n"


async def test_an_environment_may_say_where_the_workload_api_is(harness: Harness) -> None:
    script = f"import os\nprint(os.environ['{WORKLOAD_URI}'])"
    async with WorkloadListener("api") as workload:
        env = {WORKLOAD_URI: "http://127.0.0.1:15581"}
        await run_module(
            harness, harness.spec("elsewhere", script, env=env, workload_socket=workload.path)
        )
        await wait_for_log(harness.engine, "elsewhere", b"http://127.0.0.1:15581\n")


# Logs.


WRITES = """
import sys, time
for number in range(5):
    print('line', number)
    time.sleep(0.05)
sys.stdout.buffer.write(b'\\xff\\xfe not UTF-8\\n')
sys.stderr.write('trouble\\n')
sys.stdout.buffer.write(b'no end of line')
"""


async def test_logs(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("writes", WRITES))
    await wait_for(engine, "writes", Status.STOPPED)
    out = await read_log(engine, "writes", stream=1)
    *lines, strange, last = out.split(b"\n")
    assert lines == [b"line 0", b"line 1", b"line 2", b"line 3", b"line 4"]
    # The Docker Engine keeps its logs as JSON, which cannot say such bytes.
    assert strange.removesuffix(b" not UTF-8") in (b"\xff\xfe", "\ufffd\ufffd".encode())
    assert last == b"no end of line"
    assert await read_log(engine, "writes", stream=2) == b"trouble\n"
    tail = await read_log(engine, "writes", tail=3)
    assert sorted(tail.splitlines()) == sorted([b"trouble", strange, last])
    assert await read_log(engine, "writes", tail=0) == b""
    assert len(await read_log(engine, "writes", tail=1000)) == len(out) + len(b"trouble\n")


async def test_logs_have_times_and_are_chosen_by_them(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("times", WRITES))
    module = await wait_for(engine, "times", Status.STOPPED)
    assert module.started_at is not None
    assert module.exited_at is not None
    stamped = (await read_log(engine, "times", stream=1, timestamps=True)).splitlines()
    parts = [line.split(b" ", 1) for line in stamped]
    times = [_time(stamp) for stamp, _ in parts]
    assert [text for _, text in parts][:2] == [b"line 0", b"line 1"]
    assert times == sorted(times)
    second = timedelta(seconds=1)
    assert module.started_at - second <= times[0] <= times[-1] <= module.exited_at + second
    between = await read_log(engine, "times", stream=1, since=times[1], until=times[3])
    assert between.startswith(b"line 1\nline 2\n")
    assert b"line 0" not in between
    assert b"line 4" not in between
    assert await read_log(engine, "times", since=CLOCK.now() + timedelta(days=1)) == b""
    assert await read_log(engine, "times", until=times[0] - second) == b""


def _time(stamp: bytes) -> datetime:
    return datetime.fromisoformat(stamp.decode())


async def test_logs_are_followed(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("followed", POLITE))
    await wait_for_log(engine, "followed", b"up\n")
    data = b""
    async with asyncio.timeout(PATIENCE_S):
        async for chunk in engine.logs("followed", LogRange(follow=True, tail=1)):
            data += chunk.data
            if data == b"up\n":
                stopping = asyncio.ensure_future(engine.stop("followed", PATIENCE_S))
    await stopping
    assert data == b"up\nasked\n"


async def test_following_can_be_given_up(harness: Harness) -> None:
    engine = harness.engine
    await run_module(harness, harness.spec("given-up", RUNS))
    await wait_for_log(engine, "given-up", b"up\n")
    following = engine.logs("given-up", LogRange(follow=True))
    assert (await anext(following)).data == b"up\n"
    await following.aclose()  # type: ignore[attr-defined]
    assert await read_log(engine, "given-up") == b"up\n"


# Errors.


async def test_what_is_not_there(harness: Harness) -> None:
    engine = harness.engine
    assert await refusal(engine.create(harness.missing("missing"))) == 404
    assert await find(engine, "missing") is None
    assert await refusal(engine.start("missing")) == 404
    assert await refusal(engine.stop("missing", 1)) == 404
    assert await refusal(engine.inspect("missing")) == 404
    assert await refusal(read_log(engine, "missing")) == 404


async def test_a_name_that_is_taken(harness: Harness) -> None:
    spec = harness.spec("taken", RUNS)
    await run_module(harness, spec)
    before = await find(harness.engine, "taken")
    assert await refusal(harness.engine.create(spec)) == 409
    assert await find(harness.engine, "taken") == before


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a b", "ä", "a\x00b", "x" * 129])
async def test_names_that_are_none(harness: Harness, name: str) -> None:
    engine = harness.engine
    spec = msgspec.structs.replace(harness.spec("x", RUNS), name=name)
    assert await refusal(engine.create(spec)) == 400
    for refused in (
        engine.start(name),
        engine.stop(name, 1),
        engine.remove(name),
        engine.processes(name),
        engine.inspect(name),
        read_log(engine, name),
    ):
        assert await refusal(refused) == 400


async def test_settings_that_say_nothing(harness: Harness) -> None:
    spec = msgspec.structs.replace(harness.spec("empty", RUNS), settings={}, create_options={})
    assert await refusal(harness.engine.create(spec)) == 400
    assert await refusal(harness.engine.prepare(spec)) == 400


async def test_a_program_that_cannot_be_run(harness: Harness) -> None:
    """The module is there and did not run: `start` says why, and so does the module."""
    engine = harness.engine
    spec = harness.spec("unrunnable", RUNS)
    if engine.type == "docker":
        spec = msgspec.structs.replace(spec, create_options={"Cmd": ["/etc/passwd"]})
    else:
        spec = msgspec.structs.replace(spec, settings={"command": ["/etc/passwd"]})
    await engine.create(spec)
    assert await refusal(engine.start("unrunnable")) == 400
    module = await find(engine, "unrunnable")
    assert module is not None
    assert module.status is not Status.RUNNING
    assert module.exit_code == 126
    assert "permission denied" in module.description.lower()


# What it is made of, and what is said of it.


async def test_a_fingerprint_tells_what_a_module_is_made_of(harness: Harness) -> None:
    spec = harness.spec("a", RUNS, env={"A": "1"})
    same = msgspec.structs.replace(
        spec,
        pull_policy=PullPolicy.NEVER,
        login=RegistryLogin(address="registry.local", username="plant", password="secret"),
    )
    other_env = msgspec.structs.replace(spec, env={"A": "2"})
    other_script = harness.spec("a", POLITE, env={"A": "1"})
    tell = harness.engine.fingerprint
    assert tell(spec) == tell(same) == tell(harness.spec("a", RUNS, env={"A": "1"}))
    assert len({tell(spec), tell(other_env), tell(other_script)}) == 3


async def test_facts_and_usage(harness: Harness) -> None:
    engine = harness.engine
    facts = await engine.facts()
    assert facts["version"]
    assert facts["os"] == "linux"
    assert facts["architecture"]
    work = "import time\nwhile time.process_time() < 0.2: pass\n"
    await run_module(harness, harness.spec("used", work + RUNS))
    await wait_for_log(engine, "used", b"up")
    (usage,) = [found for found in await engine.usage() if found["name"].strip("/") == "used"]
    assert usage["memory_stats"]["usage"] > 1 << 20
    assert usage["cpu_stats"]["cpu_usage"]["total_usage"] > 100_000_000
    assert usage["pids_stats"]["current"] >= 1
    assert "used" in str(await engine.inspect("used"))
