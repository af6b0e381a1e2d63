"""The image that container modules of the tests are made of: Debian, Python, `azure-iot-device`.

It is made once a machine, as the storage of a registry that holds it, and kept in the cache of the
user: `python -m support.base_image` makes it (`make setup` does that), and so does the first test
that finds none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from support.debian import NoTreeError, cached, run, tree
from support.docker import BASE_IMAGE, DockerHost, EngineTroubleError, Registry, why_none
from support.run import Run

_PROJECT = Path(__file__).parents[2]
_CONSTRAINTS = _PROJECT / "requirements" / "constraints.txt"


def base_registry() -> Path:
    """Return the storage of a registry with the image in it, made where it is missing.

    Raises:
        NoTreeError: it cannot be made here.
    """
    return cached("base-image", (Path(__file__).read_text(), _pinned()), _make)


def _pinned() -> str:
    lines = _CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.startswith("azure-iot-device="))


def _make(work: Path) -> Path:
    root, tar = work / "root", work / "root.tar"
    tree(root, "python3")
    packages = next((root / "usr/local/lib").glob("python3.*/dist-packages"))
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--use-pep517", "--target", packages, "--constraint", _CONSTRAINTS, "azure-iot-device"),
    )
    run("tar", "--directory", root, "--create", "--file", tar, ".")
    try:
        with Registry() as registry, DockerHost() as docker:
            docker.load(f"{registry.address}/{BASE_IMAGE}", tar)
            docker.push(f"{registry.address}/{BASE_IMAGE}")
    except EngineTroubleError as error:
        raise NoTreeError(str(error)) from error
    # Elsewhere on disk, so that it appears whole or not at all.
    return Path(shutil.copytree(registry.storage, work / "storage"))


def main() -> None:
    """Make the image where it is missing."""
    if (reason := why_none()) is not None:
        raise SystemExit(reason)
    tests = Run.begin()
    try:
        base_registry()
    except NoTreeError as error:
        raise SystemExit(str(error)) from error
    finally:
        tests.end(keep=False)


if __name__ == "__main__":
    main()
