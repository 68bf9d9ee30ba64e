"""Where a loss began, where it is, how much it swings and how good it has been: what signals compare with."""

from __future__ import annotations

import math
from typing import NamedTuple

from trimtab.signals.jumps import Jumps

FAST, MIDDLE, SLOW = 0.2, 0.07, 0.02  # weights of the newest value: means over the last 5, 14 and 50 or so
LONG = 0.03  # of a typical layer: steps that may have moved weights to where no gradient leads back
BEGINNING = 8  # values that make the mean at the beginning
FEW = 3  # ... of which the first ones tell what is usual
SPACING, MOMENTS = 16, 64  # values between two that are remembered at first, and how many are
BASELINE = 24  # values before anything is compared with it
SETTLED = 50  # values that the slow average is a plain mean of, at first and after a fence
SWING = 0.05
REACH = 4.0  # how many times the usual swing, or the largest one, a value counts at most
FORGET = 0.998  # of the largest swing, a value: half of it in 350
LEARN = 0.3  # of a swing larger than the largest, a value
NEAR = 0.3  # of what the loss has come down
NO_BETTER = 0.93  # of the loss at chance: a model whose loss is below has learned something
WORSE = 1.1  # of it: above, the best constant is better for certain, though its loss is known to some percent only
LOST = 0.6  # of what validation had gained
BETTER = 0.1  # of that: by less, a pass is no better than the one before
FLAT = 0.97  # of the slow average: a faster one below comes down
NOISE = 4.0  # a loss that has not come down is measured in so many swings
SURE = 200  # values after which a loss that was never better is no slow beginning
KNOWN = 100  # values after which it is known what swings are usual
ASIDE = 2.0  # swings: a value further from the average is not one of those that it is of
REST = 0.25  # of a swing: by less, the slow average is where it was lowest
UNSEEN = 10  # values until a rise is larger
TRACED = 200  # ... that a rise is traced back at most: where it took longer, it is how the run has been


class _Moment(NamedTuple):
    """What is remembered of an earlier course."""

    values: int  # that had come by then
    lost: float  # how far the loss was above its best
    best: float
    calm: float
    swing: float
    peak: float
    lowest: float


class Traits(NamedTuple):
    """How an optimizer makes steps of gradients."""

    averages: bool = True  # it steps along an average of them, as with momentum or in Adam
    normalizes: bool = True  # it divides by the size of past ones, as Adam
    decay: float = 0.0  # of the average of squares that it divides by, where that begins at 0 and is not corrected


class Course:
    """The course of a stream of losses, in O(1) memory.

    `fast`, `middle` and `slow` are exponential moving averages (plain means until there are enough values); `swing` is
    the mean distance of a value from the fast average before it, `peak` the largest distance above it, slowly
    forgotten; `first` is the mean at the beginning, or the very first value where that is less, `best` the lowest
    middle average, `lowest` the lowest slow one of 50 values or more, `calm` the swing when `best` was reached, and
    `excused` how far a loss may be above it that rises while validation gets better: see `validated`.

    For whoever knows them to set: the optimizer's `traits`; `learned`, whether the weights have learned by another
    objective before; `validation_lost`, the share of its gain that validation has lost since its best pass, and
    `validation_worsens`, the lesser of that of two passes since a fence, 0 where the second is clearly better;
    `validation_falls`, whether it gets better from pass to pass; `chance`, the loss of the best answer that is the same
    for every input, and `chance_is_exact`, whether a loss a little below it shows that something was learned;
    `growth`, how many times as high the learning rate is by now as in the step of the newest update ratios, 1 where it
    is not known or not higher; `validation`, the newest validation loss, `stride`, the largest typical update ratio,
    and `furthest`, the largest one of any layer, all since a fence; and `exploded`, whether the loss shot up within its
    first values.

    `were_good` is whether the weights that were gone back to last are known to have had a loss near its best, before
    they were kept and after it.

    A course begins with the first value that is not exactly 0, and is `idle` until then: a loss of pairs that are all
    far enough apart has nothing to come down by, and everything is far above it.

    A value that stands out counts as no more than `REACH` swings, so a bad stretch moves the baseline slowly
    (winsorising: Maronna et al., "Robust Statistics", 2019, 2.3). Keep values that are not finite out. After
    `fence()` the averages start anew at the next value; `first`, `best`, `lowest`, `swing` and `peak` stay.
    """

    __slots__ = (
        "_began", "_every", "_fenced", "_good", "_history", "_jumps", "_neared", "_of", "_rested", "_widest", "best",
        "calm", "chance", "chance_is_exact", "count", "excused", "exploded", "fast", "first", "furthest", "growth",
        "idle", "learned", "lowest", "middle", "peak", "slow", "stride", "swing", "traits", "validation",
        "validation_falls", "validation_lost", "validation_worsens", "were_good",
    )  # fmt: skip

    def __init__(self) -> None:
        self.traits = Traits()
        self.learned = False
        self.validation_lost = self.validation_worsens = 0.0
        self.validation_falls = False
        self.chance: float | None = None
        self.chance_is_exact = True
        self.validation: float | None = None
        self.stride = self.furthest = 0.0
        self.growth = 1.0
        self.exploded = False
        self._neared = False  # whether the loss came near that at chance on a way that was given up
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self.idle = False
        self.first = self.best = self.fast = self.middle = self.slow = 0.0
        self.swing = self.peak = self.calm = self._widest = 0.0
        self.excused = 0.0
        self.were_good = False
        self.lowest = math.inf
        self._of = 0  # values that the slow average is of
        self._rested = 2 * UNSEEN  # the last value at which it was about where it is lowest, or past a beginning
        self._good = False  # whether there was a validation while the loss was near its best
        self._began = 0.0
        self._jumps = Jumps()
        self._fenced = False
        self._history: list[_Moment] = []
        self._every = SPACING

    @property
    def scale(self) -> float:
        """What a change is measured against: how far the loss has come down, or `NOISE` swings where that is more.

        Swings are those of when it was best; of weights that have `learned` before, and whose loss may be next to
        nothing for most batches, the widest of the first `KNOWN` values where that is more.
        """
        gain, noise = self.first - self.best, NOISE * (self.calm if self.calm > self._widest else self._widest)
        return gain if gain > noise else noise

    def update(self, value: float) -> None:
        """Take a finite value in."""
        self.count += 1
        self._jumps.update(value)
        if self.count <= BEGINNING:
            self._begin(value)
            return
        if self._fenced:
            self._fenced = False
            self.fast = self.middle = self.slow = value
            self._of = 1
            self._rested = self.count + 2 * UNSEEN
            return
        fast, swing, peak = self.fast, self.swing, self.peak
        off = value - fast
        reach = REACH * (swing if swing > peak else peak)
        if reach:
            if off > reach:
                self._jumps.stands_out(value, fast, NEAR * self.scale)
                off = reach
            elif off < -reach:
                off = -reach
        self.swing = swing = swing + SWING * ((off if off > 0 else -off) - swing)
        if self.learned and swing > self._widest and self.count <= KNOWN:
            self._widest = swing
        peak *= FORGET
        self.peak = peak + LEARN * (off - peak) if off > peak else peak
        value = fast + off
        self.fast = fast + FAST * off
        self.middle = middle = self.middle + MIDDLE * (value - self.middle)
        self._follow_slowly(value)
        if middle < self.best:
            self.best = middle
            self.calm = swing
            self.excused = 0.0
        if self.count % self._every == 0:
            self._remember()

    @property
    def has_recovered(self) -> bool:
        """Whether the loss has come down by itself since it last jumped, and stayed there: see `Jumps.is_over`.

        Not after an enormous jump where the optimizer divides by the size of gradients: weights hardly move for
        thousands of steps then, which a loss that is low does not show.
        """
        is_remembered = self.traits.normalizes and self._jumps.is_enormous(self.scale)
        return self._jumps.is_over(NEAR * self.scale) and not self.has_returned and not is_remembered

    @property
    def has_returned(self) -> bool:
        """Whether a loss that had come down after a jump has risen by what the optimizer averages: see `Jumps`."""
        return self.traits.averages and self._jumps.has_returned(self.middle, self.calm)

    def _follow_slowly(self, value: float) -> None:
        self._of = count = self._of + 1
        slow = self.slow
        self.slow = slow = slow + (value - slow) * (1 / count if count < SETTLED else SLOW)
        if slow < self.lowest and count >= SETTLED:
            self.lowest = slow
        if slow - self.lowest <= self.excused + REST * self.calm and self.count > self._rested:
            self._rested = self.count

    def _remember(self) -> None:
        lost = max(self.fast, self._jumps.level) - self.best - self.excused  # averages follow a jump slowly
        self._history.append(_Moment(self.count, lost, self.best, self.calm, self.swing, self.peak, self.lowest))
        if len(self._history) >= MOMENTS:
            del self._history[::2]
            self._every *= 2

    @property
    def has_come_down(self) -> bool:
        """Whether the loss has fallen by more than it swings, once there is a baseline."""
        return self.count >= BASELINE and self.first - self.best > NOISE * self.calm

    @property
    def lost(self) -> float:
        """How far the fast average is above the best that it may be measured by."""
        return self.fast - self.best - self.excused

    def is_left_by(self, value: float) -> bool:
        """Whether a value is too high for the next one, and for what a run that goes well comes back to."""
        if self.count < BASELINE or not math.isfinite(value):
            return False
        return value - self.fast > ASIDE * self.swing and value - self.best - self.excused > NEAR * self.scale

    @property
    def worsened(self) -> float:
        """How far the slow average is above its lowest; 0 while it is of fewer than 50 values."""
        return self.slow - self.lowest - self.excused if self._of >= SETTLED else 0.0

    @property
    def is_worse(self) -> bool:
        """Whether the slow average, of 24 values or more, is above its lowest by more than a calm swing."""
        return self._of >= BASELINE and self.slow - self.lowest - self.excused > self.calm

    @property
    def rising(self) -> int:
        """For how many values, up to 200, the slow average has been above its lowest, and some for its rise to show.

        Not for the first `UNSEEN` ones after a fence: those tell whether going back has helped.
        """
        return min(self.count - self._rested, TRACED) + UNSEEN

    @property
    def at_chance(self) -> bool:
        """Whether the loss is known to be no better than a guess, once there is a baseline."""
        return self.count >= BASELINE and self.is_no_better(self.middle)

    def is_no_better(self, loss: float) -> bool:
        """Whether such a loss is known to be no better than a guess."""
        return self.chance is not None and self.chance_is_exact and loss >= NO_BETTER * self.chance

    @property
    def always_worse(self) -> bool:
        """Whether the loss was worse than the best constant answer all along, and so is the newest validation."""
        if self.chance is None or self.count < SURE or self._neared:
            return False
        validation = self.best if self.validation is None else self.validation
        return min(self.best, validation) > WORSE * self.chance

    @property
    def validates_below_chance(self) -> bool:
        """Whether the newest validation is known to be better than a guess."""
        chance, validation = self.chance, self.validation
        return chance is not None and validation is not None and validation < NO_BETTER * chance

    @property
    def rests_at_chance(self) -> bool:
        """Whether the loss is no better than a guess, and does not come down."""
        return self.at_chance and self.fast >= FLAT * self.slow

    @property
    def harmful(self) -> bool:
        """Whether training makes the model worse, whatever the loss was before the fence.

        Either two validation passes in a row have lost 0.6 of the gain, and the second is no better; or the loss has
        been at chance for 50 values or more, and does not come down.
        """
        if self.validation_worsens >= LOST:
            return True
        return self.at_chance and self._of >= SETTLED and self.middle >= FLAT * self.slow

    @property
    def lengthened(self) -> float:
        """How many times as long as its rate says a step was, of an optimizer whose traits have a decay; else 1.

            1 / sqrt(1 - decay^n)   for the n-th step, which is the one before the newest loss

        For 0.99 that is 10, 7, 5.8 and 5 at first, and 1.3 after 100 steps.
        """
        return 1.0 / math.sqrt(1.0 - self.traits.decay ** max(self.count - 1, 1))

    def take_validation(self, loss: float, lost: float, *, falls: bool) -> None:
        """The loss of a validation pass, what share of its gain validation has lost, and whether it gets better."""
        before = self.validation_lost
        self.validation_worsens = min(before, lost) if lost > before - BETTER else 0.0
        self.validation_lost, self.validation, self.validation_falls = lost, loss, falls

    def validated(self, improved: bool) -> None:
        """A validation pass is over; whether it is better than every one before.

        Where it is, and there was one while the loss was near its best, a loss that has risen since means no harm: the
        objective has changed, as with a penalty that grows or in reinforcement learning.
        """
        scale, risen = self.scale, min(self.fast, self.middle, self.slow) - self.best
        if improved and self._good and risen > self.excused:
            self.excused = risen
        self._good = self._good or (self.count >= BASELINE and self.lost < NEAR * scale)

    def fence(self) -> None:
        """Start the averages anew."""
        self.validation_lost = self.validation_worsens = self.stride = self.furthest = 0.0
        self.validation = None
        self.validation_falls = False
        self.were_good = False
        self._jumps.fence()
        self._fenced = self.count > BEGINNING

    def turn_back(self, values: int) -> None:
        """The weights are again those of so many values ago, and so is all that is remembered, or a little older.

        Where they are from before there was a baseline, all of it is learned anew.
        """
        self._neared = self._neared or (self.chance is not None and self.best <= WORSE * self.chance)
        then = self.count - values
        if then < BASELINE:
            self._clear()
            return
        after = None
        while len(self._history) > 1 and self._history[-1].values > then:
            after = self._history.pop()
        if self._history:
            values, lost, self.best, self.calm, self.swing, self.peak, self.lowest = self._history[-1]
            most = NEAR * self.scale
            self.were_good = after is not None and values <= then and lost < most and after.lost < most

    def _begin(self, value: float) -> None:
        count = self.count
        if count == 1:
            self.idle = value == 0.0
            if self.idle:
                self.count = 0
                return
            self._of = 1
            self._began = self.first = self.fast = self.middle = self.slow = self.best = value
            return
        off = value - self.fast
        if count > FEW:  # an explosion that the run came back from is no beginning
            reach = REACH * max(self.swing, self.peak)
            off = max(-reach, min(reach, off))
            value = self.fast + off
        self.swing += (abs(off) - self.swing) / (count - 1)
        self.peak = max(self.peak, off)
        self.fast += max(FAST, 1 / count) * off
        self._of = count
        self.slow += (value - self.slow) / count
        self.middle = self.slow
        self.first = min(self._began, self.slow)
        if self.middle < self.best or count == BEGINNING:
            self.best = min(self.best, self.middle)
            self.calm = self.swing
