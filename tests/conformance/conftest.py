"""What every test with an official client needs: a reachable instance and trust in its CA.

The clients are unmodified. They are told the CA by the option or the environment variable they
document for it, and find the instance by its host names on the ports they insist on.
"""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING

import pytest
from paho.mqtt import client as paho

from support.edge_hub import EdgeDevice

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from support.instance import Instance


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The clients' own warnings (old idioms, sockets left to the collector) are not ours to fix.
    for item in items:
        if "/conformance/" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Close what the clients leave open here, where that is no failure, not in a later test.

    Not in a fixture: until the test is over pytest itself refers to the clients. paho 1.6 closes
    the sockets of a client when it is collected; whoever still refers to the client (a thread that
    is ending) keeps them.
    """
    result = yield
    if "/conformance/" in str(item.path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for each in gc.get_objects():
                if type(each) is paho.Client:
                    each._reset_sockets()
            gc.collect()
    return result


@pytest.fixture
def instance(shared_instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Return the shared instance, reachable and trusted by unmodified clients."""
    _official(shared_instance, monkeypatch)
    return shared_instance


@pytest.fixture
def own_instance(
    new_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> Instance:
    """Return an instance that this test may stop and start."""
    instance = new_instance()
    _official(instance, monkeypatch)
    return instance


def _official(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := instance.place.why_not_official:
        pytest.skip(reason)
    # What the clients built on requests read (hub-service.md 0.1).
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(instance.ca_file))


@pytest.fixture
def edge(instance: Instance, tmp_path: Path) -> Iterator[EdgeDevice]:
    """Return an edge device of that instance; its edge hub is not started yet."""
    with EdgeDevice.make(instance, tmp_path) as device:
        if reason := device.place.why_not_official:
            pytest.skip(reason)
        yield device
