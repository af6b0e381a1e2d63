"""What the environment of `edgeHub` changes (edge.md 6.3)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.hub import environment
from muster.edge.hub.edge_hub import HubSettings

OWN = HubSettings(hostname="gate", directory=Path("hub"), mqtt_port=18883)


def test_heads_open_and_close() -> None:
    found = environment.read(
        {
            "mqttSettings__enabled": "true",
            "AMQPSETTINGS__ENABLED": "False",
            "amqpSettings__port": "15671",
            "httpSettings__port": "8443",
            "MaxConnectedClients": "5",
        },
        OWN,
    )
    assert (found.wrong, found.unused) == ((), ())
    assert (found.settings.mqtt_port, found.settings.amqp_port) == (18883, None)
    assert (found.settings.https_port, found.settings.max_clients) == (8443, 5)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mqttSettings__enabled", "yes", "mqttSettings__enabled must be true or false"),
        ("mqttSettings__port", "0", "mqttSettings__port must be a whole number from 1 to 65535"),
        ("httpSettings__port", "65536", "from 1 to 65535"),
        ("MaxConnectedClients", "many", "from 1 to 10000"),
        ("MaxConnectedClients", "-1", "from 1 to 10000"),
    ],
)
def test_what_cannot_be_used_changes_nothing_and_is_told(name: str, value: str, says: str) -> None:
    found = environment.read({name: value}, OWN)
    assert found.settings == OWN
    (sentence,) = found.wrong
    assert says in sentence


def test_what_has_no_effect_is_told() -> None:
    env = {"RuntimeLogLevel": "debug", "OptimizeForPerformance": "false", "mqttSettings__x": "1"}
    found = environment.read(env, OWN)
    assert found.settings == OWN
    assert found.unused == ("OptimizeForPerformance", "RuntimeLogLevel", "mqttSettings__x")


NAMES = ["mqttSettings__port", "amqpSettings__enabled", "MaxConnectedClients", "RuntimeLogLevel"]


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12)))
def test_any_environment_is_read(env: dict[str, str]) -> None:
    found = environment.read(env, OWN)
    assert found.settings.mqtt_port is not None
    assert 1 <= found.settings.max_clients <= environment.MOST_CLIENTS
