"""`trimtab dashboards`: the dashboards for Grafana, as files or pushed."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab import config
from trimtab.errors import ConfigError, printable


@click.group(short_help="Write the dashboards for Grafana, or push them.")
def dashboards() -> None:
    """Four dashboards for Grafana 9.4 and later: fleet, run, layers, and Trimtab itself."""


@dashboards.command(short_help="Write the dashboards to a directory.")
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), default=".", help="Where to. [default: here]"
)
def export(output: Path) -> None:
    """Write each dashboard as a JSON file, to import by hand or to provision."""
    from trimtab_dashboards import library

    for uid, dashboard in library.shipped().items():
        path = output / f"{uid}.json"
        try:
            output.mkdir(parents=True, exist_ok=True)
            path.write_text(library.text(dashboard), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"-o {output}: {path.name} cannot be written ({error.strerror}).") from error
        click.echo(path)


@dashboards.command(short_help="Put the dashboards into a Grafana.")
@click.option("--grafana", metavar="URL", help="Its address. [default: TRIMTAB_GRAFANA]")
@click.option(
    "--token-file", metavar="FILE", help="Holds a service account's token. [default: TRIMTAB_GRAFANA_TOKEN_FILE]"
)
@click.option("--ca-file", metavar="FILE", help="Certificates to trust. [default: TRIMTAB_GRAFANA_CA_FILE]")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
def push(grafana: str | None, token_file: str | None, ca_file: str | None, dry_run: bool) -> None:
    """Put the dashboards into the folder Trimtab of a Grafana. What is there and the same is left alone."""
    from trimtab_dashboards import grafana_client, library, pushing

    found = config.check(grafana=grafana, grafana_token_file=token_file, grafana_ca_file=ca_file)
    if "grafana" not in found:
        raise ConfigError("No Grafana. Give --grafana http://127.0.0.1:3000, or set TRIMTAB_GRAFANA.")
    token = grafana_client.read_token(found["grafana_token_file"])
    client = grafana_client.Grafana(found["grafana"], token, ca_file=found.get("grafana_ca_file"))
    would = "would be " if dry_run else ""
    for each in pushing.push(client, library.shipped(), dry_run=dry_run, say=_say):
        click.echo(f"{each.uid}: {'' if each.state == 'unchanged' else would}{_WORDS[each.state]}")
        for line in each.diff.splitlines() if dry_run else ():
            click.echo(printable(line))


def _say(text: str) -> None:
    click.echo(printable(text), err=True)


_WORDS = {
    "created": "created",
    "changed": "changed",
    "unchanged": "unchanged",
    "provisioned": "left alone: it differs, but comes from a provisioning file",
}
