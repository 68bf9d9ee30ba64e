"""What a benchmark says: one figure a row, in one table, and in the README."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from paired import Estimate

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = ("figure", "bar", "measured: median [95 %]", "control", "met")
PACKAGES = ("torch", "numpy", "prometheus_client", "structlog", "msgspec", "rich", "cheroot", "tensorboard", "wandb")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `met` is None where there is no bar, or nothing was measured."""

    name: str
    measured: str
    bar: str = ""
    control: str = ""
    met: bool | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """In the order of `COLUMNS`."""
        return self.name, self.bar, self.measured, self.control, {True: "met", False: "not met", None: ""}[self.met]


@dataclass(frozen=True, slots=True)
class Unit:
    """How a quantity is written. `factor` brings it into the unit."""

    name: str
    factor: float
    digits: int

    def one(self, value: float) -> str:
        """A single value."""
        return f"{value * self.factor:.{self.digits}f} {self.name}"

    def all(self, found: Estimate) -> str:
        """Median and interval."""
        middle, low, high = (f"{v * self.factor:.{self.digits}f}" for v in (found.middle, found.low, found.high))
        return f"{middle} [{low}, {high}] {self.name}"


PERCENT = Unit("%", 100, 2)
MICROSECONDS = Unit("µs", 1e6, 1)
MILLISECONDS = Unit("ms", 1e3, 1)
TIMES = Unit("times", 1, 2)


def judged(
    name: str, found: Estimate, unit: Unit, bar: float | None = None, control: Estimate | None = None, note: str = ""
) -> Figure:
    """A figure from an estimate. The bar is met when the upper end of the interval is not above it."""
    return Figure(
        name,
        unit.all(found),
        bar=f"<= {bar * unit.factor:g} {unit.name}" if bar is not None else "",
        control=unit.all(control) if control is not None else "",
        met=found.high <= bar if bar is not None else None,
        note=note,
    )


def table(figures: Sequence[Figure]) -> str:
    """As Markdown that reads well on a terminal too, the notes below."""
    rows = [COLUMNS, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    notes = [f"- {figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, "", *notes]) if notes else "\n".join(lines)


def machine() -> str:
    """What was measured on, in one paragraph."""
    versions = ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name)))
    place = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        place += f", OMP_NUM_THREADS={threads}"
    return f"{place}; Python {platform.python_version()}, {versions}"


def load() -> str:
    """Of the machine over the last minute."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def write_readme(figures: Sequence[Figure], how: str, path: Path = README) -> None:
    """Replace what stands between the two marks.

    Raises:
        ValueError: the marks are not there.
    """
    replace(path, f"{machine()}. {how}\n\n{table(figures)}")


def replace(path: Path, measured: str) -> None:
    """Put what was measured, and the day, between the two marks of a file.

    Raises:
        ValueError: the marks are not there.
    """
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path}: expected {BEGIN} and {END}, between which the table goes. Put them back.")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    path.write_text(f"{head}{BEGIN}\nMeasured on {day}: {measured}\n{tail}", encoding="utf-8")


def dump(figures: Iterable[Figure], path: Path) -> None:
    """Write figures as JSON."""
    path.write_text(json.dumps([asdict(figure) for figure in figures]), encoding="utf-8")


def load_figures(path: Path) -> list[Figure]:
    """Read what `dump` wrote."""
    return [Figure(**each) for each in json.loads(path.read_text(encoding="utf-8"))]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
