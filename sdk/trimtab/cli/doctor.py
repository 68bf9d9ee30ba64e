"""`trimtab doctor`: does every link hold, from the package to the dashboards?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from trimtab import config, discovery, tokens
from trimtab.discovery import Target
from trimtab.doctor.finding import Finding, skipped, wrong
from trimtab.errors import ConfigError, printable

PROMETHEUS, ALERTMANAGER, GRAFANA = (f"http://127.0.0.1:{port}" for port in (9090, 9093, 3000))


@click.command(short_help="Check a set-up end to end, and say what to do.")
@click.option("--run", "name", metavar="NAME", help="The run to look for. [default: the one seen last]")
@click.option(
    "--targets",
    metavar="DIR",
    help="Directory of the files by which Prometheus finds runs. [default: TRIMTAB_TARGETS_DIR, or runs/targets]",
)
@click.option("--prometheus", metavar="URL", help=f"Address of Prometheus. [default: {PROMETHEUS}]")
@click.option(
    "--alertmanager",
    metavar="URL",
    help=f"Address of Alertmanager. [default: TRIMTAB_ALERTS, or {ALERTMANAGER} if it answers]",
)
@click.option(
    "--grafana", metavar="URL", help=f"Address of Grafana. [default: TRIMTAB_GRAFANA, or {GRAFANA} if it answers]"
)
@click.option("--config", "config_", metavar="FILE", help="TOML file with the settings of the run.")
def doctor(config_: str | None, targets: str | None, **asked: str | None) -> int:
    """Check every link from the package and a run to Prometheus, Alertmanager and Grafana, one line each.

    Below a broken link stands what to do next; the exit code is then 1. Tokens are read from the files that the
    settings name.
    """
    settings = config.check(config=config_, targets=targets)
    for server in ("prometheus", "alertmanager", "grafana"):
        _refuse_no_address(server, asked[server])
    broken = 0
    for finding in _findings(settings, asked):
        click.echo(printable(f"{finding.verdict:<8} {finding.subject:<13} {finding.text}"))
        if finding.advice:
            click.echo(printable(f"{'':<22} {finding.advice}"))
        broken += finding.verdict == "wrong"
    links = "1 link to put right." if broken == 1 else f"{broken} links to put right. Begin with the first."
    click.echo(links if broken else "All is well.")
    return 1 if broken else 0


def _refuse_no_address(option: str, url: str | None) -> None:
    from trimtab.doctor.http import checked

    try:
        if url is not None:
            checked(url)
    except ConfigError as error:
        raise ConfigError(f"--{option}: {error}") from error


def _findings(settings: Mapping[str, Any], asked: Mapping[str, str | None]) -> Iterator[Finding]:
    from trimtab.doctor import local, prometheus

    yield local.package()
    yield local.backends()
    directory = discovery.folder(settings.get("targets"), settings.get("directory", Path("runs")))
    finding, target, ours = local.find_run(directory, asked["name"])
    yield finding
    if target is not None and not ours:
        yield local.port(target, None)
    elif target is not None:
        given = _read_files(settings, "metrics_token_file", "tls_certificate_file")
        yield given if isinstance(given, Finding) else local.port(target, *given)
    yield from prometheus.check(asked["prometheus"] or PROMETHEUS, target, _alerts())
    yield from _alertmanager(settings, asked["alertmanager"] or settings.get("alerts"), target)
    yield from _grafana(settings, asked["grafana"] or settings.get("grafana"))


def _alertmanager(settings: Mapping[str, Any], url: str | None, target: Target | None) -> Iterator[Finding]:
    from trimtab.doctor import alertmanager

    if url is None and not _answers(ALERTMANAGER, "/-/ready"):
        yield skipped(
            "alertmanager", f"nothing answers at {ALERTMANAGER}.", "One that runs elsewhere: --alertmanager URL."
        )
        return
    given = _read_files(settings, "alerts_token_file", "alerts_ca_file")
    if isinstance(given, Finding):
        yield given
    else:
        yield from alertmanager.check(url or ALERTMANAGER, *given, target)


def _grafana(settings: Mapping[str, Any], url: str | None) -> Iterator[Finding]:
    from trimtab.doctor import grafana

    if url is None and not _answers(GRAFANA, "/api/health"):
        yield skipped("grafana", f"nothing answers at {GRAFANA}.", "One that runs elsewhere: --grafana URL.")
        return
    given = _read_files(settings, "grafana_token_file", "grafana_ca_file")
    if isinstance(given, Finding):
        yield given
    else:
        token, certificates = given
        yield from grafana.check(url or GRAFANA, token, _dashboards(), certificates)


def _read_files(settings: Mapping[str, Any], secret: str, trusted: str) -> tuple[str | None, Path | None] | Finding:
    """The token in the file of the setting `secret`, and the certificates of `trusted`: None where none is named.

    A file that cannot be used is a finding.
    """
    from trimtab.doctor.http import trusting

    path, certificates = settings.get(secret), settings.get(trusted)
    try:
        token = None if path is None else tokens.read(secret, path).decode("ascii")
        trusting(certificates)
    except ConfigError as error:
        return wrong("token", str(error), "Put the file right, and ask again.")
    except OSError as error:
        said = f"{trusted}={str(certificates)!r}: cannot be used ({error.strerror or error})."
        return wrong("certificates", said, "Give a file of certificates in PEM.")
    return token, certificates


def _answers(url: str, path: str) -> bool:
    from trimtab.doctor.http import Http, Unanswered

    try:
        Http(url).text(path)
    except Unanswered as error:
        return error.status is not None
    return True


def _alerts() -> list[str]:
    from trimtab_dashboards.alert_rules import acting, lasting
    from trimtab_dashboards.server_rules import judged_by_server

    return [rule.name for rule in (*acting(), *lasting(), *judged_by_server())]


def _dashboards() -> dict[str, str]:
    """What ships: uid to title."""
    from trimtab_dashboards import library

    return {uid: str(each["title"]) for uid, each in library.shipped().items()}
