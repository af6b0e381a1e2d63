"""Where things are installed, and what: wheels, as somebody brings them to a device."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from support.debian import NoTreeError
from support.machine import Machine, machine_tree
from support.site import Site
from support.wheels import ROOT, closure, pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.instance import Instance


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the wheels of the edge runtime and of nothing else."""
    directory = tmp_path_factory.mktemp("wheels")
    for one in closure("muster-iot", "edge").values():
        pack(one, directory)
    return directory


@pytest.fixture
def site(shared_instance: Instance) -> Iterator[Site]:
    """Return where the machine is: it reaches the instance and nothing else."""
    if shared_instance.place.why_not_official is not None:
        pytest.skip(shared_instance.place.why_not_official)
    with Site(shared_instance.place) as site:
        yield site


@pytest.fixture
def machine(shared_instance: Instance, site: Site, wheels: Path) -> Iterator[Machine]:
    """Return a machine with the wheels and `deploy/` on it, as somebody brings them."""
    try:
        machine_tree()
    except NoTreeError as error:
        pytest.skip(str(error))
    with Machine(site) as machine:
        shutil.copytree(wheels, machine.root / "root/wheels")
        shutil.copytree(ROOT / "deploy", machine.root / "root/deploy")
        shutil.copyfile(shared_instance.ca_file, machine.root / "root/muster-ca.pem")
        yield machine
