"""Modules that are programs of this device (`type: "process"`).

Nothing is remembered but on disk (see `directory`), and nothing is waited for but supervisors
(see `supervisor`): modules go on while there is no daemon, and a new one finds them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from muster import __version__
from muster.edge.engine.base import (
    EngineError,
    JsonObject,
    LogChunk,
    LogRange,
    Module,
    ModuleSpec,
    PullPolicy,
    Status,
    check_name,
)
from muster.edge.engine.process import group, supervisor
from muster.edge.engine.process.directory import (
    Made,
    ModuleDirectory,
    Run,
    begin,
    workload_env,
)
from muster.edge.engine.process.environments import Environments
from muster.edge.engine.process.log import LogReader, choose, chunks
from muster.edge.engine.process.settings import Program, parse
from muster.ids import Randomness

# How long what was killed may take to be gone (seconds): as long as the disk it waits for.
_KILL_PATIENCE_S: Final = 60.0
_FOLLOW_PAUSE_S: Final = 0.2
_NOT_FOUND: Final = 404
_log = structlog.get_logger(__name__)


class ProcessEngine:
    """The port over programs in a directory.

    Args:
        home: directory of all modules; made where it is missing. Python environments are beside
            it, in `environments`.
    """

    type: Final = "process"

    def __init__(self, home: Path) -> None:
        self._home = home
        self._environments = Environments(home.with_name("environments"))
        self._supervisors: dict[int, int] = {}
        self._damaged: set[str] = set()

    def fingerprint(self, spec: ModuleSpec) -> str:
        """Return a text that differs when a module made of the spec would differ."""
        parts = (spec.settings, spec.create_options, spec.env, str(spec.workload_socket))
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()

    async def start_up(self) -> None:
        """Make the home, and finish what a daemon that was killed began."""
        await asyncio.to_thread(self._clean)

    def _clean(self) -> None:
        # Modules may run as other users, who must be able to get at their own directories.
        self._home.mkdir(mode=0o711, parents=True, exist_ok=True)
        for rest in self._home.glob(".*"):
            shutil.rmtree(rest, ignore_errors=True)
        try:
            for module in self._home.iterdir():  # what is used is kept
                if (packages := ModuleDirectory(module).made().program.packages) is not None:
                    self._environments.is_ready(packages)
        except EngineError:
            return  # nobody can tell what this one uses
        self._environments.sweep()

    async def close(self) -> None:
        """Stop waiting for supervisors, which go on."""
        for pid in list(self._supervisors):
            self._forget(pid)

    async def modules(self) -> list[Module]:
        """Return what the directories say."""
        return await asyncio.to_thread(self._modules)

    def _modules(self) -> list[Module]:
        found = []
        for path in self._home.iterdir():
            if path.name.startswith("."):
                continue
            try:
                found.append(ModuleDirectory(path).module(self._is_damaged))
            except EngineError as error:
                if error.status != _NOT_FOUND:  # removed meanwhile
                    raise
        return found

    def _is_damaged(self, what: str) -> None:
        """Say it once: modules are looked at every few seconds."""
        if what not in self._damaged:
            self._damaged.add(what)
            _log.error("a file of a module is not used", reason=what)

    async def prepare(self, spec: ModuleSpec) -> None:
        """Make its Python environment, and see that the program is here."""
        check_name(spec.name)
        packages = parse(spec).packages
        if packages is not None and spec.pull_policy is not PullPolicy.NEVER:
            await self._environments.make(packages)
        await asyncio.to_thread(self._program, spec)

    def _program(self, spec: ModuleSpec) -> Program:
        """Return what a specification says, if all it needs is here."""
        check_name(spec.name)
        program = parse(spec)
        if program.directory is not None and not Path(program.directory).is_dir():
            raise EngineError(f"No such directory: {program.directory}", 404)
        env = {**workload_env(spec.workload_socket), **program.env}
        if program.packages is not None:
            if not self._environments.is_ready(program.packages):
                raise EngineError(f"No such environment: {program.packages.requirements}", 404)
            environment = self._environments.path(program.packages)
            env["VIRTUAL_ENV"] = str(environment)
            env["PATH"] = f"{environment / 'bin'}:{env['PATH']}"
        first = program.command[0]
        if "/" not in first:
            found = shutil.which(first, path=env["PATH"]) is not None
        else:
            # One that is relative may yet come to be where the module runs.
            found = not first.startswith("/") or Path(first).exists()
        if not found:
            raise EngineError(f"No such program: {first}", 404)
        return msgspec.structs.replace(program, env=env)

    async def create(self, spec: ModuleSpec) -> None:
        """Make the directory of a module."""
        await asyncio.to_thread(self._create, spec)

    def _create(self, spec: ModuleSpec) -> None:
        made = Made(
            program=self._program(spec),
            settings=spec.settings,
            fingerprint=self.fingerprint(spec),
        )
        with _disk():
            try:
                self._directory(spec.name).make(made)
            except FileExistsError:
                raise EngineError(f"The module name {spec.name} is in use", 409) from None

    async def start(self, name: str) -> None:
        """Start a supervisor, which starts the module."""
        directory = self._directory(name)
        run = await asyncio.to_thread(directory.run)
        if run.alive:
            return
        with _disk():
            pid, answer = await asyncio.to_thread(_start, directory, run)
        self._await(pid)
        if answer != "ok":
            reason = answer.removeprefix("error ")
            raise EngineError(reason, 500 if reason == answer else 400)

    def _await(self, pid: int) -> None:
        """Take note when a supervisor that this process started has ended, so that it is gone."""
        ended = os.pidfd_open(pid)
        self._supervisors[pid] = ended
        asyncio.get_running_loop().add_reader(ended, self._reap, pid)

    def _reap(self, pid: int) -> None:
        self._forget(pid)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _forget(self, pid: int) -> None:
        ended = self._supervisors.pop(pid)
        asyncio.get_running_loop().remove_reader(ended)
        os.close(ended)

    async def stop(self, name: str, patience_s: float) -> None:
        """Send SIGTERM to the module's process group, and SIGKILL after the patience."""
        await self._end(name, patience_s)

    async def _end(self, name: str, patience_s: float) -> None:
        directory = self._directory(name)
        run = await asyncio.to_thread(_running, directory)
        if run is None or (watched := _open(run)) is None:
            return
        try:
            if patience_s > 0:
                signal.pidfd_send_signal(watched, signal.SIGTERM)
                if await _ended(watched, patience_s):
                    return
            signal.pidfd_send_signal(watched, signal.SIGUSR1)
            if not await _ended(watched, _KILL_PATIENCE_S):
                raise EngineError(f"module {name} was killed and does not end", 500)
        except ProcessLookupError:  # it has ended by itself
            return
        finally:
            os.close(watched)

    async def remove(self, name: str) -> None:
        """End a module and remove its directory, with all that is in it."""
        directory = self._directory(name)
        try:
            await self._end(name, 0)
            run = await asyncio.to_thread(directory.run)
        except EngineError as error:
            if error.status == 404:
                return
            raise
        await asyncio.to_thread(_sweep, run)
        await asyncio.to_thread(directory.remove)

    async def processes(self, name: str) -> frozenset[int]:
        """Return all processes below the supervisor: it adopts those that lose their parents."""
        return await asyncio.to_thread(self._processes, self._directory(name))

    @staticmethod
    def _processes(directory: ModuleDirectory) -> frozenset[int]:
        try:
            run = directory.run()
        except EngineError:
            return frozenset()
        pid, start = run.supervisor
        if not run.alive or supervisor.stat_of(pid)[19:20] != [start]:
            return frozenset()
        return frozenset(supervisor.descendants(pid))

    async def logs(self, name: str, wanted: LogRange) -> AsyncIterator[LogChunk]:
        """Return what the module has written; to follow it is to look for more, often."""
        directory = self._directory(name)
        run = await asyncio.to_thread(directory.run)
        reader, left = LogReader(directory.log), wanted
        while True:
            found = chunks(choose(reader.read(), left), timestamps=wanted.timestamps)
            while (chunk := await asyncio.to_thread(next, found, None)) is not None:
                yield chunk
            if not wanted.follow or not run.alive:
                return
            await asyncio.sleep(_FOLLOW_PAUSE_S)
            left = msgspec.structs.replace(wanted, tail=None)
            # Looked at before the last reading, so that nothing is missed of a module that ends.
            run = await asyncio.to_thread(directory.run)

    async def inspect(self, name: str) -> JsonObject:
        """Return what the directory says, as JSON."""
        directory = self._directory(name)
        made, run = await asyncio.to_thread(lambda: (directory.made(), directory.run()))
        return {
            "name": name,
            "directory": str(directory.path),
            "made": msgspec.to_builtins(made),
            "run": msgspec.to_builtins(run),
        }

    async def usage(self) -> list[JsonObject]:
        """Return what the processes of running modules use."""
        running = [
            module.name for module in await self.modules() if module.status == Status.RUNNING
        ]
        return await asyncio.to_thread(
            lambda: [_usage(name, self._processes(self._directory(name))) for name in running]
        )

    async def facts(self) -> JsonObject:
        """Return the version of this runtime and of what it runs on."""
        return {
            "version": __version__,
            "os": platform.system().lower(),
            "architecture": platform.machine(),
            "kernelVersion": platform.release(),
            "limitsShortfall": group.shortfall(),
        }

    def _directory(self, name: str) -> ModuleDirectory:
        check_name(name)
        return ModuleDirectory(self._home / name)


def _start(directory: ModuleDirectory, last: Run) -> tuple[int, str]:
    _sweep(last)
    return begin(*directory.launch(Randomness().uuid()))


def _sweep(run: Run) -> None:
    """Kill what a supervisor that was killed itself could not."""
    if run.id and run.code is None and not run.alive:
        if run.group:
            group.kill(run.group)
        supervisor.kill_all(lambda: _marked(run.id))


def _marked(run: str) -> dict[int, str]:
    """Return the living processes that carry the ID of a run, with the times of their starts."""
    mark = f"{supervisor.RUN_VARIABLE}={run}".encode()
    found = {}
    for pid, stat in supervisor.living().items():
        with suppress(OSError):  # gone, or another user's
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found[pid] = stat[19]
    return found


def _running(directory: ModuleDirectory) -> Run | None:
    run = directory.run()
    return run if run.alive else None


def _open(run: Run) -> int | None:
    """Return a file descriptor of the supervisor; `None` if it has ended meanwhile."""
    pid, start = run.supervisor
    if not pid:
        return None
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # The descriptor stays with this process; an ID does not.
    if supervisor.stat_of(pid)[19:20] == [start]:
        return watched
    os.close(watched)
    return None


async def _ended(watched: int, patience_s: float) -> bool:
    """Wait until a process has ended; return whether it has."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    # A descriptor of its own: a loop watches each for one reason only.
    own = os.dup(watched)
    loop.add_reader(own, _once, ended)
    try:
        async with asyncio.timeout(patience_s):
            await ended
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(own)
        os.close(own)
    return True


def _once(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _usage(name: str, processes: frozenset[int]) -> JsonObject:
    memory, ticks = 0, 0
    for pid in processes:
        if stat := supervisor.stat_of(pid):
            ticks += int(stat[11]) + int(stat[12])
            memory += int(stat[21]) * os.sysconf("SC_PAGE_SIZE")
    nanoseconds = ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return {
        "name": name,
        "memory_stats": {"usage": memory},
        "cpu_stats": {"cpu_usage": {"total_usage": nanoseconds}},
        "pids_stats": {"current": len(processes)},
    }


@contextmanager
def _disk() -> Iterator[None]:
    """Say what the disk said."""
    try:
        yield
    except OSError as error:
        raise EngineError(str(error), 500) from error
