"""A process module whose files were damaged: what runs goes on, the rest is made anew."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from engine_harness import ProcessHarness, find, run_module, wait_for

from muster.edge.engine.base import EngineError, Status
from muster.edge.engine.process import supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

RUNS = "import time\nprint('up')\nwhile True: time.sleep(60)"
DAMAGE = {
    "empty": lambda content: content[:0],
    "cut off": lambda content: content[: len(content) // 8],
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: random.Random(len(content)).randbytes(len(content)),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "modules"


@pytest.fixture
async def harness(home: Path) -> AsyncIterator[ProcessHarness]:
    harness = ProcessHarness(home)
    await harness.engine.start_up()
    yield harness
    await harness.end()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(0)
        file.write(DAMAGE[how](content))


@pytest.mark.parametrize("how", DAMAGE)
async def test_what_it_was_made_of_is_lost(harness: ProcessHarness, home: Path, how: str) -> None:
    spec = harness.spec("one", RUNS)
    await run_module(harness, spec)
    running = await wait_for(harness.engine, "one", Status.RUNNING)
    damage(home / "one" / "module.json", how)
    # As a daemon does that comes up.
    again = ProcessHarness(home).engine
    await again.start_up()
    module = await find(again, "one")
    assert module is not None
    assert module.status is Status.RUNNING
    assert module.fingerprint == running.fingerprint == again.fingerprint(spec)
    assert await again.processes("one") == await harness.engine.processes("one") != frozenset()
    await again.stop("one", 0)
    module = await find(again, "one")
    assert module is not None
    assert module.status is Status.DEAD
    assert "module.json is damaged" in module.description
    with pytest.raises(EngineError, match="json is damaged"):
        await again.start("one")
    await again.remove("one")
    await again.create(spec)
    await again.start("one")
    await wait_for(again, "one", Status.RUNNING)
    await again.close()


@pytest.mark.parametrize("how", DAMAGE)
async def test_the_record_of_a_run_is_lost(harness: ProcessHarness, home: Path, how: str) -> None:
    await run_module(harness, harness.spec("one", RUNS))
    await wait_for(harness.engine, "one", Status.RUNNING)
    record = supervisor.read_record((home / "one" / "run").read_bytes())
    (before,) = await harness.engine.processes("one")
    damage(home / "one" / "run", how)
    module = await find(harness.engine, "one")
    assert module is not None
    assert module.status is Status.RUNNING
    # Its supervisor is found by what it has open, so callers are known and it can be ended.
    assert await harness.engine.processes("one") == {before}
    assert supervisor.holder(str(home / "one" / "run")) == (
        int(record["supervisor"].split()[0]),
        record["supervisor"].split()[1],
    )
    await harness.engine.stop("one", 0)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    # It has written down how it ended.
    await wait_for(harness.engine, "one", Status.FAILED)
    damage(home / "one" / "run", how)
    await harness.engine.start("one")
    await wait_for(harness.engine, "one", Status.RUNNING)


async def test_one_damaged_module_says_nothing_of_others(
    harness: ProcessHarness, home: Path
) -> None:
    await harness.engine.create(harness.spec("bad", RUNS))
    await harness.engine.create(harness.spec("good", RUNS))
    for name in ("module.json", "run"):
        damage(home / "bad" / name, "noise")
    assert {module.name: module.status for module in await harness.engine.modules()} == {
        "bad": Status.DEAD,
        "good": Status.STOPPED,
    }
