"""Consumer groups: `$Default` always, others as they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from muster.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from muster.hub.consumer_groups import MAX_GROUPS, ConsumerGroups

if TYPE_CHECKING:
    from unit.hub.hub_parts import Parts


async def test_groups_come_and_go(parts: Parts) -> None:
    groups = ConsumerGroups(parts.engine, parts.clock)
    await groups.open()
    hub = parts.hub
    made = await groups.create(hub, "Dash.board")
    assert made.created_at == parts.clock.time()
    assert [each.name for each in groups.all(hub)] == ["$Default", "Dash.board"]
    assert groups.find(hub, "dash.BOARD") == made
    default = groups.find(hub, "$default")
    assert default is not None
    assert default.name == "$Default"
    again = ConsumerGroups(parts.engine, parts.clock)
    await again.open()
    assert again.all(hub) == groups.all(hub)
    await groups.delete(hub, "DASH.board")
    assert groups.find(hub, "Dash.board") is None
    with pytest.raises(NotFoundError):
        await groups.delete(hub, "Dash.board")


async def test_what_is_refused(parts: Parts) -> None:
    groups = ConsumerGroups(parts.engine, parts.clock)
    hub = parts.hub
    for name in ("", "-a", "a-", "a b", "x" * 51, "a/b"):
        with pytest.raises(InvalidArgumentError):
            await groups.create(hub, name)
    with pytest.raises(AlreadyExistsError):
        await groups.create(hub, "$DEFAULT")
    await groups.create(hub, "one")
    with pytest.raises(AlreadyExistsError):
        await groups.create(hub, "ONE")
    with pytest.raises(InvalidArgumentError):
        await groups.delete(hub, "$default")
    for number in range(MAX_GROUPS - 1):
        await groups.create(hub, f"g{number}")
    with pytest.raises(InvalidArgumentError):
        await groups.create(hub, "one-more")


async def test_somebody_else_made_it_first(parts: Parts) -> None:
    first, second = (ConsumerGroups(parts.engine, parts.clock) for _ in range(2))
    await first.create(parts.hub, "a")
    with pytest.raises(AlreadyExistsError) as caught:
        await second.create(parts.hub, "A")
    assert caught.value.code == "consumer-group-exists"
