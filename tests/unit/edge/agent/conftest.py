"""What tests of the agent begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.edge.agent.reconciled_device import Device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)
