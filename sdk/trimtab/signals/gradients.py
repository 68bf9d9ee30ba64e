"""What can be told from the gradients of a step."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence

from trimtab.signals.course import BEGINNING, LONG, Course
from trimtab.signals.loss import Progress

WARM_UP, WARM_UP_OF_LEARNED = 8, 50  # readings before anything is compared
FIRST = 3  # ... but with what is far beyond
FAR = 2.3  # in logarithms: so much more does it take before the end of the warm-up
GROW = 3.0  # how many times the largest norm a reading counts at most
FORGET = 0.9995  # of the largest norm, a reading
FEWEST = 3  # layers that can be compared
TINY = 1e-3  # of the largest layer's norm: under it a layer learns nothing beside it
GROWING = 50  # readings at most between two records of a gradient that weights of zero have held back
ROUNDING = 1e-5  # of the largest norm in its module: a gradient of less is made of rounding errors
USUAL_RATIO = 1e-3
LASTING = 1.8  # a logarithm that lasts for three readings counts so many times one that does not


class NormSpikeScore:
    """How far the gradient norm is above the largest one so far, as a logarithm: 2.3 is ten times.

        score = ln(norm / largest), at least 0

    Or 1.8 times the least of the last three scores, where that is more: that is 2.3 when the norm grows by a factor of
    3.6 at each of three readings. A reading raises `largest` to 3 times its value at most, and `largest` is slowly
    forgotten.

    In the logarithm after ZClip (arXiv 2504.02507) and AdaGC (2502.11034), whose z-scores need a spread that small
    batches do not have; against the largest as in Megatron's rerun machine.

    Warm-up: 8 readings, of which the first is not 0. From the fourth on a norm ten times further counts, since
    gradients may explode at once. Of weights that have learned by another objective before: 50 readings, of which none
    counts, since most batches of a model that knows its task may have next to no gradient.
    """

    __slots__ = ("_before", "_count", "_course", "_largest", "_last")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._count = 0
        self._largest = 0.0
        self._last = self._before = 0.0

    def update(self, norm: float) -> float | None:
        """The score of a norm; one that is not finite is for the rule about those, and changes nothing."""
        if not math.isfinite(norm):
            return None
        largest = self._largest
        if not (norm or largest):
            return None
        self._count += 1
        learned = self._course.learned
        if self._count <= (WARM_UP_OF_LEARNED if learned else WARM_UP):
            return self._warm(largest, norm, learned=learned)
        score = 0.0
        if norm > largest:
            score = math.log(norm / largest)
            largest = norm if norm < GROW * largest else GROW * largest
        self._largest = largest * FORGET
        lasting = LASTING * min(self._before, self._last, score)
        self._before, self._last = self._last, score
        return lasting if lasting > score else score

    def _warm(self, largest: float, norm: float, *, learned: bool) -> float | None:
        is_known = self._count > FIRST and not learned
        far = math.log(norm / largest) - FAR if is_known and norm > largest > 0.0 else 0.0
        self._largest = max(largest, norm if far <= 0.0 else GROW * largest)
        return far if far > 0.0 else None

    def fence(self) -> None:
        """Forget the last two scores; the largest norm stays."""
        self._last = self._before = 0.0


class VanishingShare:
    """The share of layers whose gradient norm is under a thousandth of the largest layer's, or zero.

    The parameters of one module count as one layer, by the largest of their norms: some biases have no gradient by
    their nature (before a normalisation, or of attention's keys). After Glorot and Bengio (2010), 4.2. No warm-up.

    Not counted: layers that had no gradient at all at the first reading, and whose norm is growing now: it is not zero,
    and within the last 50 readings it was a larger share of the largest than ever. They stand before weights that began
    at zero, as the last of a residual branch often do.
    """

    __slots__ = ("_layers", "_names", "_peaks", "_readings")

    LIMIT = TINY

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._layers: list[int] = []
        self._peaks: dict[int, tuple[float, int]] = {}  # of layers without a gradient at first: the share, when it was
        self._readings = 0

    def update(self, layer_norms: Mapping[str, float]) -> float | None:
        """From 0 to 1; None of fewer than three layers, or where a norm is not finite."""
        names = tuple(layer_norms)
        if names != self._names:
            self._names, self._layers = names, layers_of(names)
            self._readings = 0
        norms = largest_by_layer(self._layers, layer_norms)
        largest = max(norms, default=0.0)
        if len(norms) < FEWEST or not 0.0 < largest < math.inf:
            return None
        limit = self.LIMIT * largest
        growing = self._growing([norm / largest for norm in norms])
        return sum([norm <= limit and layer not in growing for layer, norm in enumerate(norms)]) / len(norms)

    def _growing(self, shares: Sequence[float]) -> set[int]:
        """Of the layers that had no gradient at first."""
        if self._readings == 0:
            self._peaks = {layer: (0.0, 0) for layer, share in enumerate(shares) if share == 0.0}
        self._readings += 1
        for layer, (peak, _) in self._peaks.items():
            if shares[layer] > peak:
                self._peaks[layer] = shares[layer], self._readings
        return {layer for layer, (_, at) in self._peaks.items() if shares[layer] and self._readings - at < GROWING}

    def fence(self) -> None:
        """Which layers began without a gradient stays known."""


class DeadShare(VanishingShare):
    """The share of layers (as in `VanishingShare`) whose gradient is exactly zero while others' is not. No warm-up."""

    __slots__ = ()

    LIMIT = 0.0


class UpdateRatio:
    """How large the updates are beside the weights: the median over layers of |update| / |weights|, times a thousand.

    If half of the layers or more do not move at all (frozen ones), it is the median of those that do. About 1 is usual
    (cs231n, "Ratio of weights:updates": somewhere around 1e-3). No warm-up.
    """

    __slots__ = ()

    def update(self, ratios: Mapping[str, float]) -> float | None:
        """Of update ratios by layer; None where there are none."""
        return _median(ratios) / USUAL_RATIO if ratios else None

    def fence(self) -> None:
        """Nothing is remembered."""


class UpdateExcess:
    """How far steps move a typical layer while the loss gets worse, as a share of its size: 0.5 is 50 %.

        score = max(newest ratio, 1.7 times the sum of the last six), while the loss gets worse; else 0

    The ratio is the median over modules, and that of a module the least of its parameters' update ratios. Of readings
    that are less than eight losses apart, as the first ones are, one counts in the sum. The sum counts for the first
    200 losses only: a rate that has held for longer is judged by what it does to the loss.

    The loss gets worse when it is above its best

    - with momentum or Adam: by 0.15 of its improvement, for the smaller of its fast and its middle average. Until it
      has come down by a calm swing this is noise, and it takes two of those and 0.15 of the first loss; unless the loss
      is known to be no better than a guess (`Course.chance`);
    - without an average over gradients (plain SGD, RMSprop): by 0.5 of max(first - best, 4 calm swings). There one
      batch makes a long step and the next ones mend it: losses of healthy runs at the highest rates that work swing by
      0.36. Nor is it known within the first 8 losses how much they swing, and Adagrad's first step is its longest.

    While the loss comes down, long steps are no fault. Those of healthy runs, the first one of Adam above all, are as
    long as harmful ones. Where no loss is seen, the steps alone count.

    Warm-up: 10 losses for the sum. There is no score for a single module, as in a linear model, whose steps are long
    by nature; nor for one or two parameters that no module of their own holds. Layers that begin at or next to zero
    have no ratio at first (see `sample.updates`), and are left out later too: each step is a large part of them,
    however slow they are.
    """

    __slots__ = (
        "_added_at", "_apart", "_course", "_furthest", "_newest", "_of_modules", "_ratios", "_typical", "first",
    )  # fmt: skip

    READINGS = 6
    APART = 8  # losses
    WEIGHT = 1.7
    OFF = 0.15
    OFF_ALONE = 0.5  # where each step is that of one gradient
    SWINGS = 2.0  # where nothing has been learned yet
    LOSSES = range(10, 200)

    def __init__(self, course: Course) -> None:
        self._course = course
        self._newest: Mapping[str, float] | None = None
        self._ratios: deque[float] = deque(maxlen=self.READINGS)
        self._apart: deque[float] = deque(maxlen=self.READINGS)  # those of them that are added up
        self._added_at = 0  # the losses by then
        self._furthest: deque[float] = deque(maxlen=self.READINGS)
        self._typical = 0.0
        self._of_modules = _Modules()
        self.first = 0.0  # the first typical ratio at the rate's own length; for Adam it is the rate beside the weights

    @property
    def measured(self) -> float | None:
        """The median of the last six typical ratios since the fence, of those over `LONG`; None without a reading.

        The largest where none is over it. The last one may be of weights that the ones before it have ruined, and says
        more of them than of the rate.
        """
        found = sorted(ratio for ratio in self._ratios if ratio >= LONG)
        return found[len(found) // 2] if found else max(self._ratios, default=None)

    @property
    def furthest(self) -> float:
        """The largest ratio of any module among those; 0 where there is none."""
        return max(self._furthest, default=0.0)

    def update(self, ratios: Mapping[str, float]) -> float | None:
        """Of update ratios by layer. The same object again is the same reading."""
        self.read(ratios)
        if not self._ratios:
            return None
        count = self._course.count
        if (count or self._course.idle) and not self._is_losing(self._course):
            return 0.0
        return max(self._typical, self.WEIGHT * sum(self._apart)) if count in self.LOSSES else self._typical

    def _is_losing(self, course: Course) -> bool:
        level = course.fast if course.fast < course.middle else course.middle
        above, gain = level - course.best - course.excused, course.first - course.best
        if not course.traits.averages:
            return course.count >= BEGINNING and above > self.OFF_ALONE * course.scale
        if above <= self.OFF * gain:
            return False
        if gain > course.calm or course.is_no_better(level):
            return True
        return above > self.SWINGS * course.calm and above > self.OFF * abs(course.first)

    def read(self, ratios: Mapping[str, float]) -> None:
        """Take a reading in, without judging it."""
        if ratios is self._newest:
            return
        self._newest = ratios
        least = self._of_modules.least(ratios)
        if len(least) >= self._of_modules.fewest:
            self._typical = statistics.median(least)
            self._ratios.append(self._typical)
            if not self._apart or self._course.count >= self._added_at + self.APART:
                self._apart.append(self._typical)
                self._added_at = self._course.count
            self._furthest.append(max(least))
            at_rate = self._typical / self._course.lengthened
            if at_rate < math.inf:  # else it is of weights that are no numbers any more
                self.first = self.first or at_rate
            self._course.stride = max(self._course.stride, at_rate)
            self._course.furthest = max(self._course.furthest, max(least))

    def fence(self) -> None:
        """Forget every reading but which was the newest."""
        self._ratios.clear()
        self._apart.clear()
        self._furthest.clear()
        self._typical = 0.0


class Crawl:
    """How much slower than usual the weights move while the loss does not come down: 10 is ten times slower.

        the doubt about progress (see `Progress`) times 1e-3 / the largest median update ratio so far

    A ratio that was measured while the learning rate was lower, as in a warm-up, counts as many times as high as the
    rate is by now. The largest so far counts, since a run that has moved and then come to rest does not crawl: it has
    converged. The score is 0 once the loss has come down. Ratios of modules are those of `UpdateExcess`, and the median
    is over those that move. Warm-up: 24 losses, and a step on which update ratios were taken.
    """

    __slots__ = ("_course", "_largest", "_newest", "_of_modules", "_progress", "_typical")

    def __init__(self, course: Course) -> None:
        self._course = course
        self._typical = 0.0  # of the newest ratios
        self._progress = Progress(course)
        self._newest: Mapping[str, float] | None = None
        self._of_modules = _Modules()
        self._largest = 0.0

    def update(self, ratios: Mapping[str, float]) -> float | None:
        """Of update ratios by layer; None where there are none."""
        if not ratios:
            return None
        if ratios is not self._newest:
            self._newest = ratios
            least = self._of_modules.least(ratios)
            moving = sorted(r for r in (least if any(least) else ratios.values()) if 0.0 < r < math.inf)
            self._typical = moving[len(moving) // 2] if moving else 0.0
        growth = self._course.growth
        if growth == math.inf:  # at a rate of 0, which it is no more
            return None
        self._largest = max(self._largest, growth * self._typical)
        missing = self._progress.update(0.0)
        if not missing:
            return missing
        return missing * USUAL_RATIO / self._largest if self._largest else math.inf

    def fence(self) -> None:
        """What has been seen once stays."""


def layers_of(names: Sequence[str]) -> list[int]:
    """For each parameter the index of the module that holds it, in order of appearance.

    A module of which a bias is the only parameter has its weight in one within it, as graph convolutions have: both are
    one layer.
    """
    modules = [name.rpartition(".")[0] or name for name in names]
    others = {module for module, name in zip(modules, names, strict=True) if not name.endswith(".bias")}
    alone = dict.fromkeys(module for module in modules if module not in others)
    within = {module: next((each for each in modules if each.startswith(f"{module}.")), module) for module in alone}
    order: dict[str, int] = {}
    return [order.setdefault(within.get(module, module), len(order)) for module in modules]


def of_trained(ratios: Mapping[str, float], norms: Mapping[str, float]) -> Mapping[str, float]:
    """The update ratios of parameters that have a gradient to speak of.

    A bias before a normalisation has none by its nature, but for rounding: its ratio says nothing of how fast its
    module learns. Both are by parameter name.
    """
    layers = layers_of(tuple(norms))
    largest = largest_by_layer(layers, norms)
    untrained = {
        name for name, layer in zip(norms, layers, strict=True) if not norms[name] >= ROUNDING * largest[layer]
    }
    return {name: ratio for name, ratio in ratios.items() if name not in untrained}


class _Modules:
    """Which parameters belong together; they seldom change."""

    __slots__ = ("_known", "_names", "_places", "fewest")

    def __init__(self) -> None:
        self.fewest = 1  # of which a typical one can be told
        self._known: frozenset[str] = frozenset()
        self._names: tuple[str, ...] = ()
        self._places: list[int] = []

    def least(self, ratios: Mapping[str, float]) -> list[float]:
        """The least ratio of each module, without the parameters that had none at first: see `UpdateExcess`.

        NaN counts as infinite.
        """
        self._known = self._known or frozenset(ratios)
        if not ratios.keys() <= self._known:
            ratios = {name: ratio for name, ratio in ratios.items() if name in self._known}
        names = tuple(ratios)
        if names != self._names:
            self._names, self._places = names, layers_of(names)
            self.fewest = 2 if all("." in name for name in names) else FEWEST  # a weight and a bias may be one layer
        least = [math.inf] * (max(self._places, default=-1) + 1)
        for place, ratio in zip(self._places, ratios.values(), strict=True):
            least[place] = min(least[place], ratio)
        return least


def largest_by_layer(layers: Sequence[int], norms: Mapping[str, float]) -> list[float]:
    """The largest norm of each layer; NaN counts as infinite."""
    largest = [0.0] * (max(layers, default=-1) + 1)
    for layer, norm in zip(layers, norms.values(), strict=True):
        if not norm <= largest[layer]:
            largest[layer] = norm if norm == norm else math.inf
    return largest


def _median(ratios: Mapping[str, float]) -> float:
    """Of those over 0 where it would be 0 otherwise. NaN counts as infinite."""
    found = sorted(ratio if ratio == ratio else math.inf for ratio in ratios.values())
    middle = found[len(found) // 2]
    if middle > 0.0:
        return middle
    moving = [ratio for ratio in found if ratio > 0.0]
    return moving[len(moving) // 2] if moving else middle
