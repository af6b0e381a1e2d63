"""The runtimes that the contract of module runtimes holds for. Another one is one more line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from engine_harness import DockerHarness, ProcessHarness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from engine_harness import Harness


@pytest.fixture(
    params=[pytest.param("docker", marks=pytest.mark.xdist_group("docker")), "process"],
)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    made: Harness
    match request.param:
        case "docker":
            registry = request.getfixturevalue("registry")
            made = DockerHarness(request.getfixturevalue("docker_host"), registry.base)
        case "process":
            made = ProcessHarness(tmp_path / "modules")
        case _:
            raise AssertionError(request.param)
    await made.engine.start_up()
    yield made
    await made.end()
