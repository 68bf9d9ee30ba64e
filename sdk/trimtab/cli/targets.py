"""`trimtab targets`: the files by which Prometheus finds runs, and which of them nobody stands behind any more."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import click

from trimtab import config, discovery
from trimtab.errors import ConfigError, printable

_DIRECTORY = click.option(
    "--targets", "given", metavar="DIR", help="Directory of the files. [default: TRIMTAB_TARGETS_DIR, or runs/targets]"
)


@click.group(short_help="List runs that Prometheus can find, or clean up after dead ones.")
def targets() -> None:
    """A run that serves metrics leaves a file by which Prometheus finds it. A process that was killed cannot remove
    its own."""


@targets.command("list")
@_DIRECTORY
def list_(given: str | None) -> None:
    """List the files and their states: alive; dead (the process was killed); elsewhere (another machine, scraped within
    the last hour); silent (another machine, not scraped for an hour)."""
    rows = [("RUN", "RANK", "ADDRESS", "HOST", "PID", "SEEN", "STATE"), *_rows(_directory(given))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@targets.command()
@_DIRECTORY
@click.option("--silent", is_flag=True, help="Also remove those of other machines that were not scraped for an hour.")
def clean(given: str | None, silent: bool) -> None:
    """Remove the files of dead processes. Those of other machines are left alone, unless --silent is given."""
    unwanted = ("dead", "silent") if silent else ("dead",)
    for found in discovery.read(_directory(given)):
        if found.target is not None and found.target.state(platform.node(), found.age_s) in unwanted:
            try:
                found.path.unlink(missing_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"{found.path}: cannot be removed ({error.strerror}). Remove it as its owner."
                ) from error
            click.echo(printable(f"removed {found.path}  {found.target.run} rank {found.target.rank}"))


def _rows(directory: Path) -> Iterator[tuple[str, ...]]:
    for found in discovery.read(directory):
        target = found.target
        if target is None:
            yield printable(found.path.name), "", "", "", "", "", "not a file of ours"
            continue
        state = target.state(platform.node(), found.age_s)
        seen = f"{found.age_s / 60:.0f} min ago"
        yield target.run, str(target.rank), target.address, target.host, str(target.pid), seen, state


def _directory(given: str | None) -> Path:
    """The directory of target files. Raises ConfigError where one was named that is not there."""
    settings = config.check(targets=given)
    asked: Path | None = settings.get("targets")
    if asked is not None and not os.path.lexists(asked):
        raise ConfigError(f"targets={str(asked)!r}: no such directory. Runs make it when they start to serve metrics.")
    folder = discovery.folder(asked, settings.get("directory", Path("runs")))
    try:
        with os.scandir(folder):
            return folder
    except FileNotFoundError:
        return folder
    except OSError as error:
        raise ConfigError(f"targets={str(folder)!r}: {error.strerror}. Give a directory that can be read.") from error
