"""What the raw tests share. They find the instance by address, so they run on any ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.instance import Instance


@pytest.fixture
def instance(shared_instance: Instance) -> Instance:
    """Return the instance all tests share."""
    return shared_instance
