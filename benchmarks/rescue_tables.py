"""The tables of the rescue benchmark, from its results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rescue_kinds import Kind
from rescue_scores import (
    Share,
    best_score,
    is_acted_on,
    is_named,
    is_raised,
    named_at,
    no_worse,
    score_of,
    share,
    tolerance,
)
from results import Figure

Results = Sequence[Mapping[str, Any]]
METHODS = {
    "unwatched": "unwatched",
    "early stopping": "EarlyStopping",
    "plateau": "ReduceLROnPlateau",
    "keep best": "keep best",
    "guard": "guard",
    "ours": "Trimtab",
    "ours, last": "... last weights",
}


@dataclass(frozen=True)
class Run:
    """One fault in one run: what each method led to, and what would have been without the fault."""

    kind: Kind
    results: Mapping[str, Mapping[str, Any]]  # by method
    reference: float
    allowed: float
    own_best: bool

    def saved(self, method: str) -> bool:
        """Whether `method` saved it."""
        score = score_of(method, self.results)
        return no_worse(score, self.reference, self.allowed, self.results["unwatched"]["measure"])

    def named(self) -> bool:
        """Whether ours named it in time."""
        bare = self.results["unwatched"] if self.kind.at_validations else None
        return is_named(self.results["ours"], self.kind.rules, bare)


def runs(results: Results, kinds: Iterable[Kind]) -> list[Run]:
    """The faulty runs of these kinds, all of whose methods are known."""
    found = []
    for kind in kinds:
        for case in kind.cases:
            here = [each for each in results if (each["kind"], each["recipe"]) == (kind.name, case.recipe.name)]
            by_seed: dict[int, dict[str, Mapping[str, Any]]] = {}
            for each in here:
                by_seed.setdefault(each["seed"], {})[each["method"]] = each
            references = {
                seed: best_score(each["unwatched"]) if case.own_best else float(each["reference"]["score"])
                for seed, each in by_seed.items()
            }
            for seed, each in by_seed.items():
                allowed = tolerance(references[seed], list(references.values()))
                found.append(Run(kind, each, references[seed], allowed, case.own_best))
    return found


def faults(found: Sequence[Run], methods: Sequence[str]) -> str:
    """Runs saved by kind and method, in per cent with intervals, and how many were named."""
    rows = [["fault", "runs", *(METHODS[method] for method in methods), *(_OURS if "ours" in methods else ())]]
    sums = [run for run in found if not run.kind.crawling]
    for kind in dict.fromkeys(run.kind for run in sums):
        title = kind.name + (" *" if kind.held_out else "")
        rows.append(_row(title, [run for run in sums if run.kind is kind], methods))
    rows.append(_row("all", sums, methods))
    held_out = [run for run in sums if run.kind.held_out]
    if held_out:
        rows.append(_row("... kinds that were tuned on", [run for run in sums if not run.kind.held_out], methods))
        rows.append(_row("... kinds that were not tuned on (*)", held_out, methods))
    rows.append(_row("... those that the guard loses", [run for run in sums if not run.saved("guard")], methods))
    return markdown(rows)


def crawling(found: Sequence[Run]) -> str:
    """Named, and raised within bounds."""
    rows = [["crawling", "runs", "named in time", "median steps", "raised, within bounds"]]
    for kind in dict.fromkeys(run.kind for run in found if run.kind.crawling):
        here = [run for run in found if run.kind is kind]
        raised = share(is_raised(run.results["ours"]) for run in here)
        rows.append([kind.name, str(len(here)), str(share(run.named() for run in here)), _delay(here), str(raised)])
    return markdown(rows)


def healthy(results: Results, methods: Sequence[str]) -> str:
    """Healthy runs that were acted on, and made worse, by kind of loop."""
    columns = [column for method in methods for column in (f"{METHODS[method]}: acted on", "made worse")]
    rows = [["healthy", "runs", *columns]]
    names = list(dict.fromkeys(each["healthy"] for each in results if each["healthy"]))
    for name in [*names, ""]:
        here = [each for each in results if each["healthy"] and each["healthy"] == (name or each["healthy"])]
        counts = [str(count(here, method)) for method in methods for count in (acted_on, made_worse)]
        rows.append([name or "all", str(sum(each["method"] == "unwatched" for each in here)), *counts])
    return markdown(rows)


def acted_on(results: Results, method: str) -> int:
    """Healthy runs on which a method did something, or ended in an error, or which are not the bare run bit for bit.

    The weights that count are those that the loop left, before any were put back.
    """
    bare = {_key(each): each for each in results if each["method"] == "unwatched"}
    return sum(is_acted_on(each) or not _same(each, bare[_key(each)]) for each in results if each["method"] == method)


def made_worse(results: Results, method: str) -> int:
    """Healthy runs whose score is worse than that of the bare run of the same seed, beyond the tolerance.

    Of the final weights, or of those that the loop left, where these are others: the worse counts.
    """
    bare = {_key(each): each for each in results if each["method"] == "unwatched"}
    worse = 0
    for each in results:
        if each["method"] == method:
            other = bare[_key(each)]
            seeds = [
                b["score"] for b in bare.values() if (b["healthy"], b["recipe"]) == (each["healthy"], each["recipe"])
            ]
            allowed = tolerance(other["score"], seeds)
            final = each.get("score", math.nan)
            ends = (final, each.get("last", final))
            worse += not all(no_worse(end, other["score"], allowed, other["measure"]) for end in ends)
    return worse


def figures(found: Sequence[Run], results: Results) -> list[Figure]:
    """What the bars are for."""
    saved = share(run.saved("ours") for run in found if not run.kind.crawling)
    left = share(run.saved("ours, last") for run in found if not run.kind.crawling)
    hard = share(run.saved("ours") for run in found if not run.kind.crawling and not run.saved("guard"))
    named = share(run.named() for run in found)
    harmed = share(run.named() for run in found if run.kind.crawling or not run.saved("unwatched"))
    planned = [run for run in found if run.kind.planned]
    planned_saved = share(run.saved("ours") for run in planned if not run.kind.crawling)
    planned_named = share(run.named() for run in planned)
    calm = [each for each in results if each["healthy"]]
    count = sum(each["method"] == "ours" for each in calm)
    enough = f"0 of {max(count, 120)}"
    acted, worse = acted_on(calm, "ours"), made_worse(calm, "ours")
    return [
        Figure("faulty runs saved", f"{saved} %", ">= 90 %", met=saved.value >= 0.9),
        Figure("... with the weights that the loop left", f"{left} %"),
        Figure("... of those that the guard loses", f"{hard} %", ">= 50 %", met=hard.value >= 0.5),
        Figure("... of the planned kinds", f"{planned_saved} %", ">= 90 %", met=planned_saved.value >= 0.9),
        Figure("faults named within 50 judged steps", f"{named} %", ">= 95 %", met=named.value >= 0.95),
        Figure("... of the planned kinds", f"{planned_named} %", ">= 95 %", met=planned_named.value >= 0.95),
        Figure("... of those that harm an unwatched run", f"{harmed} %"),
        Figure("healthy runs acted on", f"{acted} of {count}", enough, met=acted == 0 and count >= 120),
        Figure("healthy runs made worse", f"{worse} of {count}", enough, met=worse == 0 and count >= 120),
    ]


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """A table that reads well on a terminal too. The first row is the head."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)


_OURS = ("named in time", "median steps")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Bit for bit. Results that were kept from before have no score of the weights that the loop left."""
    validated = one.get("validations") == other["validations"]
    return validated and one.get("last", other["score"]) == other.get("last", other["score"])


def _row(title: str, here: Sequence[Run], methods: Sequence[str]) -> list[str]:
    shares: list[Share] = [share(run.saved(method) for run in here) for method in methods]
    cells = [title, str(len(here)), *map(str, shares)]
    return [*cells, str(share(run.named() for run in here)), _delay(here)] if "ours" in methods else cells


def _delay(here: Sequence[Run]) -> str:
    """The median number of judged steps until a fault was named, among those that were, however late."""
    steps = [at for run in here if (at := named_at(run.results["ours"], run.kind.rules)) is not None]
    return str(sorted(steps)[len(steps) // 2]) if steps else ""


_key: Callable[[Mapping[str, Any]], tuple[Any, ...]] = lambda each: (each["healthy"], each["recipe"], each["seed"])  # noqa: E731
