"""`trimtab backends`: what is installed, and why something is not usable."""

from __future__ import annotations

import click

from trimtab import plugins
from trimtab.errors import printable


@click.command(short_help="List the backends that are installed.")
def backends() -> None:
    """List every backend that an installed package offers, and why one cannot be used."""
    offers = plugins.installed()
    if not offers:
        click.echo("No backend is installed, not even Trimtab's own. Run: pip install trimtab")
        return
    rows = [("BACKEND", "FROM", "USABLE")]
    rows += [
        (o.name, f"{o.distribution} {o.version}".strip(), f"no: {o.problem}" if o.problem else "yes") for o in offers
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, origin, usable in rows:
        click.echo(printable(f"{name:<{widths[0]}}  {origin:<{widths[1]}}  {usable}"))
