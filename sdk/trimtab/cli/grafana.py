"""The Grafana that `trimtab dashboards push` and `trimtab rules push` write to: its options, and the way to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trimtab import config, tokens
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab_dashboards.grafana_client import Grafana

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--grafana", metavar="URL", help="Address of the Grafana. [default: TRIMTAB_GRAFANA]"),
    click.option(
        "--token-file",
        metavar="FILE",
        help="File with a service account's token. [default: TRIMTAB_GRAFANA_TOKEN_FILE]",
    ),
    click.option("--ca-file", metavar="FILE", help="File of certificates to trust. [default: TRIMTAB_GRAFANA_CA_FILE]"),
)


def options(command: F) -> F:
    """The options that `connected` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def connected(grafana: str | None, token_file: str | None, ca_file: str | None) -> Iterator[Grafana]:
    """The Grafana of these options, or of the settings. Raises ConfigError for none, and for a file of no use."""
    from trimtab_dashboards.grafana_client import Grafana, read_token

    found = config.check(grafana=grafana, grafana_token_file=token_file, grafana_ca_file=ca_file)
    if "grafana" not in found:
        raise ConfigError("No Grafana. Give --grafana http://127.0.0.1:3000, or set TRIMTAB_GRAFANA.")
    client = Grafana(found["grafana"], read_token(found["grafana_token_file"]), ca_file=found.get("grafana_ca_file"))
    warning = tokens.warning("grafana", found["grafana"])
    if warning is not None:
        click.echo(warning, err=True)
    try:
        yield client
    finally:
        client.close()
