"""The supervisor of one process module: a program that runs it, keeps its log and its exit.

It is started by path, without the package, and imports as little as it can: there is one for every
module, and each costs a few megabytes. It lives as long as its module, whatever the daemon does.

- It holds a lock on the module's record while it lives, so there is never a second one, and
  whoever finds the record unlocked knows that nobody runs.
- The record has a fixed size and is overwritten in place, so that a full disk cannot keep an exit
  from being written down.
- SIGTERM asks the module's process group to end; SIGUSR1 ends it.
- When the module's first process ends, all that it left behind is killed, as in a container. In a
  scope of systemd's (see `group`) the module is in a control group below it, which is killed whole.
- If the supervisor itself is killed, the kernel kills the module's first process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

RECORD_SIZE = 1024
"""Bytes of a record."""
RUN_VARIABLE = "MUSTER_MODULE_RUN"
"""The variable that tells, in a process's environment, which run it is of."""
LOG_FILES = 4
"""A log is this many files at most; the oldest goes when another one begins."""
LONGEST_LINE = 16384
"""A longer line is kept in parts."""

_READ = 65536
_LOCK_TRIES, _LOCK_PAUSE_S = 50, 0.1
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
_LIMITS = (
    # Memory that a process may write to; what it only reserves does not count (setrlimit(2)).
    ("memory", resource.RLIMIT_DATA),
    ("cpu", resource.RLIMIT_CPU),
    ("files", resource.RLIMIT_NOFILE),
    ("processes", resource.RLIMIT_NPROC),
)
_HEARD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
_UNHEARD = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)
_NOT_OURS = {signal.SIGKILL, signal.SIGSTOP}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


# What the daemon says to it: texts with a zero byte between them.


def pack(options: dict[str, str], command: list[str], env: dict[str, str]) -> bytes:
    """Write what a supervisor is to do.

    Args:
        options: `directory` and `cwd` (paths), `run` (ID of this run), `made` (fingerprint of what
            it was made of, for the record), `uid`, `gid`, `groups` (with spaces between), `memory`
            (bytes), `cpu` (seconds), `files`, `processes` (numbers), `log` (bytes) and `scope`,
            where it is in one (see `group`); what is left out is not changed or has no limit.
        command: program and arguments.
        env: all of the environment.
    """
    texts = [str(len(options)), str(len(command))]
    texts += [f"{key}={value}" for key, value in options.items()]
    texts += command
    texts += [f"{key}={value}" for key, value in env.items()]
    return b"\0".join(os.fsencode(text) for text in texts)


def unpack(data: bytes) -> tuple[dict[str, str], list[str], dict[str, str]]:
    """Read what `pack` wrote."""
    texts = [os.fsdecode(part) for part in data.split(b"\0")]
    middle = 2 + int(texts[0])
    end = middle + int(texts[1])
    return _pairs(texts[2:middle]), texts[middle:end], _pairs(texts[end:])


def _pairs(texts: list[str]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


# The record.


def write_record(fd: int, values: dict[str, object]) -> None:
    """Write a record in place, and have it on the disk."""
    text = "".join(f"{key} {value}\n" for key, value in values.items())
    os.pwrite(fd, text.encode("utf-8", "replace")[:RECORD_SIZE].ljust(RECORD_SIZE), 0)
    os.fdatasync(fd)


def read_record(data: bytes) -> dict[str, str]:
    """Read what `write_record` wrote.

    That is `run`, `made`, `supervisor`, `group`, `child`, `started`, `error` where it did not
    begin, and at the end `exited`, `code` and `lost`, the lines that the log has to tell of yet.

    Processes are an ID and, after a space, the time of their start; moments are nanoseconds.
    """
    lines = data.decode("utf-8", "replace").splitlines()
    return {key: value for key, space, value in (line.partition(" ") for line in lines) if space}


# Processes.


def stat_of(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` from the state on; nothing if there is no process.

    Of use are 0, the state; 1, the parent; 11 and 12, ticks of processor time; 19, the time of its
    start, which no other process of this ID has; 21, its resident pages.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - no pathlib here
            # The name before it is in brackets, and may have any character.
            return file.read().decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def living() -> dict[int, list[str]]:
    """Return `stat_of` of all processes that live, by ID."""
    names = os.listdir("/proc")  # noqa: PTH208 - no pathlib here
    found = {int(name): stat_of(int(name)) for name in names if name.isdecimal()}
    return {pid: stat for pid, stat in found.items() if stat and stat[0] not in "ZX"}


def holder(path: str) -> tuple[int, str]:
    """Return the process, but this one, that has a file open, and the time of its start.

    `(0, "")` for nobody. A record that is locked is open in its supervisor and nowhere else.
    """
    wanted = os.stat(path)  # noqa: PTH116 - no pathlib here
    for pid, stat in living().items():
        try:
            names = os.listdir(f"/proc/{pid}/fd") if pid != os.getpid() else []  # noqa: PTH208
        except OSError:  # gone, or another user's
            continue
        for name in names:
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), wanted):  # noqa: PTH116
                    return pid, stat[19]
    return 0, ""


def descendants(ancestor: int) -> dict[int, str]:
    """Return the living processes below another, with the times of their starts."""
    everybody = living()
    below, waiting = {}, [ancestor]
    while waiting:
        parent = str(waiting.pop())
        for pid, stat in everybody.items():
            if stat[1] == parent and pid not in below:
                below[pid] = stat[19]
                waiting.append(pid)
    return below


def kill_all(find: Callable[[], dict[int, str]]) -> None:
    """Kill processes, also those that they start meanwhile.

    Args:
        find: tells who there is, with the times of their starts.
    """
    for _ in range(10):
        found = find()
        if not found:
            return
        for pid, start in found.items():
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                continue
            # Still the same: an ID may have gone to another process since.
            with suppress(OSError):
                if stat_of(pid)[19:20] == [start]:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


# The log.


class Log:
    """Numbered files of lines `time stream F|P text`, of a bounded size in all.

    `P` is a part of a line that goes on in the next one of its stream.

    Args:
        directory: of the files.
        limit: of their size in all, bytes.
        lost: lines that could not be written and are not told of yet.
    """

    def __init__(self, directory: str, limit: int, lost: int) -> None:
        self._directory = directory
        self._limit = max(limit // LOG_FILES, LONGEST_LINE)
        self._kept: dict[int, bytes] = {1: b"", 2: b""}
        self._torn = False
        self.lost = lost
        self._number = max(self._numbers(), default=0)
        self._fd = -1
        self._size = 0
        self._open()

    def _numbers(self) -> list[int]:
        names = os.listdir(self._directory)  # noqa: PTH208 - no pathlib here
        return [int(name) for name in names if name.isdecimal()]

    def _open(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        path = f"{self._directory}/{self._number:08}"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        self._torn = self._size > 0 and os.pread(self._fd, 1, self._size - 1) != b"\n"

    def feed(self, stream: int, data: bytes) -> None:
        """Write the lines that are whole."""
        *lines, kept = (self._kept[stream] + data).split(b"\n")
        pieces = [(b"F", line) for line in lines]
        if len(kept) >= LONGEST_LINE:
            pieces.append((b"P", kept))
            kept = b""
        self._kept[stream] = kept
        self._write(stream, pieces)

    def finish(self) -> None:
        """Write what has no end of line, and be done."""
        for stream, kept in self._kept.items():
            if kept:
                self._write(stream, [(b"P", kept)])
        os.close(self._fd)

    def _write(self, stream: int, pieces: list[tuple[bytes, bytes]]) -> None:
        if not pieces:
            return
        moment = time.time_ns()
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment // 10**9))
        head = f"{second}.{moment % 10**9:09}Z ".encode()
        cut = [
            (kind if at + LONGEST_LINE >= len(text) else b"P", text[at : at + LONGEST_LINE])
            for kind, text in pieces
            for at in range(0, len(text) or 1, LONGEST_LINE)
        ]
        data = b"".join(b"%s%d %s %s\n" % (head, stream, kind, text) for kind, text in cut)
        if self.lost:
            note = b"%s2 F muster: the log has lost %d lines here\n" % (head, self.lost)
            data = note + data
        try:
            if self._size >= self._limit:
                self._rotate()
            if self._torn:
                data = b"\n" + data
            written = os.write(self._fd, data)
        except OSError:  # most likely a full disk: a module does not stop for its log
            self.lost += len(cut)
            return
        self._size += written
        self._torn = written < len(data)
        self.lost = len(cut) if self._torn else 0

    def _rotate(self) -> None:
        self._number += 1
        for number in self._numbers():
            if number <= self._number - LOG_FILES:
                os.unlink(f"{self._directory}/{number:08}")  # noqa: PTH108 - no pathlib here
        self._open()


# Running the module.


def _own_group() -> str:
    """Make a control group for the module below the scope of this supervisor."""
    with open("/proc/self/cgroup", "rb") as file:  # noqa: PTH123 - no pathlib here
        scope = os.fsdecode(file.read()).rpartition("0::")[2].strip()
    group = f"/sys/fs/cgroup{scope}/module"
    os.mkdir(group)  # noqa: PTH102 - no pathlib here
    return group


def _tell_kernel(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


def _lock(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # held by a supervisor, or for a moment by somebody who looks
            time.sleep(_LOCK_PAUSE_S)
            continue
        return fd
    raise OSError(errno.EBUSY, "the module has a supervisor already")


def _become(
    order: tuple[dict[str, str], list[str], dict[str, str]],
    group: str,
    out: tuple[int, int],
    report: int,
    prctl: Callable[[int, int], int] | None,
) -> None:
    """Turn this process, just forked, into the module."""
    options, command, env = order
    code, what = _NOT_RUNNABLE, "start"
    try:
        supervisor = os.getppid()
        if group:
            _tell_kernel(f"{group}/cgroup.procs", "0")
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out[0], 1)
        os.dup2(out[1], 2)
        # Whatever we or whoever started the daemon heard or ignored.
        for number in signal.valid_signals() - _NOT_OURS:
            signal.signal(number, signal.SIG_DFL)
        what = f"chdir {options['cwd']}"
        os.chdir(options["cwd"])
        what = "user"
        if "uid" in options:
            os.setgroups([int(group) for group in options["groups"].split()])
            os.setgid(int(options["gid"]))
            os.setuid(int(options["uid"]))
        for key, limit in _LIMITS:
            if key in options:
                what = f"limit {key}"
                resource.setrlimit(limit, (int(options[key]), int(options[key])))
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != supervisor:
            os._exit(_NOT_RUNNABLE)
        what = f'exec: "{command[0]}"'
        os.execvpe(command[0], command, env)  # noqa: S606 - what this is for
    except (OSError, ValueError, OverflowError) as error:  # limits raise those two
        reason = error.strerror if isinstance(error, OSError) else None
        missing = isinstance(error, FileNotFoundError)
        code = _NOT_FOUND if missing else _NOT_RUNNABLE
        text = reason or str(error)
        os.write(report, f"{what}: {text.lower()}".encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _prctl() -> Callable[[int, int], int] | None:
    try:
        import ctypes  # noqa: PLC0415 - a Python may be built without it
    except ImportError:
        return None
    return getattr(ctypes.CDLL(None), "prctl", None)


def _say(text: str) -> None:
    """Answer the daemon, if it still listens, and let go of it."""
    with suppress(OSError):
        os.write(1, text.encode("utf-8", "replace"))
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _drain(log: Log, streams: dict[int, int], ready: list[int]) -> None:
    for fd in ready:
        try:
            data = os.read(fd, _READ)
        except BlockingIOError:
            continue
        if data:
            log.feed(streams[fd], data)
        else:
            os.close(fd)
            del streams[fd]


def _watch(log: Log, streams: dict[int, int], wake: int, child: int) -> None:
    """Keep the log and pass signals on until the module's first process has ended."""
    while True:
        ready, _, _ = select.select([*streams, wake], [], [])
        if wake in ready:
            ready.remove(wake)
            for number in os.read(wake, _READ):
                if number == signal.SIGTERM:
                    _signal_group(child, signal.SIGTERM)
                elif number == signal.SIGUSR1:
                    _signal_group(child, signal.SIGKILL)
        _drain(log, streams, ready)
        if _has_ended(child):
            return


def _has_ended(child: int) -> bool:
    """Return whether the module's first process has ended; see off others that ended here."""
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
        if ended.si_pid == child:
            return True
        os.waitpid(ended.si_pid, 0)
    return False


def _signal_group(child: int, number: int) -> None:
    with suppress(OSError):
        # Not reaped before `main` does it, so nobody else can have this ID.
        os.killpg(child, number)


def main() -> None:
    """Run a module, as standard input says."""
    options, command, env = unpack(sys.stdin.buffer.read())
    directory = options["directory"]
    os.closerange(3, 1024)
    os.chdir("/")
    os.umask(0o022)
    # Before anything can be sent: who writes to a group that is not there yet is not heard.
    wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in _HEARD:
        signal.signal(number, lambda *_: None)
    for number in _UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    prctl = _prctl()
    if prctl is not None:
        # Whoever loses a parent becomes a child of ours, wherever it went.
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        record = _lock(f"{directory}/run")
        last = read_record(os.pread(record, RECORD_SIZE, 0))
        log = Log(f"{directory}/log", int(options["log"]), int(last.get("lost", 0)))
        me = f"{os.getpid()} {stat_of(os.getpid())[19]}"
        values: dict[str, object] = {key: options[key] for key in ("run", "made")}
        values |= {"supervisor": me, "group": _own_group() if "scope" in options else ""}
        write_record(record, values)
        out, err, report = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        values["started"] = time.time_ns()
        child = os.fork()
    except OSError as error:
        _say(f"error {error.strerror or error}")
        return
    if child == 0:
        env[RUN_VARIABLE] = options["run"]
        _become((options, command, env), str(values["group"]), (out[1], err[1]), report[1], prctl)
    for fd in (out[1], err[1], report[1]):
        os.close(fd)
    _supervise(record, log, values, child, (out[0], err[0], report[0], wake))


def _supervise(
    record: int, log: Log, values: dict[str, object], child: int, fds: tuple[int, int, int, int]
) -> None:
    """See a run through from the module's start to its end."""
    out, err, report, wake = fds
    trouble = os.read(report, 512).decode("utf-8", "replace")
    os.close(report)
    values["child"] = f"{child} {stat_of(child)[19]}"
    if trouble:
        values["error"] = " ".join(trouble.split())
    else:
        write_record(record, values)
        streams = {out: 1, err: 2}
        for fd in streams:
            os.set_blocking(fd, False)
        _say("ok")
        _watch(log, streams, wake, child)
        _signal_group(child, signal.SIGKILL)
        with suppress(OSError):  # there is none, or the kernel is older than 5.14
            _tell_kernel(f"{values['group']}/cgroup.kill", "1")
        kill_all(lambda: descendants(os.getpid()))
        while streams and (ready := select.select(list(streams), [], [], 0)[0]):
            _drain(log, streams, ready)
        log.finish()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    values["exited"] = time.time_ns()
    values["code"] = code if code >= 0 else 128 - code
    values["lost"] = log.lost
    write_record(record, values)
    if trouble:
        os.close(record)
        _say(f"error {trouble}")


if __name__ == "__main__":
    main()
