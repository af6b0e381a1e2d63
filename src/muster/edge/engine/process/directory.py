"""What a process module is on disk: a directory of its own, which tells all there is to know.

`module.json` says what it was made of, `run` what became of its last run (see `supervisor`),
`log/` what it wrote, and `work/` is its working directory where it names none.

Either file may be damaged. A module that runs goes on: that it does is told by the lock on its
record, who watches it by who has that open, and what it was made of, as far as that decides
whether it is the right one, by the record, too. One that does not run can only be made anew.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import msgspec

from muster.edge import foreign_json
from muster.edge.engine.base import WORKLOAD_URI, EngineError, JsonObject, Module, Status
from muster.edge.engine.process import supervisor
from muster.edge.engine.process.group import group_of
from muster.edge.engine.process.settings import Program, User
from muster.edge.foreign_json import ForeignJsonError

_KILLED: Final = 137
_NOT_FOUND: Final = 404
_DAMAGED_RECORD: Final = "the record of its last run is damaged"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """`module.json`.

    Attributes:
        program: what runs.
        settings: of the deployment, for reported properties.
        fingerprint: of the specification.
    """

    program: Program
    settings: JsonObject
    fingerprint: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of a module.

    Attributes:
        id: of the run; empty where there was none.
        alive: whether it has a supervisor, and so goes on.
        supervisor: process ID and time of start of the supervisor.
        child: process ID of the module's first process; 0 for none.
        group: path of the module's control group; empty for none.
        started_at: when it began.
        exited_at: when it ended.
        code: what it ended with; `None` where nobody saw that.
        error: why it did not begin.
        fingerprint: of the specification it was begun with; empty where that is not known.
    """

    id: str = ""
    alive: bool = False
    supervisor: tuple[int, str] = (0, "")
    child: int = 0
    group: str = ""
    started_at: datetime | None = None
    exited_at: datetime | None = None
    code: int | None = None
    error: str = ""
    fingerprint: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record and see whether its supervisor lives; a new record is of no run."""
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                alive = False
            except BlockingIOError:
                alive = True
            # After the lock was looked at: what nobody holds is written to the end.
            data = file.read()
            try:
                return cls._parse(alive, data)
            except ValueError:  # read while it was written
                file.seek(0)
            try:
                return cls._parse(alive, file.read())
            except ValueError:
                return cls(alive=alive, error=_DAMAGED_RECORD)

    @classmethod
    def _parse(cls, alive: bool, data: bytes) -> Self:  # noqa: FBT001 - a field
        values = supervisor.read_record(data)
        if data.strip() and "run" not in values:
            raise ValueError("this is no record")
        pid, _, start = values.get("supervisor", "0 ").partition(" ")
        return cls(
            id=values.get("run", ""),
            # One that has written the exit down is alive for a moment more.
            alive=alive and "code" not in values,
            supervisor=(int(pid), start.strip()),
            child=int(values.get("child", "0").split()[0]),
            group=values.get("group", ""),
            started_at=_moment(values.get("started")),
            exited_at=_moment(values.get("exited")),
            code=int(values["code"]) if "code" in values else None,
            error=values.get("error", "").strip(),
            fingerprint=values.get("made", "").strip(),
        )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else _EPOCH + timedelta(microseconds=int(text) // 1000)


class ModuleDirectory:
    """The directory of one module.

    Args:
        path: of it; its name is the module's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """The directory of the log."""
        return self.path / "log"

    def make(self, made: Made) -> None:
        """Make the directory, whole or not at all.

        Raises:
            FileExistsError: there is one.
        """
        new = self.path.with_name(f".new-{self.path.name}")
        shutil.rmtree(new, ignore_errors=True)
        try:
            self._fill(new, made)
            new.rename(self.path)
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            if not self.path.exists():
                raise
            raise FileExistsError(self.path) from error

    @staticmethod
    def _fill(new: Path, made: Made) -> None:
        new.mkdir(mode=0o711)
        (new / "log").mkdir(mode=0o700)
        (new / "work").mkdir(mode=0o700)
        if (user := made.program.user) is not None:
            os.chown(new / "work", user.uid, user.gid)
        for name, content in (
            ("module.json", msgspec.json.encode(made)),
            ("run", b"".ljust(supervisor.RECORD_SIZE)),
        ):
            with open(new / name, "xb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove the directory; it is no module from the first moment on."""
        old = self.path.with_name(f".old-{self.path.name}")
        shutil.rmtree(old, ignore_errors=True)
        with suppress(FileNotFoundError):
            self.path.rename(old)
        shutil.rmtree(old, ignore_errors=True)

    def made(self) -> Made:
        """Read what the module was made of.

        Raises:
            EngineError: 404, there is no such module; 409, that is damaged, so that it has to be
                made anew; 500, it cannot be read.
        """
        path = self.path / "module.json"
        try:
            return foreign_json.decode(path.read_bytes(), Made)
        except FileNotFoundError:
            raise EngineError(f"No such module: {self.path.name}", 404) from None
        except ForeignJsonError as error:
            raise EngineError(f"{path} is damaged: {error}", 409) from None
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}", 500) from None

    def run(self) -> Run:
        """Read what became of its last run.

        Raises:
            EngineError: 404, there is no such module; 500, that cannot be read.
        """
        path = self.path / "run"
        try:
            run = Run.read(path)
        except FileNotFoundError:
            raise EngineError(f"No such module: {self.path.name}", 404) from None
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}", 500) from None
        pid, start = run.supervisor
        if run.alive and supervisor.stat_of(pid)[19:20] != [start]:
            # The record is damaged, for whoever holds the lock on it lives.
            return msgspec.structs.replace(run, supervisor=supervisor.holder(str(path)))
        return run

    def module(self, damaged: Callable[[str], None]) -> Module:
        """Return how the module stands.

        Args:
            damaged: told of each file that is damaged, in words.

        Raises:
            EngineError: 404, there is no such module; 500, its record cannot be read.
        """
        run = self.run()
        if run.error == _DAMAGED_RECORD:
            damaged(f"{self.path / 'run'} is damaged")
        try:
            made = self.made()
        except EngineError as error:
            if error.status == _NOT_FOUND:
                raise
            damaged(str(error))
            return self._unmade(run, str(error))
        code = 0 if run.alive or not run.id else _KILLED if run.code is None else run.code
        return Module(
            name=self.path.name,
            status=_status(run, code),
            description=_description(run),
            exit_code=code,
            started_at=run.started_at,
            exited_at=run.exited_at,
            settings=made.settings,
            fingerprint=made.fingerprint,
        )

    def _unmade(self, run: Run, reason: str) -> Module:
        """Return how a module stands of which nobody knows any more how to start it."""
        return Module(
            name=self.path.name,
            status=Status.RUNNING if run.alive else Status.DEAD,
            description=reason,
            started_at=run.started_at,
            exited_at=run.exited_at,
            fingerprint=run.fingerprint,
        )

    def launch(self, run: str) -> tuple[tuple[str, ...], bytes]:
        """Return what a supervisor is begun by, and what it is told to begin a run.

        Raises:
            EngineError: see `made`.
        """
        made = self.made()
        program = made.program
        group = group_of(self.path.name, run, program.limits)
        limits = {key: str(program.limits[key]) for key in program.limits.keys() - group.limits}
        options = {
            "directory": str(self.path),
            "cwd": program.directory or str(self.path / "work"),
            "run": run,
            "made": made.fingerprint,
            **limits,
            **({"scope": "yes"} if group.command else {}),
            **({} if program.user is None else _user(program.user)),
        }
        env = {"HOME": options["cwd"], **program.env}
        return group.command, supervisor.pack(options, list(program.command), env)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _user(user: User) -> dict[str, str]:
    groups = " ".join(str(group) for group in user.groups)
    return {"uid": str(user.uid), "gid": str(user.gid), "groups": groups}


def _status(run: Run, code: int) -> Status:
    if run.alive:
        return Status.RUNNING
    return Status.FAILED if code else Status.STOPPED


def _description(run: Run) -> str:
    if run.error:
        return run.error
    if run.alive:
        return "running"
    if not run.id:
        return "created"
    return "exited" if run.code is not None else "ended unseen, with the device or its supervisor"


def begin(by: tuple[str, ...], launch: bytes) -> tuple[int, str]:
    """Start a supervisor.

    Args:
        by: a command that becomes it; empty where it is begun as it is.
        launch: what it is told.

    Returns:
        Its process ID, and its answer: `ok`, or `error` and why; what `by` says where that fails.
    """
    command = [*by, sys.executable, "-I", "-S", _program()]
    told = os.memfd_create("launch")
    answer, answers = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(told, launch)
        os.lseek(told, 0, os.SEEK_SET)
        pid = os.posix_spawn(
            command[0],
            command,
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, told, 0),
                (os.POSIX_SPAWN_DUP2, answers, 1),
                (os.POSIX_SPAWN_DUP2, answers, 2),
            ],
            setsid=True,
        )
        os.close(answers)
        answers = -1
        with open(answer, "rb", closefd=False) as file:
            return pid, file.read().decode("utf-8", "replace")
    finally:
        for fd in (told, answer, answers):
            if fd >= 0:
                os.close(fd)


def _program() -> str:
    """Return the supervisor, compiled where Python keeps it so: that saves it a megabyte."""
    compiled = supervisor.__spec__.cached
    return compiled if compiled and Path(compiled).exists() else supervisor.__file__


def workload_env(socket: Path | None) -> dict[str, str]:
    """Return how a program of this device finds its workload API."""
    return {} if socket is None else {WORKLOAD_URI: f"unix://{socket}"}
