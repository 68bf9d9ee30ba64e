"""What a kind of fault is, in which runs it is put, and which rules are meant to name it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rescue_faults import Rate
from rescue_loop import Fault
from rescue_recipes import Recipe, constant, gentle

TOO_HIGH = (
    "update_too_large",
    "loss_diverged",
    "loss_high",
    "loss_oscillating",
    "loss_nonfinite",
    "gradient_nonfinite",
)
RAISED = (*TOO_HIGH, "loss_spike")
BLOWN_UP = ("loss_spike", "loss_diverged", "loss_nonfinite")


@dataclass(frozen=True)
class Kind:
    """One kind of fault, in two models or more.

    `crawling` kinds are scored on being named and on a bounded raise; a kind that is `held_out` was not tuned on; what
    shows `at_validations` has five of them after the best to be named in. `planned` kinds were set before there was
    any rule; the others were added to see how far rules go.
    """

    name: str
    rules: tuple[str, ...]
    cases: tuple[Case, ...]
    held_out: bool = False
    crawling: bool = False
    at_validations: bool = False
    planned: bool = True


@dataclass(frozen=True)
class Case:
    """The run without the fault, and the fault. `at` is where in the run it begins, from 0 to 1."""

    recipe: Recipe
    make: Callable[[int], Fault]  # from the step at which it begins
    at: float = 0.0
    faulty: Recipe | None = None  # where the fault is in the recipe itself
    own_best: bool = field(default=False)  # saved is measured against the best score of the faulty run itself

    def fault(self, seed: int) -> Fault:
        """The fault of one seed: not all begin at the same step."""
        return self.make(int(self.at * self.recipe.total) + (seed * 7 % 20 if self.at else 0))


def within(recipes: Iterable[Recipe], make: Callable[[int], Fault], at: float = 0.0) -> tuple[Case, ...]:
    """The fault that `make` gives, in each of these runs."""
    return tuple(Case(recipe, make, at) for recipe in recipes)


def but(recipes: Iterable[Recipe], **changes: object) -> tuple[Case, ...]:
    """The fault is in how the run is set up."""
    return tuple(Case(recipe, Fault, faulty=recipe.but(**changes)) for recipe in recipes)


def gently(*recipes: Recipe) -> list[Recipe]:
    """With a learning rate that stays high enough for harm to show."""
    return [recipe.but(schedule=gentle) for recipe in recipes]


def rate(factor: float) -> Callable[[int], Fault]:
    """So many times the learning rate."""
    return lambda onset: Rate(onset, factor)


def few_samples(recipe: Recipe) -> Case:
    """Trained on a hundred samples: what it learns by heart helps nothing."""
    few = recipe.but(samples=100, schedule=constant, score="loss", epochs=recipe.epochs + 4)
    return Case(few, Fault, faulty=few, own_best=True)
