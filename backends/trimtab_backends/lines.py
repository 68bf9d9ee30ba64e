"""What the console says, as lines of styled pieces: no terminal is known here.

Numbers have four significant digits; what is not finite stands out. Text that came from outside is stripped of
control characters, which could otherwise move the cursor or hide a line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from trimtab.errors import printable, shortened
from trimtab.guard import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trimtab.types import (
        Adjustment,
        Alert,
        Epoch,
        Health,
        Metric,
        Notice,
        PhaseSummary,
        RunEnd,
        RunInfo,
        RunStart,
    )
    from trimtab_backends.progress import Progress

Piece: TypeAlias = "tuple[str, str]"  # text and its style, in the words of rich
Line: TypeAlias = "list[Piece]"

ALARM = "bold red"
DIM = "dim"
NAME: Piece = ("trimtab", "bold cyan")
SPARKS = "▁▂▃▄▅▆▇█"
MIN_SPARKS = 4
BAR_CELLS = 16
SAME = 1e-3  # relative: what four digits hardly show
WORDS = {"jsonl": "log", "prometheus": "metrics"}


def start(event: RunStart, run: RunInfo) -> Line:
    line = [NAME, *_item("run", (run.run, "bold"))]
    for backend, address in event.addresses.items():
        line += _item(WORDS.get(backend, backend), (printable(address), ""))
    return line


def epoch(event: Epoch, progress: Progress, before: int = 0) -> Line:
    """One ended epoch. `before` counts the ones just before it that got no line of their own."""
    line = [NAME, *_item("epoch", (str(event.epoch), "bold"))]
    for phase, summary in (("train", event.train), ("validation", event.validation)):
        line += _phase(phase, summary)
    line += [*_rates(progress.rates_in(event.epoch), progress.norms_in(event.epoch)), *_times(progress)]
    return [*line, (f"  (and {before} epochs before it)", DIM)] if before else line


def step(progress: Progress) -> Line:
    """Where training stands, for a run whose epochs are long or unknown."""
    loss = _item("loss", *_values(progress.loss.values()))
    return [NAME, *_item("step", (str(progress.step), "bold")), *loss, *_newest(progress), *_times(progress)]


def live(progress: Progress, columns: int, *, ascii: bool = False) -> Line:
    """The line that is drawn again each second. Where the columns do not suffice, the sparkline gives way first."""
    where = _where(progress, ascii)
    values = [*_item("loss", *_values(progress.loss.values())), *_newest(progress)]
    if progress.steps_per_second is not None:
        values += [("  ", ""), number(progress.steps_per_second), (" step/s", DIM)]
    if progress.seconds_to_go is not None:
        values += [("  ", ""), (clock(progress.seconds_to_go), ""), (" left", DIM)]
    room = columns - sum(len(text) for text, _ in where + values) - 2
    sparks = [] if ascii or room < MIN_SPARKS else list(progress.losses)[-room:]
    return [*where, *_sparkline(sparks), *values]


def metric(event: Metric, before: int = 0) -> Line:
    """What the user logged. `before` counts the events of the same names that got no line of their own."""
    line = [NAME, *_item("step", (str(event.step), "bold"))]
    if event.phase:
        line += [(f"  {printable(event.phase)}", DIM)]
    for name, value in event.values.items():
        line += _item(printable(name), number(value))
    return [*line, (f"  (and {before} before it)", DIM)] if before else line


def notice(event: Notice) -> Line:
    return [NAME, (f"  {printable(event.text)}", "yellow")]


def alert(event: Alert) -> Line:
    """A rule that began to fire, or ceased to."""
    firing = event.state == "firing"
    style = ALARM if event.severity == "critical" else "bold yellow"
    word = (event.severity.upper(), style) if firing else ("resolved", "green")
    if event.source != "process":  # what a server says is told apart from what is judged here
        word = (event.source, "bold yellow" if event.outcome == "accepted" else DIM)
    line = [NAME, *_item("step", (str(event.step), "bold")), ("  ", ""), word, (f" {printable(event.rule)}", "bold")]
    if event.optimizer not in ("", "0"):
        line += _item("optimizer", (printable(event.optimizer), ""))
    if event.source != "process":
        line += [("  ", ""), (printable((event.outcome or "").replace("_", " ")), DIM)]
    if firing and event.value is not None and event.threshold is not None:
        line += [("  ", ""), number(event.value), (", threshold ", DIM), number(event.threshold)]
    return line


def adjustment(event: Adjustment) -> Line:
    """What a policy or a person did to the run, or would have done."""
    style = {"applied": "bold magenta", "dry_run": "magenta"}.get(event.outcome, "yellow")
    line = [NAME, *_item("step", (str(event.step), "bold")), ("  ", ""), (event.outcome.replace("_", " "), style)]
    line += [(f" {printable(event.action)}", "bold")]
    for name in event.after:
        before = event.before.get(name)
        arrow = [] if before is None else [_value(before), (" -> ", DIM)]
        line += _item(printable(name), *arrow, _value(event.after[name]))
    if event.rule and not event.reason.startswith(event.rule):
        line += _item("for", (printable(event.rule), ""))
    return [*line, ("  ", ""), (printable(event.reason), DIM)] if event.reason else line


def end(event: RunEnd, health: Health | None, addresses: Mapping[str, str]) -> Line:
    status = (f"  {event.status}", "bold green" if event.status == "completed" else ALARM)
    line = [NAME, status, (f" after {event.step} steps in {duration(event.seconds)}", "")]
    if event.error:
        line += [("  ", ""), (printable(shortened(event.error)), ALARM)]  # the log has all of it
    if health is not None:
        spent = (f"{duration(health.overhead_seconds)}, ", "")  # of a short run most is spent once, as it begins
        line += _item("overhead", spent, *_percent(health.overhead_ratio))
        for backend, reasons in health.dropped.items():
            lost = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            line += _item("lost", (f"{printable(backend)} {lost}", ALARM))
    return [*line, *_item("log", (printable(addresses["jsonl"]), ""))] if "jsonl" in addresses else line


def number(value: Any) -> Piece:
    """Four significant digits; NaN and Inf in the style of an alarm."""
    value = float(value)
    if math.isnan(value):
        return "NaN", ALARM
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf", ALARM
    return f"{value:.4g}", ""


def _value(value: Any) -> Piece:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(each)[0] for each in value) + "]", ""
    return printable(text_of(value)), ""


def duration(seconds: float) -> str:
    """For example 7.012 ms, 42.1 s, 1:02:03."""
    if seconds < 1:
        return f"{seconds * 1000:.4g} ms"
    return f"{seconds:.4g} s" if seconds < 100 else clock(seconds)


def clock(seconds: float) -> str:
    """For example 0:07, 12:34, 1:02:03."""
    if not math.isfinite(seconds):
        return number(seconds)[0]
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _item(name: str, *pieces: Piece) -> Line:
    return [(f"  {name} ", DIM), *pieces] if pieces else []


def _values(values: Iterable[float]) -> Line:
    """One number an optimizer, with a stroke between."""
    line: Line = []
    for value in values:
        line += [(" / ", DIM)] * bool(line) + [number(value)]
    return line


def _percent(share: float) -> Line:
    return [number(100 * share), ("%", DIM)]


def _phase(phase: str, summary: PhaseSummary | None) -> Line:
    if summary is None:
        return []
    line: Line = [(f"  {phase}", DIM)]
    if summary.loss is not None:
        line += [(" loss ", DIM), number(summary.loss)]
        criterion = summary.criterion  # is worth a number where the objective has more terms, or is a sum
        if criterion is not None and abs(summary.loss - criterion) > SAME * abs(criterion):
            line += [(" criterion ", DIM), number(criterion)]
    if summary.accuracy is not None:
        line += [(" accuracy ", DIM), *_percent(summary.accuracy)]
        if summary.accuracy_samples is not None:  # not of all: it was taken on some batches only
            line += [(f" of {summary.accuracy_samples}", DIM)]
    return line


def _newest(progress: Progress) -> Line:
    return _rates(progress.learning_rate, progress.gradient_norm)


def _rates(rates: Mapping[str, Sequence[float | None]], norms: Mapping[str, float]) -> Line:
    each = [list(dict.fromkeys(v for v in values if v is not None)) for values in rates.values()]
    return _item("lr", *_values(rate for some in each for rate in some)) + _item("|g|", *_values(norms.values()))


def _times(progress: Progress) -> Line:
    line: Line = []
    if progress.step_seconds is not None:
        line += _item("step", (duration(progress.step_seconds), ""))
    if progress.wait_share is not None:
        line += _item("wait", *_percent(progress.wait_share))
    return line


def _where(progress: Progress, ascii: bool) -> Line:
    line: Line = [("epoch ", DIM), (str(progress.epoch), "bold")] if progress.epoch else []
    if not progress.batches or progress.batch is None:
        return [*line, ("  step " if line else "step ", DIM), (str(progress.step), "bold")]
    done = min(BAR_CELLS, BAR_CELLS * progress.batch // progress.batches)
    full, empty = ("#", "-") if ascii else ("━", "━")
    bar: Line = [(full * done, "cyan"), (empty * (BAR_CELLS - done), "bright_black")]
    return [*line, ("  " if line else "", ""), *bar, (f" {progress.batch}/{progress.batches}", "")]


def _sparkline(losses: Sequence[float]) -> Line:
    """A column a value, the highest for the largest; a cross for what is not finite."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    height = high / 2 - low / 2 or 1.0  # the whole may be more than a float holds
    columns = [
        (SPARKS[round((loss / 2 - low / 2) / height * (len(SPARKS) - 1))], "magenta")
        if math.isfinite(loss)
        else ("×", ALARM)
        for loss in losses
    ]
    return [("  ", ""), *columns] if columns else []
