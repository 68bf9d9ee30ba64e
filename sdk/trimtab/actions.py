"""What a policy may do to a run: the actions, and the controls that they use.

An action is a value: what to do and by how much. It reads and changes the run through `Controls` alone, which the
actuators implement, so an action of your own is a class with a `name`, a `stage` and an `apply`:

    @dataclass(frozen=True)
    class HalveWeightDecay:
        name = "halve_weight_decay"
        stage = "after_step"

        def apply(self, controls: Controls) -> Change:
            return controls.scale_weight_decay(0.5)

Several actions that belong together stand in one rung of a policy's ladder, and are applied in the order given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from reprlib import repr as shown
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from trimtab.errors import ConfigError

# When an action can be carried out. "before_step": the gradients are there and not applied yet, so it acts on the very
# step that was judged. "after_step": the parameters are updated. "cycle_end": every optimizer of the loop has stepped
# and no graph is pending, so weights may be changed.
Stage: TypeAlias = Literal["before_step", "after_step", "cycle_end"]
STAGES: tuple[Stage, ...] = ("before_step", "after_step", "cycle_end")  # the later the more may be changed


@dataclass(frozen=True, slots=True)
class Change:
    """What an action did: the values that it changed, by name, before and after. For the log: plain values only."""

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""  # what the user should know about it, in a sentence


class Refused(Exception):
    """An action cannot be carried out. The message is the reason, in a sentence.

    A control that raises it has changed nothing. What an action changed through others before is on record.
    """


class Controls(Protocol):
    """The run, as an action may change it: one optimizer, in one episode.

    Every method returns what it changed, and raises `Refused` where it cannot do it.
    """

    def scale_learning_rate(
        self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf, ramp: int = 0
    ) -> Change:
        """Multiply the scale of the learning rate by `factor`, reached over `ramp` steps.

        `floor` and `ceiling` bound the scale: 1 is the schedule's own rate.
        """
        ...

    def normalizes(self) -> bool:
        """Whether the optimizer divides by the size of gradients, as Adam does, and SGD does not."""
        ...

    def scale_weight_decay(self, factor: float, *, floor: float = 0.0, ceiling: float = math.inf) -> Change:
        """Multiply the weight decay by `factor`; it is then at least `floor` and at most `ceiling`."""
        ...

    def set_dropout(self, ratio: float, *, lower: bool = False) -> Change:
        """Raise every dropout module of the optimizer's models to `ratio`; with `lower` also lower those above it."""
        ...

    def clip_gradients(self, max_norm: float | None, *, steps: int) -> Change:
        """Clip the 2-norm of the gradients to `max_norm` for `steps` steps, of which this is the first.

        None: to the usual norm, or one that moves the weights little, see `actuators.clipping`.
        """
        ...

    def clear_gradients(self) -> Change:
        """Set the gradients to 0 after each step from now on, as a call of `zero_grad` that is missing would."""
        ...

    def skip_step(self) -> Change:
        """Leave parameters and optimizer state as they are on this step."""
        ...

    def roll_back(self, *, back: int = 0) -> Change:
        """Restore the newest snapshot from before the trouble; with `back` an earlier one by so many, or the oldest."""
        ...

    def halt(self, reason: str, *, restore_best: bool = True) -> Change:
        """Save best and last state, and ask the loop to stop. When it asks, put the best weights back."""
        ...


@runtime_checkable
class Action(Protocol):
    """Something a policy may do."""

    @property
    def name(self) -> str: ...

    @property
    def stage(self) -> Stage: ...

    def apply(self, controls: Controls) -> Change:
        """Do it. Raises `Refused` with the reason where it cannot be done."""
        ...


@dataclass(frozen=True, slots=True)
class ScaleLearningRate:
    """Multiply the scale of the learning rate by `factor`. Every later step uses scale times the schedule's rate."""

    name: ClassVar[str] = "scale_learning_rate"
    stage: ClassVar[Stage] = "after_step"
    factor: float
    floor: float = 1e-4  # of the scale
    ceiling: float = 10.0
    ramp: int = 0  # steps over which the new scale is reached

    def __post_init__(self) -> None:
        _check_factor(self)
        _check_whole(self, "ramp", 0, "a number of steps, 0 or more, over which the scale is reached")

    def apply(self, controls: Controls) -> Change:
        return controls.scale_learning_rate(self.factor, floor=self.floor, ceiling=self.ceiling, ramp=self.ramp)


# By which Adam's first step should move a typical layer (it trains best with 0.04 to 0.3, far too long is 1 and more),
# and the least factor that its rate is multiplied by for that.
FIRST_RATIO, FIRST_LOWEST = 0.1, 0.01


@dataclass(frozen=True, slots=True)
class LimitUpdates:
    """Lower the learning rate until a step moves a typical layer by `ratio` of its own size.

    The factor is `ratio` / `measured`, at least `lowest` and at most `highest`. `measured` is the usual one of the
    recent update ratios that are too long (see `signals.UpdateExcess`), and the largest of all where nothing since the
    run began is good.

    For optimizers that divide by the size of gradients (Adam) recent ratios say too little: the first steps have made
    the weights large by then. There the factor is 0.1 / `first`, at least 0.01 and at most `highest`; `first` is how
    far a first step moves a typical layer at this rate. Where that is not known it is `lowest`.

    `furthest` is how far any one layer went in the same time: see `most`. The engine fills in all three, so that the
    record has them.
    """

    name: ClassVar[str] = "limit_updates"
    stage: ClassVar[Stage] = "after_step"
    ratio: float = 0.03
    lowest: float = 0.05  # of the factor
    highest: float = 0.2
    floor: float = 1e-4  # of the scale
    most: float = math.inf  # a larger `furthest` is refused for SGD and its like: gradients are to be clipped then
    measured: float = 0.0  # 0: not known, as with the next two
    furthest: float = 0.0
    first: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ratio", "lowest", "highest", "floor", "most", "measured", "furthest", "first"):
            value = getattr(self, name)
            if not (_is_number(value) and value >= 0):
                raise ConfigError(f"{self.name}({name}={shown(value)}): expected a number, 0 or more.")
        if not 0 < self.ratio < math.inf:
            raise ConfigError(f"{self.name}(ratio={self.ratio}): expected a ratio over 0, such as 0.03.")
        if not 0 < self.lowest <= self.highest <= 1:
            raise ConfigError(
                f"{self.name}(lowest={self.lowest}, highest={self.highest}): expected 0 < lowest <= highest <= 1."
            )

    def factor(self, *, normalizes: bool) -> float:
        """What the learning rate is multiplied by; `normalizes` as `Controls` says."""
        if normalizes and self.first > 0:
            return min(max(FIRST_RATIO / self.first, FIRST_LOWEST), self.highest)
        if normalizes or self.measured <= 0:
            return self.lowest
        return min(max(self.ratio / self.measured, self.lowest), self.highest)

    def apply(self, controls: Controls) -> Change:
        if self.furthest > self.most and not controls.normalizes():
            raise Refused(f"A layer changed by {self.furthest:.3g} times its size: it is the gradients that explode.")
        return controls.scale_learning_rate(self.factor(normalizes=controls.normalizes()), floor=self.floor)


@dataclass(frozen=True, slots=True)
class ScaleWeightDecay:
    """Multiply the weight decay by `factor`. A decay of 0, the default of most optimizers, begins at `floor`."""

    name: ClassVar[str] = "scale_weight_decay"
    stage: ClassVar[Stage] = "after_step"
    factor: float
    floor: float = 1e-4
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        _check_factor(self)

    def apply(self, controls: Controls) -> Change:
        return controls.scale_weight_decay(self.factor, floor=self.floor, ceiling=self.ceiling)


@dataclass(frozen=True, slots=True)
class SetDropout:
    """Raise every dropout module to `ratio`; with `lower` set it in each. Refused in a model that has none."""

    name: ClassVar[str] = "set_dropout"
    stage: ClassVar[Stage] = "after_step"
    ratio: float
    lower: bool = False  # also those that have more

    def __post_init__(self) -> None:
        if not (_is_number(self.ratio) and 0 <= self.ratio < 1):
            raise ConfigError(f"{self.name}(ratio={shown(self.ratio)}): expected a ratio from 0 to below 1, as 0.1.")
        _check_flag(self, "lower")

    def apply(self, controls: Controls) -> Change:
        return controls.set_dropout(self.ratio, lower=self.lower)


FOR_GOOD = 10**9  # steps: until the run ends


@dataclass(frozen=True, slots=True)
class ClipGradients:
    """Clip the 2-norm of the gradients for `steps` steps, beginning with the one that was judged.

    Without a `max_norm` to the usual norm; while that is not known, for SGD, to the norm that moves the weights by 5 %
    of theirs: see `actuators.clipping`.
    """

    name: ClassVar[str] = "clip_gradients"
    stage: ClassVar[Stage] = "before_step"
    max_norm: float | None = None  # None: adaptively, to what is usual
    steps: int = 1

    def __post_init__(self) -> None:
        if self.max_norm is not None and not (_is_number(self.max_norm) and 0 < self.max_norm < math.inf):
            given = f"{self.name}(max_norm={shown(self.max_norm)})"
            raise ConfigError(f"{given}: expected a norm over 0, or None to adapt.")
        _check_whole(self, "steps", 1, "a number of steps, 1 or more, of which this is the first")

    def apply(self, controls: Controls) -> Change:
        return controls.clip_gradients(self.max_norm, steps=self.steps)


@dataclass(frozen=True, slots=True)
class ClearGradients:
    """Set the gradients to 0 after each step, until the run ends. Code that reads them after the step finds zeros."""

    name: ClassVar[str] = "clear_gradients"
    stage: ClassVar[Stage] = "after_step"

    def apply(self, controls: Controls) -> Change:
        return controls.clear_gradients()


@dataclass(frozen=True, slots=True)
class SkipStep:
    """Leave out the step that was judged: parameters and optimizer state stay as they are."""

    name: ClassVar[str] = "skip_step"
    stage: ClassVar[Stage] = "before_step"

    def apply(self, controls: Controls) -> Change:
        return controls.skip_step()


@dataclass(frozen=True, slots=True)
class RollBack:
    """Go back to a snapshot from before the trouble, and on with other batches. The schedule is not turned back."""

    name: ClassVar[str] = "roll_back"
    stage: ClassVar[Stage] = "cycle_end"
    back: int = 0  # so many snapshots before the newest good one, or the oldest where there are not as many

    def __post_init__(self) -> None:
        _check_whole(self, "back", 0, "a number of snapshots, 0 or more: 0 is the newest good one")

    def apply(self, controls: Controls) -> Change:
        return controls.roll_back(back=self.back)


@dataclass(frozen=True, slots=True)
class Halt:
    """Save best and last state, and ask the loop to stop. When it asks, put the best weights back (`restore_best`)."""

    name: ClassVar[str] = "halt"
    stage: ClassVar[Stage] = "cycle_end"
    reason: str = ""
    restore_best: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.reason, str) and _is_text(self.reason)):
            raise ConfigError(f"{self.name}(reason={shown(self.reason)}): expected a text, such as 'enough'.")
        _check_flag(self, "restore_best")

    def apply(self, controls: Controls) -> Change:
        return controls.halt(self.reason, restore_best=self.restore_best)


LARGEST = 2**63 - 1  # a whole number over it is no float, no index and no step of anything


def _check_flag(action: SetDropout | Halt, name: str) -> None:
    value = getattr(action, name)
    if not isinstance(value, bool):
        raise ConfigError(f"{action.name}({name}={shown(value)}): expected True or False.")


def _check_factor(action: ScaleLearningRate | ScaleWeightDecay) -> None:
    if not (_is_number(action.factor) and 0 < action.factor < math.inf):
        raise ConfigError(
            f"{action.name}(factor={shown(action.factor)}): expected a factor over 0, such as 0.5 to halve or 2 to "
            "double."
        )
    bounds = action.floor, action.ceiling
    if not (all(map(_is_number, bounds)) and 0 <= action.floor <= action.ceiling):
        raise ConfigError(
            f"{action.name}(floor={shown(action.floor)}, ceiling={shown(action.ceiling)}): expected 0 <= floor <= "
            "ceiling. Lower the floor, raise the ceiling, or leave both out."
        )


def _check_whole(action: Action, argument: str, least: int, expected: str) -> None:
    value = getattr(action, argument)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= LARGEST:
        raise ConfigError(f"{action.name}({argument}={shown(value)}): expected {expected}.")


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value <= LARGEST)


def _is_text(value: str) -> bool:
    """Whether it can be written down: JSON may name halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
