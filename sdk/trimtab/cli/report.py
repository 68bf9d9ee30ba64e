"""`trimtab report`: draws finished or running runs from their logs."""

from __future__ import annotations

from pathlib import Path

import click

from trimtab import config


@click.command(short_help="Draw one run, or several over each other.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="Picture to write: .png, .svg or .pdf. [default: report.png]")
@click.option("--dir", "directory", metavar="DIR", help="Where runs are kept. [default: runs]")
def report(runs: tuple[str, ...], output: str | None, directory: str | None) -> None:
    """Draw loss, accuracy, learning rate and gradients of one RUN, or of several laid over each other.

    RUN is a log, the directory of a run, or the name of a run in DIR. Without -o the picture of one run is
    written beside its log, and that of several to the working directory.
    """
    from trimtab import logs
    from trimtab.report import drawing

    place = config.check(directory=directory).get("directory", Path("runs"))
    read = [logs.read(logs.locate(run, place)) for run in logs.without_targets(runs)]
    beside = read[0].path.parent if len(read) == 1 else Path()
    file = Path(output) if output is not None else beside / "report.png"
    drawing.save(read, file)
    click.echo(file)
