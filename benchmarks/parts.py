"""A benchmark in parts: each runs in a process of its own, one after the other, and gives figures for one table."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import results
from results import Figure

Part = tuple[str, str, tuple[str, ...]]  # module, function, and arguments before `quick`


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one script, by name. Modules are imported in the part's own process."""

    script: Path
    parts: Mapping[str, Part]

    def chosen(self, names: list[str] | None) -> list[str]:
        """The parts that begin with one of `names`, in their order; every part where there is none.

        Raises:
            SystemExit: a name that is the beginning of no part.
        """
        for name in names or ():
            if not any(part.startswith(name) for part in self.parts):
                raise SystemExit(f"--only {name}: expected the beginning of one of {', '.join(self.parts)}.")
        return [part for part in self.parts if not names or any(part.startswith(name) for name in names)]

    def measure(self, part: str, quick: bool) -> list[Figure]:
        """One part, in this process."""
        module, function, arguments = self.parts[part]
        found: list[Figure] = getattr(importlib.import_module(module), function)(*arguments, quick)
        return found

    def measure_apart(self, part: str, quick: bool) -> list[Figure]:
        """One part, in a process of its own; what it prints is not shown unless it fails."""
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "figures.json"
            asked = ["--only", part, "--json", str(file), *(["--quick"] if quick else [])]
            environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
            command = [sys.executable, str(self.script), *asked]
            ended = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if ended.returncode:
                last = ended.stdout.strip().splitlines()[-1:] or ["no output"]
                return [Figure(part, "failed", met=False, note=last[0])]
            return results.load_figures(file)

    def measure_all(self, parts: list[str], quick: bool) -> list[Figure]:
        """Every part in turn, with a word on stderr about each."""
        figures: list[Figure] = []
        for part in parts:
            started = time.monotonic()
            print(f"{part} ...", end="", flush=True, file=sys.stderr)
            figures += self.measure_apart(part, quick)
            print(f" {time.monotonic() - started:.0f} s", file=sys.stderr)
        return figures

    def main(self, description: str, page: Path, with_what: Callable[[], str] = str) -> None:
        """The command line. `page` takes the table with `--write`; `with_what` names servers and their versions."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="sooner, with wider intervals or fewer trials")
        parser.add_argument("--only", metavar="PART", nargs="+", help=f"parts that begin so: {', '.join(self.parts)}")
        parser.add_argument("--write", action="store_true", help=f"put the table into benchmarks/{page.name}")
        parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
        options = parser.parse_args()
        if options.write and options.only:
            parser.error("--write takes the whole table. Leave --only out.")
        parts, load = self.chosen(options.only), results.load()
        measure = self.measure_all if len(parts) > 1 else lambda parts, quick: self.measure(parts[0], quick)
        figures = measure(parts, options.quick)
        how = f"{with_what()}Load before it began: {load}, at the end, its own included: {results.load()}."
        if options.quick:
            how += " With `--quick`: intervals are wide."
        print(f"{results.machine()}. {how}\n\n{results.table(figures)}")
        if options.json:
            results.dump(figures, options.json)
        if options.write:
            results.write_readme(figures, how, page)
