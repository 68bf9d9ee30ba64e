"""The two sets of runs, each with a table of its own, and the jobs that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rescue_cases
import rescue_healthy
import rescue_others
from rescue_healthy import Healthy
from rescue_kinds import Kind
from rescue_loop import Fault
from rescue_recipes import Recipe


@dataclass(frozen=True)
class Set:
    """Faults and healthy loops, over so many seeds, and the page with the table about them."""

    kinds: tuple[Kind, ...]
    healthy: Callable[[], list[Healthy]]
    seeds: int
    page: Path


BARRED = Set(rescue_cases.KINDS, rescue_healthy.healthy, 5, Path(__file__).with_name("RESCUE.md"))
OTHERS = Set(rescue_others.KINDS, rescue_others.healthy, 1, Path(__file__).with_name("OTHERS.md"))


@dataclass(frozen=True)
class Job:
    """One run: what is trained, with which fault, watched by whom. `kind` is empty where there is no fault."""

    kind: str
    recipe: str
    seed: int
    method: str
    healthy: str = ""  # the kind of healthy run, where it is one


def find(job: Job) -> tuple[Recipe, Fault]:
    """The recipe and the fault of a job. No two recipes of one kind have one name."""
    if job.healthy:
        sorts = [each for runs in (BARRED, OTHERS) for each in runs.healthy() if each.name == job.healthy]
        return next(recipe for each in sorts for recipe in each.variants if recipe.name == job.recipe), Fault()
    kinds = [kind for runs in (BARRED, OTHERS) for kind in runs.kinds if kind.name == job.kind]
    case = next(case for kind in kinds for case in kind.cases if case.recipe.name == job.recipe)
    if job.method == "reference":
        return case.recipe, Fault()
    return case.faulty or case.recipe, case.fault(job.seed)
