"""Attaches every part, and passes on what backwards, losses and loaders tell.

The path of an unsampled step is `_before_backward`, `_after_backward`, `Steps.before_step`, `Steps.after_step`, and one
call each for the loss function and the loader. Together they are held under 7 us; what costs more is done on sampled
steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from trimtab.capture.attribution import Attribution
from trimtab.capture.autograd import in_backward, objective, watch_backward
from trimtab.capture.criteria import Criteria
from trimtab.capture.dynamo import keep_out
from trimtab.capture.loaders import LoaderPass, watch_loaders
from trimtab.capture.losses import Loss, OwnLoss, watch_losses
from trimtab.capture.models import Models
from trimtab.capture.optimizers import OptimizerHooks
from trimtab.capture.passes import Passes
from trimtab.capture.patches import Patches
from trimtab.capture.recorder import Recorder
from trimtab.capture.scaling import ScaledLosses, watch_clipping, watch_scaler_steps, watch_unscale
from trimtab.capture.steps import Steps
from trimtab.guard import Guard
from trimtab.sample.meter import Meter
from trimtab.sample.sampler import Sampler
from trimtab.sample.scalars import Held, hold


class Capture:
    """Attached to the whole process, between `attach` and `detach`. One instance for one run."""

    def __init__(
        self, sampler: Sampler, models: Models, meter: Meter, guard: Guard, say: Callable[[str, str], None]
    ) -> None:
        self._sampler = sampler
        self._meter = meter
        self._guard = guard
        self._clock = time.perf_counter
        self._patches = Patches()
        self._attribution = Attribution()
        self._scaled = ScaledLosses()
        self._passes = Passes(self._validation_over, sampler.end_epoch)
        self._criteria = Criteria(models, self._passes, sampler.accuracy_spacing, self._clock)
        recorder = Recorder(sampler, self._passes, self._criteria, meter)
        self._steps = Steps(recorder, self._attribution, models, say)
        self._hooks = OptimizerHooks(self._steps)
        self._undo_losses: Callable[[], None] | None = None
        self._criterion_hooks: list[RemovableHandle] = []

    def attach(self) -> None:
        """Hook and wrap. Undone by `detach`."""
        guard, patches, steps = self._guard.wrap, self._patches, self._steps
        before, after = guard("backward", self._before_backward), guard("backward", self._after_backward)
        watch_backward(patches, keep_out(before), keep_out(after))
        self._undo_losses = watch_losses(patches, self._loss_called, guard)
        watch_loaders(patches, self._batch_came, self._passes.exhausted, guard)
        watch_clipping(patches, guard("clipping", steps.clipped))
        self._scaled.attach(patches, guard)
        watch_scaler_steps(
            patches, guard("GradScaler.step", steps.scaler_steps), guard("GradScaler.step", steps.scaler_stepped)
        )
        watch_unscale(patches, guard("GradScaler.unscale_", steps.unscaling))
        self._hooks.attach(guard)

    def detach(self) -> None:
        """Put everything back as it was."""
        self._hooks.detach()
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
        self._passes.finish()
        self._sampler.flush(self._passes.known_epoch)

    def name(self, optimizer: Optimizer, name: str) -> None:
        """Label `optimizer` with a name instead of its index."""
        self._steps.name(optimizer, name)

    def watch_criterion(self, criterion: nn.Module) -> None:
        """Take the output of a loss module of the user's own as the mean loss of its batch."""
        loss = OwnLoss(type(criterion).__name__)
        report = self._guard.wrap("criterion", self._loss_called)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if type(output) is Tensor and output.numel() == 1 and args and isinstance(args[0], Tensor):
                report(loss, output, args)

        self._criterion_hooks.append(criterion.register_forward_hook(keep_out(hook)))

    def _before_backward(self, tensors: Any, grad_tensors: Any) -> tuple[Held | None, Sequence[Tensor]]:
        started = self._clock() if self._meter.timing else 0.0
        loss: Held | None = None
        source = tensors
        if self._scaled.recent:
            found = self._scaled.unscaled(tensors)
            if found is not None:
                loss, source = found
        self._criteria.backward(source)
        self._passes.training()
        roots: Sequence[Tensor]
        if type(tensors) is Tensor and grad_tensors is None:
            roots, scalar = (tensors,), tensors if tensors.numel() == 1 else None
        else:
            roots, scalar = objective(tensors, grad_tensors)
        if loss is None and scalar is not None:
            loss = hold(scalar)
        gone = self._attribution.before_backward()
        if not self._steps.any_seen:
            self._steps.unseen.before_backward(gone)
        if started:
            self._meter.hook(started)
        return loss, roots

    def _after_backward(self, token: tuple[Held | None, Sequence[Tensor]] | None, inputs: Any) -> None:
        if token is None:
            return
        started = self._clock() if self._meter.timing else 0.0
        loss, roots = token
        if self._steps.in_backward.stepped:
            self._steps.in_backward.backward_returned(loss)
        elif loss is not None:
            self._attribution.after_backward(loss, roots, _as_tensors(inputs))
            if not self._steps.any_seen:
                self._steps.unseen.after_backward()
        if started:
            self._meter.hook(started)

    def _loss_called(self, loss: Loss, output: Tensor, args: tuple[Any, ...]) -> None:
        if in_backward() != -1:  # computed again under checkpointing
            return
        started = self._clock() if self._meter.timing else 0.0
        self._criteria.called(loss, output, args)
        if started:
            self._meter.hook(started)

    def _batch_came(self, loader: LoaderPass, samples: int | None, asked: float, got: float) -> None:
        self._criteria.decide()
        self._passes.fetched(loader, samples, asked, got)
        if self._meter.timing:
            self._meter.hook(got)

    def _validation_over(self, sums: Any) -> None:
        self._sampler.validation(sums, self._passes.known_epoch)


def _as_tensors(inputs: Any) -> Sequence[Tensor] | None:
    if inputs is None:
        return None
    return [inputs] if isinstance(inputs, Tensor) else [i for i in inputs if isinstance(i, Tensor)]
