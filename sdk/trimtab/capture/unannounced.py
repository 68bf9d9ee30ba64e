"""Steps that no hook announces in the usual way.

Optimizers that step inside `backward`, one a parameter, are one optimizer whose step ends when backward returns.
Parameters that are updated by hand, or by an optimizer whose hooks never fire, are seen by their gradients: where
these are cleared between two backwards, a step was taken. Its learning rate cannot be known, and is left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.capture.attribution import Attribution
from trimtab.capture.controlling import StepController
from trimtab.capture.models import Models
from trimtab.capture.recorder import Behind, Recorder
from trimtab.capture.share import Share
from trimtab.capture.tracked import Unjudged, held, parameters_of, rates_of
from trimtab.sample.gradients import Taken
from trimtab.sample.ledger import GradientSample, Ledger
from trimtab.sample.scalars import Held

ROUNDS_WITHOUT_STEP = 3
ROUNDS_BEFORE_STEP = 256  # ... where an optimizer is there that may step yet

NO_STEP_SEEN = (
    "No optimizer step is seen, as with Keras, fastai, updates by hand, or an optimizer that does not call "
    "super().__init__(). Steps are counted by cleared gradients: loss, accuracy, gradients and samples are shown; the "
    "learning rate is not, and policies can do nothing but halt."
)


class JudgedAfterwards:
    """Has steps judged that are known only when they are over: nothing can be left out or clipped any more."""

    def __init__(self, recorder: Recorder, controller: Callable[[], StepController]) -> None:
        self.controller = controller
        self._recorder = recorder
        self._ledger: Ledger | None = None
        self._unjudged = Unjudged()
        self._calls = 0
        self._judge_at = 0

    def sampled(self, sample: GradientSample) -> None:
        """Gradients of the step that follows."""
        self._unjudged.sampled(sample)

    def judge(self, ledger: Ledger, losses: Sequence[Held]) -> None:
        """A step is over, and about to be recorded."""
        self._ledger = ledger
        self._unjudged.add(losses)
        if self._calls >= self._judge_at:
            started = self._recorder.clock()
            due = self._unjudged.take()
            self._judge_at = self._calls + 1
            interval = self.controller().judge(ledger, due, applied=True)
            self._judge_at = (self._calls // interval + 1) * interval
            self._recorder.meter.add(self._recorder.clock() - started)
        self._calls += 1

    def judge_rest(self) -> None:
        """Something is judged that rests on the steps which wait for their turn."""
        if self._ledger is not None:
            self.controller().catch_up(self._ledger, self._unjudged.take())

    def begin_anew(self, ledger: Ledger) -> None:
        """Another training begins with the next step. Those that wait are of the one before it."""
        due = self._unjudged.take()
        if self.controller().judges_at_once:
            self.controller().catch_up(ledger, due)
        self.controller().begins_anew(ledger.label)

    def recorded(self, ledger: Ledger, *, pending: bool = False) -> None:
        """It is recorded: the moment for what has waited for the end of a step. `pending`: the next has begun."""
        if self.controller().awaits_steps:
            started = self._recorder.clock()
            self.controller().stepped(ledger.label, pending=pending)
            self._recorder.meter.add(self._recorder.clock() - started)


class StepsInBackward:
    """A set of optimizers that step as soon as a gradient is there."""

    def __init__(self, recorder: Recorder, models: Models, judging: JudgedAfterwards, label: Callable[[], str]) -> None:
        """`label` gives the one that they are to have, once."""
        self.stepped = False  # in the backward that is under way
        self.untold: Held | None = None  # the loss of that backward, where nobody is going to tell of its end
        self._label = label
        self._recorder = recorder
        self._models = models
        self._ledger: Ledger | None = None
        self._calls = 0
        self._sample_at = 0
        self._ended_at: float | None = None
        self._parameters: list[Tensor] = []  # sampled in this backward
        self._taken: list[Taken] = []
        self._judging = judging
        self._newest: weakref.ref[Optimizer] | None = None
        self._joined: weakref.WeakSet[Optimizer] = weakref.WeakSet()

    @property
    def any_seen(self) -> bool:
        """Whether there are any."""
        return self._ledger is not None

    def stepping(self, optimizer: Optimizer, parameters: list[Tensor]) -> None:
        """One of the optimizers is about to step."""
        recorder = self._recorder
        if self._ledger is None:
            self._ledger = recorder.books.ledger(self._label())
        if optimizer not in self._joined:  # joining goes through all of them
            self._joined.add(optimizer)
            self._judging.controller().joined(optimizer, self._ledger.label)
        if not self.stepped:
            self.stepped, self._newest = True, weakref.ref(optimizer)
            self._ledger.learning_rate = rates_of(optimizer.param_groups)
        if self._calls >= self._sample_at:
            started = recorder.clock()
            present, taken = recorder.sampler.take(parameters)
            self._parameters += present
            self._taken.append(taken)
            recorder.meter.add(recorder.clock() - started)

    def backward_returned(self, loss: Held | None) -> None:
        """All have stepped."""
        recorder, ledger, now = self._recorder, self._ledger, self._recorder.clock()
        if ledger is None:
            return
        if self._taken:
            recorder.search(self._models, self._parameters)
            self._judging.sampled(recorder.sampler.add(ledger, self._parameters, self._taken))
            self._sample_at = recorder.pace.gradients.after(self._calls)
        self._parameters, self._taken, self.stepped, self.untold = [], [], False, None
        self._calls += 1
        ended_at, self._ended_at = self._ended_at, now
        losses = [] if loss is None else [loss]
        self._judging.judge(ledger, losses)
        newest = None if self._newest is None else self._newest()
        rates = None if newest is None else self._judging.controller().rates(newest)
        if rates is not None:
            ledger.learning_rate = held(rates)
        recorder.record(ledger, losses, ended_at, now)
        self._judging.recorded(ledger)


class _Round(NamedTuple):
    """From one clearing of the gradients to the next."""

    losses: list[Held]
    norm: Held | None  # before clipping
    behind: Behind
    ended_at: float


class UnseenOptimizer:
    """Steps told by cleared gradients. Watches only while no optimizer is known.

    A step shows when the next backward begins. By then losses were called and batches fetched that belong to that one,
    so after each backward what is behind it is set aside.
    """

    def __init__(
        self,
        recorder: Recorder,
        attribution: Attribution,
        models: Models,
        say: Callable[[str, str], None],
        judging: JudgedAfterwards,
    ) -> None:
        self._judging = judging
        self._recorder = recorder
        self._attribution = attribution
        self._models = models
        self._say = say
        self._rounds: list[_Round] = []
        self._awaited: list[weakref.ref[Optimizer]] = []  # those that may step yet
        self._behind = Behind()  # since the last step, up to the newest backward
        self._norm: Held | None = None  # that clipping found since the last step
        self._share: Share | None = None
        self._losses: list[Held] = []
        self._settled = False  # whether their step is recorded
        self._ledger: Ledger | None = None
        self._parameters: list[Tensor] = []
        self._calls = 0
        self._sample_at = 0
        self._ended_at: float | None = None

    def waits(self) -> bool:
        """Whether all rounds so far may have been none, and an optimizer lives that may step yet."""
        return self._share is None and bool(self._rounds) and self._may_step()

    def before_backward(self, gone: list[Held]) -> None:
        """A backward is about to run; `gone` are losses whose gradients were cleared and that no optimizer claimed."""
        if self._share is not None:
            if self._share.losses is not self._losses:
                if not self._settled:
                    self._step(self._losses, self._norm, self._recorder.clock())
                self._settled = False
                self._losses, self._norm = self._share.losses, None
                self._behind, self._rounds = self._gathered(), []
        if gone:
            self._rounds.append(_Round(gone, self._norm, self._behind, self._recorder.clock()))
            self._norm, self._behind = None, Behind()
            if len(self._rounds) >= ROUNDS_WITHOUT_STEP and not self._may_step():
                self._start()

    def after_backward(self) -> None:
        """A backward has returned."""
        self._behind.add(self._recorder.set_aside())
        self.gradients_written()

    def gradients_written(self) -> None:
        """By a backward, or by clipping. Nobody knows when they will be used, so the last of these times is sampled."""
        if self._ledger is not None and self._calls >= self._sample_at:
            self._ledger.drop_samples()
            sample = self._recorder.sample(self._ledger, self._parameters)
            if sample is not None:
                self._judging.sampled(sample)

    def clipped(self, norm: Held) -> None:
        """Gradients are clipped, whose norm was this."""
        self._norm = norm

    def are_clipped(self) -> None:
        """It has been written to them. Who writes next clears them, as no step is going to tell of itself."""
        if self._share is not None:
            self._share.skipped()
        self.gradients_written()

    def settle(self) -> None:
        """The last gradients were used too: what was validated since, or the end of the run, says so."""
        if self._share is not None and self._share.losses and not self._settled:
            self._settled = True
            self._ended_at = None  # when the last one ended, nobody saw
            self._step(self._share.losses, self._norm, self._recorder.clock(), pending=False)

    def stop(self) -> None:
        """An optimizer was seen after all, or the run ends."""
        self.settle()
        self._settled = False
        if self._share is None:  # rounds that were none: their batches were fetched for whoever steps now
            feeds = self._recorder.feeds
            self._rounds = [each._replace(behind=each.behind.fetched_alone(feeds)) for each in self._rounds]
        behind = self._gathered()
        behind.add(self._recorder.set_aside())
        self._recorder.resume(behind)
        self._behind = Behind()
        if self._share is not None:
            self._attribution.drop(self._share)
            self._attribution.by_hand = False
        self._share, self._ledger, self._rounds, self._awaited = None, None, [], []
        self._parameters, self._losses, self._norm = [], [], None

    def _gathered(self) -> Behind:
        """What is behind the rounds that were not taken for steps, and what came after them."""
        behind = Behind()
        for each in self._rounds:
            behind.add(each.behind)
        behind.add(self._behind)
        return behind

    def _may_step(self) -> bool:
        """Whether an optimizer lives that may step yet, so that these rounds may be none.

        Opacus adds up the gradients of several batches aside; some go through a few batches to warm up; Langevin's
        steps and attacks move inputs. One that was let go without a step was there to clear gradients, if anything.
        """
        if len(self._rounds) >= ROUNDS_BEFORE_STEP:
            return False
        if not self._awaited:
            self._awaited = [weakref.ref(each) for each in self._concerned()]
        return any(known() is not None for known in self._awaited)

    def _concerned(self) -> list[Optimizer]:
        """The optimizers that would be heard, and to which belongs what the backwards reach.

        Or whose parameters are held fixed just now, where inputs are moved: plain tensors, and nobody's.
        """
        reached = {id(leaf): leaf for leaf in self._attribution.newest_leaves}
        hooked = [each for each in self._recorder.living_optimizers() if getattr(type(each).step, "hooked", False)]
        owners = [each for each in hooked if not reached.keys().isdisjoint(map(id, parameters_of(each)))]
        if owners or not reached or any(isinstance(leaf, nn.Parameter) for leaf in reached.values()):
            return owners
        return [each for each in hooked if not _is_trained(parameters_of(each))]

    def _start(self) -> None:
        self._say("unseen_optimizer", NO_STEP_SEEN)
        self._awaited = []
        before, self._parameters = self._share, self._attribution.newest_leaves
        self._recorder.search(self._models, self._parameters)
        self._ledger = self._recorder.books.ledger("0")
        if before is not None:
            self._succeed(before)
        behind = self._behind
        for each in self._rounds:
            self._behind = each.behind
            self._step(each.losses, each.norm, each.ended_at)
        self._behind, self._rounds = behind, []
        self._attribution.by_hand = True
        self._share = self._attribution.add(self._parameters)
        self._losses = self._share.losses

    def _succeed(self, before: Share) -> None:
        """Others are trained than those so far, whose steps are over."""
        self._attribution.drop(before)
        if self._ledger is not None and before.ids.isdisjoint(map(id, self._parameters)):
            self._models.keep(self._parameters)
            self._recorder.begin_anew(self._ledger)
            self._judging.begin_anew(self._ledger)

    def _step(self, losses: list[Held], norm: Held | None, now: float, *, pending: bool = True) -> None:
        if self._ledger is not None:
            if norm is not None:
                self._ledger.preclip_norms.append((len(self._ledger.rows), norm))
            if self._calls >= self._sample_at:
                self._sample_at = self._recorder.pace.gradients.after(self._calls)
            self._calls += 1
            ended_at, self._ended_at = self._ended_at, now
            self._judging.judge(self._ledger, losses)
            self._record(self._ledger, losses, ended_at, now)
            self._judging.recorded(self._ledger, pending=pending)

    def _record(self, ledger: Ledger, losses: list[Held], ended_at: float | None, now: float) -> None:
        later = self._recorder.set_aside()
        self._recorder.resume(self._behind)
        self._behind = Behind()
        self._recorder.record(ledger, losses, ended_at, now)
        self._recorder.resume(later)


def _is_trained(parameters: Sequence[Tensor]) -> bool:
    """Whether a backward may reach them now. Many hold a model fixed while they move its inputs."""
    return any(parameter.requires_grad for parameter in parameters)
