"""Optimizer steps: whose they are, what they applied, and which were skipped."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from threading import RLock, get_ident
from typing import Any

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from trimtab import facts
from trimtab.capture.attribution import Attribution
from trimtab.capture.autograd import in_backward
from trimtab.capture.clipping import Clipping
from trimtab.capture.controlling import StepController
from trimtab.capture.idle import IdleSteps
from trimtab.capture.mode import TrainingMode
from trimtab.capture.models import Models
from trimtab.capture.recorder import Recorder, total
from trimtab.capture.roster import Roster
from trimtab.capture.share import Share
from trimtab.capture.tracked import Tracked, held, parameters_of, rates_of
from trimtab.capture.unannounced import JudgedAfterwards, StepsInBackward, UnseenOptimizer
from trimtab.capture.unowned import LOOKED_AFTER, Unowned
from trimtab.devices import described
from trimtab.sample.scalars import Held, hold, is_real

RECORDED = (
    "A step was recorded in a CUDA graph. Its replays are not seen, so that nothing is shown or judged of them: "
    "trimtab.log() takes what you read of them yourself."
)
HASTY = 8  # steps that are judged out of turn, between two whose turn it is


class Steps:
    """Every optimizer of the process. A `StepListener`; also told of GradScaler."""

    def __init__(self, recorder: Recorder, attribution: Attribution, models: Models, say: Callable[[str, str], None]):
        self._afterwards = [JudgedAfterwards(recorder, lambda: self.controller) for _ in range(2)]
        self.unseen = UnseenOptimizer(recorder, attribution, models, say, self._afterwards[0])
        self.roster = Roster(recorder, attribution)
        self.clipping = Clipping(self.roster, attribution, self.unseen)
        self.in_backward = StepsInBackward(recorder, models, self._afterwards[1], self.roster.reserve)
        self.idle = IdleSteps(say)
        self._mode = TrainingMode(models, say)
        self._unowned = Unowned(models, recorder.living_optimizers, say)
        self.scalers: list[weakref.ref[GradScaler]] = []  # that have stepped, also such as are gone
        self._recorder = recorder
        self._attribution = attribution
        self._models = models
        self._say = say
        self.controller: StepController
        self._meeting = RLock()  # two threads may step two optimizers for the first time at once

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the end of a step, be it an ordinary one."""
        return self.controller.awaits_steps

    def ordinary(self, optimizer: Optimizer) -> Tracked | None:
        """What is known of the only optimizer, if its last step was an ordinary one, and the next may be one."""
        tracked = self.roster.find(optimizer)
        if (
            tracked is None
            or len(self.roster) > 1
            or self.scalers
            or self.clipping.any
            or self.controller.awaits_steps
            or tracked.is_idle
            or tracked.evaluated is not None
            or tracked.calls >= tracked.general_at
        ):
            return None
        if self.in_backward.stepped or any(type(group.get("lr")) is not float for group in optimizer.param_groups):
            return None
        hooks: Any = optimizer
        return None if hooks._optimizer_step_pre_hooks or hooks._optimizer_step_post_hooks else tracked

    def found_probe(self) -> bool:
        """Whether the only optimizer has a gradient where its probe has none, being frozen since: that is not cleared.

        To be asked before a backward that follows another one, with no step between them.
        """
        return any(tracked.share.found_gradient(tracked.parameters) for tracked in self.roster)

    def before_backward(self) -> None:
        """A backward may add to gradients that are there: where one alone has brought them, they are a small batch's.

        Of one optimizer, in one process, without a GradScaler: else it is not known what the two have in common.
        """
        if len(self.roster) != 1 or self.scalers:
            return
        (tracked,) = self.roster
        share = tracked.share
        is_second = len(share.losses) == 1 and not share.is_applied and share.thread == get_ident()
        if is_second and tracked.calls >= tracked.sample_at and facts.group() is None:
            tracked.first = self._recorder.sample_first(tracked.ledger, tracked.parameters)

    def before_step(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """An optimizer is about to step; see `StepListener`."""
        if in_backward() != -1:
            only, self._attribution.only = self._attribution.only, None
            if only is not None and only.losses:  # else who looked at this backward tells of its end
                self.in_backward.untold = only.losses[-1]
            self.in_backward.stepping(optimizer, parameters_of(optimizer))
            return
        tracked = self.roster.find(optimizer)
        if gradients_ready and self.idle.is_one(tracked, optimizer):
            self._be_idle(tracked)
            return
        tracked = tracked or self._meet(optimizer)
        if tracked is None:
            return
        tracked.is_idle = False
        if tracked.is_recorded:
            self._say("graph_recorded", RECORDED)
            return
        self._recorder.stepping()
        if tracked.is_reloaded:
            self._reloaded(tracked, optimizer)
        tracked.evaluated, tracked.weights_held, tracked.judged = None, False, False
        if tracked.is_sampled:  # the step before raised
            tracked.drop_sample()
        tracked.ledger.learning_rate_before = None if gradients_ready else tracked.ledger.learning_rate
        groups = optimizer.param_groups
        if len(groups) == 1 and type(rate := groups[0].get("lr")) is float:
            tracked.ledger.learning_rate = (rate,)
        else:
            tracked.ledger.learning_rate = rates_of(groups)
        share = tracked.share
        if gradients_ready and (share.is_applied or share.probe.grad is None or not share.losses):
            self._look_closer(tracked, optimizer)
        if self.scalers:
            found_inf = getattr(optimizer, "found_inf", None)
            tracked.found_inf = hold(found_inf) if isinstance(found_inf, Tensor) else None
            if tracked.is_left_out:
                return
        if tracked.calls >= tracked.sample_at:
            if tracked.calls >= tracked.update_at:
                self._hold_weights(tracked, optimizer)
            if gradients_ready:
                self._sample(tracked, optimizer)
        if gradients_ready and self._is_due(tracked, optimizer, tracked.share.losses):
            self._judge(tracked, tracked.share.losses)

    def closure_returned(self, optimizer: Optimizer) -> None:
        """The first evaluation of the closure is the step's loss and gradient."""
        tracked = self.roster.find(optimizer)
        if tracked is not None and not tracked.is_recorded:
            self._recorder.stepping()
            tracked.evaluated = list(tracked.share.losses)
            tracked.evaluated_samples = self._recorder.samples
            if tracked.calls >= tracked.sample_at:
                self._sample(tracked, optimizer)
            if self._is_due(tracked, optimizer, tracked.evaluated):
                self._judge(tracked, tracked.evaluated)

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped; see `StepListener`."""
        recorder = self._recorder
        now = recorder.clock()
        tracked = self.roster.find(optimizer)
        if tracked is None or tracked.is_idle or tracked.is_recorded:
            return
        losses = tracked.share.losses
        tracked.ledger.learning_rate_before = None
        if tracked.evaluated is not None:
            losses, recorder.samples = tracked.evaluated, tracked.evaluated_samples
        tracked.share.applied()
        tracked.calls += 1
        tracked.is_sampled = False
        preclip_norm = self.clipping.take(tracked)
        if tracked.is_left_out:
            self._skip(tracked, losses, now)
            return
        if self.controller.steers and self._left_out(tracked, optimizer, losses, now):
            return
        if preclip_norm is not None:
            tracked.ledger.preclip_norms.append((len(tracked.ledger.rows), preclip_norm))
        tracked.ledger.groups = optimizer.param_groups
        ended_at, tracked.ended_at = tracked.ended_at, now
        if tracked.weights_held:
            recorder.compare_weights(tracked.ledger, tracked.weights)
        recorder.record(tracked.ledger, losses, ended_at, now, tracked.found_inf)
        self._mode.stepped(tracked.parameters)
        if not tracked.judged:
            tracked.unjudged.add(losses, tracked.found_inf)
        if tracked.judged or self.controller.awaits_steps:
            self._stepped(tracked)

    def loaded(self, optimizer: Optimizer) -> None:
        """A state was loaded into `optimizer`: weights may have been, too, or may be before it steps."""
        tracked = self.roster.find(optimizer)
        if tracked is not None:
            tracked.is_reloaded = True

    def judge_rest(self, *, is_last: bool = False) -> None:
        """Between two steps, something is judged that rests on those which wait for their turn. Or the run is over.

        Where something may act they keep waiting: all ranks judge the same steps, and every run of the same script.
        """
        if self.controller.acts and not (is_last and self.controller.judges_at_once):
            return
        for judging in self._afterwards:
            judging.judge_rest()
        for tracked in self.roster:
            self.controller.catch_up(tracked.ledger, tracked.unjudged.take())

    def scaler_steps(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """`GradScaler.step` begins."""
        if all(known() is not scaler for known in self.scalers):
            self.scalers.append(weakref.ref(scaler))
        tracked = self.roster.find(optimizer)
        if tracked is None and not self.idle.is_one(None, optimizer):
            tracked = self._meet(optimizer)
        if tracked is not None:
            tracked.calls_before_scaler = tracked.calls

    def scaler_stepped(self, optimizer: Optimizer) -> None:
        """`GradScaler.step` is over. It skipped the step when the optimizer was not called."""
        tracked = self.roster.find(optimizer)
        if tracked is not None and tracked.calls == tracked.calls_before_scaler:
            tracked.calls += 1
            self.clipping.take(tracked)
            self._skip(tracked, tracked.share.losses, self._recorder.clock())

    def _be_idle(self, tracked: Tracked | None) -> None:
        """A step begins that changes nothing: as if it was not called."""
        if tracked is not None:
            tracked.is_idle = True
            tracked.calls_before_scaler = None  # it is not skipped
        backward = None
        if self._attribution.unclaimed and not self.roster.any_seen:
            self.unseen.stop()  # gradients that are cleared were not applied by hand
            backward = self._attribution.unclaimed[-1]
        self.idle.seen(backward)

    def _meet(self, optimizer: Optimizer) -> Tracked | None:
        """An optimizer steps for the first time. None where it has nothing to train."""
        parameters = parameters_of(optimizer)
        if not any(map(is_real, parameters)):
            return None
        with self._meeting:
            self.unseen.stop()
            self._recorder.search(self._models, parameters)
            self._recorder.stepping()  # models of before may be in eval mode, and its own backward wait for this step
            arrival = self.roster.enter(optimizer)
            tracked, label = arrival.tracked, arrival.tracked.ledger.label
            if where := described(parameters):
                self._say("device", f"Trains on {where}.")
            self._recorder.hear_steps()
            started = self._recorder.clock()
            if arrival.is_next:
                self._recorder.begin_passes()
            if arrival.begins_anew:
                self._begin_anew(tracked, arrival.over, joins=arrival.joins)
            elif arrival.is_stage and not arrival.joins:
                self._recorder.books.count_on()
            self.controller.met(optimizer, label)  # which may keep its first state
            if arrival.former and not arrival.begins_anew:
                self._take_over(arrival.former, label)
            self._recorder.meter.add(self._recorder.clock() - started)
            if len(self.roster) > 1:
                self._attribution.on_reached, self._attribution.on_spared = self._reached, self._spared
            return tracked

    def _begin_anew(self, tracked: Tracked, over: Sequence[Tracked] = (), *, joins: bool = False) -> None:
        """Another training begins with its next step, or has begun with the steps of others that it `joins`."""
        self._models.keep(p for known in self.roster for p in known.parameters)
        if joins:
            tracked.ledger.begin_anew()
        else:
            self._recorder.begin_anew(tracked.ledger)
        tracked.look_closely()
        for known in over:
            self.controller.begins_anew(known.ledger.label, may_return=True)
        self.controller.begins_anew(tracked.ledger.label)

    def _take_over(self, former: Sequence[Tracked], label: str) -> None:
        """An optimizer trains on what `former` ones did, of which every step is judged before its first."""
        if self.controller.judges_at_once:
            for known in former:
                self.controller.catch_up(known.ledger, known.unjudged.take())
        self.controller.takes_over(label, [known.ledger.label for known in former])

    def _reloaded(self, tracked: Tracked, optimizer: Optimizer) -> None:
        """A state was loaded. Where the first weights were, too, this is the first step of another training."""
        tracked.is_reloaded = False
        if tracked.beginning.is_now():
            tracked.unjudged.take()
            self._begin_anew(tracked, joins=self.roster.joins(tracked))
            self.controller.met(optimizer, tracked.ledger.label)

    def _look_closer(self, tracked: Tracked, optimizer: Optimizer) -> None:
        """Where the gradients come from, which the probe does not show."""
        share = tracked.share
        self._refresh(tracked, optimizer)
        if share.is_applied and share.thread != get_ident():  # its backwards may have moved to another thread
            share.losses = []
            self._attribution.walk_again()
        if share.probe.grad is None:
            share.find_probe(tracked.parameters)
        if not share.losses and self._attribution.unclaimed:
            self._recorder.search(self._models, self._attribution.follow(share, tracked.parameters))
        if not share.losses and share.probe.grad is not None:
            self._recorder.trained()

    def _refresh(self, tracked: Tracked, optimizer: Optimizer) -> None:
        before = tracked.refresh(optimizer)
        if before:
            self._attribution.renew(tracked.share, before, tracked.parameters)

    def _reached(self, share: Share) -> None:
        for label in self._labels(share):
            self.controller.backward_reached(label, loss=share.losses[-1], cleared=len(share.losses) == 1)

    def _spared(self, share: Share, loss: Held) -> None:
        for label in self._labels(share):
            self.controller.backward_spared(label, loss=loss)

    def _labels(self, share: Share) -> Iterator[str]:
        return (tracked.ledger.label for tracked in self.roster if tracked.share is share)

    def _hold_weights(self, tracked: Tracked, optimizer: Optimizer) -> None:
        """Under a closure too this comes before it, as some optimizers move the weights in between."""
        tracked.update_at = self._recorder.pace.updates.after(tracked.calls, tracked.close_from)
        self._refresh(tracked, optimizer)
        self._recorder.hold_weights(tracked.ledger, tracked.parameters, tracked.weights)
        tracked.weights_held = True

    def _sample(self, tracked: Tracked, optimizer: Optimizer) -> None:
        tracked.sample_at = self._recorder.pace.gradients.after(tracked.calls, tracked.close_from)
        self._refresh(tracked, optimizer)
        scale = getattr(optimizer, "grad_scale", None) if self.scalers else None
        sample = self._recorder.sample(tracked.ledger, tracked.parameters, scale if isinstance(scale, Tensor) else None)
        tracked.is_sampled = True
        if tracked.calls >= LOOKED_AFTER and not self._unowned.is_done and tracked.share.is_of_own_gradients:
            self._unowned.look(tracked.parameters)
        if sample is not None:
            tracked.unjudged.sampled(sample)
        first, tracked.first = tracked.first, None
        if first is not None and (tracked.share.is_untouched or self.clipping.any):
            tracked.ledger.first_backwards.append(first)

    def _judge(self, tracked: Tracked, losses: Sequence[Held]) -> None:
        started = self._recorder.clock()
        if tracked.calls >= tracked.judge_at:
            tracked.hasty = 0
        tracked.unjudged.add(losses, tracked.found_inf)
        due = tracked.unjudged.take()
        tracked.judged = True
        tracked.judge_at = tracked.calls + 1  # where judging fails
        interval = self.controller.judge(tracked.ledger, due)
        if self.controller.judges_at_once and self._recorder.pace.gradients.is_close(tracked.calls, tracked.close_from):
            interval = 1
        tracked.judge_at = (tracked.calls // interval + 1) * interval
        if self.controller.looks_again(tracked.ledger.label):
            tracked.sample_at = tracked.calls + 1
        self._recorder.meter.add(self._recorder.clock() - started)

    def _is_due(self, tracked: Tracked, optimizer: Optimizer, losses: Sequence[Held]) -> bool:
        """Whether the step is to be judged: it is its turn, or it would do harm, as far as can be read at once."""
        is_bad = self.controller.is_wary and self._is_damaging(tracked, optimizer)
        if tracked.calls >= tracked.judge_at:
            return True
        if not is_bad and all(type(loss) is not float or loss - loss == 0.0 for loss in losses):
            return False
        tracked.hasty += 1
        return tracked.hasty <= HASTY and self.controller.judges_at_once

    def _is_damaging(self, tracked: Tracked, optimizer: Optimizer) -> bool:
        """Whether its gradients are not finite: then they are sampled, and those of the next step, which end it."""
        if not self._recorder.are_damaged(tracked.parameters):
            return False
        if not tracked.is_sampled:
            self._sample(tracked, optimizer)
        tracked.sample_at = tracked.calls + 1
        return True

    def _stepped(self, tracked: Tracked) -> None:
        started = self._recorder.clock()
        is_adjusted = self.controller.stepped(tracked.ledger.label)
        if is_adjusted and self.controller.judges_at_once and self._recorder.pace.gradients.fixed is None:
            tracked.look_closely()
        self._recorder.meter.add(self._recorder.clock() - started)

    def _left_out(self, tracked: Tracked, optimizer: Optimizer, losses: Sequence[Held], now: float) -> bool:
        """Whether a policy skipped the step. Where it did not, the rates that were used are noted."""
        if self.controller.left_out(optimizer):
            self._skip(tracked, losses, now, "policy")
            self._stepped(tracked)
            return True
        rates = self.controller.rates(optimizer)
        if rates is not None:
            tracked.ledger.learning_rate = held(rates)
        tracked.ledger.used_decay = self.controller.decays(optimizer)
        return False

    def _skip(self, tracked: Tracked, losses: Sequence[Held], now: float, reason: str = "scaler") -> None:
        """The parameters stay as they are, and the step is not one: GradScaler found Inf or NaN, or a policy did."""
        ledger = tracked.ledger
        tracked.share.skipped()
        tracked.ended_at = now
        ledger.drop_samples()
        self._recorder.books.skip(ledger, reason, total(losses))
        if reason == "scaler":
            started = self._recorder.clock()
            self.controller.skipped(ledger.label)
            self._recorder.meter.add(self._recorder.clock() - started)
        if now >= ledger.close_at:
            self._recorder.close(ledger)
