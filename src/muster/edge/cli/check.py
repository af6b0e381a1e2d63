"""`iotedge check` and `check-list` (edge.md 7.1)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from muster import __version__
from muster.cli.examples import examples
from muster.cli.output import printable, remark
from muster.clock import SystemClock
from muster.edge.check.outcome import DaemonAwayError, Outcome, Result
from muster.edge.check.run import SECTIONS, Finding, run
from muster.edge.check.surroundings import DEFAULT_ENGINE_FILE, Options, Surroundings
from muster.edge.cli.failures import CommandError
from muster.edge.cli.management import Management
from muster.edge.configuration.load import DEFAULT_FILE, OLD_FILE, usual_file

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIGNS: Final = {
    Result.OK: ("\u221a", "OK"),
    Result.WARNING: ("\u203c", "Warning"),
    Result.ERROR: ("\u00d7", "Error"),
    Result.FATAL: ("\u00d7", "Error"),
}
_BAD: Final = (Result.ERROR, Result.FATAL)
_COLOURS: Final = {"\u221a": "green", "\u203c": "yellow", "\u00d7": "red"}


@click.command()
@click.option(
    "-c",
    "--config-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=usual_file,
    show_default=f"{DEFAULT_FILE}, or {OLD_FILE} where only that is there",
    help="The configuration.",
)
@click.option(
    "--container-engine-config-file",
    "engine_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_ENGINE_FILE,
    show_default=True,
    help="That of the container engine.",
)
@click.option(
    "--diagnostics-image-name",
    "diagnostics_image",
    metavar="IMAGE",
    help="Of containers that look out; it is on this device and has Python, Bash or nc "
    "[default: that of some module].",
)
@click.option(
    "--dont-run", multiple=True, metavar="ID", help="A check to leave out; repeat for more."
)
@click.option(
    "--expected-aziot-edged-version",
    "expected_version",
    metavar="VERSION",
    help="Of the daemon [default: that of this command].",
)
@click.option("--iothub-hostname", "hub_host", metavar="NAME", help="Hub to look at.")
@click.option("--proxy-uri", "proxy", metavar="URI", help="Proxy [default: https_proxy].")
@click.option(
    "--ntp-server",
    metavar="HOST[:PORT]",
    help="Time server to compare the clock with [default: the time that the services say].",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--verbose", is_flag=True, help="Show also checks that were left out.")
@click.option("--warnings-as-errors", is_flag=True, help="End with 1 for warnings, too.")
@click.pass_obj
@examples("sudo iotedge check", "sudo iotedge check --dont-run container-engine-dns -o json")
def check(
    host: str,
    /,
    dont_run: tuple[str, ...],
    output: str,
    *,
    verbose: bool,
    warnings_as_errors: bool,
    **options: Any,
) -> None:
    """Look for what is wrong with this device, its configuration and its connections.

    Each check does what the device itself does, and says what to do where that fails.
    """
    for unknown in set(dont_run) - {each.id for _, checks in SECTIONS for each in checks}:
        remark(f"Note: there is no check {unknown}: see iotedge check-list")
    around = _surroundings(host, Options(**options))
    findings: list[Finding] = []
    for title, checks in SECTIONS:
        if output == "text":
            click.echo(f"{title}\n{'-' * len(title)}")
        for finding in run(checks, around, dont_run):
            findings.append(finding)
            if output == "text":
                _show(finding, verbose=verbose)
        if output == "text":
            click.echo()
    if output == "json":
        click.echo(_json(findings))
    else:
        _sum_up(findings)
    bad = {*_BAD, Result.WARNING} if warnings_as_errors else set(_BAD)
    if any(finding.outcome.result in bad for finding in findings):
        raise SystemExit(1)


@click.command("check-list")
@examples("iotedge check-list")
def check_list() -> None:
    """List the checks and their IDs."""
    for title, checks in SECTIONS:
        click.echo(f"{title}:")
        for each in checks:
            click.echo(f"    {each.id:<34}{each.description}")


def as_json(host: str, hub_host: str | None) -> str:
    """Run all checks and return what `check -o json` prints, for support bundles."""
    around = _surroundings(host, Options(config_file=usual_file(), hub_host=hub_host))
    return _json([finding for _, checks in SECTIONS for finding in run(checks, around)])


def _surroundings(host: str, options: Options) -> Surroundings:
    def ask(path: str) -> Any:
        try:
            return Management(host, 20.0).get(path)
        except CommandError as error:
            raise DaemonAwayError("; ".join(error.lines)) from None

    def daemon_environment() -> Mapping[str, str]:
        try:
            return Management(host, 20.0).environment()
        except CommandError as error:
            raise DaemonAwayError("; ".join(error.lines)) from None

    return Surroundings(
        options=options,
        ask=ask,
        daemon_environment=daemon_environment,
        environment=os.environ,
        clock=SystemClock(),
    )


def _show(finding: Finding, *, verbose: bool) -> None:
    outcome = finding.outcome
    if outcome.result not in _SIGNS:
        if verbose:
            click.echo(f"  {finding.check.description} - {outcome.result.value}")
        return
    sign, word = _SIGNS[outcome.result]
    click.echo(click.style(f"{sign} {finding.check.description} - {word}", fg=_COLOURS[sign]))
    for line in outcome.details:
        click.echo(f"    {printable(line)}")


def _sum_up(findings: list[Finding]) -> None:
    results = [finding.outcome.result for finding in findings]
    click.echo(f"{results.count(Result.OK)} check(s) succeeded.")
    if count := results.count(Result.WARNING):
        click.echo(f"{count} check(s) raised warnings.")
    if count := sum(result in _BAD for result in results):
        click.echo(f"{count} check(s) raised errors.")
    if count := results.count(Result.SKIPPED):
        click.echo(f"{count} check(s) were skipped due to errors from other checks.")


def _json(findings: list[Finding]) -> str:
    document = {
        "additional_info": {"iotedge_version": __version__},
        "checks": {finding.check.id: _as_json(finding.outcome) for finding in findings},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "result": outcome.result.value,
        "details": list(outcome.details),
        "additional_info": outcome.facts,
    }
