"""Python environments that are kept while they are used, and no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.clock import ManualClock
from muster.edge.engine.process.environments import Environments, Packages

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86400


def test_what_nobody_uses_is_removed_after_a_week(tmp_path: Path) -> None:
    clock = ManualClock()
    environments = Environments(tmp_path, clock)
    packages = Packages(requirements=("a==1",))
    others = Packages(requirements=("a==1",), source="/wheels")
    for one in (packages, others):
        assert not environments.is_ready(one)
        environments.path(one).mkdir()
        (environments.path(one) / "muster.ready").touch()
        assert environments.is_ready(one)
    (tmp_path / "half-made").mkdir()
    environments.sweep()
    assert not (tmp_path / "half-made").exists()
    clock.advance(6 * DAY_S)
    environments.sweep()
    assert environments.is_ready(packages)
    clock.advance(2 * DAY_S)
    environments.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [environments.path(packages).name]
    assert not environments.is_ready(others)
