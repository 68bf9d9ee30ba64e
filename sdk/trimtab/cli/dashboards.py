"""`trimtab dashboards`: the dashboards for Grafana, as files or pushed."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.cli import grafana
from trimtab.cli.writing import write
from trimtab.errors import printable


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
        click.echo(write(output / f"{uid}.json", library.text(dashboard)))


@dashboards.command(short_help="Put the dashboards into a Grafana.")
@grafana.options
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
def push(dry_run: bool, **server: str | None) -> None:
    """Put the dashboards into the folder Trimtab of a Grafana. What is there and the same is left alone."""
    from trimtab_dashboards import library, pushing

    would = "would be " if dry_run else ""
    with grafana.connected(**server) as client:
        pushed = pushing.push(client, library.shipped(), dry_run=dry_run, say=_say)
    for each in pushed:
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
