"""A machine that systemd runs: a Debian of its own, booted by `systemd-nspawn`.

It has the network of a site, so it reaches an instance and nothing else, and a file system over a
cached tree that goes with the test. Its control groups are a part of the unified hierarchy that it
is given as its own, also where this machine itself has the older one: limits of the kernel work in
it as far as this machine leaves their controllers to that hierarchy.

`python -m support.machine` makes the tree (`make setup` does that), and so does the first test that
finds none.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support import site as sites
from support.debian import NoTreeError, cached, tree
from support.run import Run
from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from support.site import Site

_PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "procps", "iproute2")
_TOOLS = ("systemd-nspawn", "debootstrap", "nsenter", "setpriv", "unshare")
_PATIENCE_S = 60.0
_REBOOT = 133
"""How systemd-nspawn ends when what it runs wants to boot again (systemd-nspawn(1))."""
_CGROUPS = Path("/sys/fs/cgroup")
_BOOT = f"""
set -eu
# Nothing of it is for ever, so nothing waits for the disk; it says that it was used so.
rm -rf "$WORK"/work/incompat
mount -t overlay -o volatile,lowerdir="$TREE",upperdir="$UPPER",workdir="$WORK" none "$ROOT"
mount -t cgroup2 none {_CGROUPS}
for each in cpu memory pids; do echo +$each >{_CGROUPS}/cgroup.subtree_control || true; done 2>&-
mkdir {_CGROUPS}/$NAME
echo $$ >{_CGROUPS}/$NAME/cgroup.procs
exec setpriv --pdeathsig KILL systemd-nspawn --boot --quiet --console=read-only \\
    --register=no --keep-unit --machine="$NAME" --directory="$ROOT" \\
    --network-namespace-path="/run/netns/$SITE"
"""


def why_none() -> str | None:
    """Return why no machine can be booted here; `None` when one can."""
    if (reason := sites.why_none()) is not None:
        return reason
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"missing: {', '.join(missing)}; `scripts/setup engine` says how to get them"
    return None


def machine_tree() -> Path:
    """Return the tree of every machine, made where it is missing.

    Raises:
        NoTreeError: it cannot be made here.
    """
    return cached("machine", _PACKAGES, _make)


def _make(work: Path) -> Path:
    root = work / "root"
    tree(root, *_PACKAGES)
    # Where wheels of this Python are to be installed, it has to be the same.
    found = sorted(path.name for path in (root / "usr/bin").glob("python3.*"))
    wanted = f"python3.{sys.version_info[1]}"
    if found != [wanted]:
        raise NoTreeError(f"this release has {' '.join(found)}, and the tests run with {wanted}")
    (root / "etc/machine-id").write_text("uninitialized\n")
    return root


class Machine:
    """A machine that can boot, and boot again. Use it as a context manager.

    Args:
        site: the network that it has.
    """

    def __init__(self, site: Site) -> None:
        run = Run.current()
        self._site = site
        self._name = f"muster-{run.slot}-{run.next_number()}"
        self._directory = run.directory / f"machine-{self._name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0

    @property
    def root(self) -> Path:
        """Its file system, while it runs."""
        return Path(f"/proc/{self._init}/root")

    @property
    def boot_log(self) -> str:
        """What it has said on its console."""
        return (self._directory / "log.txt").read_text(errors="replace")

    def __enter__(self) -> Self:
        for part in ("root", "upper", "work"):
            (self._directory / part).mkdir(parents=True)
        try:
            self._clear()  # a run that was killed may have left them
            self.boot()
            shutil.copyfile(self._site.hosts, self.root / "etc/hosts")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        self._end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def boot(self) -> None:
        """Boot it, and wait until that is done."""
        tree = machine_tree()
        with (self._directory / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _BOOT],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ["PATH"],
                    "TREE": str(tree),
                    "UPPER": str(self._directory / "upper"),
                    "WORK": str(self._directory / "work"),
                    "ROOT": str(self._directory / "root"),
                    "NAME": self._name,
                    "SITE": self._site.name,
                },
            )
        self.wait(self._is_up, "the boot")

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it did not boot:\n{self.boot_log}"
        pid = self._process.pid
        with contextlib.suppress(FileNotFoundError):
            # What systemd-nspawn began; not what it is before it is systemd-nspawn.
            if Path(f"/proc/{pid}/comm").read_text().strip() != "systemd-nspawn":
                return False
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            self._init = int(children[0]) if children else 0
        if not self._init:
            return False
        return self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def reboot(self) -> None:
        """Let it boot again, as who runs it does."""
        self.run("systemctl", "reboot")
        assert self._process is not None
        assert self._process.wait(_PATIENCE_S * 2) == _REBOOT, self.boot_log
        self._clear()
        self.boot()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._clear()

    def _clear(self) -> None:
        """Remove its control groups, and whoever is in one."""
        self._init = 0
        script = f"""
            mount -t cgroup2 none {_CGROUPS}; cd {_CGROUPS}/{self._name} 2>&- || exit 0
            echo 1 >cgroup.kill
            while grep -q 'populated 1' cgroup.events; do sleep 0.05; done
            cd ..; find {self._name} -depth -type d -exec rmdir {{}} +"""
        subprocess.run(["unshare", "--mount", "sh", "-c", script], check=True)

    def run(self, *command: str, told: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on it as root, whatever comes of it.

        Args:
            command: program and arguments.
            told: its standard input.
        """
        return subprocess.run(
            [
                *("nsenter", "--all", "--target", str(self._init)),
                *("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                *("HOME=/root", "LANG=C.UTF-8", *command),
            ],
            input=told,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S * 2,
            check=False,
        )

    def must(self, *command: str, told: str = "") -> str:
        """Run a command that has to go well, and return what it printed."""
        done = self.run(*command, told=told)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so."""
        end = CLOCK.monotonic() + _PATIENCE_S
        while not condition():
            if CLOCK.monotonic() > end:
                journal = self.run("journalctl", "--lines", "100", "--no-pager", "-o", "cat")
                raise AssertionError(f"in vain: {what}\n{journal.stdout}{self.boot_log[-2000:]}")
            time.sleep(0.1)


def main() -> None:
    """Make the tree where it is missing."""
    if (reason := why_none()) is not None:
        raise SystemExit(reason)
    try:
        machine_tree()
    except NoTreeError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
