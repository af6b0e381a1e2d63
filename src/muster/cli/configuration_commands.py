"""The commands that deployments and configurations have in common (hub-service.md 1.5).

On the wire both are configurations; a deployment is one whose content names modules of edge
devices. Each noun lists and changes only its own kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from muster.cli.failures import FailedError
from muster.cli.identity_fields import quoted
from muster.cli.options import (
    JSON_DOCUMENT,
    confirm,
    etag_option,
    hub_option,
    service_command,
    yes_option,
)
from muster.terminal.examples import examples
from muster.terminal.output import (
    decorated,
    remark,
    show_json,
    show_record,
    show_table,
    to_json,
    warn,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from muster.cli.client import RestClient
    from muster.cli.connection import Invocation

F = TypeVar("F", bound="Callable[..., Any]")

COLLECTION: Final = "/configurations"
KINDS: Final = ("modulesContent", "deviceContent", "moduleContent")
TARGETED: Final = "targetedCount"
APPLIED: Final = "appliedCount"
SUCCESSFUL: Final = "reportedSuccessfulCount"
FAILED: Final = "reportedFailedCount"

_content = click.option(
    "--content", type=JSON_DOCUMENT, required=True, help="What it sets, as JSON or @FILE."
)
_labels = click.option("--labels", type=JSON_DOCUMENT, help="Labels, as JSON or @FILE.")
_metrics = click.option(
    "--metrics", type=JSON_DOCUMENT, help='Metrics, name to query: {"hot": "SELECT …"}.'
)


def _target(default: str) -> Callable[[F], F]:
    return click.option(
        "--target-condition",
        "--target",
        "target",
        metavar="CONDITION",
        help=f"""Whom, for example "tags.site = 'plant-a'"; '*' for all [default: {default}].""",
    )


def _priority(default: str) -> Callable[[F], F]:
    return click.option(
        "--priority",
        type=click.IntRange(min=0),
        metavar="N",
        help=f"The higher one wins [default: {default}].",
    )


class Noun(NamedTuple):
    """What the two nouns differ in.

    Attributes:
        word: `deployment` or `configuration`.
        edge: whether it is about edge devices.
        content: an example of `--content`.
    """

    word: str
    edge: bool
    content: str


def add_commands(group: click.Group, noun: Noun) -> None:
    """Add create, show, list, update, delete, preview and show-metric to a group."""
    for make in (_create, _show_one, _list, _update, _delete, _preview, _show_metric):
        group.add_command(make(noun))


def find(client: RestClient, noun: Noun, name: str) -> dict[str, Any]:
    """Return a configuration of the noun's kind.

    Raises:
        FailedError: it is of the other kind.
    """
    found: dict[str, Any] = client.get(COLLECTION, name)
    if _is_edge(found) is not noun.edge:
        other = "deployment" if noun.edge is False else "configuration"
        raise FailedError(f"{name} is a {other}", next_step=f"muster {other} show {name}")
    return found


def content_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the content in a file: it may stand alone, in `content`, or in a configuration.

    Raises:
        click.UsageError: there is none.
    """
    inner = document.get("content")
    content = inner if isinstance(inner, dict) else document
    found = {kind: content[kind] for kind in KINDS if content.get(kind) is not None}
    if "moduleContent" in found and "$edgeAgent" in found["moduleContent"]:
        # Manifests of old tools spell it so (edge.md 9.1).
        found["modulesContent"] = found.pop("moduleContent")
    if len(found) != 1:
        raise click.UsageError(
            f"--content: expected an object with one of {', '.join(KINDS)} in it."
        )
    return found


def count_matches(client: RestClient, condition: str, *, edge: bool) -> int:
    """Return how many devices (or modules) a target condition matches now."""
    modules = condition.lower().lstrip().startswith("from ")
    narrowed = "" if condition.strip() == "*" else condition
    if modules:
        query = f"SELECT COUNT() AS found {condition}"
    elif edge:
        more = f" AND ({narrowed})" if narrowed else ""
        query = f"SELECT COUNT() AS found FROM devices WHERE capabilities.iotEdge = true{more}"
    else:
        more = f" WHERE {narrowed}" if narrowed else ""
        query = f"SELECT COUNT() AS found FROM devices{more}"
    rows = client.post("/devices/query", body={"query": query})
    return int(rows[0]["found"]) if rows else 0


def counts(configuration: dict[str, Any]) -> dict[str, int]:
    """Return the system metrics."""
    found: dict[str, int] = (configuration.get("systemMetrics") or {}).get("results") or {}
    return found


def _is_edge(configuration: dict[str, Any]) -> bool:
    return (configuration.get("content") or {}).get("modulesContent") is not None


def _create(noun: Noun) -> click.Command:
    @click.command("create")
    @click.argument("name")
    @_content
    @_target("nobody")
    @_priority("0")
    @_labels
    @_metrics
    @hub_option
    @service_command
    @examples(
        f'muster {noun.word} create line-7 --content {noun.content} --target "tags.line = 7"',
        f"muster {noun.word} create all --content {noun.content} --target '*' --priority 10",
        about=(
            f"Create a {noun.word}; it begins to apply at once. Says first how many "
            f"{'edge devices' if noun.edge else 'devices or modules'} the condition matches."
        ),
    )
    def create(
        invocation: Invocation,
        *,
        name: str,
        content: dict[str, Any],
        target: str | None,
        priority: int | None,
        labels: dict[str, Any] | None,
        metrics: dict[str, Any] | None,
        hub_host: str | None,
    ) -> None:
        client = invocation.hub(hub_host)
        found = content_of(content)
        if ("modulesContent" in found) is not noun.edge:
            needed = "modulesContent" if noun.edge else "deviceContent or moduleContent"
            raise click.UsageError(f"--content: a {noun.word} has {needed}.")
        matching = _tell_matches(client, target or "", edge=noun.edge)
        body = {
            "id": name,
            "schemaVersion": "2.0",
            "content": found,
            "targetCondition": target or "",
            "priority": priority or 0,
            "labels": labels,
            "metrics": {"queries": metrics or {}},
        }
        _show(invocation, client.put(COLLECTION, name, body=body))
        if matching and not invocation.as_json and noun.edge:
            remark(f"Watch it converge: muster {noun.word} watch {name}")

    return create


def _show_one(noun: Noun) -> click.Command:
    @click.command("show")
    @click.argument("name")
    @hub_option
    @service_command
    @examples(
        f"muster {noun.word} show line-7",
        f"muster {noun.word} show line-7 --json",
        about=(f"Show a {noun.word} with its counts."),
    )
    def show(invocation: Invocation, *, name: str, hub_host: str | None) -> None:
        _show(invocation, find(invocation.hub(hub_host), noun, name))

    return show


def _list(noun: Noun) -> click.Command:
    @click.command("list")
    @hub_option
    @service_command
    @examples(
        f"muster {noun.word} list",
        about=(f"List the {noun.word}s of a hub, the one that wins first."),
    )
    def list_all(invocation: Invocation, *, hub_host: str | None) -> None:
        everything = invocation.hub(hub_host).get(COLLECTION)
        found = [each for each in everything if _is_edge(each) is noun.edge]
        found.sort(key=lambda each: (-each["priority"], each["id"]))
        if invocation.as_json:
            show_json(found)
            return
        columns = ["NAME", "PRIORITY", "TARGET CONDITION", "TARGETED", "APPLIED"]
        rows = [
            [each["id"], each["priority"], each["targetCondition"], *_counted(each, noun)]
            for each in found
        ]
        if noun.edge:
            columns += ["SUCCEEDED", "FAILED"]
        show_table(columns, rows, empty=f"The hub has no {noun.word}s.")

    return list_all


def _update(noun: Noun) -> click.Command:
    @click.command("update")
    @click.argument("name")
    @_target("as it is")
    @_priority("as it is")
    @_labels
    @_metrics
    @etag_option
    @hub_option
    @service_command
    @examples(
        f"muster {noun.word} update line-7 --priority 20",
        f'muster {noun.word} update line-7 --target "tags.line IN [7, 8]"',
        about=(
            f"Change target condition, priority, labels or metrics of a {noun.word}. Its content "
            "never changes: create another one with a higher priority."
        ),
    )
    def update(
        invocation: Invocation,
        *,
        name: str,
        target: str | None,
        priority: int | None,
        labels: dict[str, Any] | None,
        metrics: dict[str, Any] | None,
        etag: str | None,
        hub_host: str | None,
    ) -> None:
        client = invocation.hub(hub_host)
        current = find(client, noun, name)
        given = {"targetCondition": target, "priority": priority, "labels": labels}
        if target is not None:
            _tell_matches(client, target, edge=noun.edge)
        body = {**current, **{key: value for key, value in given.items() if value is not None}}
        if metrics is not None:
            body["metrics"] = {"queries": metrics}
        if_match = quoted(etag or current.get("etag"))
        _show(invocation, client.put(COLLECTION, name, body=body, if_match=if_match))

    return update


def _delete(noun: Noun) -> click.Command:
    left = (
        "Devices keep the modules it gave them until another deployment targets them."
        if noun.edge
        else "What it set is taken away again."
    )

    @click.command("delete")
    @click.argument("name")
    @etag_option
    @yes_option
    @hub_option
    @service_command
    @examples(
        f"muster {noun.word} delete line-7",
        about=(f"Delete a {noun.word}. {left}"),
    )
    def delete(
        invocation: Invocation, *, name: str, etag: str | None, yes: bool, hub_host: str | None
    ) -> None:
        confirm(f"Delete the {noun.word} {name}?", yes=yes)
        client = invocation.hub(hub_host)
        find(client, noun, name)
        client.delete(COLLECTION, name, if_match=quoted(etag))
        if not invocation.as_json:
            remark(f"The {noun.word} {name} is deleted. {left}")

    return delete


def _preview(noun: Noun) -> click.Command:
    @click.command("preview")
    @click.argument("condition")
    @hub_option
    @service_command
    @examples(
        f"muster {noun.word} preview \"tags.site = 'plant-a'\"",
        about=(
            "Say whether a target condition is one, and how many it matches now. Nothing is "
            "changed."
        ),
    )
    def preview(invocation: Invocation, *, condition: str, hub_host: str | None) -> None:
        client = invocation.hub(hub_host)
        body = {"targetCondition": condition, "customMetricQueries": {}}
        tested = client.post(f"{COLLECTION}/testQueries", body=body)
        if tested["targetConditionError"]:
            raise FailedError(tested["targetConditionError"])
        matching = count_matches(client, condition, edge=noun.edge) if condition.strip() else 0
        if invocation.as_json:
            show_json({"targetCondition": condition, "matching": matching})
        else:
            click.echo(f"{matching:,}")

    return preview


def _show_metric(noun: Noun) -> click.Command:
    @click.command("show-metric")
    @click.argument("name")
    @click.argument("metric")
    @hub_option
    @service_command
    @examples(
        f"muster {noun.word} show-metric line-7 {APPLIED}",
        about=(f"List what a metric of a {noun.word} counts."),
    )
    def show_metric(
        invocation: Invocation, *, name: str, metric: str, hub_host: str | None
    ) -> None:
        client = invocation.hub(hub_host)
        found = find(client, noun, name)
        queries = {**found["systemMetrics"]["queries"], **found["metrics"]["queries"]}
        if metric not in queries:
            raise FailedError(
                f"{name} has no metric '{metric}'", details=(f"It has {', '.join(queries)}.",)
            )
        if not queries[metric]:
            raise FailedError(f"{name} has no target condition, so it targets nobody")
        body = {"query": queries[metric]}
        rows = list(client.pages("POST", "/devices/query", body=body))
        if invocation.as_json:
            show_json(rows)
            return
        columns = list(dict.fromkeys(key for row in rows for key in row))
        show_table(
            columns,
            [[row.get(column) for column in columns] for row in rows],
            empty="Nothing.",
        )

    return show_metric


def _tell_matches(client: RestClient, condition: str, *, edge: bool) -> int:
    """Say how many a condition matches before it is saved; warn when it is nobody."""
    if not condition.strip():
        warn("without a target condition it targets nobody")
        return 0
    tested = client.post(
        f"{COLLECTION}/testQueries",
        body={"targetCondition": condition, "customMetricQueries": {}},
    )
    if tested["targetConditionError"]:
        raise FailedError(tested["targetConditionError"], next_step="nothing has been saved")
    matching = count_matches(client, condition, edge=edge)
    what = "edge device" if edge else "device or module"
    if matching:
        several = "edge devices" if edge else "devices or modules"
        remark(f"The condition matches {matching:,} {what if matching == 1 else several} now.")
    else:
        warn(f"the condition matches no {what} now; strings, numbers and booleans are different")
    return matching


def _counted(configuration: dict[str, Any], noun: Noun) -> list[Any]:
    found = counts(configuration)
    names = (TARGETED, APPLIED, *((SUCCESSFUL, FAILED) if noun.edge else ()))
    return [found.get(name, 0) for name in names]


def _show(invocation: Invocation, configuration: dict[str, Any]) -> None:
    if invocation.as_json:
        show_json(configuration)
        return
    found = counts(configuration)
    custom = (configuration.get("metrics") or {}).get("results") or {}
    show_record(
        [
            ("Name", configuration.get("id")),
            ("Priority", configuration.get("priority")),
            ("Target condition", configuration.get("targetCondition")),
            ("Labels", configuration.get("labels")),
            ("Created", configuration.get("createdTimeUtc")),
            ("Updated", configuration.get("lastUpdatedTimeUtc")),
            ("Targeted", found.get(TARGETED)),
            ("Applied", found.get(APPLIED)),
            ("Succeeded", found.get(SUCCESSFUL)),
            ("Failed", found.get(FAILED)),
            *((f"Metric {name}", value) for name, value in custom.items()),
            ("ETag", configuration.get("etag")),
        ]
    )
    click.echo()
    click.echo(click.style("Content", bold=True) if decorated() else "Content")
    click.echo(to_json({key: value for key, value in configuration["content"].items() if value}))
