"""`trimtab demo`: a real training to look at, of some ten seconds."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import click

from trimtab import config, names
from trimtab.errors import ConfigError, TrimtabError


@click.command(short_help="Train on real images for some seconds, watched.")
@click.option("--serve", is_flag=True, help="Keep /metrics up after the training, until Ctrl-C.")
def demo(serve: bool) -> None:
    """Train a small convolutional network on scikit-learn's handwritten digits, watched, and draw a report.

    Settings come from the environment, as for any run: TRIMTAB_DIR, TRIMTAB_PORT and so on.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise TrimtabError("the demo needs scikit-learn, which is not installed. Run: pip install 'trimtab[demo]'")
    name = os.environ.setdefault("TRIMTAB_RUN", names.fresh("demo"))
    if serve:
        os.environ["TRIMTAB_LINGER"] = "inf"
    directory: Path = config.check().get("directory", Path("runs")) / name

    from trimtab.demo import train

    try:
        train(at_the_end=_say_that_it_stays if serve else None)
    except KeyboardInterrupt:  # just before the serving, which it would have ended
        if not serve:
            raise
    _say_what_to_look_at(directory)


def _say_that_it_stays() -> None:
    """The run is about to end as completed, and lingers."""
    click.echo("The training is over; its metrics stay up until you press Ctrl-C.", err=True)


def _say_what_to_look_at(directory: Path) -> None:
    from trimtab import logs
    from trimtab.report import drawing

    try:
        log = logs.locate(directory, directory.parent)
    except ConfigError:
        click.echo("log       none: it takes the backend jsonl, and a run that is watched")
        return
    click.echo(f"log       {log}")
    if importlib.util.find_spec("matplotlib") is None:
        click.echo(f"picture   pip install 'trimtab[report]', then trimtab report {directory}")
    else:
        picture = directory / "report.png"
        drawing.save([logs.read(log)], picture)
        click.echo(f"picture   {picture}")
        click.echo(f"again     trimtab report {directory}")
    click.echo("metrics   trimtab demo --serve, then curl the address that it prints")
