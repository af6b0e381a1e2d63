"""Proxies that do not fit together. What the engine says is tested with a real one, elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from muster.edge.check import container_checks as checks
from muster.edge.check.outcome import DaemonAwayError, Problem, Result
from unit.edge.check.conftest import Device, fine, problem

NO_ENGINE = '[moby_runtime]\nuri = "unix:///nonexistent/docker.sock"\n'
AGENT = '[agent.env]\nhttps_proxy = "http://proxy.example:8080"\n'


def test_a_proxy_that_only_the_agent_was_given(device: Device) -> None:
    device.write(NO_ENGINE + AGENT)
    what, fix = problem(checks.proxies, device.around(), Result.WARNING)
    assert what == "agent.env names the proxy proxy.example:8080, and the daemon uses none"
    assert "systemctl edit iotedged" in fix
    device.daemon_environment = {"HTTPS_PROXY": "http://proxy.example:8080/"}
    fine(checks.proxies, device.around())


def test_a_proxy_that_is_none(device: Device) -> None:
    device.write(NO_ENGINE)
    device.daemon_environment = {"https_proxy": "socks5://x"}
    what, _ = problem(checks.proxies, device.around())
    assert what.startswith("https_proxy: a proxy must be")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(), "the environment of the daemon may not be read"),
        (DaemonAwayError("nobody listens"), "the daemon does not answer: nobody listens"),
    ],
)
def test_a_daemon_whose_proxy_is_not_known(device: Device, error: Exception, said: str) -> None:
    device.write(NO_ENGINE)
    around = device.around()

    def refuse() -> Mapping[str, str]:
        raise error

    around.daemon_environment = refuse
    with pytest.raises(Problem) as caught:
        checks.proxies(around)
    assert caught.value.outcome.result is Result.SKIPPED
    assert caught.value.outcome.details[0] == said
