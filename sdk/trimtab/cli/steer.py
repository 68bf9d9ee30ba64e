"""`trimtab pause`, `resume`, `stop` and `adjust`: a person steers a run that is going on."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trimtab import config
from trimtab.errors import ConfigError, printable

if TYPE_CHECKING:
    from trimtab.actions import Action
    from trimtab.directory import Written
    from trimtab.steering.control import Answer, Kind

F = TypeVar("F", bound=Callable[..., Any])

INTERVAL_S = 0.1
NOT_DONE, NOT_YET = 1, 3  # exit codes
UNBOUNDED = 1e6  # of a scale: a person may go as far as they like


def _of_a_run(command: F) -> F:
    for decorate in (
        click.option(
            "--wait",
            metavar="SECONDS",
            type=float,
            default=5.0,
            help="How long to wait for the run's answer; without one the exit code is 3. [default: 5]",
        ),
        click.option("--dir", "directory", metavar="DIR", help="Where runs are kept. [default: runs]"),
        click.argument("run", metavar="RUN"),
    ):
        command = decorate(command)
    return command


@click.command(short_help="Keep policies from adjusting a run.")
@_of_a_run
def pause(run: str, directory: str | None, wait: float) -> int:
    """Keep every policy of RUN from adjusting anything, until `trimtab resume`. Training goes on, and is watched."""
    return _ask(run, directory, wait, "pause")


@click.command(short_help="Let policies adjust a run again.")
@_of_a_run
def resume(run: str, directory: str | None, wait: float) -> int:
    """Let the policies of RUN adjust it again, after `trimtab pause`."""
    return _ask(run, directory, wait, "resume")


@click.command(short_help="Save the state of a run, and ask it to stop.")
@click.option("--restore-best", is_flag=True, help="Put the best weights back before it stops; needs --act.")
@_of_a_run
def stop(run: str, directory: str | None, wait: float, restore_best: bool) -> int:
    """Save the last state of RUN, and the best one where it is kept, and ask its loop to stop. In a search the next
    training goes on."""
    from trimtab.actions import Halt

    return _ask(run, directory, wait, "stop", [Halt("a person asked for it", restore_best=restore_best)])


@click.command(short_help="Change a run while it goes on.")
@click.option("--scale-lr", metavar="FACTOR", type=float, help="Multiply the learning rate, around its schedule.")
@click.option("--scale-weight-decay", metavar="FACTOR", type=float, help="Multiply the weight decay.")
@click.option(
    "--weight-decay-floor", metavar="DECAY", type=float, help="Where a decay of 0 begins, with --scale-weight-decay."
)
@click.option("--dropout", metavar="RATIO", type=float, help="Set every dropout module to this ratio.")
@click.option("--clip", metavar="NORM", type=float, help="Clip gradients to this norm, from now on.")
@click.option("--roll-back", is_flag=True, help="Go back to the newest good snapshot, before the other changes.")
@_of_a_run
def adjust(run: str, directory: str | None, wait: float, **wanted: Any) -> int:
    """Change RUN at the end of its next step. The change lasts; policies do not take it back."""
    actions = _actions(**wanted)
    if not actions:
        raise click.UsageError("Nothing to adjust. Give one option at least, such as --scale-lr 0.5.")
    return _ask(run, directory, wait, "adjust", actions)


def _actions(
    scale_lr: float | None,
    scale_weight_decay: float | None,
    weight_decay_floor: float | None,
    dropout: float | None,
    clip: float | None,
    roll_back: bool,
) -> list[Action]:
    from trimtab.actions import (
        FOR_GOOD,
        ClipGradients,
        RollBack,
        ScaleLearningRate,
        ScaleWeightDecay,
        SetDropout,
    )

    if weight_decay_floor is not None and scale_weight_decay is None:
        raise click.UsageError("--weight-decay-floor: needs --scale-weight-decay FACTOR, whose least it is.")
    actions: list[Action] = [RollBack()] if roll_back else []
    if scale_lr is not None:
        actions.append(ScaleLearningRate(scale_lr, floor=0.0, ceiling=UNBOUNDED))
    if scale_weight_decay is not None:
        actions.append(ScaleWeightDecay(scale_weight_decay, floor=weight_decay_floor or 0.0, ceiling=UNBOUNDED))
    if dropout is not None:
        actions.append(SetDropout(dropout, lower=True))
    if clip is not None:
        actions.append(ClipGradients(clip, steps=FOR_GOOD))
    return actions


def _ask(run: str, directory: str | None, wait: float, kind: Kind, actions: Sequence[Action] = ()) -> int:
    from trimtab.steering import control

    if not 0 <= wait < math.inf:
        raise click.UsageError(f"--wait {wait:g}: expected a number of seconds, 0 or more, such as 5.")
    place = _locate(run, config.check(directory=directory).get("directory", Path("runs")))
    written = _written(place)
    over = _why_over(written)
    if over is not None:
        raise ConfigError(f"{place.name} {over}. There is nothing to {kind}.")
    id = control.send(place, written.run_id, kind, actions)
    answer, over = _wait(place, id, wait)
    if answer is not None:
        return _tell(kind, answer)
    if over is not None and control.withdraw(place, id):
        raise ConfigError(f"{place.name} {over} before it took this up. The command was withdrawn.")
    click.echo(
        f"{kind}: sent, but not taken up within {wait:g} s. The run does it at the end of its next step.", err=True
    )
    return NOT_YET


def _wait(place: Path, id: str, wait_s: float) -> tuple[Answer | None, str | None]:
    """The run's answer, or why there will be none; neither when it takes longer."""
    from trimtab.steering import control

    deadline = time.monotonic() + wait_s
    while True:
        over = _why_over(_written(place))  # before the answer is looked for: the last thing a run does may be to answer
        answer = control.answer(place, id)
        if answer is not None or over is not None or time.monotonic() >= deadline:
            return answer, over
        time.sleep(INTERVAL_S)


def _tell(kind: str, answer: Answer) -> int:
    done = answer.outcome == "applied"
    at = f" at step {answer.step}" if answer.step else ""
    click.echo(printable(f"{kind}: {answer.outcome}{at}{': ' if answer.text else ''}{answer.text}"), err=not done)
    return 0 if done else NOT_DONE


def _locate(run: str, directory: Path) -> Path:
    from trimtab import logs

    try:
        for place in (Path(run), directory / run):
            if (place / "run.json").is_file():
                return place
    except OSError as error:
        raise ConfigError(f"{run}: {error.strerror}. Give the directory of a run of yours, or its name.") from error
    hint = logs.nearest_run(run, directory, "run.json") or f"{directory} holds no runs; give --dir."
    raise ConfigError(f"{run}: neither the directory of a run nor the name of one in {directory}. {hint}")


def _written(place: Path) -> Written:
    """What `run.json` says. Raises ConfigError when it says nothing."""
    from trimtab import directory

    try:
        return directory.read(place)
    except (OSError, ValueError) as error:
        file = place / directory.FILE
        raise ConfigError(f"{file} cannot be read. Give the directory of a run, or its name.") from error


def _why_over(run: Written) -> str | None:
    """Why a run takes no commands any more, where that can be told from here."""
    if run.status != "running":
        return f"has ended ({run.status})"
    if run.facts.is_alive(platform.node()) is False:
        return f"has died: its process {run.facts.pid} is gone"
    return None
