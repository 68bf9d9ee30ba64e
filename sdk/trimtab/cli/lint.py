"""`trimtab lint`: judges finished logs, and tells which of them a rule would have caught."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from trimtab import config
from trimtab.errors import ConfigError, TrimtabError, printable

if TYPE_CHECKING:
    from trimtab.lint.findings import Finding, Judgement

T = TypeVar("T")
UNJUDGED = 2  # as of whatever cannot be done
SEVERITIES = ("info", "warning", "critical")


@click.command(short_help="Judge finished logs by the rules.")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option(
    "--rule", "rules", metavar="NAME[=THRESHOLD]", multiple=True, help="Judge by this rule only. Can be repeated."
)
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    default="info",
    help="Leave out rules of lower severity. [default: info]",
)
@click.option(
    "--column", "columns", metavar="KIND=NAME", multiple=True, help="Column of a log of another tool. Can be repeated."
)
@click.option("--dir", "directory", metavar="DIR", help="Where runs are kept. [default: runs]")
def lint(
    logs: tuple[str, ...], rules: tuple[str, ...], severity: str, columns: tuple[str, ...], directory: str | None
) -> int:
    """Judge one LOG, or several, and exit with 1 when a rule fired, with 2 when one could not be judged.

    LOG is a log, the directory of a run, or the name of a run in DIR; or a trainer_state.json of Transformers, a
    CSV file with a header, or event files of TensorBoard. KIND is step, loss, gradient_norm, learning_rate,
    validation_loss or validation_accuracy.

    --rule NAME=THRESHOLD judges again by another threshold: which old runs would that rule have caught?
    """
    from trimtab.lint.judging import judge
    from trimtab.logs import without_targets

    place = config.check(directory=directory).get("directory", Path("runs"))
    asked, named = _once("--rule", map(_rule, rules)), _once("--column", map(_column, columns))
    chosen = without_targets(logs)
    judged, unread = [], dict[str, None]()
    for log in chosen:
        try:
            judged.append(judge(log, place, asked, named))
        except TrimtabError as error:
            if len(chosen) == 1:
                raise
            unread[str(error)] = None
    for each in judged:
        each.findings = [
            found for found in each.findings if SEVERITIES.index(found.severity) >= SEVERITIES.index(severity)
        ]
    for line in _told(judged[0]) if len(chosen) == 1 else _compared(judged, asked) if judged else ():
        click.echo(printable(line))
    for text in unread:
        click.echo(f"trimtab: {printable(text)}", err=True)
    return UNJUDGED if unread else int(any(each.findings for each in judged))


def _rule(given: str) -> tuple[str, float | None]:
    name, said, text = given.partition("=")
    if not said:
        return name, None
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0 < threshold < math.inf:
        raise ConfigError(f"--rule {given}: expected a threshold over 0, as in --rule loss_spike=8.")
    return name, threshold


def _column(given: str) -> tuple[str, str]:
    kind, said, name = given.partition("=")
    if not said:
        raise ConfigError(f"--column {given}: expected KIND=NAME, as in --column loss=train_loss.")
    return kind, name


def _once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What each name was given. Raises ConfigError where that is two things."""
    said: dict[str, T] = {}
    for name, value in pairs:
        if said.setdefault(name, value) != value:
            raise ConfigError(f"{option} {name}: given twice, as two things. Give it once.")
    return said


def _told(judged: Judgement) -> list[str]:
    """One log: what fired, and what could not be judged."""
    lines = [_head(judged)]
    rows = [("RULE", "SEVERITY", "STEP", "VALUE", "THRESHOLD", "LEVEL", "EPISODES")] if judged.findings else []
    rows += [
        (_name(f), f.severity, f"{f.step:,}", f"{f.value:.4g}", f"{f.threshold:.4g}", f"{f.level:.3g}", str(f.episodes))
        for f in judged.findings
    ]
    lines += [f"  {line}" for line in _aligned(rows)] or ["  no rule fired"]
    reasons: dict[str, list[str]] = {}
    for rule, reason in judged.unjudged.items():
        reasons.setdefault(reason, []).append(rule)
    lines += [f"  not judged: {', '.join(sorted(rules))}: {reason}" for reason, rules in reasons.items()]
    return lines + [f"  {note}" for note in judged.notes]


def _compared(judged: Sequence[Judgement], asked: Iterable[str]) -> list[str]:
    """Several logs: a row for each, and then how many of them each rule caught."""
    rows = [("LOG", "LAST STEP", "STATUS", "FIRED")]
    rows += [
        (each.name, f"{each.steps:,}", each.status or each.kind, ", ".join(map(_place, each.findings)) or "-")
        for each in judged
    ]
    rules = dict.fromkeys([*asked, *(found.rule for each in judged for found in each.findings)])
    caught = [(rule, sum(any(f.rule == rule for f in each.findings) for each in judged)) for rule in rules]
    lines = [*_aligned(rows), ""]
    logs = _counted(len(judged), "log")
    lines += [f"{rule}: {count} of {logs}" for rule, count in sorted(caught, key=lambda row: -row[1])]
    lines += [] if caught else [f"no rule fired in {logs}"]
    unjudged = {rule: sum(rule in each.unjudged for each in judged) for each in judged for rule in each.unjudged}
    lines += [f"{rule}: not judged in {count}" for rule, count in sorted(unjudged.items()) if count]
    return lines


def _head(judged: Judgement) -> str:
    return ", ".join(filter(None, (f"{judged.name}: {judged.kind}", _steps(judged), judged.status)))


def _steps(judged: Judgement) -> str:
    """How many there were; of another tool's log, which may count from 0, to which one it goes."""
    return _counted(judged.steps, "step") if judged.status else f"to step {judged.steps:,}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _place(finding: Finding) -> str:
    return f"{_name(finding)} (step {finding.step:,})"


def _name(finding: Finding) -> str:
    return f"{finding.rule}[{finding.optimizer}]" if finding.optimizer not in ("", "0") else finding.rule


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
