"""The command line. One module for each command, `grafana` and `writing` for two of them; this one puts them together
and speaks of errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback

import click

from trimtab.cli.backends import backends
from trimtab.cli.dashboards import dashboards
from trimtab.cli.demo import demo
from trimtab.cli.doctor import doctor
from trimtab.cli.lint import lint
from trimtab.cli.report import report
from trimtab.cli.rules import rules
from trimtab.cli.run import run
from trimtab.cli.steer import adjust, pause, resume, stop
from trimtab.cli.targets import targets
from trimtab.errors import TrimtabError, printable


class _Program(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if not args[0].endswith(".py"):
                raise
            text = f"No such command {args[0]!r}. To watch a script: trimtab run {args[0]}"
            raise click.UsageError(text, ctx) from None


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="trimtab", message="%(prog)s %(version)s")
def trimtab() -> None:
    """Watches PyTorch training from inside: loss, accuracy, learning rate, gradients, on the terminal, in a log and
    in Prometheus."""


FAULT, UNWRITTEN = 70, 74  # EX_SOFTWARE and EX_IOERR of sysexits.h
UNREAD = 141  # as a shell says that SIGPIPE ended a program

for command in (run, report, lint, pause, resume, stop, adjust, dashboards, rules, backends, targets, doctor, demo):
    trimtab.add_command(command)


def main() -> None:
    """The program `trimtab`. Exits with 2 and one sentence when what was asked for cannot be done.

    And never with 1 for any trouble: that is what `lint` and `doctor` answer with.
    """
    try:
        outcome = trimtab.main(prog_name="trimtab", standalone_mode=False)
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except SystemExit as error:  # of click: with 1 where nobody reads any more what is said
        sys.exit(UNREAD if error.code == 1 else error.code)
    except Exception as error:
        raise SystemExit(_failed(error)) from error
    # A watched program runs here, out of reach of click, which would take Ctrl-C and EOFError for its own.
    sys.exit(outcome() if callable(outcome) else outcome)


def _failed(error: Exception) -> int:
    """Says what went wrong, where that can be written; returns the exit code."""
    if isinstance(error, TrimtabError):
        text, code = f"trimtab: {printable(str(error))}\n", 2
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text, code = "trimtab: no space is left where the output goes. Make room there, and ask again.\n", UNWRITTEN
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python writes what is left, and fails too
    else:
        text, code = "".join(traceback.format_exception(error)), FAULT
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
    return code
