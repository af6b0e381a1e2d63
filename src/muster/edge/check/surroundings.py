"""What checks look at, and what they learn on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from muster.clock import Clock
from muster.edge.configuration.load import Configuration
from muster.edge.settings import Settings

DEFAULT_ENGINE_FILE = Path("/etc/docker/daemon.json")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller says.

    Attributes:
        config_file: of the device.
        engine_file: configuration of the container engine.
        hub_host: hub to look at in place of the assigned one.
        expected_version: of the daemon; `None` for that of this command.
        proxy: URI; `None` for what the environment says.
        diagnostics_image: to make containers of that look out; `None` for that of some module.
        ntp_server: `host[:port]` to compare the clock with; `None` for the service's own time.
    """

    config_file: Path
    engine_file: Path = DEFAULT_ENGINE_FILE
    hub_host: str | None = None
    expected_version: str | None = None
    proxy: str | None = None
    diagnostics_image: str | None = None
    ntp_server: str | None = None


class Surroundings(msgspec.Struct, kw_only=True):
    """Everything a check may use. Checks run one after the other and note what later ones need.

    Attributes:
        options: see there.
        ask: returns the daemon's answer to a GET; raises `DaemonAwayError`.
        daemon_environment: returns the daemon's environment; raises `DaemonAwayError` and
            `PermissionError`.
        environment: of this process.
        clock: of the machine.
        configuration: once it could be read.
        skew_s: seconds by which the clock is ahead of the service's, once that is known.
    """

    options: Options
    ask: Callable[[str], Any]
    daemon_environment: Callable[[], Mapping[str, str]]
    environment: Mapping[str, str]
    clock: Clock
    configuration: Configuration | None = None
    skew_s: float | None = None

    @property
    def settings(self) -> Settings:
        """The settings; only for checks that come after the configuration was read."""
        if self.configuration is None:
            raise AssertionError("the configuration was not read")
        return self.configuration.settings
