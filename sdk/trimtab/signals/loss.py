"""What can be told from the training loss alone, step by step.

Each signal reads a `Course` that does not hold the judged value yet: call `update(loss)` of every signal, then
`update(loss)` of the course. Values that are not finite are for `Nonfinite` alone. All but that one are the same for
`a * loss + b` with `a` over 0, but for a loss that begins at exactly 0, one that has never moved, and one whose value
at chance is known: they work for losses that are negative, near zero, or on any scale.
"""

from __future__ import annotations

import math
from collections import deque

from trimtab.signals.course import FLAT, KNOWN, LONG, NO_BETTER, Course

WARM_UP = 24  # values before anything is compared
ROUGH = 2.0**-6  # of a loss that has never moved, which measures its first moves: bfloat16 rounds it to 2**-7 of itself

SHARE = 0.028  # of the gain: an excess of so much that lasts for three values counts as one of all of it that does not
SURE = 0.12  # ... but of the largest usual swing

REVERSAL = 0.05  # weight of the newest reversal
QUIET = 8.0  # reversals so many times those at the best are still usual

ERROR = 4.0  # standard errors that make a fall of the loss certain
LATEST, UNLIKELY = 9, 0.3  # losses whose median must be high too, and the score from which on that is looked at
LASTING = 4.0  # a share of the gain that is lost on the average of 50 values counts so many times one of five
EXPLODED = 12.0  # swings above the beginning that a loss reaches in its first values only when it explodes
EXPLODED_BESIDE = 4.0  # ... and one beside that
FAR_BELOW_CHANCE, UNHEARD_BELOW_CHANCE = 0.82, NO_BETTER  # of the loss at chance; the latter without a validation
AT_CHANCE, LONG_STRIDE = 80, 0.1  # values, and the update ratio, that make it certain that it is stuck there
LONG_AT_CHANCE = 1.5  # so many times as long makes up for a loss that is somewhat below
LONGEST_USUAL, UNUSUAL = 0.14, 0.2  # strides of networks that are slow to leave chance; and none of theirs any more
WORSE = 0.05  # of the loss at chance: so far above it a model is worse than any guess
ABOVE = 0.1  # ... of numbers, outputs are not on their scale yet
SOONER = 5.0  # times as soon it is certain, of steps so unusual or of a loss so bad
PATIENCE = 1000  # values after which a loss that has not moved is stuck, whatever its first values were


class Nonfinite:
    """Infinite if the value is NaN or Inf, else 0. No warm-up."""

    __slots__ = ()

    def update(self, value: float) -> float:
        """`value` is a loss, or a gradient norm."""
        return 0.0 if value - value == 0.0 else math.inf  # only of what is finite the difference is 0

    def fence(self) -> None:
        """Nothing is remembered."""


class SpikeScore:
    """How far the loss jumped, in units of its improvement so far.

        score  = excess / max(gain, peak), at least 0
        excess = loss - fast average
        gain   = max(first - best, 4 calm swings); 1/64 of a loss that has never moved

    Or, where that is larger, the least excess of the last three values over max(0.028 gain, 0.12 peak), since one wild
    batch says less than a jump that lasts. `peak` is the largest excess that was usual so far. For three values the
    fast average and the peak are those from before them.

    Example: the loss has come down from 2.3 to 0.3, so the gain is 2. One value of 50.3 scores 25, and so do three
    values in a row of 1.7.

    The averages do not hold the judged value, and outliers are capped in them (winsorised). A falling loss does not
    raise the score: the average lags above it.

    Warm-up: 24 values; 100 for three in a row. After OLMo 2 (arXiv 2501.00656, 3.2) and llm-foundry's KillLossSpike; in
    units of the gain and not of the standard deviation, since the losses of small batches have long tails.
    """

    __slots__ = ("_before", "_course", "_last")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._last = self._before = (-math.inf, 0.0, 0.0)  # loss, and fast average and peak before it

    def update(self, value: float) -> float | None:
        """The score of a loss that the course does not hold yet."""
        course = self._course
        (loss, fast, peak), last = self._before, self._last
        self._before, self._last = last, (value, course.fast, course.peak)
        if course.count < WARM_UP:
            return None
        off, gain = value - course.fast, course.scale
        if off <= 0.0:
            return 0.0
        scale = gain if gain > course.peak else course.peak
        if not scale:
            rough = ROUGH * abs(course.fast)
            return off / rough if rough else math.inf
        score = off / scale
        usual = max(SHARE * gain, SURE * peak)
        lasting = (min(loss, last[0], value) - fast) / usual if usual and course.count >= KNOWN else 0.0
        return lasting if lasting > score else score

    def fence(self) -> None:
        """Forget the last two values."""
        self._last = self._before = (-math.inf, 0.0, 0.0)


class Divergence:
    """How much of its improvement the loss has lost again: 1 when it is back where it began.

        score = (fast average - best - excused) / max(first - best, 4 calm swings)

    Of a loss that has never moved the divisor is 1/64 of itself.

    Example: the loss came down from 2.3 to 0.3, then rose to 1.5. That is 1.2 of 2, so the score is 0.6.

    From 0.3 on it is no more than the same of the median of the last nine losses: the average is also high where a few
    batches cost many times what the others do, as those that hold a rare label.

    A loss that rises slowly is seen by its mean over 50 values, which hardly ever rises in a healthy run: where it is
    larger, the score is four times the share that this mean has lost, from its own lowest, up to 1. An objective may
    also become harder on purpose, as with noise that grows. So this counts no more than the share of its gain that
    validation has lost.

    `best` is the lowest average so far and `calm` the swing at that time, so neither is learned from bad values.
    `excused` is how much the loss had risen when validation was better than ever (see `Course.validated`): such a rise
    does no harm.

    Warm-up: 24 values; 100 of weights that have learned by another objective before. For the mean over 50 values: 50,
    again after each fence, and a validation pass.

    After the rule of thumb that a run has diverged when its average is at twice the best (evidence: llm-foundry); as a
    share of the gain, since twice the best means nothing near zero or below.
    """

    __slots__ = ("_course", "_latest")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._latest: deque[float] = deque(maxlen=LATEST)

    def update(self, value: float) -> float | None:
        """The share that is lost, after a loss that the course does not hold yet."""
        course = self._course
        if course.count < (KNOWN if course.learned else WARM_UP):
            return None
        self._latest.append(value)
        scale, above = course.scale or ROUGH * abs(course.best), course.lost
        slowly = course.worsened if course.validation_lost > 0.0 else 0.0
        if above <= 0.0 and slowly <= 0.0:
            return 0.0
        if not scale:
            return math.inf
        lasting = min(LASTING * min(slowly / scale, course.validation_lost), 1.0)
        lost = above / scale
        if lost >= UNLIKELY:
            lost = min(lost, max(sorted(self._latest)[len(self._latest) // 2] - course.fast + above, 0.0) / scale)
        return max(lost, lasting)

    def fence(self) -> None:
        """Best and first stay; the averages are the course's."""
        self._latest.clear()


class Oscillation:
    """How much the loss goes up and down, compared with its improvement and with the usual at its best.

    A reversal is the smaller of two successive changes if their signs differ, else 0. The score is the average reversal
    over max(first - best, 8 times the average reversal at the best). That is also the most that one reversal counts: a
    single jump is none, and a bad batch, up and down again, is one. Warm-up: 24 values.
    """

    __slots__ = ("_best", "_calm", "_course", "_last", "_step", "size")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._last: float | None = None
        self._step = 0.0
        self.size = 0.0
        self._calm = 0.0
        self._best = math.inf

    def update(self, value: float) -> float | None:
        """The size of reversals, after a loss that the course does not hold yet."""
        course = self._course
        last, self._last = self._last, value
        if last is None:
            return None
        step, before = value - last, self._step
        self._step = step
        reversal = 0.0
        if step * before < 0.0:
            step, before = abs(step), abs(before)
            reversal = step if step < before else before
        scale = max(QUIET * self._calm, course.first - course.best)
        if reversal > scale and course.count >= WARM_UP:
            reversal = scale
        self.size += (REVERSAL if course.count > 20 else 1 / (course.count + 1)) * (reversal - self.size)
        if course.best < self._best:
            self._best = course.best
            self._calm = self.size
        if course.count < WARM_UP:
            self._calm = max(self._calm, self.size)
            return None
        return self.size / scale if scale else 0.0

    def fence(self) -> None:
        """Forget the last change, and reversals larger than was usual; what was usual stays."""
        self._last = None
        self._step = 0.0
        self.size = min(self.size, self._calm)


class Progress:
    """How doubtful it is that the loss has come down since the beginning, from 0 (it surely has) to 1.

        1 - t / 4, from 0 to 1

    `t` is the fall of the middle average in standard errors, which are estimated from the swing: Welch's test of the
    beginning against now. Once it is 0 it stays 0, and where the weights have learned before (`Course.learned`) it is:
    another objective may begin with a loss as low as it gets. Warm-up: 24 values.
    """

    __slots__ = ("_course", "_moved")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._moved = False

    def update(self, value: float) -> float | None:
        """What is missing of certainty, after a loss that the course does not hold yet."""
        course = self._course
        if self._moved or course.learned:
            return 0.0
        if course.count < WARM_UP:
            return None
        error = 1.25 * course.swing * 0.45  # of the mean of eight values, and of the middle average
        if error:
            missing = 1.0 - (course.first - course.middle) / (ERROR * error)
        else:
            missing = 0.0 if course.best < course.first else 1.0
        if missing <= 0.0:
            self._moved = True
            return 0.0
        return missing if missing < 1.0 else 1.0

    def fence(self) -> None:
        """What has been seen once stays."""


class StillHigh:
    """How likely the loss is stuck where it began, or at chance, from 0 to 1. The larger of two scores.

    **Where it began:** the doubt about progress (see `Progress`) times the share of the patience (1000 values) that has
    gone by; without waiting, if the loss exploded within its first 24 values: if one of them was 12 times its later
    swing above its beginning, and one beside it 4 times. One alone may be a batch like no other. Not where all steps
    are known to be short (the largest typical update ratio is under 0.03): there the beginning was lucky, as that of a
    batch of one sample may be, and the swing shrinks as the model learns.

    **At chance,** the product of:

    - step length: the largest typical update ratio (`Course.stride`) over 0.1, up to 1;
    - nearness: 1 where the loss is at chance (`Course.chance`) or above, 0 at 0.82 of it. The loss is the middle
      average, or the newest validation loss where that is lower. Without a validation it is 0 at 0.93 already, since
      the labels may just be hard to tell;
    - time: values since the warm-up over 80, up to 1.5. With momentum or Adam it passes faster where that ratio is over
      0.14, five times as fast from 0.2 on; or where the loss is above chance and does not come down, five times as fast
      from 5 % above on. Without, each long step is that of one batch, and the next ones mend it.

    Targets that are numbers may lie far from where outputs begin. So there it counts only while the loss is at most
    10 % above chance and does not come down, and time is that since it was higher. Nor does it count where nothing has
    exploded and validation gets better from pass to pass: a factorisation learns the means first, and rests there until
    its factors do their part.

    Once the loss was under 0.82 of chance, this score is 0 for good. Healthy runs may be slow to leave chance, or take
    long steps, but hardly ever both: 280 traced ones came to 0.34 at most, before validation was looked at; two with a
    third of their labels wrong, to 0.58. In recurrent networks that are slow the ratio is 0.12 to 0.14. Of 232 runs 24
    had a larger one, and came to 0.53 at most. Where steps are as long as 0.1 healthy losses are at chance at most; 5 %
    above it rest transformers at a hundred times their rate.

    Warm-up: 24 values.
    """

    __slots__ = ("_before", "_course", "_highest", "_left", "_pair", "_progress", "_resting", "_seen")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._progress = Progress(course)
        self._highest = self._pair = -math.inf  # of the first values, and the lesser of two in a row
        self._before = -math.inf
        self._left = False  # chance
        self._seen = 0
        self._resting = 0  # values since the loss was far above chance

    def update(self, value: float) -> float | None:
        """The score, after a loss that the course does not hold yet."""
        course = self._course
        if course.count < WARM_UP:
            self._left = False  # the course may have begun anew
            self._highest = max(self._highest, value)
            self._pair = max(self._pair, min(value, self._before))
            self._before = value
        else:
            self._seen += 1
        missing = self._progress.update(value)
        if missing is None:
            return None
        at_chance = 0.0 if self._left or course.chance is None else self._at_chance(course.chance)
        first, swing = course.first, course.swing
        course.exploded = (
            self._highest - first > EXPLODED * swing
            and self._pair - first > EXPLODED_BESIDE * swing
            and not 0.0 < course.stride < LONG
        )
        if not course.exploded:
            missing *= min(1.0, self._seen / PATIENCE)
        return missing if missing > at_chance else at_chance

    def _at_chance(self, chance: float) -> float:
        course = self._course
        if course.count < WARM_UP:
            return 0.0
        validation, loss = course.validation, course.middle
        far_below = UNHEARD_BELOW_CHANCE if validation is None else FAR_BELOW_CHANCE
        if validation is not None and validation < loss:
            loss = validation
        share = loss / chance
        if share <= FAR_BELOW_CHANCE:
            self._left = True
        self._resting = self._resting + 1 if share <= 1.0 + ABOVE else 0
        near = (share - far_below) / (1.0 - far_below)
        if near <= 0.0:
            return 0.0
        lasting = self._seen * self._pace(share, chance) if course.chance_is_exact else self._at_rest()
        lasting = min(lasting / AT_CHANCE, LONG_AT_CHANCE)
        return min(1.0, lasting * min(1.0, near) * min(1.0, course.stride / LONG_STRIDE))

    def _pace(self, share: float, chance: float) -> float:
        """How fast time passes."""
        course = self._course
        if not course.traits.averages:
            return 1.0
        unusual = (course.stride - LONGEST_USUAL) / (UNUSUAL - LONGEST_USUAL)
        worse = (min(share, course.fast / chance) - 1.0) / WORSE if course.fast >= FLAT * course.middle else 0.0
        return 1.0 + (SOONER - 1.0) * min(1.0, max(0.0, unusual, worse))

    def _at_rest(self) -> int:
        """For how many values the loss has been near chance, where it is not on its way through, nor learns slowly."""
        course = self._course
        learns = course.validation_falls and not course.exploded
        return self._resting if course.fast >= FLAT * course.middle and not learns else 0

    def fence(self) -> None:
        """Patience starts anew."""
        self._seen = self._resting = 0
        self._highest = self._pair = self._before = -math.inf
