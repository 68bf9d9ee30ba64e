"""What was found out about an optimizer, as far as it matters to whoever answers a rule. Reads, and changes nothing."""

from __future__ import annotations

from trimtab.catalog.rules import EVER, RULES
from trimtab.rules.bench import Bench
from trimtab.signals import ValidationFalls
from trimtab.signals.course import LONG
from trimtab.types import Strides

DEAD = "layer_dead"
OVER = 0.5  # of the threshold: a loss that diverged is on its way back


class Findings:
    """Of one optimizer. `bench` is None where none was seen of that name.

    `validation` is that of the whole run; `has_to_fall`: something follows from a loss that does not come down.
    """

    def __init__(self, bench: Bench | None, validation: ValidationFalls, *, has_to_fall: bool) -> None:
        self._bench = bench
        self._course = None if bench is None else bench.course
        self._validation = validation
        self._has_to_fall = has_to_fall

    def level(self, rule: str) -> float:
        """The newest point of a rule over its threshold; 0 where there is none."""
        level = None if self._bench is None else self._bench.level(rule)
        return 0.0 if level is None else level.value / level.threshold

    def strides(self, rule: str) -> Strides:
        """How far steps move layers, by the newest readings; where nothing since the beginning is good, by all.

        See `Bench.first_ratio`: the rate of now is the schedule's own.
        """
        bench = self._bench
        if bench is None:
            return Strides()
        course, newest = bench.course, bench.excess
        if _is_of_all(rule):
            typical, furthest = course.stride, course.furthest
        else:
            typical, furthest = newest.measured or 0.0, newest.furthest
        return Strides(typical, furthest, bench.first_ratio or 0.0)

    def is_slow(self, rule: str) -> bool:
        """Whether `rule`, which fires, is a reason to raise the rate: see `RuleSpec.at_chance`.

        None is where layers have no gradient at all, as of units that died: a higher rate does not wake them.
        """
        if rule not in RULES or not RULES[rule].at_chance:
            return True
        return self._course is not None and self._course.rests_at_chance and self.level(DEAD) < 1.0

    def is_lost(self, rule: str) -> bool:
        """Whether weights may have been ruined, where `rule` says that nothing since the beginning is good.

        That is so where the loss exploded, is at chance, or where steps were long. But not where validation gets better
        from pass to pass, and after an explosion is below chance: the loss of single batches may swing by more than
        there is to learn, as where one label in a hundred is of the other class. True for any other rule.
        """
        course = self._course
        if course is None or not _is_of_all(rule):
            return True
        if self._validation.falls and (course.validates_below_chance or not course.exploded):
            return False
        return course.exploded or course.at_chance or course.stride >= LONG

    def has_recovered(self, rule: str) -> bool:
        """Whether the loss, of which `rule` said some steps ago that it jumped, diverged or was stuck, has come down.

        One that was stuck has when its episode is over, and it is below its beginning and no longer at chance.
        """
        bench, signal = self._bench, _signal_of(rule)
        if bench is None:
            return False
        course = bench.course
        if signal == "loss_spike_score":
            return course.has_recovered
        if signal == "loss_divergence":
            return self.level(rule) < OVER
        if signal == "loss_stuck":
            level = bench.level(rule)
            is_over = level is None or not level.firing
            return is_over and course.middle < course.first and not course.at_chance
        return False

    def has_returned(self, rule: str) -> bool:
        """Whether the loss, of which `rule` said that it jumped, came down by itself and has risen again since."""
        return self._course is not None and _signal_of(rule) == "loss_spike_score" and self._course.has_returned

    @property
    def validation_improves(self) -> bool:
        """Whether validation gets better from pass to pass."""
        return self._validation.falls

    @property
    def were_good(self) -> bool:
        """Whether the weights of the last rollback are known to have had a good loss: see `Course.were_good`."""
        return self._course is not None and self._course.were_good

    @property
    def is_worse(self) -> bool:
        """Whether the loss is higher than it has been: see `Course.is_worse`. Never of one that need not come down."""
        return self._course is not None and self._has_to_fall and self._course.is_worse

    @property
    def is_harmful(self) -> bool:
        """Whether training makes the model worse: see `Course.harmful`."""
        return self._course is not None and self._course.harmful


def _is_of_all(rule: str) -> bool:
    """Whether it says that nothing since the beginning is good."""
    return rule in RULES and RULES[rule].reach == EVER


def _signal_of(rule: str) -> str:
    return RULES[rule].signal if rule in RULES else ""
