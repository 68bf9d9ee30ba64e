"""One panel of a report: its curves, its scale, the names at their ends, and marks where a value was not finite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from trimtab.report.curves import Curve, Numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale: TypeAlias = Literal["positive", "signed", "rate", "share"]

INK, FAINT, GRID, ALARM = "#222222", "#737373", "#E6E6E6", "#B3002D"
LARGEST = 1e130  # on a logarithmic axis: with its margins, all that is computed of it is a float
_SMOOTH_FROM = 100  # points; fewer are drawn as they are
_SMOOTH_OVER = 30  # windows in the length of a curve
_LABEL_HEIGHT = 0.075  # of the panel


@dataclass(frozen=True, slots=True)
class Stroke:
    """A curve and how it is to be drawn. `label` stands at its end, followed by its last value if `valued`."""

    curve: Curve
    label: str
    colour: str
    valued: bool = False
    dashed: bool = False
    smooth: bool = True
    faintness: float = 1.0  # of what lies behind the curve


def draw(axes: Axes, title: str, scale: Scale, strokes: list[Stroke]) -> None:
    """Draw `strokes` into `axes`. Without any it says that the log has none."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=9)
    _dress(axes)
    if not strokes:
        axes.text(0.5, 0.5, "not in this log", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_yticks([])
        return
    _set_scale(axes, scale, [stroke.curve for stroke in strokes])
    ends = [_draw_stroke(axes, stroke) for stroke in strokes]
    _set_limits(axes, scale, [stroke.curve for stroke in strokes])
    _mark_nonfinite(axes, strokes)
    _label_ends(axes, strokes, ends, share if scale == "share" else number)


def _draw_stroke(axes: Axes, stroke: Stroke) -> float:
    """Draw the curve, its extremes, and its running mean where it is long. Returns where it ends."""
    curve = stroke.curve.thinned()
    style: dict[str, Any] = {"color": stroke.colour, "linestyle": (0, (4, 1.6)) if stroke.dashed else "-"}
    if np.any(curve.low < curve.high):
        alpha = 0.16 * stroke.faintness
        axes.fill_between(curve.steps, curve.low, curve.high, color=stroke.colour, alpha=alpha, linewidth=0)
    bold: Numbers = curve.values
    if stroke.smooth and len(curve.steps) >= _SMOOTH_FROM:
        axes.plot(curve.steps, curve.values, color=stroke.colour, linewidth=0.7, alpha=0.35 * stroke.faintness)
        bold = curve.smoothed(max(3, len(curve.steps) // _SMOOTH_OVER), geometric=axes.get_yscale() == "log")
    marker = "o" if len(curve.steps) <= _SMOOTH_FROM // 2 else ""
    axes.plot(curve.steps, bold, linewidth=1.8, marker=marker, markersize=3.2, solid_capstyle="round", **style)
    known = bold[np.isfinite(bold)]
    return float(known[-1]) if len(known) else float("nan")


def _set_scale(axes: Axes, scale: Scale, curves: list[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

    known = [curve.values[np.isfinite(curve.values)] for curve in curves]
    blank = 0.0
    if scale == "signed":
        axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0.5)
        ordinary = float(np.median(np.abs(np.concatenate(known)))) if any(map(len, known)) else 0.0
        if ordinary > 0.0 and max(np.abs(values).max(initial=0.0) for values in known) > 1000.0 * ordinary:
            axes.set_yscale("symlog", linthresh=10.0 * ordinary)
            blank = 10.0 * ordinary  # where the axis is linear, labels would lie upon each other
            locator = SymmetricalLogLocator(base=10.0, linthresh=blank)
            locator.set_params(numticks=7)
            axes.yaxis.set_major_locator(locator)
    elif scale != "share" and all(map(_fits_decades, curves)):
        if any(_spans_decades(values, middle=scale == "rate") for values in known):
            axes.set_yscale("log")
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    write = share if scale == "share" else number
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "" if 0.0 < abs(value) <= blank else write(value)))


def _set_limits(axes: Axes, scale: Scale, curves: list[Curve]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    values = np.concatenate([curve.values for curve in curves])
    values = values[np.isfinite(values)]
    low, high = axes.get_ylim()
    if len(values) == 0:
        return
    if scale == "share":
        axes.set_ylim(min(0.95, values.min()) - 0.02, 1.02)
    elif axes.get_yscale() == "log":
        # A schedule that ends in 1e-12 leaves through the floor, or it would press all else against the ceiling.
        low = max(low, float(np.quantile(values, 0.02)) / 10.0)
        axes.set_ylim(low, high)
        subs = (1.0,) if high / low > 300.0 else (1.0, 3.0) if high / low > 20.0 else (1.0, 2.0, 3.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
    elif scale != "signed" and values.min() >= 0.0:
        axes.set_ylim(0.0, max(high, 1.06 * float(values.max())) or 1.0)


def number(value: float) -> str:
    """Three digits, as a reader would write them: 0.0021, 1,500, 3·10⁻⁵ (in matplotlib's mathematical text)."""
    if value == 0.0 or 1e-3 <= abs(value) < 1e4:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return text.replace("-", "\N{MINUS SIGN}")
    digits, exponent = f"{value:.2e}".split("e")
    digits = digits.rstrip("0").rstrip(".")
    factor = {"1": "", "-1": "-"}.get(digits, f"{digits}{{\\cdot}}")
    return f"${factor}10^{{{int(exponent)}}}$"


def share(value: float) -> str:
    """A fraction in percent, to three digits."""
    return f"{100 * value:.3g} %"


def _fits_decades(curve: Curve) -> bool:
    """Whether a logarithmic axis can hold it: nothing below zero, nothing at the ends of what a float can be."""
    reaches = np.concatenate([curve.low, curve.high])
    reaches = reaches[np.isfinite(reaches) & (reaches != 0.0)]
    return len(reaches) == 0 or bool(reaches.min() >= 1.0 / LARGEST and reaches.max() <= LARGEST)


def _spans_decades(values: Numbers, *, middle: bool) -> bool:
    """Whether a logarithmic axis serves better. `middle` judges by the middle half of the values alone: a schedule
    that ends near zero is no reason to bend its shape, one that falls in steps of ten is."""
    if len(values) == 0 or values.min() <= 0.0:
        return False
    low, high = np.quantile(values, (0.25, 0.75) if middle else (0.02, 0.98))
    return bool(high / low >= (8.0 if middle else 25.0))


def _mark_nonfinite(axes: Axes, strokes: list[Stroke]) -> None:
    """A cross on the axis for each value that was NaN or Inf, and how many there were."""
    marks = np.unique(np.concatenate([stroke.curve.nonfinite for stroke in strokes]))
    if len(marks) == 0:
        return
    axes.plot(
        marks, np.zeros(len(marks)), transform=axes.get_xaxis_transform(), linestyle="", marker="X", markersize=7,
        color=ALARM, markeredgewidth=0, clip_on=False, zorder=5,
    )  # fmt: skip
    text = f"NaN or Inf at step {marks[0]:,.0f}" if len(marks) == 1 else f"NaN or Inf in {len(marks):,} records"
    axes.text(0.995, 1.02, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=ALARM)


def _label_ends(axes: Axes, strokes: list[Stroke], ends: list[float], write: Callable[[float], str]) -> None:
    """The name of each curve beside its end, moved apart where they would lie upon each other."""
    to_panel = axes.transData + axes.transAxes.inverted()
    named = [(end, stroke) for end, stroke in zip(ends, strokes, strict=True) if stroke.label and np.isfinite(end)]
    named.sort(key=lambda item: item[0])
    wanted = [float(to_panel.transform((axes.get_xlim()[1], end))[1]) for end, _ in named]
    for height, (end, stroke) in zip(_apart(wanted), named, strict=True):
        label = f"{stroke.label} {write(end)}" if stroke.valued else stroke.label
        axes.text(
            1.015, height, label, transform=axes.transAxes, va="center", fontsize=9, color=stroke.colour,
            fontweight="bold",
        )  # fmt: skip


def _apart(wanted: list[float]) -> list[float]:
    """Ascending heights near the wanted ones, within the panel, no two closer than a line of text."""
    heights: list[float] = []
    for height in wanted:
        heights.append(max(height, heights[-1] + _LABEL_HEIGHT) if heights else max(height, 0.02))
    ceiling = 0.98 + _LABEL_HEIGHT
    for place in reversed(range(len(heights))):
        heights[place] = ceiling = min(heights[place], ceiling - _LABEL_HEIGHT)
    return heights


def _dress(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(axis="both", which="both", colors=FAINT, labelsize=9, length=0)
    axes.tick_params(axis="x", length=3)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
