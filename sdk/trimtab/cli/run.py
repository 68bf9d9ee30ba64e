"""`trimtab run`: watches a script that knows nothing of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import click

from trimtab import config, script


class _Run(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            text = f"{error.message} Options of the script go after its name."
            raise click.NoSuchOption(error.option_name, text, error.possibilities, error.ctx) from None


@click.command(
    cls=_Run,
    context_settings={"allow_interspersed_args": False},
    short_help="Watch a script, or a module with -m, with no edit.",
    options_metavar="[OPTIONS]",
)
@click.option("-m", "is_module", is_flag=True, help="Watch a module, as python -m runs it.")
@click.option(  # torchrun takes `--run` for the beginning of an option of its own, `--run-path`
    "--run", "--run-name", "run_", metavar="NAME", help="Name of the run. [default: the script's, and the time]"
)
@click.option(
    "--backend", "backends", metavar="NAME", multiple=True, help="Where numbers go, as jsonl,console. Can be repeated."
)
@click.option("--dir", "directory", metavar="DIR", help="Where runs are kept. [default: runs]")
@click.option("--host", metavar="HOST", help="Address of /metrics. [default: 127.0.0.1]")
@click.option("--port", metavar="PORT", type=int, help="Port of /metrics. [default: 9464 or the next free one]")
@click.option(
    "--overhead", metavar="SHARE", type=float, help="Share of the time that watching may take. [default: 0.01]"
)
@click.option(
    "--gradients-every", metavar="STEPS", type=int, help="Read gradients every so many steps. [default: chosen]"
)
@click.option(
    "--layer", "layers", metavar="PATTERN", multiple=True, help="Layers to show, by parameter name. Can be repeated."
)
@click.option(
    "--act",
    type=click.Choice(["process", "alerts", "true", "false"]),
    help="Who may adjust the run: rules judged here, alerts, or both (true). [default: false, a dry run]",
)
@click.option("--alerts", metavar="URL", help="Alertmanager or Grafana to ask for alerts about this run.")
@click.option("--replay", metavar="RUN", help="Make the adjustments of RUN again, each at its own step, and no other.")
@click.option(
    "--on-halt",
    type=click.Choice(["ask", "unwind"]),
    help="Only ask the loop to stop, or in the end raise. [default: ask]",
)
@click.option("--config", "config_", metavar="FILE", help="TOML file with settings.")
@click.option("--resume", is_flag=True, default=None, help="Continue the run of that name.")
@click.argument("target", metavar="SCRIPT|-m MODULE")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
def run(is_module: bool, target: str, arguments: tuple[str, ...], **given: Any) -> Callable[[], None]:
    """Run SCRIPT, or MODULE with -m, and watch it. Whatever follows SCRIPT is passed to it. Its output, exit code and
    signals are its own; Trimtab's messages go to stderr. But the exit code is 75 where a halt unwound it (--on-halt),
    and 2 where it cannot be found or watched."""
    options = {name.rstrip("_"): value for name, value in given.items() if value is not None and value != ()}
    if "backends" in options:
        options["backends"] = [name for given in options["backends"] for name in config.listed(given)]
    if options.get("act") in ("true", "false"):
        options["act"] = options["act"] == "true"
    if not config.disabled():
        config.check(**options)
    load = functools.partial(script.load_module if is_module else script.load_file, target)
    return functools.partial(script.run, load, arguments, functools.partial(_watch, options), once_imported="torch")


def _watch(options: dict[str, Any]) -> contextlib.AbstractContextManager[object]:
    from trimtab.watching import watch

    return contextlib.nullcontext() if config.disabled() else watch(**options)
