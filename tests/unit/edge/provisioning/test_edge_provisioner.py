"""When a device asks the provisioning service, and what it does meanwhile."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.edge.provisioning import backup
from muster.edge.provisioning.module_identities import derive
from muster.edge.provisioning.provisioner import Origin, Provisioner
from muster.edge.settings import (
    DpsProvisioning,
    ManualProvisioning,
    Reprovisioning,
    SymmetricKeyAttestation,
)
from muster.edge.state import StateDirectory
from muster.edge.upstream.arrival import Arrival
from muster.edge.upstream.backoff import Backoff
from muster.edge.upstream.errors import NonsenseError, RefusedError, UnreachableError, UpstreamError
from muster.edge.upstream.registration import Assignment
from muster.errors import InvalidArgumentError
from muster.ids import Randomness
from support.edge import PATIENCE_S, ProvisioningOwner, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SOON = Backoff(first_s=0.01, cap_s=0.02)
HERE = Assignment(hub_host="Plant-A.example", device_id="d1", substatus="initialAssignment")
THERE = Assignment(hub_host="plant-b.example", device_id="d1", substatus="deviceDataMigrated")
AWAY = UnreachableError("nobody there")
REFUSED = RefusedError("not enrolled", status=401)
DPS = DpsProvisioning(
    endpoint="https://dps.example",
    id_scope="0ne00ABCDEF",
    attestation=SymmetricKeyAttestation(registration_id="D1", key=b"k" * 32),
)
MANUAL = ManualProvisioning(hub_host="plant-a.example", device_id="d1", key=b"m" * 32)
MODES = list(Reprovisioning)


class Service:
    """The provisioning service; says what the test has it say, the last thing again and again."""

    def __init__(self, *answers: Assignment | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def register(self) -> Assignment:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.answers:
            await asyncio.Event().wait()  # no answer, ever
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Subject:
    """A provisioner, and who wanted it."""

    def __init__(self, state: StateDirectory, service: Service, **options: Any) -> None:
        self.owner = ProvisioningOwner()
        self.service = service
        provisioning = options.pop("provisioning", DPS)
        self.provisioner = Provisioner(
            provisioning,
            options.pop("mode", Reprovisioning.DYNAMIC),
            state,
            None if isinstance(provisioning, ManualProvisioning) else service,
            owner=self.owner,
            randomness=Randomness(),
            **{"unreachable": SOON, "refused": SOON, "first_answer_s": 30.0, **options},
        )

    async def start(self, **options: Any) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await self.provisioner.start(**options)


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "state")


@pytest.fixture
async def device(state: StateDirectory) -> AsyncIterator[Callable[..., Subject]]:
    """Return a function that makes a provisioner; all have the same state."""
    subjects: list[Subject] = []

    def make(*answers: Assignment | Exception, **options: Any) -> Subject:
        subjects.append(Subject(state, Service(*answers), **options))
        return subjects[-1]

    yield make
    for subject in subjects:
        await subject.provisioner.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("mode", MODES)
async def test_the_first_start_waits_until_it_is_let_in(
    device: Callable[..., Subject], mode: Reprovisioning
) -> None:
    subject = device(AWAY, REFUSED, NonsenseError("?"), AWAY, HERE, mode=mode)
    found = await subject.start()
    assert (found.origin, found.moved, found.substatus) == (
        *(Origin.REGISTERED, False, "initialAssignment"),
    )
    assert found.identity.hub_host == "Plant-A.example"
    assert found.identity.key == b"k" * 32
    assert [reason for reason, _ in subject.owner.waits] == [
        *("nobody there", "not enrolled", "?", "nobody there")
    ]
    assert subject.owner.answers == []


@pytest.mark.parametrize("mode", [Reprovisioning.DYNAMIC, Reprovisioning.ON_ERROR_ONLY])
async def test_a_start_with_a_backup_asks_nobody(
    device: Callable[..., Subject], mode: Reprovisioning
) -> None:
    first = await device(HERE).start()
    subject = device(THERE, mode=mode)
    found = await subject.start()
    assert (found.origin, found.identity) == (Origin.BACKUP, first.identity)
    assert subject.service.asked == 0


async def test_always_on_startup_asks_first(device: Callable[..., Subject]) -> None:
    await device(HERE).start()
    found = await device(THERE, mode=Reprovisioning.ALWAYS_ON_STARTUP).start()
    assert found.origin is Origin.REGISTERED
    assert found.identity.hub_host == "plant-b.example"
    assert found.moved


async def test_always_on_startup_asks_when_the_device_comes(device: Callable[..., Subject]) -> None:
    mode = Reprovisioning.ALWAYS_ON_STARTUP
    arrival = Arrival(3600)
    # Who has no backup, and who is told to, asks at once.
    await device(HERE, mode=mode, arrival=arrival).start()
    await device(HERE, mode=mode, arrival=arrival).start(reprovision=True)
    subject = device(THERE, mode=mode, arrival=arrival)
    starting = asyncio.ensure_future(subject.start())
    await asyncio.sleep(0.05)
    assert subject.service.asked == 0
    arrival.now()
    assert (await starting).identity.hub_host == "plant-b.example"


@pytest.mark.parametrize("answer", [AWAY, REFUSED, NonsenseError("?"), None])
@pytest.mark.parametrize("asked", [True, False])
async def test_without_an_answer_it_starts_all_the_same_and_asks_on(
    device: Callable[..., Subject], answer: UpstreamError | None, *, asked: bool
) -> None:
    first = await device(HERE).start()
    mode = Reprovisioning.DYNAMIC if asked else Reprovisioning.ALWAYS_ON_STARTUP
    subject = device(*([] if answer is None else [answer]), mode=mode, first_answer_s=0.1)
    found = await subject.start(reprovision=asked)
    assert (found.origin, found.identity) == (Origin.BACKUP, first.identity)
    if answer is not None:
        await until(lambda: len(subject.owner.waits) > 2)
        subject.service.answers = [THERE]
        await until(lambda: bool(subject.owner.answers))
        assert subject.owner.answers[0].moved
        assert subject.owner.answers[0].identity.hub_host == "plant-b.example"


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "https://other.example"},
        {"id_scope": "0ne00FFFFFF"},
        {"attestation": SymmetricKeyAttestation(registration_id="d2", key=b"k" * 32)},
    ],
)
async def test_another_configuration_has_no_backup(
    device: Callable[..., Subject], change: dict[str, Any]
) -> None:
    await device(HERE).start()
    fields = {name: getattr(DPS, name) for name in DPS.__struct_fields__}
    subject = device(THERE, provisioning=DpsProvisioning(**{**fields, **change}))
    found = await subject.start()
    assert (found.origin, subject.service.asked) == (Origin.REGISTERED, 1)
    assert found.moved


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "https://DPS.example/"},
        {"id_scope": "0NE00abcdef"},
        {"attestation": SymmetricKeyAttestation(registration_id="d1", key=b"x" * 32)},
    ],
)
async def test_the_same_in_other_words_has(
    device: Callable[..., Subject], change: dict[str, Any]
) -> None:
    await device(HERE).start()
    fields = {name: getattr(DPS, name) for name in DPS.__struct_fields__}
    changed = DpsProvisioning(**{**fields, **change})
    found = await device(THERE, provisioning=changed).start()
    assert found.origin is Origin.BACKUP
    assert isinstance(changed.attestation, SymmetricKeyAttestation)
    assert found.identity.key == changed.attestation.key


async def test_a_backup_that_was_cut_off_does_not_stop_the_start(
    state: StateDirectory, device: Callable[..., Subject]
) -> None:
    await device(HERE).start()
    file = state.home / "provisioning.json"
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        found = await device(HERE).start()
        assert (found.origin, found.moved) == (Origin.REGISTERED, False)
        assert file.read_bytes() == whole


async def test_a_full_disk_does_not_stop_the_start(
    state: StateDirectory, device: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateDirectory, "write", full)
    assert (await device(HERE).start()).origin is Origin.REGISTERED
    assert (await device(provisioning=MANUAL).start()).origin is Origin.MANUAL
    subject = device(HERE)
    await subject.start()
    await subject.provisioner.settled()
    assert list(state.home.iterdir()) == []


async def test_a_manual_identity_asks_nobody(device: Callable[..., Subject]) -> None:
    await device(THERE).start()
    subject = device(provisioning=MANUAL, mode=Reprovisioning.ALWAYS_ON_STARTUP)
    found = await subject.start(reprovision=True)
    assert (found.origin, found.identity.key, found.moved) == (Origin.MANUAL, b"m" * 32, True)
    await subject.provisioner.settled()
    assert not (await device(provisioning=MANUAL).start()).moved
    subject.provisioner.hub_refused()
    with pytest.raises(ValueError, match="by hand"):
        await subject.provisioner.reprovision()


async def test_back_where_it_was_nothing_is_to_be_removed(device: Callable[..., Subject]) -> None:
    always = {"mode": Reprovisioning.ALWAYS_ON_STARTUP}
    assert not (await device(HERE, **always).start()).moved
    assert (await device(THERE, **always).start()).moved
    assert not (await device(HERE, **always).start()).moved


async def test_a_hub_that_refuses_makes_it_ask(device: Callable[..., Subject]) -> None:
    subject = device(HERE, AWAY, THERE)
    await subject.start()
    subject.provisioner.hub_refused()
    subject.provisioner.hub_refused()  # once is enough
    await until(lambda: bool(subject.owner.answers))
    assert subject.service.asked == 3
    assert subject.owner.answers[0].identity.hub_host == "plant-b.example"
    # And again, for as long as it is refused.
    subject.provisioner.hub_refused()
    await until(lambda: len(subject.owner.answers) == 2)
    subject.provisioner.hub_accepted()


async def test_on_error_only_asks_while_it_starts_and_not_later(
    device: Callable[..., Subject],
) -> None:
    subject = device(HERE, mode=Reprovisioning.ON_ERROR_ONLY)
    await subject.start()
    subject.provisioner.hub_refused()
    assert subject.provisioner._asking is None
    subject.provisioner.hub_refused(starting=True)
    await until(lambda: bool(subject.owner.answers))


async def test_reprovision_asks_now(device: Callable[..., Subject]) -> None:
    subject = device(HERE, REFUSED, THERE)
    await subject.start()
    with pytest.raises(RefusedError):
        await subject.provisioner.reprovision()
    assert (await subject.provisioner.reprovision()).moved
    assert [each.identity.hub_host for each in subject.owner.answers] == ["plant-b.example"]


async def test_a_mistake_of_our_own_is_no_end(device: Callable[..., Subject]) -> None:
    subject = device(HERE, ValueError("broken"), THERE)
    await subject.start()
    subject.provisioner.hub_refused()
    await until(lambda: bool(subject.owner.answers))
    assert [reason for reason, _ in subject.owner.waits] == ["the registration failed: broken"]


async def test_what_people_have_asked_for_is_not_asked_again(
    device: Callable[..., Subject],
) -> None:
    later = Backoff(first_s=3600.0, cap_s=3600.0, floor_s=3600.0)
    subject = device(HERE, THERE, refused=later)
    await subject.start()
    subject.provisioner.hub_refused()
    await subject.provisioner.reprovision()
    assert subject.provisioner._asking is None
    assert subject.service.asked == 2
    subject.provisioner.hub_refused()
    assert subject.provisioner._asking is not None


async def test_pauses_grow_as_the_error_wants(device: Callable[..., Subject]) -> None:
    slow = Backoff(first_s=1000.0, cap_s=1000.0, floor_s=1000.0)
    for error, name in ((REFUSED, "refused"), (AWAY, "unreachable")):
        subject = device(error, **{name: slow})
        starting = asyncio.ensure_future(subject.provisioner.start())
        await until(lambda subject=subject: bool(subject.owner.waits))
        assert subject.owner.waits[0][1] == 1000.0
        starting.cancel()
        await asyncio.wait([starting])


async def test_it_waits_as_long_as_the_service_asks(device: Callable[..., Subject]) -> None:
    subject = device(UnreachableError("busy", status=429, retry_after_s=500.0))
    starting = asyncio.ensure_future(subject.provisioner.start())
    await until(lambda: bool(subject.owner.waits))
    assert 500 <= subject.owner.waits[0][1] <= 600
    starting.cancel()
    await asyncio.wait([starting])


def test_a_configuration_that_cannot_be() -> None:
    attestation = SymmetricKeyAttestation(registration_id="a/b", key=b"")
    wrong = DpsProvisioning(endpoint="https://x", id_scope="s", attestation=attestation)
    with pytest.raises(InvalidArgumentError):
        backup.fingerprint(wrong)


def test_keys_of_modules() -> None:
    expected = hmac.digest(b"master", b"$edgeAgent:638:primary", "sha256")
    assert derive(b"master", "$edgeAgent", "638", "primary") == expected


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_no_two_configurations_look_alike(one: tuple[str, str], other: tuple[str, str]) -> None:
    def manual(pair: tuple[str, str]) -> str:
        given_by_hand = ManualProvisioning(
            hub_host=pair[0].replace("\n", ""), device_id=pair[1].replace("\n", "")
        )
        return backup.fingerprint(given_by_hand)

    same = (one[0].replace("\n", "").lower(), one[1].replace("\n", "")) == (
        other[0].replace("\n", "").lower(),
        other[1].replace("\n", ""),
    )
    assert (manual(one) == manual(other)) is same
