"""Fixtures of the tests that run container modules: a Docker Engine and a registry for each worker.

Tests that use them say `pytestmark = pytest.mark.xdist_group("docker")`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from support.base_image import base_registry
from support.debian import NoTreeError
from support.docker import DockerHost, EngineTroubleError, Registry, why_none

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """Return a registry that wants credentials and has the base image."""
    if (reason := why_none()) is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        try:
            running = stack.enter_context(Registry(base_registry()))
        except (NoTreeError, EngineTroubleError) as error:
            pytest.skip(str(error))
        yield running


@pytest.fixture(scope="session")
def docker_session(registry: Registry) -> Iterator[DockerHost]:
    """Return the engine of this worker, with the base image pulled."""
    with ExitStack() as stack:
        try:
            docker = stack.enter_context(DockerHost())
        except EngineTroubleError as error:
            pytest.skip(str(error))
        docker.pull(registry.base)
        yield docker


@pytest.fixture
def docker_host(docker_session: DockerHost) -> Iterator[DockerHost]:
    """Return an engine without containers, which it has none of again afterwards."""
    yield docker_session
    docker_session.start_again()
    docker_session.remove_containers()
