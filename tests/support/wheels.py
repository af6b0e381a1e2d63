"""Wheels of what is installed here, so that an installation can be tested without a registry."""

from __future__ import annotations

import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent


def closure(name: str, *extras: str) -> dict[str, Distribution]:
    """Return a distribution and everything it needs, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(name, frozenset(extras))]
    seen = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        one = distribution(name)
        found[one.metadata["Name"].lower()] = one
        for text in one.requires or []:
            need = Requirement(text)
            environments = [{"extra": extra} for extra in wanted] or [{"extra": ""}]
            if need.marker is None or any(need.marker.evaluate(each) for each in environments):
                waiting.append((need.name, frozenset(need.extras)))
    return found


def pack(one: Distribution, directory: Path) -> Path:
    """Write the wheel of an installed distribution, of this project from its sources."""
    name = one.metadata["Name"].replace("-", "_").lower()
    tag = next(
        line.partition(": ")[2]
        for line in (one.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag: ")
    )
    files: dict[str, Path] = {}
    for file in one.files or []:
        path = Path(str(one.locate_file(file)))
        if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
            files[str(file)] = path
    if name == "muster_iot":
        files = {where: path for where, path in files.items() if ".dist-info" in where}
        for path in (ROOT / "src" / "muster").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                files[str(path.relative_to(ROOT / "src"))] = path
    wheel = directory / f"{name}-{one.version}-{tag}.whl"
    information = next(Path(where).parts[0] for where in files if ".dist-info/" in where)
    unwanted = {f"{information}/{part}" for part in ("RECORD", "direct_url.json", "INSTALLER")}
    with zipfile.ZipFile(wheel, "w") as archive:
        for where, path in files.items():
            if where not in unwanted:
                archive.write(path, where)
        record = "".join(f"{where},,\n" for where in files if where not in unwanted)
        archive.writestr(f"{information}/RECORD", record)
    return wheel


def renumbered(wheel: Path, version: str, directory: Path) -> Path:
    """Write a copy of a wheel that is of another version."""
    name, old, *tags = wheel.name.split("-")
    new = directory / "-".join((name, version, *tags))
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(new, "w") as target:
        for where in source.namelist():
            content = source.read(where)
            if where.endswith((".dist-info/METADATA", f"{name.split('_')[0]}/__init__.py")):
                content = content.replace(old.encode(), version.encode(), 1)
            target.writestr(
                where.replace(f"{name}-{old}.dist-info", f"{name}-{version}.dist-info"), content
            )
    return new
