"""The command line on the machine of the service, which may know none of its names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.device import unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.instance import Instance


def test_no_name_of_the_instance_need_be_known(new_instance: Callable[..., Instance]) -> None:
    # The last --hostname and --hub win over those the tests know.
    instance = new_instance("--hostname", "dps.nowhere.invalid", "--hub", "plant.nowhere.invalid")
    assert instance.facts["dpsHost"] == "dps.nowhere.invalid"
    device_id = unique("dev")
    hub = ("--hub", "plant.nowhere.invalid")
    made = instance.run_cli("device", "create", device_id, *hub)
    assert made.returncode == 0, made.stderr
    assert [each["deviceId"] for each in instance.cli("device", "list", *hub)] == [device_id]
    assert instance.cli("enrollment", "list") == []
