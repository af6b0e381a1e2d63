"""The plan (edge.md 5.3): what it does, in which order, and that it comes to an end.

Devices here are dictionaries; what a step does to one is written down in `Device.take`, as the
port of engines says it. Real engines are driven by the tests of the reconciler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.edge.agent.deployment import DesiredStatus, RestartPolicy, WantedModule
from muster.edge.agent.plan import Act, Found, History, Kind, Step, Target, plan
from muster.edge.agent.restarts import RestartLimits, Restarts, RuntimeStatus, runtime_status
from muster.edge.engine.base import Module, ModuleSpec, Status

LIMITS = RestartLimits()
NOW = datetime(2030, 1, 1, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=5)


def target(
    name: str,
    fingerprint: str | None = "v1",
    *,
    runtime: str = "docker",
    status: DesiredStatus = DesiredStatus.RUNNING,
    policy: RestartPolicy = RestartPolicy.ALWAYS,
    order: int = 100,
) -> Target:
    wanted = WantedModule(
        name=name, runtime=runtime, status=status, restart_policy=policy, order=order
    )
    spec = ModuleSpec(name=name, module_id=name, settings={}) if fingerprint else None
    return Target(wanted=wanted, spec=spec, fingerprint=fingerprint)


def found(
    name: str,
    status: Status = Status.RUNNING,
    *,
    fingerprint: str = "v1",
    runtime: str = "docker",
    started_at: datetime | None = EARLIER,
    exited_at: datetime | None = None,
) -> Found:
    module = Module(
        name=name,
        status=status,
        fingerprint=fingerprint,
        started_at=started_at,
        exited_at=exited_at,
    )
    return Found(runtime=runtime, module=module)


def steps(
    targets: list[Target],
    present: list[Found],
    history: History | None = None,
    now: datetime = NOW,
    *,
    all_pulls_first: bool = False,
) -> tuple[Step, ...]:
    return plan(
        {one.wanted.name: one for one in targets},
        present,
        history or History(),
        LIMITS,
        now,
        all_pulls_first=all_pulls_first,
    )


def kinds(*args: object, **options: object) -> list[tuple[str, Kind]]:
    return [(step.name, step.kind) for step in steps(*args, **options)]  # type: ignore[arg-type]


# One module.


def test_what_is_missing_is_made_and_started() -> None:
    (step,) = steps([target("a")], [])
    assert step.kind is Kind.ADD
    assert step.acts == (Act.IDENTIFY, Act.PREPARE, Act.CREATE, Act.START)


def test_what_should_be_stopped_is_made_and_not_started() -> None:
    (step,) = steps([target("a", status=DesiredStatus.STOPPED)], [])
    assert step.acts == (Act.IDENTIFY, Act.PREPARE, Act.CREATE)


def test_a_changed_module_is_fetched_before_the_old_one_stops() -> None:
    (step,) = steps([target("a", "v2")], [found("a")])
    assert step.kind is Kind.UPDATE
    assert step.acts == (
        *(Act.IDENTIFY, Act.PREPARE, Act.STOP, Act.REMOVE, Act.FORGET, Act.CREATE, Act.START),
    )


def test_an_unchanged_module_is_left_alone() -> None:
    assert steps([target("a")], [found("a")]) == ()


def test_a_module_whose_keys_the_hub_has_not_is_left_alone_but_told_of() -> None:
    lost = msgspec.structs.replace(target("m"), has_keys=False)
    (step,) = steps([lost], [found("m")])
    assert (step.kind, step.acts) == (Kind.IDENTITY, (Act.IDENTIFY,))
    # What has to be done with the module itself sees to its identity, or goes first.
    (step,) = steps([lost], [found("m", fingerprint="v0")])
    assert step.kind is Kind.UPDATE
    (step,) = steps([lost], [found("m", Status.FAILED)])
    assert step.kind is Kind.START


def test_a_stranger_goes() -> None:
    (step,) = steps([], [found("a")])
    assert (step.kind, step.order) == (Kind.REMOVE, 0)
    assert step.acts == (Act.STOP, Act.REMOVE, Act.FORGET)


def test_a_module_that_changes_its_runtime_goes_before_it_comes() -> None:
    (step,) = steps([target("a", runtime="process")], [found("a")])
    assert (step.kind, step.runtime) == (Kind.REMOVE, "docker")


def test_a_dead_module_goes_so_that_it_can_be_made_anew() -> None:
    (step,) = steps([target("a")], [found("a", Status.DEAD)])
    assert (step.kind, step.acts) == (Kind.DEAD, (Act.REMOVE, Act.FORGET))


def test_without_an_identity_a_module_is_started_but_not_replaced() -> None:
    down = found("a", Status.STOPPED, exited_at=EARLIER)
    assert kinds([target("a", None)], [down]) == [("a", Kind.START)]
    assert steps([target("a", None)], [found("a", fingerprint="v0")]) == ()


def test_an_update_does_not_keep_down_what_the_device_has() -> None:
    down = found("a", Status.FAILED, fingerprint="v0", exited_at=EARLIER)
    (step,) = steps([target("a", "v1")], [down])
    assert (step.kind, step.acts) == (Kind.START, (Act.START,))
    seen = History(seen=frozenset({"a"}))
    assert kinds([target("a", "v1")], [down], seen) == [("a", Kind.UPDATE)]


def test_a_running_module_that_should_be_stopped_is() -> None:
    stopped = target("a", status=DesiredStatus.STOPPED)
    (step,) = steps([stopped], [found("a")])
    assert (step.kind, step.acts) == (Kind.STATUS, (Act.STOP, Act.FORGET))
    assert steps([stopped], [found("a", Status.STOPPED)]) == ()
    assert steps([stopped], [found("a", Status.FAILED)]) == ()


@pytest.mark.parametrize("policy", list(RestartPolicy))
def test_a_module_that_was_held_is_started(policy: RestartPolicy) -> None:
    history = History(seen=frozenset({"a"}), held=frozenset({"a"}))
    down = found("a", Status.STOPPED, exited_at=NOW)
    (step,) = steps([target("a", policy=policy)], [down], history)
    assert (step.kind, step.acts) == (Kind.STATUS, (Act.FORGET, Act.START))


@pytest.mark.parametrize("policy", list(RestartPolicy))
def test_a_module_that_never_ran_is_started(policy: RestartPolicy) -> None:
    never = found("a", Status.STOPPED, started_at=None)
    seen = History(seen=frozenset({"a"}))
    assert kinds([target("a", policy=policy)], [never], seen) == [("a", Kind.START)]


# Restart policies.

SEEN = History(seen=frozenset({"a"}))
OLD_EXIT = NOW - timedelta(seconds=11)


@pytest.mark.parametrize(
    ("policy", "status", "restarted"),
    [
        (RestartPolicy.NEVER, Status.STOPPED, False),
        (RestartPolicy.NEVER, Status.FAILED, False),
        (RestartPolicy.ON_FAILURE, Status.STOPPED, False),
        (RestartPolicy.ON_FAILURE, Status.FAILED, True),
        (RestartPolicy.ON_UNHEALTHY, Status.STOPPED, False),
        (RestartPolicy.ON_UNHEALTHY, Status.FAILED, True),
        (RestartPolicy.ALWAYS, Status.STOPPED, True),
        (RestartPolicy.ALWAYS, Status.FAILED, True),
    ],
)
def test_a_module_that_ended_is_started_as_its_policy_says(
    policy: RestartPolicy, status: Status, *, restarted: bool
) -> None:
    one, down = target("a", policy=policy), found("a", status, exited_at=OLD_EXIT)
    expected = [("a", Kind.RESTART)] if restarted else []
    assert kinds([one], [down], SEEN) == expected
    shown = runtime_status(down.module, one.wanted, Restarts(), LIMITS)
    assert shown is (RuntimeStatus.BACKOFF if restarted else RuntimeStatus(status.value))


@pytest.mark.parametrize(
    ("policy", "started"),
    [
        (RestartPolicy.NEVER, False),
        (RestartPolicy.ON_FAILURE, True),
        (RestartPolicy.ON_UNHEALTHY, True),
        (RestartPolicy.ALWAYS, True),
    ],
)
@pytest.mark.parametrize("status", [Status.STOPPED, Status.FAILED])
def test_what_went_down_with_the_device_is_started_at_once(
    policy: RestartPolicy, status: Status, *, started: bool
) -> None:
    down = found("a", status, exited_at=NOW)
    assert kinds([target("a", policy=policy)], [down]) == ([("a", Kind.START)] if started else [])


@pytest.mark.parametrize(("count", "cool_off_s"), [(0, 10), (1, 20), (4, 160), (5, 300), (19, 300)])
def test_a_module_cools_off_for_longer_each_time(count: int, cool_off_s: int) -> None:
    history = History(seen=frozenset({"a"}), restarts={"a": Restarts(count)})
    down = found("a", Status.FAILED, exited_at=NOW)
    before, after = (NOW + timedelta(seconds=cool_off_s + more) for more in (-1, 1))
    assert steps([target("a")], [down], history, before) == ()
    (step,) = steps([target("a")], [down], history, after)
    assert step.acts == (Act.COUNT, Act.START)


def test_a_module_is_given_up_after_twenty_restarts() -> None:
    history = History(seen=frozenset({"a"}), restarts={"a": Restarts(20)})
    one, down = target("a"), found("a", Status.FAILED, exited_at=EARLIER)
    assert steps([one], [down], history) == ()
    shown = runtime_status(down.module, one.wanted, history.restarts["a"], LIMITS)
    assert shown is RuntimeStatus.FAILED


def test_a_module_that_was_given_up_stays_so_over_a_reboot() -> None:
    history = History(restarts={"a": Restarts(20)})
    assert steps([target("a")], [found("a", Status.FAILED, exited_at=EARLIER)], history) == ()


def test_a_clock_that_was_set_back_does_not_keep_a_module_down() -> None:
    down = found("a", Status.FAILED, exited_at=NOW + timedelta(days=400))
    assert kinds([target("a")], [down], SEEN) == [("a", Kind.RESTART)]


def test_restarts_are_forgotten_after_ten_minutes() -> None:
    history = History(seen=frozenset({"a"}), restarts={"a": Restarts(3)})
    young = found("a", started_at=NOW - timedelta(minutes=10))
    old = found("a", started_at=NOW - timedelta(minutes=10, seconds=1))
    assert steps([target("a")], [young], history) == ()
    (step,) = steps([target("a")], [old], history)
    assert (step.kind, step.acts) == (Kind.HEALTHY, (Act.FORGET,))


def test_what_nobody_understands_is_left_alone() -> None:
    assert steps([target("a")], [found("a", Status.UNKNOWN)]) == ()


# Order.


def test_steps_come_in_the_order_of_groups_and_kinds() -> None:
    targets = [
        target("new", order=1),
        target("changed", "v2", order=1),
        target("down", order=1),
        target("dead", order=1),
        target("wanted-down", status=DesiredStatus.STOPPED, order=1),
        target("well", order=1),
        target("first", "v2", order=0),
    ]
    present = [
        found("changed"),
        found("down", Status.FAILED, exited_at=EARLIER),
        found("dead", Status.DEAD),
        found("wanted-down"),
        found("well"),
        found("first"),
        found("stranger"),
    ]
    history = History(
        seen=frozenset({"down", "well"}), restarts={"well": Restarts(2), "down": Restarts(1)}
    )
    assert kinds(targets, present, history) == [
        ("stranger", Kind.REMOVE),
        ("first", Kind.UPDATE),
        ("dead", Kind.DEAD),
        ("new", Kind.ADD),
        ("changed", Kind.UPDATE),
        ("down", Kind.RESTART),
        ("wanted-down", Kind.STATUS),
        ("well", Kind.HEALTHY),
    ]


def test_all_is_fetched_before_anything_changes_where_that_is_wanted() -> None:
    targets = [target("a", "v2"), target("b", "v3")]
    present = [found("a"), found("c", Status.RUNNING)]
    first = steps(targets, present, all_pulls_first=True)
    assert [(step.name, step.kind) for step in first] == [
        ("c", Kind.REMOVE),
        ("a", Kind.PULL),
        ("b", Kind.PULL),
    ]
    assert first[1].acts == (Act.IDENTIFY, Act.PREPARE)
    half = History(pulled=frozenset({"v2"}))
    assert kinds(targets, [found("a")], half, all_pulls_first=True) == [("b", Kind.PULL)]
    whole = History(pulled=frozenset({"v2", "v3"}))
    assert kinds(targets, [found("a")], whole, all_pulls_first=True) == [
        ("b", Kind.ADD),
        ("a", Kind.UPDATE),
    ]


# Whole devices, whatever they are like.

NAMES = st.sampled_from(["a", "b", "c", "d"])
RUNTIMES = st.sampled_from(["docker", "process"])
FINGERPRINTS = st.sampled_from(["v1", "v2"])
TARGETS = st.lists(
    st.builds(
        target,
        NAMES,
        FINGERPRINTS,
        runtime=RUNTIMES,
        status=st.sampled_from(list(DesiredStatus)),
        policy=st.sampled_from(list(RestartPolicy)),
        order=st.integers(0, 3),
    ),
    unique_by=lambda one: one.wanted.name,
    max_size=4,
)
TIMES = st.none() | st.integers(0, 40_000).map(lambda s: NOW - timedelta(seconds=s))
FOUND = st.lists(
    st.builds(
        found,
        NAMES,
        st.sampled_from([Status.RUNNING, Status.STOPPED, Status.FAILED, Status.DEAD]),
        fingerprint=FINGERPRINTS,
        runtime=RUNTIMES,
        started_at=TIMES,
        exited_at=TIMES,
    ),
    unique_by=lambda one: (one.runtime, one.module.name),
    max_size=5,
)
HISTORIES = st.builds(
    History,
    restarts=st.dictionaries(NAMES, st.builds(Restarts, st.integers(0, 22)), max_size=3),
    seen=st.frozensets(NAMES),
    held=st.frozensets(NAMES),
)


@dataclass
class Device:
    """What steps do, when nothing fails."""

    targets: dict[str, Target]
    modules: dict[tuple[str, str], Module]
    history: History
    now: datetime = NOW
    taken: list[Step] = field(default_factory=list)

    def found(self) -> list[Found]:
        return [Found(runtime=key[0], module=module) for key, module in self.modules.items()]

    def plan(self) -> tuple[Step, ...]:
        return plan(self.targets, self.found(), self.history, LIMITS, self.now)

    def take(self, step: Step) -> None:
        self.taken.append(step)
        key = (step.runtime, step.name)
        restarts = dict(self.history.restarts)
        history = {"seen": self.history.seen, "held": self.history.held}
        for act in step.acts:
            if act is Act.CREATE:
                assert key not in self.modules
                fingerprint = self.targets[step.name].fingerprint
                assert fingerprint is not None
                self.modules[key] = Module(
                    name=step.name, status=Status.STOPPED, fingerprint=fingerprint
                )
            elif act is Act.START:
                history["seen"] |= {step.name}
                history["held"] -= {step.name}
                self._change(key, status=Status.RUNNING, started_at=self.now)
            elif act is Act.STOP:
                if self.modules[key].status is Status.RUNNING:
                    self._change(key, status=Status.STOPPED, exited_at=self.now)
            elif act is Act.REMOVE:
                del self.modules[key]
            elif act is Act.FORGET:
                restarts.pop(step.name, None)
            elif act is Act.COUNT:
                count = restarts.get(step.name, Restarts()).count + 1
                restarts[step.name] = Restarts(count, self.now)
        self.history = History(restarts=restarts, **history)

    def _change(self, key: tuple[str, str], **changes: object) -> None:
        self.modules[key] = msgspec.structs.replace(self.modules[key], **changes)

    def settle(self) -> None:
        """Plan and act until nothing is to be done, and all cool-offs are over."""
        for _ in range(8):
            self.now += timedelta(seconds=301)
            if not (steps := self.plan()):
                return
            for step in steps:
                self.take(step)
        raise AssertionError(f"still something to do: {self.plan()}")


def device(targets: list[Target], present: list[Found], history: History) -> Device:
    return Device(
        {one.wanted.name: one for one in targets},
        {(one.runtime, one.module.name): one.module for one in present},
        history,
    )


@settings(deadline=None)
@given(TARGETS, FOUND, HISTORIES)
def test_any_device_becomes_what_the_deployment_says(
    targets: list[Target], present: list[Found], history: History
) -> None:
    one = device(targets, present, history)
    one.settle()
    wanted = {(each.wanted.runtime, each.wanted.name): each for each in targets}
    assert one.modules.keys() == wanted.keys()
    touched = {(step.runtime, step.name) for step in one.taken}
    for key, module in one.modules.items():
        assert module.fingerprint == wanted[key].fingerprint
        if wanted[key].wanted.status is DesiredStatus.STOPPED:
            assert module.status is not Status.RUNNING
        elif module.status is not Status.RUNNING:
            # Given up before, or nothing that its policy starts again.
            given_up = one.history.restarts.get(key[1], Restarts()).count >= LIMITS.most
            assert given_up or wanted[key].wanted.restart_policy is not RestartPolicy.ALWAYS
            assert key not in touched


@settings(deadline=None)
@given(TARGETS, FOUND, HISTORIES)
def test_a_settled_device_has_an_empty_plan(
    targets: list[Target], present: list[Found], history: History
) -> None:
    one = device(targets, present, history)
    one.settle()
    before = dict(one.modules)
    for seconds in (0, 1, 5, 299, 100_000):
        one.now += timedelta(seconds=seconds)
        # Only that a module has been healthy for long may still be noted.
        assert [step for step in one.plan() if step.kind is not Kind.HEALTHY] == []
    assert one.modules == before


@settings(deadline=None)
@given(TARGETS, FOUND, HISTORIES)
def test_a_module_that_runs_as_it_should_is_never_touched(
    targets: list[Target], present: list[Found], history: History
) -> None:
    one = device(targets, present, history)
    well = {
        key: module
        for key, module in one.modules.items()
        if module.status is Status.RUNNING
        and (each := one.targets.get(key[1])) is not None
        and each.wanted.runtime == key[0]
        and each.wanted.status is DesiredStatus.RUNNING
        and each.fingerprint == module.fingerprint
    }
    one.settle()
    assert {key: one.modules[key] for key in well} == well


@settings(deadline=None)
@given(TARGETS, FOUND, HISTORIES)
def test_a_plan_is_in_order_and_names_nobody_twice(
    targets: list[Target], present: list[Found], history: History
) -> None:
    made = device(targets, present, history).plan()
    keys = [(step.order, step.kind, step.name) for step in made]
    assert keys == sorted(keys)
    assert len({(step.runtime, step.name) for step in made}) == len(made)
    for step in made:
        if step.kind is not Kind.REMOVE:
            assert step.order == next(
                each.wanted.order for each in targets if each.wanted.name == step.name
            )
