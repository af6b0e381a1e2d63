"""What checks look at, and what they learn on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from muster.clock import Clock
from muster.edge.check.outcome import DaemonAwayError
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
        patience_s: for each connection and each answer.
    """

    config_file: Path
    engine_file: Path = DEFAULT_ENGINE_FILE
    hub_host: str | None = None
    expected_version: str | None = None
    proxy: str | None = None
    diagnostics_image: str | None = None
    ntp_server: str | None = None
    patience_s: float = 10.0


class Surroundings(msgspec.Struct, kw_only=True):
    """Everything a check may use. Checks run one after the other and note what later ones need.

    Attributes:
        options: see there.
        host: URI of the management socket that is asked.
        ask: returns the daemon's answer to a GET; raises `DaemonAwayError` and `PermissionError`.
        daemon_environment: returns the daemon's environment; raises likewise.
        environment: of this process.
        clock: of the machine.
        configuration: once it could be read.
        skew_s: seconds by which the clock is ahead of the service's, once that is known.
        failed: IDs of checks that others need and that have failed, each with the first of the
            chain: there is what to mend.
    """

    options: Options
    host: str
    ask: Callable[[str], Any]
    daemon_environment: Callable[[], Mapping[str, str]]
    environment: Mapping[str, str]
    clock: Clock
    configuration: Configuration | None = None
    skew_s: float | None = None
    failed: dict[str, str] = {}

    @property
    def settings(self) -> Settings:
        """The settings; only for checks that come after the configuration was read."""
        if self.configuration is None:
            raise AssertionError("the configuration was not read")
        return self.configuration.settings

    def proxies(self) -> Mapping[str, str]:
        """Return the environment that names the proxy: the daemon's, or this process's."""
        try:
            return self.daemon_environment()
        except (DaemonAwayError, PermissionError):
            return self.environment

    def service_time(self) -> float:
        """Return unix seconds as the services have them, as far as that is known.

        The daemon signs with that time where its clock is wrong (users.md, pain 23).
        """
        return self.clock.time() - (self.skew_s or 0.0)
