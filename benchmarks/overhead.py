"""Every figure of the overhead budget, in one table.

    python benchmarks/overhead.py [--quick] [--only PART ...] [--write]

Each part runs in a process of its own, one after the other. `benchmarks/README.md` says how it is measured, and holds
the last table that was measured with `--write`. Under 15 minutes; with `--quick` under 3, with wider intervals.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results
from results import Figure

# Part to module, function, and arguments before `quick`. Modules are imported in the part's own process.
PARTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "default-mlp": ("training", "default", ("mlp",)),
    "default-cnn": ("training", "default", ("cnn",)),
    "default-gpt": ("training", "default", ("gpt",)),
    "default-terminal": ("training", "default_on_terminal", ("mlp",)),
    "default-processes": ("processes", "measure", ()),
    "every-mlp": ("training", "every", ("mlp",)),
    "every-cnn": ("training", "every", ("cnn",)),
    "every-gpt": ("training", "every", ("gpt",)),
    "unsampled": ("training", "unsampled", ()),
    "gradients": ("training", "statistics_of_gpt", ()),
    "compiled": ("compiled", "measure", ()),
    "import": ("imports", "measure", ()),
    "memory": ("memory", "measure", ()),
    "scrape": ("scrapes", "measure", ()),
    "peers": ("peers", "measure", ()),
}


def chosen(names: list[str] | None) -> list[str]:
    """The parts that begin with one of `names`, in their order; every part where there is none.

    Raises:
        SystemExit: a name that is the beginning of no part.
    """
    for name in names or ():
        if not any(part.startswith(name) for part in PARTS):
            raise SystemExit(f"--only {name}: expected the beginning of one of {', '.join(PARTS)}.")
    return [part for part in PARTS if not names or any(part.startswith(name) for name in names)]


def measure(part: str, quick: bool) -> list[Figure]:
    """One part, in this process."""
    module, function, arguments = PARTS[part]
    found: list[Figure] = getattr(importlib.import_module(module), function)(*arguments, quick)
    return found


def measure_apart(part: str, quick: bool) -> list[Figure]:
    """One part, in a process of its own; what it prints is not shown unless it fails."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "figures.json"
        command = [sys.executable, __file__, "--only", part, "--json", str(file), *(["--quick"] if quick else [])]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
        ended = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ended.returncode:
            last = ended.stdout.strip().splitlines()[-1:] or ["no output"]
            return [Figure(part, "failed", met=False, note=last[0])]
        return results.load_figures(file)


def measure_all(parts: list[str], quick: bool) -> list[Figure]:
    """Every part in turn, with a word on stderr about each."""
    figures: list[Figure] = []
    for part in parts:
        started = time.monotonic()
        print(f"{part} ...", end="", flush=True, file=sys.stderr)
        figures += measure_apart(part, quick)
        print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under three minutes, with wider intervals")
    parser.add_argument("--only", metavar="PART", nargs="+", help=f"parts that begin so: {', '.join(PARTS)}")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write takes the whole table. Leave --only out.")
    parts = chosen(options.only)
    load = results.load()
    figures = measure(parts[0], options.quick) if len(parts) == 1 else measure_all(parts, options.quick)
    how = f"Load before it began: {load}, at the end, its own included: {results.load()}."
    if options.quick:
        how += " With `--quick`: intervals are wide."
    print(f"{results.machine()}. {how}\n\n{results.table(figures)}")
    if options.json:
        results.dump(figures, options.json)
    if options.write:
        results.write_readme(figures, how)


if __name__ == "__main__":
    main()
