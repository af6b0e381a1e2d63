"""Trees of this machine's own release of Debian or Ubuntu, made once a machine and cached.

What is made of one has its directory in the cache of the user; another recipe is another directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from support.secrets import CLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt")


class NoTreeError(Exception):
    """A tree, or what is made of it, cannot be made here, and why."""


def cached(name: str, recipe: Sequence[str], make: Callable[[Path], Path]) -> Path:
    """Return a directory of the cache, made where it is missing.

    Args:
        name: of what it is.
        recipe: whatever it depends on, besides the release.
        make: makes it in a directory that goes afterwards, and returns where it is.

    Raises:
        NoTreeError: it cannot be made here.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster-tests"
    cache.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    for part in (Path(__file__).read_text(), *recipe, _release()):
        digest.update(part.encode())
    done = cache / f"{name}-{platform.machine()}-{digest.hexdigest()[:16]}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _remove_old(cache, name)
            with tempfile.TemporaryDirectory(dir=cache) as work:
                make(Path(work)).rename(done)
        os.utime(done)
    return done


def _remove_old(cache: Path, name: str) -> None:
    """Remove what was made of other recipes and nobody has used for a month."""
    for old in cache.glob(f"{name}-*-*"):
        if CLOCK.time() - old.stat().st_mtime > 30 * 86400:
            shutil.rmtree(old, ignore_errors=True)


def tree(root: Path, *packages: str) -> None:
    """Make a tree with some packages in it.

    Raises:
        NoTreeError: it cannot be made here.
    """
    run(
        *("debootstrap", "--variant=minbase", f"--include={','.join(packages)}"),
        *(_release(), root, _mirror()),
    )
    for unused in _UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)


def _release() -> str:
    release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if release is None:
        raise NoTreeError("this system is no release of Debian or Ubuntu that has a name")
    return release


def _mirror() -> str:
    """Return where this machine's own packages come from."""
    release = _release()
    for line in run(
        *("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)"),
        "Created-By: Packages",
    ).splitlines():
        if line.endswith(f" {release} main"):
            return line.split()[0]
    raise NoTreeError(f"apt has no source of {release} main, so nothing to make a root of")


def run(*command: str | Path) -> str:
    """Run a command that must go well, and return what it printed.

    Raises:
        NoTreeError: it did not go well.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise NoTreeError(f"{command[0]} ended with {done.returncode}:\n{tail}")
    return done.stdout
