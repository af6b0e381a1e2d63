"""What holds for every built-in policy, and what static allocation adds."""

from __future__ import annotations

import pytest

from muster.errors import NotFoundError
from muster.provisioning.allocation import BUILT_IN, AllocationPolicy, Candidate, find
from muster.provisioning.allocation.static import StaticAllocation

ONE = [Candidate("plant-a.muster.localhost", 5)]
TWO = [*ONE, Candidate("plant-b.muster.localhost")]
every_policy = pytest.mark.parametrize("policy", BUILT_IN, ids=lambda policy: policy.name)


@every_policy
def test_found_by_its_name_in_any_case(policy: AllocationPolicy) -> None:
    assert find(policy.name) is policy
    assert find(policy.name.upper()) is policy


@every_policy
def test_only_hub(policy: AllocationPolicy) -> None:
    assert policy.choose("dev", ONE) == ONE[0].host


@every_policy
def test_no_hub(policy: AllocationPolicy) -> None:
    with pytest.raises(NotFoundError) as caught:
        policy.choose("dev", [])
    assert (caught.value.code, caught.value.subject) == ("no-hub-available", "dev")


@pytest.mark.parametrize("name", ["", "geoLatency", "custom", "hash"])
def test_others_are_not_found(name: str) -> None:
    assert find(name) is None


def test_names() -> None:
    assert [policy.name for policy in BUILT_IN] == ["hashed", "static"]


def test_static_needs_exactly_one() -> None:
    with pytest.raises(NotFoundError, match=r"exactly one hub .* there are 2") as caught:
        StaticAllocation().choose("dev", TWO)
    assert caught.value.code == "no-hub-available"
