"""Why a deployment decides about a device, or does not, in plain words with a remedy.

Asks the same matching and the same plan that the deployer goes by, so that it cannot tell another
story. Sources: users.md pains 13, 15, 16; hub-service.md 6.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import msgspec
from msgspec import Struct

from muster.language.conditions import parse_target
from muster.language.explain import why
from muster.model.configuration import DESIRED, Kind, deployed_modules, settings
from muster.model.identity import EDGE_AGENT, IdentityRef
from muster.model.layering import Status, deployment_plan

if TYPE_CHECKING:
    from muster.hub.configurations import Configurations
    from muster.hub.targets import Targets
    from muster.hub.twins import ServiceTwin, Twins
    from muster.model.configuration import Configuration

NOT_TARGETED: Final = "not targeted"
SUCCESS: Final = 200
"""What an agent reports when all that is deployed is so."""


class Part(Struct, rename="camel"):
    """A part of the target condition that decided."""

    condition: str
    outcome: bool | None
    sentence: str


class Rival(Struct, rename="camel"):
    """A deployment that targets the device, the winner first."""

    id: str
    priority: int
    kind: str
    status: str


class Explanation(Struct, rename="camel"):
    """Why.

    Attributes:
        outcome: `applied`, `targeted` (outranked) or `not targeted`.
        summary: the same in words.
        remedy: what to do if it should be otherwise; empty when it is applied.
        agent: what the agent on the device says of it; empty when it is not applied.
        reasons: parts of the condition that decided.
        deployments: all that target the device.
        modules: each module the device gets, and the deployment it is from.
    """

    outcome: str
    summary: str
    remedy: str
    agent: str
    reasons: list[Part]
    deployments: list[Rival]
    modules: dict[str, str]


@final
class DeploymentExplanations:
    """Explains deployments.

    Args:
        configurations: all there are.
        targets: knows which device which of them targets.
        twins: what the conditions are about.
    """

    def __init__(self, configurations: Configurations, targets: Targets, twins: Twins) -> None:
        self._configurations = configurations
        self._targets = targets
        self._twins = twins

    async def explain(self, hub: int, configuration_id: str, device_id: str) -> Explanation:
        """Explain what a deployment is to a device.

        Raises:
            NotFoundError: codes `configuration-not-found`, `device-not-found`.
        """
        asked = self._configurations.get(hub, configuration_id)
        twin: dict[str, Any] = msgspec.to_builtins(
            await self._twins.get(IdentityRef(hub, device_id))
        )
        found = (await self._targets.matching(hub, [device_id])).get(device_id, {})
        targeting = [
            each
            for name in found.get(EDGE_AGENT, [])
            if (each := self._configurations.find(hub, name)) is not None
        ]
        plan = deployment_plan(targeting)
        ranked = sorted(targeting, key=lambda each: each.rank, reverse=True)
        rivals = [
            Rival(
                each.id,
                each.priority,
                "layered" if each.layered else "base",
                plan.statuses[each.id].value,
            )
            for each in ranked
        ]
        status = plan.statuses.get(asked.id)
        reasons = _reasons(asked, twin)
        agent = ""
        if status is None:
            summary, remedy = _not_targeted(asked, twin)
        elif status is Status.APPLIED:
            summary, remedy = _applied(asked), ""
            agent = _answer(await self._twins.get(IdentityRef(hub, device_id, EDGE_AGENT)))
        else:
            summary, remedy = _outranked(asked, ranked)
        outcome = NOT_TARGETED if status is None else status.value.lower()
        return Explanation(
            outcome, summary, remedy, agent, reasons, rivals, _sources(ranked, plan.statuses)
        )


def _reasons(asked: Configuration, twin: dict[str, Any]) -> list[Part]:
    if asked.kind is not Kind.EDGE:
        return []
    condition = parse_target(asked.target_condition)
    if condition is None:
        return []
    _, reasons = why(condition.expression, twin)
    return [Part(each.condition, each.outcome, each.sentence) for each in reasons]


def _not_targeted(asked: Configuration, twin: dict[str, Any]) -> tuple[str, str]:
    device_id = twin["deviceId"]
    if asked.kind is not Kind.EDGE:
        return (
            f"{asked.id} is a configuration of twins, no deployment of modules.",
            f"Look at the twin: muster twin show {device_id}",
        )
    if not twin["capabilities"]["iotEdge"]:
        return (
            f"{device_id} is no IoT Edge device; deployments are for edge devices only.",
            f"If it should be one: muster device update {device_id} --edge",
        )
    if not asked.target_condition:
        return (
            f"{asked.id} has no target condition, so it targets nobody.",
            f"Give it one: muster deployment update {asked.id} --target CONDITION",
        )
    return (
        f"{device_id} does not meet the target condition: {asked.target_condition}",
        (
            f"Change the device (muster twin update {device_id} --tags …) or the condition "
            f"(muster deployment update {asked.id} --target …)."
        ),
    )


def _applied(asked: Configuration) -> str:
    if asked.layered:
        return f"{asked.id} is laid over the base deployment of the device."
    return f"{asked.id} is the base deployment of the device: it has the highest priority."


def _answer(twin: ServiceTwin) -> str:
    """Say in words what an agent has reported (edge.md 5.2); a device may report anything."""
    desired, reported = twin.properties["desired"], twin.properties["reported"]
    if reported.get("lastDesiredVersion") != desired["$version"]:
        return f"has not answered yet; it is {twin.connection_state.lower()}"
    status = reported.get("lastDesiredStatus")
    told: dict[str, Any] = status if isinstance(status, dict) else {}
    if told.get("code") == SUCCESS:
        return "has it in force"
    return f"answered {told.get('code')}: {told.get('description') or 'without saying why'}"


def _outranked(asked: Configuration, ranked: list[Configuration]) -> tuple[str, str]:
    base = next((each for each in ranked if not each.layered), None)
    if base is None:
        return (
            (
                f"{asked.id} is layered, and no base deployment targets the device, so nothing is "
                "applied."
            ),
            (
                f"Create a deployment whose {EDGE_AGENT} has {DESIRED}, with a lower priority than "
                f"{asked.priority}."
            ),
        )
    if not asked.layered:
        tie = " and is newer" if base.priority == asked.priority else ""
        return (
            (
                f"{base.id} wins: it has priority {base.priority}{tie}, {asked.id} has "
                f"{asked.priority}. Only one base deployment is applied."
            ),
            (
                f"To let this one win: muster deployment update {asked.id} --priority "
                f"{base.priority + 1}"
            ),
        )
    if asked.priority <= base.priority:
        return (
            (
                f"{asked.id} is layered with priority {asked.priority}; it must be higher than the "
                f"{base.priority} of the base deployment {base.id}."
            ),
            f"muster deployment update {asked.id} --priority {base.priority + 1}",
        )
    return (
        (
            f"{asked.id} says nothing about {EDGE_AGENT}, so it counts as targeted only; what it "
            "says about other modules is applied."
        ),
        "",
    )


def _sources(ranked: list[Configuration], statuses: dict[str, Status]) -> dict[str, str]:
    """Return which deployment each module of the device is from."""
    found: dict[str, str] = {}
    # The base first, then the layers from the lowest to the highest.
    for each in sorted(ranked, key=lambda one: (one.layered, one.rank)):
        if statuses[each.id] is not Status.APPLIED:
            continue
        agent = (each.content.modules_content or {}).get(EDGE_AGENT, {})
        for path, value in settings(agent, EDGE_AGENT).items():
            if not path:
                found |= dict.fromkeys(deployed_modules(value), each.id)
            elif path[0] == "modules":
                names = path[1:2] or tuple(value if isinstance(value, dict) else ())
                found |= dict.fromkeys(names, each.id)
    return dict(sorted(found.items()))
