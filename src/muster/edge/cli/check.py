"""`iotedge check` and `check-list` (edge.md 7.1)."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from muster import __version__
from muster.clock import SystemClock
from muster.edge.check.official import ELSEWHERE, RENAMED
from muster.edge.check.outcome import BAD, DaemonAwayError, Outcome, Result
from muster.edge.check.run import CHECKS, SECTIONS, Finding, run
from muster.edge.check.surroundings import DEFAULT_ENGINE_FILE, Options, Surroundings
from muster.edge.cli.failures import CommandError
from muster.edge.cli.management import Management, NotAllowedError
from muster.edge.configuration.load import DEFAULT_FILE, OLD_FILE, usual_file
from muster.terminal.examples import examples
from muster.terminal.output import printable, remark

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SIGNS: Final = {
    Result.OK: ("\u221a", "OK"),
    Result.WARNING: ("\u203c", "Warning"),
    Result.ERROR: ("\u00d7", "Error"),
    Result.FATAL: ("\u00d7", "Error"),
    Result.SKIPPED: ("\u203c", "Skipped"),
    Result.IGNORED: ("\u203c", "Ignored"),
}
_QUIET: Final = (Result.SKIPPED, Result.IGNORED)
"""Shown with --verbose only."""
_DONT_RUN: Final = "--dont-run"
_COLOURS: Final = {"\u221a": "green", "\u203c": "yellow", "\u00d7": "red"}


class _SpaceSeparated(click.Command):
    """A command whose `--dont-run` takes all words up to the next option, as the official one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give each word an option of its own."""
        spread: list[str] = []
        within = False
        for word in args:
            within = word == _DONT_RUN or (within and not word.startswith("-"))
            if not within:
                spread.append(word)
            elif word != _DONT_RUN:
                spread += [each for one in word.split() for each in (_DONT_RUN, one)]
        return super().parse_args(ctx, spread)


def _without_effect(_context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        remark(f"Note: {option.opts[0]} has no effect: the runtime is one program")


@click.command(cls=_SpaceSeparated)
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
    _DONT_RUN, multiple=True, metavar="ID...", help="Checks to leave out, with spaces between."
)
@click.option(
    "--expected-aziot-edged-version",
    "--expected-iotedged-version",
    "expected_version",
    metavar="VERSION",
    help="Of the daemon [default: that of this command].",
)
@click.option("--iothub-hostname", "hub_host", metavar="NAME", help="Hub to look at.")
@click.option(
    "--proxy-uri", "proxy", metavar="URI", help="Proxy [default: the daemon's https_proxy]."
)
@click.option(
    "--ntp-server",
    metavar="HOST[:PORT]",
    help="Time server to compare the clock with [default: the time that the services say].",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
@click.option("--verbose", is_flag=True, help="Show also what was left out, and names of causes.")
@click.option("--warnings-as-errors", is_flag=True, help="End with 1 for warnings, too.")
@click.option("--expected-aziot-version", hidden=True, expose_value=False, callback=_without_effect)
@click.option("--aziot-edged", hidden=True, expose_value=False, callback=_without_effect)
@click.option("--iotedged", hidden=True, expose_value=False, callback=_without_effect)
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
    left_out = {RENAMED.get(each, each) for each in dont_run}
    for unknown in sorted(left_out - {each.id for each in CHECKS} - {*ELSEWHERE}):
        remark(f"Note: there is no check {unknown}: see iotedge check-list")
    around = surroundings(host, Options(**options))
    findings: list[Finding] = []
    for title, checks in SECTIONS:
        if output == "text":
            click.echo(f"{title}\n{'-' * len(title)}")
        for finding in run(checks, around, left_out):
            findings.append(finding)
            if output == "text":
                _show(finding, verbose=verbose)
        if output == "text":
            click.echo()
    if output == "json":
        click.echo(_json(findings))
    else:
        _sum_up(findings, verbose=verbose)
    bad = {*BAD, Result.WARNING} if warnings_as_errors else {*BAD}
    if any(finding.outcome.result in bad for finding in findings):
        raise SystemExit(1)


@click.command("check-list")
@examples("iotedge check-list")
def check_list() -> None:
    """List the checks and their IDs."""
    rows = [(title, each.id, each.description) for title, checks in SECTIONS for each in checks]
    widths = [max(len(row[column]) for row in rows) + 1 for column in range(2)]
    _show_row(("CATEGORY", "ID", "DESCRIPTION"), widths)
    click.echo()
    for title, _ in SECTIONS:
        for row in (each for each in rows if each[0] == title):
            _show_row(row, widths)
        click.echo()


def _show_row(row: tuple[str, ...], widths: Iterable[int]) -> None:
    click.echo(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1]
    )


def as_json(host: str, hub_host: str | None) -> str:
    """Run all checks and return what `check -o json` prints, for support bundles."""
    around = surroundings(host, Options(config_file=usual_file(), hub_host=hub_host))
    return _json(list(run(CHECKS, around)))


def surroundings(host: str, options: Options) -> Surroundings:
    """Return what checks look at.

    Args:
        host: URI of the daemon's management socket.
        options: see there.
    """

    def ask(path: str) -> Any:
        try:
            return Management(host, 20.0).get(path)
        except NotAllowedError:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None
        except CommandError as error:
            raise DaemonAwayError(_reason(error)) from None

    def daemon_environment() -> Mapping[str, str]:
        try:
            return Management(host, 20.0).environment()
        except CommandError as error:
            raise DaemonAwayError(_reason(error)) from None

    return Surroundings(
        options=options,
        host=host,
        ask=ask,
        daemon_environment=daemon_environment,
        environment=os.environ,
        clock=SystemClock(),
    )


def _reason(error: CommandError) -> str:
    """Return why the daemon does not answer; that it does not, and what to do, a check says."""
    return error.lines[1] if len(error.lines) > 1 else error.lines[0]


def _show(finding: Finding, *, verbose: bool) -> None:
    outcome = finding.outcome
    if outcome.result in _QUIET and not verbose:
        return
    sign, word = _SIGNS[outcome.result]
    click.echo(click.style(f"{sign} {finding.check.description} - {word}", fg=_COLOURS[sign]))
    for line in outcome.details:
        click.echo(f"    {printable(line)}")
    if verbose and outcome.cause is not None:
        click.echo(f"        caused by: {outcome.cause}: {outcome.cause.meaning}")


def _sum_up(findings: list[Finding], *, verbose: bool) -> None:
    results = [finding.outcome.result for finding in findings]
    more = "" if verbose else " Re-run with --verbose for more details."
    click.echo(f"{results.count(Result.OK)} check(s) succeeded.")
    if count := results.count(Result.WARNING):
        click.echo(f"{count} check(s) raised warnings.{more}")
    if count := sum(result in BAD for result in results):
        click.echo(f"{count} check(s) raised errors.{more}")
    if count := results.count(Result.SKIPPED):
        click.echo(f"{count} check(s) were skipped due to errors from other checks.{more}")


def _json(findings: list[Finding]) -> str:
    document = {
        "additional_info": {"iotedge_version": __version__},
        "checks": {finding.check.id: _as_json(finding.outcome) for finding in findings},
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _as_json(outcome: Outcome) -> dict[str, Any]:
    cause = {} if outcome.cause is None else {"cause": outcome.cause.value}
    return {
        "result": outcome.result.value,
        "details": list(outcome.details),
        "additional_info": {**cause, **outcome.facts},
    }
