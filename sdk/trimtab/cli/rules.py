"""`trimtab rules`: alert rules for Prometheus and Grafana, made from the catalog."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.cli import grafana
from trimtab.cli.writing import write
from trimtab.errors import printable


@click.group(short_help="Write alert rules for Prometheus or Grafana, or push them.")
def rules() -> None:
    """Alert rules, made from the same catalog as the rules that a run is judged by."""


@rules.command(short_help="Write alert rules to a directory, or to stdout.")
@click.option("--format", "kind", type=click.Choice(["prometheus", "grafana"]), required=True, help="For which server.")
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="Where to write. [default: stdout]"
)
@click.option("--docs", metavar="URL", help="Address of Trimtab's docs, for runbook_url.")
@click.option("--datasource", metavar="UID", help="Prometheus data source in Grafana. [default: trimtab-prometheus]")
def export(kind: str, output: Path | None, docs: str | None, datasource: str | None) -> None:
    """Write the alert rules as files. For Prometheus two: those that act and those that page. For Grafana one, for
    its directory provisioning/alerting."""
    from trimtab_dashboards import grafana_rules, prometheus_rules
    from trimtab_dashboards.alert_rules import DOCS_URL

    if datasource is not None and kind != "grafana":
        raise click.UsageError("--datasource is for --format grafana.")
    made = (
        prometheus_rules.files(docs or DOCS_URL)
        if kind == "prometheus"
        else grafana_rules.files(docs or DOCS_URL, datasource or grafana_rules.DATASOURCE_UID)
    )
    for name, text in made.items():
        if output is None:
            click.echo(f"# {name}\n{text}", nl=False)
        else:
            click.echo(write(output / name, text))


@rules.command(short_help="Put alert rules into a Grafana.")
@grafana.options
@click.option("--datasource", metavar="UID", help="Prometheus data source, by uid or name. [default: the only one]")
@click.option("--docs", metavar="URL", help="Address of Trimtab's docs, for runbook_url.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would change.")
def push(datasource: str | None, docs: str | None, dry_run: bool, **server: str | None) -> None:
    """Put the alert rules into a Grafana, in a folder of their own. Only what differs is written; a rule that somebody
    paused stays paused."""
    from trimtab_dashboards import rules_push
    from trimtab_dashboards.alert_rules import DOCS_URL

    with grafana.connected(**server) as client:
        for pushed in rules_push.push(client, docs_url=docs or DOCS_URL, datasource=datasource, dry_run=dry_run):
            would = "would be " if dry_run and pushed.state != "unchanged" else ""
            for line in (*(pushed.diff if dry_run else ()), f"{pushed.group}: {would}{pushed.state}"):
                click.echo(printable(line))
