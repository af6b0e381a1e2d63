"""The image that container modules of the tests are made of: Debian, Python, `azure-iot-device`.

It is made once a machine, as the storage of a registry that holds it, and kept in the cache of the
user: `python -m support.base_image` makes it (`make setup` does that), and so does the first test
that finds none. Another recipe is another directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.docker import BASE_IMAGE, DockerHost, EngineTroubleError, Registry, why_none
from support.run import Run
from support.secrets import CLOCK

_PROJECT = Path(__file__).parents[2]
_CONSTRAINTS = _PROJECT / "requirements" / "constraints.txt"
_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache/apt")


class NoBaseImageError(Exception):
    """The image cannot be made here, and why."""


def base_registry() -> Path:
    """Return the storage of a registry with the image in it, made where it is missing.

    Raises:
        NoBaseImageError: it cannot be made here.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster-tests"
    cache.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256()
    for part in (Path(__file__).read_text(), _pinned(), _release()):
        recipe.update(part.encode())
    done = cache / f"base-image-{platform.machine()}-{recipe.hexdigest()[:16]}"
    with (cache / "base-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _remove_old(cache)
            with tempfile.TemporaryDirectory(dir=cache) as work:
                _make(Path(work)).rename(done)
        os.utime(done)
    return done


def _pinned() -> str:
    lines = _CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.startswith("azure-iot-device="))


def _remove_old(cache: Path) -> None:
    """Remove images of other recipes that nobody has used for a month."""
    for old in cache.glob("base-image-*-*"):
        if CLOCK.time() - old.stat().st_mtime > 30 * 86400:
            shutil.rmtree(old, ignore_errors=True)


def _make(work: Path) -> Path:
    root, tar = work / "root", work / "root.tar"
    _run("debootstrap", "--variant=minbase", "--include=python3", _release(), root, _mirror())
    for unused in _UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)
    packages = next((root / "usr/local/lib").glob("python3.*/dist-packages"))
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--use-pep517", "--target", packages, "--constraint", _CONSTRAINTS, "azure-iot-device"),
    )
    _run("tar", "--directory", root, "--create", "--file", tar, ".")
    try:
        with Registry() as registry, DockerHost() as docker:
            docker.load(f"{registry.address}/{BASE_IMAGE}", tar)
            docker.push(f"{registry.address}/{BASE_IMAGE}")
    except EngineTroubleError as error:
        raise NoBaseImageError(str(error)) from error
    # Elsewhere on disk, so that it appears whole or not at all.
    return Path(shutil.copytree(registry.storage, work / "storage"))


def _release() -> str:
    release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    if release is None:
        raise NoBaseImageError("this system is no release of Debian or Ubuntu that has a name")
    return release


def _mirror() -> str:
    """Return where this machine's own packages come from."""
    release = _release()
    for line in _run(
        *("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)"),
        "Created-By: Packages",
    ).splitlines():
        if line.endswith(f" {release} main"):
            return line.split()[0]
    raise NoBaseImageError(f"apt has no source of {release} main, so nothing to make a root of")


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise NoBaseImageError(f"{command[0]} ended with {done.returncode}:\n{tail}")
    return done.stdout


def main() -> None:
    """Make the image where it is missing."""
    if (reason := why_none()) is not None:
        raise SystemExit(reason)
    run = Run.begin()
    try:
        base_registry()
    except NoBaseImageError as error:
        raise SystemExit(str(error)) from error
    finally:
        run.end(keep=False)


if __name__ == "__main__":
    main()
