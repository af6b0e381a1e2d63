"""Fixtures for every test that needs a running service.

One instance is shared by the whole run: the process that started pytest starts it when the
collected tests need it, and stops it after the last. Tests that restart, kill or overload
something start instances of their own with `new_instance`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from support.docker import end_leftovers
from support.instance import Instance, InstanceError
from support.run import Place, Run
from support.secrets import leaks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

pytest_plugins = ["support.engines"]

NEEDS_SHARED = ("tests/conformance/", "tests/edge/", "tests/install/", "tests/wire/")
LOG_LINES = 150

_run = pytest.StashKey[Run]()
_shared = pytest.StashKey[Instance]()
_log_sizes = pytest.StashKey[dict[Path, int]]()
_problems = pytest.StashKey[list[str]]()
_keep = pytest.StashKey[bool]()


# How long an example takes to make or to try says how busy the machine is. Without its explanations
# of failures hypothesis need not trace every line that runs.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    phases=set(hypothesis.Phase) - {hypothesis.Phase.explain},
)
hypothesis.settings.load_profile("suite")


# The run: begun and ended by the process that started pytest, also when workers do the testing.


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_problems] = []
    if not _is_worker(config):
        config.stash[_run] = Run.begin()


def _start_shared(config: pytest.Config, node_ids: Iterable[str]) -> None:
    run = config.stash[_run]
    if _shared in config.stash or not any(node.startswith(NEEDS_SHARED) for node in node_ids):
        return
    instance = _make_instance(run, 0)
    config.stash[_shared] = instance
    # When it fails, each test that needs the instance says so, with its log.
    with contextlib.suppress(InstanceError, OSError):
        instance.start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: pytest.Item, ids: list[str]) -> None:
    _start_shared(node.config, ids)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not _is_worker(session.config) and not session.config.option.collectonly:
        _start_shared(session.config, [item.nodeid for item in session.items])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if _is_worker(config):
        return
    run, problems = config.stash[_run], config.stash[_problems]
    if (instance := config.stash.get(_shared, None)) is not None and instance.process is not None:
        try:
            if (code := instance.stop()) != 0:
                problems.append(f"the shared instance ended with {code} after SIGTERM")
        except InstanceError as error:
            problems.append(str(error))
    _end_leftovers(run)
    end_leftovers(run)
    # The instance file is how the owner's programs learn the policy keys; it is theirs alone. An
    # export of identities is a file of their keys, in a directory that is the owner's alone, too.
    files = [
        file
        for file in run.directory.glob("instance-*/**/*")
        if file.is_file() and file.name != "instance.json" and "blobs" not in file.parts
    ]
    problems.extend(leaks(run.directory, files))
    config.stash[_keep] = bool(problems) or session.testsfailed > 0
    if problems and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for problem in config.stash[_problems]:
        terminalreporter.write_line(f"AFTER THE LAST TEST: {problem}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _is_worker(config) and (run := config.stash.get(_run, None)) is not None:
        keep = config.stash.get(_keep, False) and _shared in config.stash
        if keep:
            print(f"logs and data of this run: {run.directory}")
        run.end(keep=keep)


def _end_leftovers(run: Run) -> None:
    """End instances whose worker died before it could."""
    for file in run.directory.glob("instance-*/pid"):
        pid = int(file.read_text())
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(run.directory).encode() in command:
                os.kill(pid, signal.SIGKILL)


# Instances.


def _make_instance(run: Run, number: int) -> Instance:
    directory = run.directory / f"instance-{number}"
    directory.mkdir()
    place = run.place(number)
    (directory / "place.json").write_text(json.dumps(dataclasses.asdict(place)))
    return Instance(directory, place)


@pytest.fixture(scope="session")
def shared_instance() -> Instance:
    """Return the instance all tests share. Leave it running, and use names of your own in it."""
    directory = Run.current().directory / "instance-0"
    fields = json.loads((directory / "place.json").read_bytes())
    instance = Instance(directory, Place(**{**fields, "hubs": tuple(fields["hubs"])}))
    if not (instance.data_dir / "instance.json").exists():
        pytest.fail(f"the shared instance is not running; its log:\n{instance.tail()}")
    return instance


@pytest.fixture
def consumer_group(shared_instance: Instance) -> Iterator[str]:
    """Return a consumer group of the first hub for this test alone.

    Tests share `$Default`, of which no partition has more than five readers, and none but one when
    it has an epoch.
    """
    name = f"group-{uuid.uuid4().hex[:12]}"
    place = f"/admin/v1/consumer-groups/hubs/{shared_instance.place.hubs[0]}/{name}"
    shared_instance.dps.must("PUT", place)
    yield name
    shared_instance.dps.must("DELETE", place)


@pytest.fixture
def new_instance() -> Iterator[Callable[..., Instance]]:
    """Return a function that starts an instance for this test alone."""
    started: list[Instance] = []

    def start(*options: str) -> Instance:
        run = Run.current()
        instance = _make_instance(run, run.next_number())
        started.append(instance)
        instance.start(*options)
        return instance

    yield start
    for instance in started:
        if instance.process is not None and instance.process.poll() is None:
            assert instance.stop() == 0


# What an instance logged while a test failed.


def _logs() -> list[Path]:
    return sorted(Run.current().directory.glob("instance-*/log.txt"))


def _uses_instance(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "shared_instance" in names or "new_instance" in names


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _uses_instance(item):
        item.stash[_log_sizes] = {log: log.stat().st_size for log in _logs()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _uses_instance(item):
        sizes = item.stash.get(_log_sizes, {})
        for log in _logs():
            with log.open("rb") as file:
                file.seek(sizes.get(log, 0))
                lines = file.read().decode(errors="replace").splitlines()
            if lines:
                title = f"{log.parent.name} while this test ran"
                report.sections.append((title, "\n".join(lines[-LOG_LINES:])))
    return report
