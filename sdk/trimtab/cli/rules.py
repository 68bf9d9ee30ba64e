"""`trimtab rules`: alert rules for Prometheus and Grafana, made from the catalog."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab.errors import ConfigError


@click.group(short_help="Write alert rules for Prometheus or Grafana, or push them.")
def rules() -> None:
    """Alert rules, made from the same catalog as the rules that a run is judged by."""


@rules.command(short_help="Write alert rules to a directory, or to stdout.")
@click.option("--format", "kind", type=click.Choice(["prometheus", "grafana"]), required=True, help="For which server.")
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), help="Where to write. [default: stdout]"
)
@click.option("--docs", metavar="URL", help="Where Trimtab's docs are read, for runbook_url.")
@click.option("--datasource", metavar="UID", help="Of the Prometheus in Grafana. [default: trimtab-prometheus]")
def export(kind: str, output: Path | None, docs: str | None, datasource: str | None) -> None:
    """Write the alert rules as files: for Prometheus two sets, those that act and those that page; for Grafana one
    file for its directory provisioning/alerting."""
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
            click.echo(_write(output / name, text))


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"-o {path.parent}: {path.name} cannot be written ({error.strerror}).") from error
    return path
