"""Attaches every part, and passes on what backwards, losses and loaders tell.

The path of an unsampled step is `_before_backward`, `Steps.before_step`, `Steps.after_step`, and one call each for the
loss function and the loader; where gradients are not cleared before each backward, `_after_backward`, too. Most steps
take the lane instead, see `lane`. What costs more is done on sampled steps.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, Protocol

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from trimtab.capture.attribution import Attribution
from trimtab.capture.autograd import are_real, as_tensors, in_backward, objective, reach_of, watch_backward
from trimtab.capture.controlling import StepController
from trimtab.capture.criteria import Criteria
from trimtab.capture.dynamo import keep_out
from trimtab.capture.gaps import LOOK, UNCLEAR
from trimtab.capture.hooks import Ways, backward_of, clipped_of, loss_of, next_of_loader
from trimtab.capture.idle import NO_GRADIENT
from trimtab.capture.lane import Lane
from trimtab.capture.loaders import pass_of, watch_loaders
from trimtab.capture.losses import OwnLoss, watch_losses
from trimtab.capture.models import Models
from trimtab.capture.optimizers import OptimizerHooks, watch_loading
from trimtab.capture.passes import Passes
from trimtab.capture.patches import Patches
from trimtab.capture.recorder import Recorder
from trimtab.capture.scaling import ScaledLosses, ScalerListener, watch_clipping, watch_scalers
from trimtab.capture.steps import Steps
from trimtab.capture.threads import Backwards
from trimtab.capture.weighing import WEIGHED
from trimtab.guard import Guard
from trimtab.sample.books import Books
from trimtab.sample.meter import Meter
from trimtab.sample.passes import PassSums
from trimtab.sample.sampler import Sampler
from trimtab.sample.scalars import Held, has_value
from trimtab.sample.updates import Weights
from trimtab.types import PhaseSummary

NO_LOSS = (
    "Steps are taken, but no loss is seen: their gradients come from no backward of a loss, but from torch.func, "
    "torch.autograd.grad or code of your own. Gradients and learning rates are shown. Log it: trimtab.log(loss=...)."
)

NO_STEP = (
    "Backward was called, and no step was seen: no optimizer of torch stepped in this process. Updates by hand or by "
    "other optimizers are told by gradients that are cleared between backwards, after three times; after 256 where an "
    "optimizer of torch has the same parameters. On a device use p.grad.zero_(): p.grad.data.zero_() may not be seen."
)

NO_MEAN = (
    "Calls of the criterion {loss}, which was attached, are not shown: it has to return the mean, as a tensor of one "
    "element or as the only tensor without dimensions in a tuple, and its first argument has to be a tensor. Log the "
    "validation: trimtab.log(loss=..., phase='validation')."
)


class RunController(StepController, Protocol):
    """What judges the run, and may change it."""

    def validating(self) -> None:
        """The first loss of a validation pass was computed."""
        ...

    def validated(self, summary: PhaseSummary) -> None:
        """A validation pass is over; the next training step has been through the model at most."""
        ...


class Capture:
    """Attached to the whole process, between `attach` and `detach`. One instance for one run."""

    def __init__(
        self,
        books: Books,
        sampler: Sampler,
        models: Models,
        meter: Meter,
        guard: Guard,
        say: Callable[[str, str], None],
        logs: Callable[[], bool],
    ) -> None:
        """`logs`: whether the user logs numbers, which may be those that are not seen."""
        self._books = books
        self._meter = meter
        self._guard = guard
        self._say = say
        self._patches = Patches()
        self._attribution = Attribution()
        self._controller: RunController
        unclear = functools.partial(say, "validation_unclear", UNCLEAR)
        look = functools.partial(say, "validation_look", LOOK)
        self._passes = Passes(self._validated, books.end_epoch, unclear, look)
        books.place = self._passes.place
        self._criteria = Criteria(models, self._passes, sampler.pace.accuracy, time.perf_counter)
        self._scaled = ScaledLosses(self._criteria.is_as_returned)
        books.on_no_loss = lambda: None if logs() else say("loss_unseen", NO_LOSS)
        self._passes.unseen.tell = lambda text: None if logs() else say("validation_unseen", text)
        self._criteria.on_weighed = lambda loss: None if logs() else say("validation_unseen", WEIGHED.format(loss=loss))
        self._passes.on_validating = self._validating
        self._passes.evaluates = models.any_in_eval_mode
        self._passes.feeding.counted = lambda: self._criteria.said.samples
        self._passes.feeding.waiting = lambda: self._criteria.waiting
        self._passes.feeding.of_mean = lambda: self._criteria.of_mean
        self._criteria.on_change = self._compares_anew
        self._criteria.on_another = self._another_loss
        recorder = Recorder(books, sampler, self._passes, self._criteria, meter)
        self._criteria.on_first = lambda loss: recorder.guess(models, reach_of([loss]).leaves)
        self._steps = Steps(recorder, self._attribution, models, say)
        self._passes.awaits_first = self._steps.unseen.waits
        self._lane = Lane(self._steps, self._passes, self._criteria, self._attribution, models, recorder, guard)
        self._lane.ways = Ways(self._lane)
        models.before_change = self._lane.leave
        self.hooks = OptimizerHooks(self._steps, self._lane)
        self.backwards = Backwards()
        self._gate: Callable[[], None] | None = None
        self._undo_losses: Callable[[], None] | None = None
        self._criterion_hooks: list[RemovableHandle] = []

    def attach(self, controller: RunController) -> None:
        """Hook and wrap, and tell `controller` of steps and validation. Undone by `detach`."""
        self._controller = self._steps.controller = controller
        patches, steps = self._patches, self._steps
        hook = functools.partial(self._guard.wrap_hook, meter=self._meter)
        guard, lane, ways = self._wrap, self._lane, self._lane.ways
        ways.set_loader(hook("loader", self._batch_came), guard("loader", self._pass_ended))
        watch_loaders(patches, functools.partial(next_of_loader, lane))
        ways.set_loss(hook("loss", self._criteria.called))
        self._undo_losses = watch_losses(patches, functools.partial(loss_of, lane), ways.loss)
        before, after = hook("backward", self._before_backward), hook("backward", self._after_backward)
        broken = guard("backward", self._backward_broke_off)
        watch_backward(patches, keep_out(before), keep_out(after), keep_out(broken), self._wrap_backward)
        ways.set_clipping(self._guard.wrap("clipping", steps.clipping.clipped))
        watch_clipping(patches, clipped_of(lane), self._guard.wrap("clipping", steps.clipping.are_clipped))
        watch_scalers(
            patches,
            ScalerListener(
                scaled=guard("GradScaler.scale", self._scaled.remember),
                stepping=guard("GradScaler.step", steps.scaler_steps),
                stepped=guard("GradScaler.step", steps.scaler_stepped),
                unscaling=guard("GradScaler.unscale_", steps.clipping.unscaling),
            ),
            self._guard.wrap,
        )
        watch_loading(patches, Optimizer, guard("load_state_dict", self._state_loaded))
        watch_loading(patches, nn.Module, guard("load_state_dict", self._steps.roster.loaded))
        self.hooks.attach(hook, guard)

    def detach(self) -> None:
        """Put everything back as it was."""
        self._guard.wrap("lane", self._lane.leave)()
        self.hooks.detach()
        self._patches.restore()
        for handle in self._criterion_hooks:
            handle.remove()
        if self._undo_losses is not None:
            self._undo_losses()
            self._undo_losses = None

    def finish(self) -> None:
        """The run ends: close the last epoch, publish the last steps."""
        self._criteria.decide()
        self._steps.unseen.stop()
        self._steps.judge_rest(is_last=True)
        self._passes.finish()
        self._books.flush()
        for tracked in self._steps.roster:  # whoever holds the run holds no copy of weights
            tracked.weights = Weights()

    def end_validation(self, *, is_last: bool = False) -> None:
        """What was validated counts now, though no training has followed it yet. `is_last`: none will."""
        self._lane.leave()
        self._criteria.decide()
        self._steps.unseen.settle()
        self._passes.end_validation(is_last=is_last)

    def progress(self) -> tuple[int, object]:
        """Steps taken, and what else changes while the loop is alive: loaders, and losses of validation."""
        passes = self._passes
        return self._meter.steps, (passes.resumed_at, passes.place())

    def has_seen_any(self) -> bool:
        """Whether any step or validation was seen."""
        return bool(self._meter.steps or self._passes.resumed_at or self._books.ledgers)

    def why_no_step(self) -> str:
        """Where no step was seen: what was. Empty where nothing was that belongs to one."""
        if self._steps.idle.any_seen:
            return NO_GRADIENT
        return NO_STEP if self._attribution.unclaimed else ""

    def trains_alone(self) -> bool:
        """Whether no other thread that has trained is at work: it may be stepping, or need the weights for a graph."""
        return self.backwards.are_alone(share.thread for share in self._attribution.shares)

    def before_backwards(self, call: Callable[[], None] | None) -> None:
        """Call `call`, if any, at the beginning of every backward from now on. It may raise what no guard catches."""
        self._gate = call
        self._lane.is_shut = call is not None
        self._lane.leave()

    def look_out(self) -> Callable[[], bool | None]:
        """See `Roster.look_out`."""
        return self._guard.wrap("halt", self._steps.roster.look_out())

    @property
    def scalers(self) -> list[GradScaler]:
        """Every GradScaler that has stepped."""
        return [scaler for known in self._steps.scalers if (scaler := known()) is not None]

    def name(self, optimizer: Optimizer, name: str) -> None:
        """Label `optimizer` with a name instead of its index."""
        self._steps.roster.name(optimizer, name)

    def watch_criterion(self, criterion: nn.Module) -> None:
        """Take the output of a loss module of the user's own as the mean loss of its batch."""
        loss = OwnLoss(type(criterion).__name__)
        report, unread = self._wrap("criterion", self._criteria.called), self._guard.wrap("criterion", self._say)

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given, mean = (*args, *kwargs.values()), loss.mean(output)
            if isinstance(mean, Tensor) and type(mean) is not Tensor:  # the fake one of a compiler
                return
            if isinstance(mean, Tensor) and mean.numel() == 1 and given and isinstance(given[0], Tensor):
                report(loss, mean, given)
            else:
                unread("validation_unseen", NO_MEAN.format(loss=loss.name))

        self._criterion_hooks.append(criterion.register_forward_hook(keep_out(hook), with_kwargs=True))

    def _wrap(self, place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """For what is no part of an ordinary step: guarded, and the lane is left first."""

        def left_and_called(*args: Any) -> Any:
            self._lane.leave()
            return function(*args)

        return self._guard.wrap(place, left_and_called)

    def _wrap_backward(self, original: Callable[..., Any], general: Callable[..., Any]) -> Callable[..., Any]:
        self._lane.ways.set_backward(original, general)
        return backward_of(self._lane, original)

    def _before_backward(self, tensors: Any, grad_tensors: Any) -> tuple[Held | None, Sequence[Tensor]] | None:
        """What `_after_backward` needs; None when nothing is left to do: one optimizer, whose gradients are cleared."""
        if in_backward() != -1:  # a part of the backward around it
            return None
        if (
            self._gate is not None
            or self._scaled.recent
            or type(tensors) is not Tensor
            or grad_tensors is not None
            or tensors.numel() != 1
            or not has_value(tensors)
        ):
            return self._before_any_backward(tensors, grad_tensors)
        passes, only = self._passes, self._attribution.only
        if only is None or only.thread != get_ident() or only.probe.grad is not None:
            return self._before_any_backward(tensors, grad_tensors)
        if not only.is_applied and self._steps.found_probe():
            return self._before_any_backward(tensors, grad_tensors)
        loss, said = self._criteria.value_of(tensors), self._criteria.said
        if said.is_marked:
            said.drop_marked()
            self._steps.clipping.are_cleared()
        self._criteria.backward(tensors)
        if passes.has_news:
            passes.training()
        only.begin(loss)
        return None

    def _before_any_backward(self, tensors: Any, grad_tensors: Any) -> tuple[Held | None, Sequence[Tensor]] | None:
        self.backwards.begin()
        if self._gate is not None:
            self._gate()
        if not (has_value(tensors) if type(tensors) is Tensor else are_real(tensors)):  # nothing is learnt
            return None
        if self._steps.in_backward.untold is not None:  # it took the short way, as nobody had stepped in one before
            self._steps.in_backward.backward_returned(self._steps.in_backward.untold)
        gone = self._attribution.before_backward()
        said = self._criteria.said
        if self._attribution.cleared:
            self._steps.clipping.are_cleared()
            if not said.is_sealed:
                said.drop_marked()
        if not self._steps.roster.any_seen:  # a step may show only now, and belongs to what was before
            self._steps.unseen.before_backward(gone)
        loss: Held | None = None
        is_returned: bool | None = None
        root: Any = None
        if self._scaled.recent and (found := self._scaled.unscaled(tensors)) is not None:
            loss, is_returned, root = found
        roots: Sequence[Tensor]
        if type(tensors) is Tensor and grad_tensors is None:
            roots, scalar = (tensors,), tensors if tensors.numel() == 1 else None
        else:
            roots, scalar = objective(tensors, grad_tensors, self._criteria.returned)
        if loss is None and scalar is not None:
            loss = self._criteria.value_of(scalar)
        self._criteria.backward(tensors, is_returned=is_returned, root=root)
        if self._passes.has_news:
            self._passes.training()
        self._steps.before_backward()
        return loss, roots

    def _after_backward(self, token: tuple[Held | None, Sequence[Tensor]], inputs: Any) -> None:
        loss, roots = token
        stepped = self._steps.in_backward.stepped
        if stepped:
            self._steps.in_backward.backward_returned(loss)
        if loss is not None and (self._attribution.shares or not stepped):  # others may apply gradients of it later
            self._attribution.after_backward(loss, roots, as_tensors(inputs))
            if not (stepped or self._steps.roster.any_seen):
                self._steps.unseen.after_backward()
        if self._steps.in_backward.any_seen:
            self._attribution.only = None

    def _backward_broke_off(self) -> None:
        if self._steps.in_backward.stepped:
            self._steps.in_backward.backward_returned(None)
            self._attribution.only = None

    def _validating(self) -> None:
        started = time.perf_counter()
        self._controller.validating()
        self._meter.add(time.perf_counter() - started)

    def _state_loaded(self, optimizer: Optimizer) -> None:
        self._lane.leave()
        self._steps.loaded(optimizer)

    def _another_loss(self, loss: str) -> None:
        self._passes.end_validation(is_last=False)  # what stands before it is judged by what was known
        self._controller.another_loss(loss)

    def _compares_anew(self, *, is_new: bool) -> None:
        self._books.forget_criterion()
        if is_new:
            self._controller.another_validation()

    def _validated(self, sums: PassSums, loss: str) -> None:
        if loss:
            self._criteria.compare_by(loss)
        self._books.validation(sums)
        started = time.perf_counter()
        self._steps.judge_rest()
        self._controller.validated(sums.summary())  # which may keep the best weights
        self._meter.add(time.perf_counter() - started)

    def _batch_came(self, iterator: Any, batch: Any, asked: float) -> None:
        got = time.perf_counter()
        if self._passes.fed(iterator, batch, asked, got):
            return
        self._criteria.decide()
        self._passes.fetched(pass_of(iterator), batch, asked, got)

    def _pass_ended(self, iterator: Any) -> None:
        ended = pass_of(iterator)
        if self._passes.is_aside(ended):
            self._criteria.forget()
        self._passes.exhausted(ended)
