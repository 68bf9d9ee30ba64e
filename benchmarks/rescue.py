"""How many runs that go wrong are saved, and how many healthy ones are left alone.

    python benchmarks/rescue.py [--others] [--quick] [--seeds N] [--only KIND ...] [--tuning] [--spaced] [--write]
                                [--results FILE]
    python benchmarks/rescue.py --tuning --traces DIRECTORY     what rules see, step by step, of unwatched runs

`benchmarks/RESCUE.md` says what is trained and what counts, and holds the last table that was made with `--write`;
`benchmarks/OTHERS.md` that of `--others`, models and data that nothing was tuned on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import rescue_jobs
import rescue_tables as tables
import results
from rescue_jobs import Result
from rescue_kinds import Kind
from rescue_sets import BARRED, OTHERS, Job, Set

REPORTED_SEEDS, TUNING_SEEDS = range(5), range(100, 105)
FAULTY = ("reference", "unwatched", "plateau", "guard", "ours")  # the others are read off the unwatched run
CALM = ("unwatched", "guard", "ours")


def set_of(options: argparse.Namespace) -> Set:
    """Which runs it is about."""
    return OTHERS if options.others else BARRED


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Everything that is to be trained, seed by seed."""
    chosen = set_of(options)
    seeds = list(TUNING_SEEDS if options.tuning else REPORTED_SEEDS)[: options.seeds or chosen.seeds]
    faulty, calm = (seeds[:1], seeds[:1]) if options.quick else (seeds, seeds[:2])
    methods = ("trace",) if options.traces else FAULTY
    jobs = [
        Job(kind.name, case.recipe.name, seed, method)
        for kind in chosen.kinds
        if _wanted(kind.name, options) and not (options.tuning and kind.held_out)
        for case in kind.cases
        for seed in faulty
        for method in methods
    ]
    methods = ("trace",) if options.traces else CALM[:: 2 if options.quick else 1]
    jobs += [
        Job("", recipe.name, seed, method, each.name)
        for each in chosen.healthy()
        if _wanted(each.name, options) and not (options.tuning and each.held_out)
        for recipe in each.variants[:: 2 if options.quick else 1]
        for seed in calm
        for method in methods
    ]
    return sorted(jobs, key=lambda job: (bool(job.healthy) and job.method == "guard", job.seed, not job.healthy))


def train_all(jobs: Sequence[Job], workers: int, known: Path | None) -> list[Result]:
    """Train what is not known yet; ours always anew."""
    found: dict[Job, Result] = {}
    if known is not None and known.exists():
        for line in known.read_text(encoding="utf-8").splitlines():
            result = json.loads(line)
            found[Job(**{name: result[name] for name in Job.__dataclass_fields__})] = result
    to_do = [job for job in jobs if job.method == "ours" or job not in found]
    began, done = time.monotonic(), 0

    def tell(job: Job, result: Result) -> None:
        nonlocal done
        done += 1
        found[job] = result
        if known is not None:
            with known.open("a", encoding="utf-8") as kept:  # at once: the later of two counts
                kept.write(json.dumps(result) + "\n")
        if done % 40 == 0 or done == len(to_do):
            print(f"{done} of {len(to_do)} runs, {time.monotonic() - began:.0f} s", file=sys.stderr)

    rescue_jobs.run_all(to_do, workers, tell)
    return [found[job] for job in jobs]


def report(found: Sequence[Result], kinds: Iterable[Kind]) -> str:
    """Every table."""
    faulty = [each for each in found if each["kind"]]
    calm = [each for each in found if each["healthy"]]
    runs = tables.runs(faulty, kinds)
    methods = [method for method in CALM[1:] if any(each["method"] == method for each in calm)]
    parts = []
    if runs:
        parts += [tables.faults(runs, list(tables.METHODS)), tables.crawling(runs)]
    if calm:
        parts.append(tables.healthy(calm, methods))
    parts.append(results.table(tables.figures(runs, found)))
    errors = [
        f"- {each['kind'] or each['healthy']}, {each['recipe']}: {each['error']}" for each in found if "error" in each
    ]
    return "\n\n".join([*parts, *(["Ended in an error:\n\n" + "\n".join(errors)] if errors else [])])


def write_traces(found: Sequence[Result], directory: Path) -> None:
    """One file a run."""
    directory.mkdir(parents=True, exist_ok=True)
    for result in found:
        name = f"{result['kind'] or 'healthy ' + result['healthy']}--{result['recipe']}--{result['seed']}.json"
        (directory / name.replace(" ", "_").replace(",", "")).write_text(json.dumps(result), encoding="utf-8")


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, every other healthy run")
    parser.add_argument("--others", action="store_true", help="the set of runs that nothing was tuned on")
    parser.add_argument("--seeds", metavar="N", type=int, help="the first so many seeds of each fault")
    parser.add_argument("--only", metavar="KIND", nargs="+", help="kinds of faults and healthy loops that begin so")
    parser.add_argument("--tuning", action="store_true", help="the kinds and seeds that thresholds may be tuned on")
    parser.add_argument("--spaced", action="store_true", help="ours as by default; no two runs are quite the same")
    parser.add_argument("--results", metavar="FILE", type=Path, help="keep results; do not repeat others' runs")
    parser.add_argument("--traces", metavar="DIRECTORY", type=Path, help="write down unwatched runs, and no table")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/RESCUE.md")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    options = parser.parse_args(arguments)
    if options.write and (options.only or options.tuning or options.traces or options.spaced):
        parser.error("--write takes the whole table. Leave --only, --tuning, --traces and --spaced out.")
    if options.others and options.tuning:
        parser.error("--others is what nothing is tuned on. Leave --tuning out.")
    if not jobs_of(options):
        names = ", ".join(_names(set_of(options)))
        parser.error(f"--only {' '.join(options.only)}: no kind begins so. There are: {names}.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options, began = options_of(arguments), time.monotonic()
    if options.spaced:
        os.environ[rescue_jobs.SPACED] = "1"
    found = train_all(jobs_of(options), options.workers, options.results)
    if options.traces:
        write_traces(found, options.traces)
        return
    how = f"{results.machine()}. {len(found)} runs in {(time.monotonic() - began) / 60:.0f} minutes."
    text = f"{how}\n\n{report(found, set_of(options).kinds)}"
    print(text)
    if options.write:
        results.replace(set_of(options).page, text)


def _wanted(name: str, options: argparse.Namespace) -> bool:
    return not options.only or any(name.startswith(each) for each in options.only)


def _names(chosen: Set) -> list[str]:
    return [kind.name for kind in chosen.kinds] + [each.name for each in chosen.healthy()]


if __name__ == "__main__":
    main()
