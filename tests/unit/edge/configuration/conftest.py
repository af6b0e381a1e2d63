from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from muster.edge.configuration.document import ConfigurationError
from muster.edge.configuration.load import Configuration, parse

KEY = "c2l4dGVlbiBieXRlcyBvciBtb3Jl"

Parse = Callable[..., Configuration]


def toml(text: str) -> Configuration:
    return parse(Path("/etc/aziot/config.toml"), text, hostname="machine")


def yaml(text: str) -> Configuration:
    return parse(Path("/etc/iotedge/config.yaml"), text, hostname="machine")


def refusal(read: Parse, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert KEY not in caught.value.message
    return caught.value.message
