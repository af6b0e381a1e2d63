"""What only programs of the device do: supervisors, users, limits, logs on a disk that fills up."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from engine_harness import (
    PATIENCE_S,
    ProcessHarness,
    find,
    read_log,
    run_module,
    wait_for,
    wait_for_log,
)

from muster.edge.engine.base import EngineError, ModuleSpec, PullPolicy, Status
from muster.edge.engine.process import supervisor
from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

RUNS = "import time\nprint('up')\nwhile True: time.sleep(60)"
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="another user needs root, and a Python that every user can run",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "modules"


@pytest.fixture
async def harness(home: Path) -> AsyncIterator[ProcessHarness]:
    harness = ProcessHarness(home)
    await harness.engine.start_up()
    yield harness
    await harness.end()


def supervisor_of(home: Path, name: str) -> int:
    record = supervisor.read_record((home / name / "run").read_bytes())
    return int(record["supervisor"].split()[0])


def child_of(home: Path, name: str) -> int:
    return int(supervisor.read_record((home / name / "run").read_bytes())["child"].split()[0])


def is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())


def is_gone(pid: int) -> bool:
    stat = supervisor.stat_of(pid)
    return not stat or stat[0] in "ZX"


async def wait_until_gone(*pids: int) -> None:
    end = CLOCK.monotonic() + PATIENCE_S
    while not all(is_gone(pid) for pid in pids):
        assert CLOCK.monotonic() < end, f"still there: {pids}"
        await asyncio.sleep(0.02)


# Daemons, supervisors and what outlives them.


DAEMON = """
import asyncio, json, sys
from pathlib import Path
from muster.edge.engine.base import ModuleSpec
from muster.edge.engine.process.engine import ProcessEngine

async def main():
    engine = ProcessEngine(Path(sys.argv[1]))
    await engine.start_up()
    for name, script in json.loads(sys.argv[2]).items():
        command = [sys.executable, "-u", "-c", script]
        await engine.create(ModuleSpec(name=name, module_id=name, settings={"command": command}))
        await engine.start(name)
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_modules_outlive_a_daemon_that_is_killed(harness: ProcessHarness, home: Path) -> None:
    scripts = {
        "stays": "import time\nfor n in range(10**6):\n    print('line', n)\n    time.sleep(0.05)",
        "ends": "import sys\nopen('ready', 'w').close()\nwhile True:\n"
        "    import os, time\n    time.sleep(0.05)\n    os.path.exists('go') and sys.exit(5)",
    }
    daemon = subprocess.Popen(  # noqa: ASYNC220 - only this test runs
        [sys.executable, "-c", DAEMON, home, json.dumps(scripts)], stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"started\n"
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    # Nobody watches now; this ends meanwhile, and the other goes on to write.
    (home / "ends" / "work" / "go").touch()
    ended = await wait_for(harness.engine, "ends", Status.FAILED)
    assert ended.exit_code == 5
    assert ended.exited_at is not None
    before = len(await read_log(harness.engine, "stays"))
    stays = await wait_for(harness.engine, "stays", Status.RUNNING)
    members = await harness.engine.processes("stays")
    assert members == {child_of(home, "stays")}
    end = CLOCK.monotonic() + PATIENCE_S
    while len(await read_log(harness.engine, "stays")) <= before:
        assert CLOCK.monotonic() < end
        await asyncio.sleep(0.02)
    # What runs is not started a second time.
    await harness.engine.start("stays")
    assert await find(harness.engine, "stays") == stays
    await harness.engine.stop("stays", PATIENCE_S)
    await wait_until_gone(*members)


async def test_a_module_does_not_outlive_its_supervisor(
    harness: ProcessHarness, home: Path
) -> None:
    """A kill -9 of everything, as far as a module's own processes can see it."""
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"print(child.pid)\n{RUNS}"
    )
    await run_module(harness, harness.spec("orphan", script))
    log = await wait_for_log(harness.engine, "orphan", b"up")
    first, stray = child_of(home, "orphan"), int(log.split()[0])
    assert await harness.engine.processes("orphan") == {first, stray}
    os.kill(supervisor_of(home, "orphan"), signal.SIGKILL)
    await wait_until_gone(first)
    module = await wait_for(harness.engine, "orphan", Status.FAILED)
    assert module.exit_code == 137
    assert module.exited_at is None
    assert "unseen" in module.description
    # What left its session went on; it does not get in the way of the next run.
    assert not is_gone(stray)
    await harness.engine.start("orphan")
    await wait_until_gone(stray)
    assert (await wait_for(harness.engine, "orphan", Status.RUNNING)).exit_code == 0


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"], start_new_session=True)


async def test_a_process_id_of_another_is_not_mistaken(harness: ProcessHarness, home: Path) -> None:
    """After a reboot the IDs of a record are those of others."""
    await run_module(harness, harness.spec("old", "pass"))
    await wait_for(harness.engine, "old", Status.STOPPED)
    await wait_until_gone(supervisor_of(home, "old"))
    with _sleeper() as other:
        try:
            values = {
                "run": "0123",
                "supervisor": f"{other.pid} 17",
                "started": 1_700_000_000_000_000_000,
                "child": f"{other.pid} 17",
            }
            with (home / "old" / "run").open("r+b") as record:
                supervisor.write_record(record.fileno(), values)
            module = await find(harness.engine, "old")
            assert module is not None
            assert module.status is Status.FAILED
            assert await harness.engine.processes("old") == frozenset()
            await harness.engine.stop("old", 0)
            await harness.engine.remove("old")
            assert other.poll() is None
        finally:
            other.kill()


async def test_there_is_never_a_second_supervisor(harness: ProcessHarness, home: Path) -> None:
    spec = harness.spec("one", RUNS)
    await harness.engine.create(spec)
    other = ProcessHarness(home)
    await asyncio.gather(
        *(engine.start("one") for engine in (harness.engine, other.engine) for _ in range(3)),
        return_exceptions=True,
    )
    await wait_for_log(harness.engine, "one", b"up")
    assert await read_log(harness.engine, "one") == b"up\n"
    assert len(await harness.engine.processes("one")) == 1
    await harness.engine.stop("one", 0)
    await other.engine.close()


async def test_nothing_stays_behind(harness: ProcessHarness, home: Path) -> None:
    for _ in range(3):
        await run_module(harness, harness.spec("passes", RUNS))
        who = supervisor_of(home, "passes"), child_of(home, "passes")
        await harness.engine.remove("passes")
        assert not (home / "passes").exists()
        end = CLOCK.monotonic() + PATIENCE_S
        while any(supervisor.stat_of(pid) for pid in who):  # no zombies either
            assert CLOCK.monotonic() < end
            await asyncio.sleep(0.02)
    assert is_empty(home)


async def test_what_a_killed_daemon_left_half_done_is_removed(home: Path) -> None:
    for rest in (".new-half", ".old-half"):
        (home / rest / "log").mkdir(parents=True)
    harness = ProcessHarness(home)
    await harness.engine.start_up()
    assert is_empty(home)
    assert await harness.engine.modules() == []


async def test_all_that_a_module_has_started_ends(harness: ProcessHarness) -> None:
    """A child that does not listen, and one that took pains to be nobody's."""
    script = """
import signal, subprocess, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
deaf = (
    "import signal, time\\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
    "print('deaf', flush=True)\\n"
    "time.sleep(600)"
)
subprocess.Popen([sys.executable, '-c', deaf])
subprocess.run(['sh', '-c', 'env -i setsid "$0" -c "$1" &', sys.executable, deaf])
signal.sigwait([signal.SIGTERM])
"""
    await run_module(harness, harness.spec("family", script))
    end = CLOCK.monotonic() + PATIENCE_S
    while (await read_log(harness.engine, "family")).count(b"deaf") < 2:
        assert CLOCK.monotonic() < end
        await asyncio.sleep(0.02)
    members = await harness.engine.processes("family")
    assert len(members) == 3
    await harness.engine.stop("family", PATIENCE_S)
    module = await find(harness.engine, "family")
    assert module is not None
    assert module.exit_code == 0
    await wait_until_gone(*members)


# What a program finds.


async def test_a_program_finds_nothing_of_the_daemon(
    harness: ProcessHarness, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_SECRET", "of the daemon")
    script = (
        "import json, os, signal\n"
        "ignored = [s for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]\n"
        "print(json.dumps([dict(os.environ), os.getcwd(), len(os.listdir('/proc/self/fd')), "
        "[int(s) for s in ignored], os.getsid(0) == os.getpid(), open(0).read()]))"
    )
    await run_module(harness, harness.spec("looks", script, env={"A": "1"}))
    await wait_for(harness.engine, "looks", Status.STOPPED)
    env, cwd, files, ignored, leads, typed = json.loads(await read_log(harness.engine, "looks"))
    assert env.pop("MUSTER_MODULE_RUN")
    assert env.keys() - {"LC_CTYPE"} == {"PATH", "LANG", "USER", "HOME", "A"}
    assert cwd == env["HOME"] == str(home / "looks" / "work")
    assert files == 4  # three, and the one that looks
    assert set(ignored) <= {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own doing
    assert leads
    assert typed == ""


async def test_a_command_may_be_a_text(harness: ProcessHarness) -> None:
    command = f"{sys.executable} -c 'import sys; print(sys.argv[1:])' \"a b\" c"
    spec = harness.spec("text", "", settings={"command": command})
    await run_module(harness, spec)
    await wait_for(harness.engine, "text", Status.STOPPED)
    assert await read_log(harness.engine, "text") == b"['a b', 'c']\n"
    module = await find(harness.engine, "text")
    assert module is not None
    assert module.settings == {"command": command}


async def test_a_working_directory_of_choice(harness: ProcessHarness, tmp_path: Path) -> None:
    chosen = tmp_path / "kept"
    spec = harness.spec("there", "print(1, file=open('x', 'w'))")
    spec.settings["workingDirectory"] = str(chosen)
    with pytest.raises(EngineError, match="No such directory") as caught:
        await harness.engine.create(spec)
    assert caught.value.status == 404
    chosen.mkdir()
    await run_module(harness, spec)
    await wait_for(harness.engine, "there", Status.STOPPED)
    await harness.engine.remove("there")
    assert (chosen / "x").read_text() == "1\n"


async def test_a_limit_that_cannot_be_set(harness: ProcessHarness) -> None:
    spec = harness.spec("limited", "")
    spec.settings["limits"] = {"openFiles": 2**70}
    await harness.engine.create(spec)
    with pytest.raises(EngineError, match="limit files: "):
        await harness.engine.start(spec.name)


async def test_limits(harness: ProcessHarness) -> None:
    script = (
        "import resource\n"
        "print([resource.getrlimit(limit) for limit in (resource.RLIMIT_DATA, "
        "resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)])\n"
        "try: bytearray(100 << 20)\nexcept MemoryError: print('no memory')\n"
        "while True: pass\n"
    )
    spec = harness.spec("limited", script)
    spec.settings["limits"] = {
        "memory": "64m",
        "cpuSeconds": 1,
        "openFiles": 100,
        "processes": 5000,
    }
    await run_module(harness, spec)
    module = await wait_for(harness.engine, "limited", Status.FAILED)
    assert module.exit_code in (128 + signal.SIGXCPU, 128 + signal.SIGKILL)
    assert await read_log(harness.engine, "limited") == (
        b"[(67108864, 67108864), (1, 1), (100, 100), (5000, 5000)]\nno memory\n"
    )


@as_root
async def test_another_user(harness: ProcessHarness) -> None:
    script = (
        "import json, os\nopen('mine', 'w').close()\n"
        "print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), os.environ['USER']]))\n"
        "try: open('../module.json')\nexcept PermissionError: print('private')"
    )
    nobody = pwd.getpwnam("nobody")
    for user, groups in (
        ("nobody", os.getgrouplist("nobody", nobody.pw_gid)),
        ("nobody:daemon", [1]),
        (f"{nobody.pw_uid}:1", [1]),
    ):
        # The Python of the tests may be where only root can look.
        spec = harness.spec("user", script)
        spec.settings.update(command=["/usr/bin/python3", "-c", script], user=user)
        await run_module(harness, spec)
        await wait_for(harness.engine, "user", Status.STOPPED)
        said, private = (await read_log(harness.engine, "user")).splitlines()
        assert json.loads(said) == [
            [nobody.pw_uid] * 3,
            [groups[0]] * 3,
            sorted(groups),
            "nobody",
        ]
        assert private == b"private"
        await harness.engine.remove("user")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "settings.command must be"),
        ({"command": []}, "settings.command must be"),
        ({"command": "  "}, "settings.command must be"),
        ({"command": "say 'this"}, "No closing quotation"),
        ({"command": [1]}, "settings.command must be"),
        ({"command": [""]}, "begin with a program"),
        ({"command": ["a\0b"]}, "without zero bytes"),
        ({"command": "a", "workingDirectory": "relative"}, "absolute path"),
        ({"command": "a", "user": "no-such-user"}, "no user no-such-user"),
        ({"command": "a", "user": "root:no-such-group"}, "no group no-such-group"),
        ({"command": "a", "user": True}, "settings.user must be"),
        ({"command": "a", "user": "4294967295"}, "settings.user: numbers go up to 4294967294"),
        ({"command": "a", "user": f"0:{'9' * 5000}"}, "settings.user: numbers go up to 4294967294"),
        ({"command": "a", "limits": []}, "settings.limits must be an object"),
        ({"command": "a", "limits": {"disk": 1}}, "settings.limits.disk is no limit"),
        ({"command": "a", "limits": {"memory": "much"}}, "bytes, for example 64m"),
        ({"command": "a", "limits": {"openFiles": 0}}, "a number greater than 0"),
        ({"command": "a", "limits": {"openFiles": "7"}}, "a number greater than 0"),
        ({"command": "a", "ports": {}}, "settings.ports is nothing"),
        ({"command": "a", "packages": "x"}, "settings.packages must be"),
        ({"command": "a", "packages": [""]}, "settings.packages must be"),
        ({"command": "a", "packageSource": "/w"}, "settings.packages must be"),
        ({"command": "a", "packages": ["x"], "packageSource": "w"}, "settings.packageSource must"),
    ],
)
async def test_settings_that_are_wrong(
    harness: ProcessHarness, settings: dict[str, Any], words: str
) -> None:
    spec = msgspec.structs.replace(harness.spec("wrong", ""), settings=settings)
    for refused in (harness.engine.prepare(spec), harness.engine.create(spec)):
        with pytest.raises(EngineError, match=words) as caught:
            await refused
        assert caught.value.status == 400
        # Who reports it says of which module.
        assert spec.name not in str(caught.value)


async def test_create_options_are_refused(harness: ProcessHarness) -> None:
    spec = harness.spec("wrong", "", create_options={"HostConfig": {}})
    with pytest.raises(EngineError, match="createOptions are of containers") as caught:
        await harness.engine.create(spec)
    assert caught.value.status == 400


# Python packages.


def wheel(directory: Path, version: str, says: str) -> None:
    """Write a wheel with a package, a program and a line to print."""
    directory.mkdir(exist_ok=True)
    info = f"greeter-{version}.dist-info"
    files = {
        "greeter/__init__.py": f"def main(): print({says!r})\n",
        "greeter/__main__.py": "from greeter import main\nmain()\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: greeter\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greeter:main\n",
    }
    record = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(directory / f"greeter-{version}-py3-none-any.whl", "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)


async def test_packages_are_installed_and_kept(harness: ProcessHarness, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheel(wheels, "1.0", "hello")

    def spec(name: str, command: list[str], package: str) -> ModuleSpec:
        settings = {"command": command, "packages": [package], "packageSource": str(wheels)}
        return ModuleSpec(name=name, module_id=name, settings=settings)

    engine = harness.engine
    first = spec("program", ["greet"], "greeter==1.0")
    with pytest.raises(EngineError, match="No such environment") as caught:
        await engine.create(first)
    assert caught.value.status == 404
    await asyncio.gather(*(engine.prepare(first) for _ in range(2)))
    shutil.rmtree(wheels)  # from here on the device is offline
    await run_module(harness, first)
    await run_module(harness, spec("package", ["python", "-m", "greeter"], "greeter==1.0"))
    for name in ("program", "package"):
        await wait_for(engine, name, Status.STOPPED)
        assert await read_log(engine, name) == b"hello\n"
    await harness.begin_anew()
    await run_module(harness, msgspec.structs.replace(first, name="again"))
    await wait_for(harness.engine, "again", Status.STOPPED)
    missing = spec("missing", ["greet"], "greeter==2.0")
    with pytest.raises(EngineError, match="No matching distribution") as caught:
        await harness.engine.prepare(missing)
    assert caught.value.status == 404
    never = msgspec.structs.replace(missing, pull_policy=PullPolicy.NEVER)
    with pytest.raises(EngineError, match="No such environment") as caught:
        await harness.engine.prepare(never)
    assert caught.value.status == 404


# The log.


async def test_a_log_is_bounded(harness: ProcessHarness, home: Path) -> None:
    script = "for n in range(30_000): print(f'line {n:06}', 'x' * 50)"
    spec = harness.spec("writes", script)
    spec.settings["limits"] = {"log": "200k"}
    await run_module(harness, spec)
    await wait_for(harness.engine, "writes", Status.STOPPED)
    files = list((home / "writes" / "log").iterdir())
    assert len(files) == supervisor.LOG_FILES
    # A file ends with what a program wrote at once.
    assert sum(file.stat().st_size for file in files) < 200_000 + supervisor.LOG_FILES * 100_000
    lines = (await read_log(harness.engine, "writes")).splitlines()
    assert len(lines) > 1000
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], 30_000))
    assert (await read_log(harness.engine, "writes", tail=2)).splitlines() == lines[-2:]


async def test_long_lines_are_whole_again(harness: ProcessHarness) -> None:
    script = "print('a' * 100_000)\nprint('b' * 16_384)\nprint('c')\nprint('d' * 16_385, end='')"
    await run_module(harness, harness.spec("long", script))
    await wait_for(harness.engine, "long", Status.STOPPED)
    expected = [b"a" * 100_000, b"b" * 16_384, b"c", b"d" * 16_385]
    assert await read_log(harness.engine, "long") == b"\n".join(expected)
    assert await read_log(harness.engine, "long", tail=2) == b"\n".join(expected[2:])
    stamped = await read_log(harness.engine, "long", timestamps=True)
    assert [len(line.split(b" ", 1)[1]) for line in stamped.split(b"\n")] == [
        len(line) for line in expected
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a disk that is full is mounted by root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
async def cramped(small_disk: Path) -> AsyncIterator[ProcessHarness]:
    harness = ProcessHarness(small_disk / "modules")
    await harness.engine.start_up()
    yield harness
    await harness.end()


async def test_a_full_disk(cramped: ProcessHarness, small_disk: Path, tmp_path: Path) -> None:
    """The module goes on, its exit is written down, it starts again, and the log says it lost."""
    harness, disk = cramped, small_disk
    go = tmp_path / "go"
    script = (
        "import os, time\nprint('begins')\n"
        f"while not os.path.exists({str(go)!r}): print('x' * 1000); time.sleep(0.05)\n"
        "print('ends')\nraise SystemExit(4)"
    )
    spec = harness.spec("full", script)
    # What is looked for must not have made way for later lines on a machine that is slow to look.
    spec.settings["limits"] = {"log": "200k"}
    await run_module(harness, spec)
    await wait_for_log(harness.engine, "full", b"begins")
    fill = disk / "fill"
    with fill.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * 4096)
    with pytest.raises(EngineError, match="No space left") as caught:
        await harness.engine.create(harness.spec("another", RUNS))
    assert caught.value.status == 500
    end = CLOCK.monotonic() + PATIENCE_S
    size = None
    while size != (size := len(await read_log(harness.engine, "full"))):  # until nothing fits
        assert CLOCK.monotonic() < end
        await asyncio.sleep(0.2)
    go.touch()
    assert (await wait_for(harness.engine, "full", Status.FAILED)).exit_code == 4
    go.unlink()
    await harness.engine.start("full")
    await wait_for(harness.engine, "full", Status.RUNNING)
    fill.unlink()
    await wait_for_log(harness.engine, "full", b"muster: the log has lost ")
    go.touch()
    assert (await wait_for(harness.engine, "full", Status.FAILED)).exit_code == 4
    assert (await read_log(harness.engine, "full", stream=1)).endswith(b"ends\n")
    await harness.engine.remove("full")
    assert is_empty(disk / "modules")
