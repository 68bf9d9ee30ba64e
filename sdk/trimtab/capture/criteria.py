"""What loss functions say while they are called: validation losses, the criterion of training, predictions."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from trimtab.capture.autograd import in_backward, in_checkpoint
from trimtab.capture.calls import Calls, Undecided, node_of
from trimtab.capture.loaders import LoaderPass
from trimtab.capture.looks import Looks
from trimtab.capture.losses import BuiltinLoss, Loss
from trimtab.capture.models import Models
from trimtab.capture.objective import Objective
from trimtab.capture.origins import Evaluated, Origin, Origins
from trimtab.capture.passes import Passes
from trimtab.capture.said import News, Said
from trimtab.capture.summing import Summing
from trimtab.capture.validating import Evaluation
from trimtab.capture.weighing import Weighing
from trimtab.sample.chance import is_counted
from trimtab.sample.criteria import MEAN, NONE, Criterion, LossCall, criterion, predictions
from trimtab.sample.scalars import Held, has_value
from trimtab.sample.spacing import Spacing

EVAL_MODE_TRAINS_AFTER = 3


class Criteria:
    """Sorts calls of loss functions into training and validation.

    Without grad, or on a model in eval mode, it is validation. A loss with grad on a model in eval mode is held until
    it is known whether backward is called on it: some people train that way. Attacks ask `torch.autograd.grad` for the
    gradient of their inputs: such a loss is neither.
    """

    def __init__(self, models: Models, passes: Passes, spacing: Spacing, clock: Callable[[], float]) -> None:
        self.said = Said()  # by the training calls since the last step, up to the newest backward
        self._calls = Calls()  # beside those
        self._called = False  # since the last backward
        self._models = models
        self._passes = passes
        self._clock = clock
        self._primary: str | None = None  # the loss function that training is compared by
        self._has_classes = False  # whether it knows any
        self._compared: set[str] = set()  # those that it ever was compared by
        self.on_change: Callable[..., object] = lambda *, is_new: None  # called before it is another one
        self.on_another: Callable[[str], object] = lambda loss: None  # called when training has one it never had
        self._is_by_hand = False  # whether it ever had a loss that is not of any
        self.on_first: Callable[[Tensor], object] | None = None  # called with the first loss that has a graph
        self.on_weighed: Callable[[str], object] = lambda loss: None  # called when a validation by it is left out
        self._trained: dict[str, int] = {}  # those that training uses, with their rank
        self._objective = Objective()
        self._weighing = Weighing()
        self._summing = Summing()  # of the primary
        self._undecided: list[Undecided] = []  # of one batch
        self._batch: tuple[LoaderPass, int] | None = None  # which it is, if a loader tells
        self._origins = Origins()
        passes.feeding.on_data = self._origins.loaded
        self._evaluated = Evaluated()
        self._trained_on = 0  # samples, by the newest call in training that did not take the lane
        self._eval_mode_backwards = 0
        self.awaits_step = False  # whether the newest backward is one more of them if a step follows
        self._looks = Looks(spacing, clock)

    def called(self, loss: Loss, output: Tensor, args: tuple[Any, ...]) -> None:
        """A loss function has returned."""
        if not has_value(output):  # shapes only: a model is built, or its size measured; or a graph is recorded
            return
        is_usual = loss is self._objective.plain and self._looks.calls_left > 0
        if is_usual and output.requires_grad and loss.is_mean(args):
            if not self._models.any_in_eval_mode():
                self._looks.calls += 1
                self._pass_over(loss)
                self._trained_on = loss.samples(args)
                is_loaded, is_again = self._passes.batch_samples > 0, in_backward() != -1  # as by a checkpoint
                if is_loaded or not (is_again or _is_being_traced()):
                    self._called = True
                    if not is_loaded:
                        self._passes.computed(output)
                    if not is_again:
                        self._add_plain(loss, output, output._version, 0 if is_loaded else self._trained_on)
                return
        if self.on_first is not None and output.requires_grad and not _is_being_traced():
            on_first, self.on_first = self.on_first, None
            on_first(output)
        in_eval_mode = self._models.any_in_eval_mode() and self._eval_mode_backwards < EVAL_MODE_TRAINS_AFTER
        if self._undecided and (not in_eval_mode or self._is_of_another_batch(loss)):
            self.decide()
        if in_backward() != -1 or _is_being_traced():
            return
        if not is_grad_enabled() or (in_eval_mode and not output.requires_grad):
            if not in_checkpoint():
                self._validate(loss, output, args)
        elif in_eval_mode:
            call = loss.call(output, args)
            self._undecided.append(Undecided(loss, self._evaluation(call), output, call.reduction))
            self._batch = self._passes.batch
            self._doubt()
        elif output.requires_grad:
            self._train(loss, output, args)

    def decide(self) -> None:
        """Held losses that nothing was differentiated through are validation."""
        undecided, self._undecided = self._undecided, []
        for held in undecided:
            name = held.loss.name
            if self._may_compare(name, held.reduction) and not held.is_differentiated:
                self._passes.validated(held.evaluation, loss=name, rank=self._rank(name))
                self._passes.resumed_at = self._clock()

    def backward(self, tensor: Any, *, is_returned: bool | None = None, root: Any = None) -> None:
        """Backward is called on `tensor`: learn whether that is the very output of the loss function.

        `is_returned`: whether what `GradScaler` multiplied was; `root`: the node of the graph that computed it.
        """
        is_by_hand = not (self._called or self._undecided)
        self._called = self.awaits_step = False
        if self._primary in self._weighing.backward(tensor):
            self.said.take_back()
            self._calls.take_back()
        if self._objective.backward(tensor, is_returned=is_returned):
            self._calls.backward(tensor, self.said, is_all=True)
            self.said.mark()
            self._summing.forget()  # or else it would hold this graph, and all parameters in it
            return
        self._doubt()
        if is_by_hand and not self._is_by_hand:
            self._is_by_hand = True
            if self._trained:
                self.on_another("")
        if self._undecided and not self._models.any_in_eval_mode():  # it is called on another loss, written by hand
            self.decide()
        if self._undecided:
            for held in self._undecided:
                self._train_in_eval_mode(held)
            self._undecided.clear()
            self._called = False
            self.awaits_step = self._passes.hears_steps
            if not self.awaits_step:
                self._eval_mode_backwards += 1
        self._calls.backward(tensor, self.said)
        self.said.mark()
        self._objective.learn(tensor, is_returned=is_returned)
        self._summing.backward(getattr(tensor, "grad_fn", None) if is_returned is None else root)

    def hear_steps(self) -> None:
        """Steps are announced from now on: of the backwards before the first, one at least was for it."""
        self._eval_mode_backwards = min(self._eval_mode_backwards, 1)

    def stepping(self) -> None:
        """A step follows a backward that ran in eval mode."""
        self.awaits_step = False
        self._eval_mode_backwards += 1

    def begin_anew(self) -> None:
        """Another model is trained: if not by the loss function of the one before, it is compared by its own."""
        newest = self._objective.newest
        if newest is not None and newest.name != self._primary and (self._objective.is_mean or not self.said.values):
            self._trained.clear()
            self._primary, self._has_classes = None, False
            self._meet(newest)
        self._looks.begin_anew()
        self._summing = Summing()

    def returned(self, tensor: Tensor) -> bool:
        """Whether it is what the newest call of a loss function in training returned."""
        return self._objective.returned(tensor)

    def is_as_returned(self, tensor: Tensor) -> bool:
        """Whether it is `returned`, and nobody has written to it since."""
        return self._objective.is_as_returned(tensor)

    def value_of(self, tensor: Tensor) -> Held:
        """The value of what backward is called on, of which `backward` is to be told next."""
        return self._objective.value_of(tensor)

    def forget(self) -> None:
        """What was called with grad, and not trained on, was no training: a validation by a script without no_grad."""
        if self._called:
            self._called = False
            self._calls.forget()
            self._summing.forget()
            self._weighing.forget()

    def ordinary(self) -> BuiltinLoss | None:
        """The loss function of which nothing need be read. None where there is more to it."""
        plain = self._objective.plain
        return plain if type(plain) is BuiltinLoss and not self._are_pending() else None

    def are_silent(self) -> bool:
        """Whether training has called no loss function so far: its loss is written by hand."""
        return self._objective.newest is None and not self._are_pending()

    def _are_pending(self) -> bool:
        return bool(self._called or self._calls or self._undecided or self.said.has_news)

    def ordinary_calls(self) -> float:
        """How many calls of the ordinary loss may pass until predictions are looked at, or labels counted."""
        plain = self._objective.plain
        if plain is None or plain.name != self._primary or not is_counted(plain.name, plain.classes):
            return math.inf
        return self._looks.calls_left if plain.classes is not None else self._looks.labels_left

    def look(self, loss: Loss, output: Tensor, args: tuple[Any, ...]) -> bool:
        """The ordinary loss was called, and is due to be looked at, or its labels to be counted. Whether it was."""
        if output.is_meta or _is_being_traced():
            return False
        self._looks.calls += 1
        started = self._clock()
        call = loss.call(output, args)
        if not self._passes.batch_samples:
            self._origins.trained_on(call.target)
        self._looks.read(call, self.said, started)
        return True

    def catch_up(
        self,
        calls: int,
        output: Tensor | None = None,
        samples: int = 0,
        *,
        is_trained: bool = False,
        is_looked_at: bool = False,
    ) -> None:
        """The ordinary loss was called, where there is one.

        `output`: of the newest call; `samples`: of those since the last step; `is_trained`: backward was called on it;
        `is_looked_at`: as `look` was told.
        """
        if self._objective.newest is not None:
            self._looks.calls += calls
        self.said.samples = samples if is_trained else 0
        self.said.unmark()
        if is_trained:
            self.said.mark(is_sealed=True)
        self._called = output is not None
        self._objective.catch_up(is_trained=is_trained)
        plain = self._objective.plain
        if output is not None and plain is not None:
            read, self.said = self.said, Said(self._primary)  # of that call
            self._add_plain(plain, output, 0, samples, read)  # as builtin loss functions return it
        if (self._called or is_trained) and plain is not None and not is_looked_at:
            self._pass_over(plain)

    @property
    def waiting(self) -> int:
        """The samples of losses that no backward has differentiated yet; 0 where they are not known."""
        return self._calls.samples

    @property
    def of_mean(self) -> int:
        """The samples of the one mean that the newest backward was called on. 0 where it was on another loss."""
        return self._trained_on if self._objective.is_mean else 0

    def end_step(self) -> None:
        """A step is over, before what was said for it is taken."""
        self._calls.end_step()
        self._objective.end_step()
        self._looks.end_step()

    def take(self, loss: Held | None, *, is_one: bool = True) -> News:
        """What the calls since the last step said, then forget it. `is_one`: not several were summed up to `loss`."""
        return self.said.take(loss, self._objective.is_mean and is_one, self._objective.is_sum)

    @property
    def tells(self) -> bool:
        """Whether a loss function's own mean is known of the step that is over: it is the objective, or beside it."""
        return bool(self.said.values) or self._objective.plain is not None

    @property
    def holds_sum(self) -> bool:
        """Whether backward is called on a sum over samples that the loss function returned, with more terms or not."""
        return self._summing.is_sum

    def set_aside(self) -> Said:
        """Forget what the calls since the last step said, or since this was called, but for giving it to `resume`."""
        said, self.said = self.said, Said(self._primary)
        return said

    def resume(self, said: Said) -> None:
        """As if nothing but this were said since the last step."""
        self.said = said
        if said.primary != self._primary:
            said.compare_by(self._primary)

    def _train(self, loss: Loss, output: Tensor, args: tuple[Any, ...]) -> None:
        self._remember(loss, weakref.ref(output), output._version, is_mean=loss.is_mean(args))
        call, said, waits = loss.call(output, args), Said(self._primary), self._objective.plain is not None
        self._trained_on = call.samples
        if not self._passes.batch_samples:
            said.samples = call.samples
            self._passes.computed(output)
            self._origins.trained_on(call.target)
        self._called = True
        self._calls.add(loss.name, node_of(output), said, waits=waits)
        self._looks.calls += 1
        if call.reduction == NONE:
            self._weighing.called(loss.name, output)
        if loss.name != self._primary or self._weighing.leaves_out(loss.name, call.reduction):
            return
        samples = min(call.samples, self._passes.batch_samples or call.samples)
        self._summing.called(output, samples, is_mean=call.reduction == MEAN)
        value = criterion(call)
        said.values.append(Criterion(value.value, 1.0, 1) if waits else value)
        if is_counted(loss.name, loss.classes):
            self._looks.read(call, said, self._clock())

    def _add_plain(self, loss: Loss, output: Tensor, version: int, samples: int, read: Said | None = None) -> None:
        """The plain loss was called, and of that call no more was read than is in `read`."""
        said = Said(self._primary) if read is None else read
        value, said.samples = self._objective.called_plain(output, version), samples
        if loss.name == self._primary:
            said.values.append(Criterion(value, 1.0, 1))
        self._calls.add(loss.name, node_of(output), said, waits=True)

    def _train_in_eval_mode(self, held: Undecided) -> None:
        value, met, *_ = held.evaluation
        self._remember(held.loss, held.output, held.version, is_mean=held.reduction == MEAN)
        said = Said(self._primary, 0 if self._passes.batch_samples else value.samples)
        self._called = True
        self._trained_on = value.samples
        self._calls.add(held.loss.name, held.node, said)
        if held.loss.name == self._primary and not self._weighing.leaves_out(held.loss.name, held.reduction):
            said.values.append(value)
            said.predictions += [] if met is None else [met]

    def _is_of_another_batch(self, loss: Loss) -> bool:
        """Whether what is held is of a batch before. A batch may have several calls: heads, or samples of a network."""
        is_known = self._batch is not None and self._batch == self._passes.batch
        return not is_known and any(held.loss.name == loss.name for held in self._undecided)

    def _pass_over(self, loss: Loss) -> None:
        """A call was ordinary, of which nothing was read."""
        if loss.name == self._primary:
            self._looks.pass_over()

    def _remember(self, loss: Loss, output: weakref.ref[Tensor], version: int, *, is_mean: bool) -> None:
        if loss.name not in self._trained:
            self._meet(loss)
        if loss is not self._objective.newest:
            self._doubt()
        self._objective.called(loss, output, version, is_mean=is_mean)

    def _doubt(self) -> None:
        """Its mean is not the whole objective this time: what its calls returned counts after all."""
        self._objective.doubt()
        self._calls.doubt()

    def _meet(self, loss: Loss) -> None:
        """Training uses a loss function for the first time. One that knows classes goes before one that does not."""
        if self._trained or self._is_by_hand:
            self.on_another(loss.name)
        self._trained[loss.name] = 1 + len(self._trained)
        if self._primary is None or (loss.classes is not None and not self._has_classes):
            self._has_classes = loss.classes is not None
            self.compare_by(loss.name)

    def compare_by(self, name: str) -> None:
        """From now on the training criterion and its accuracy are those of this loss function, as validation is."""
        if name in self._trained and name != self._primary:
            if self._primary is not None:
                self.on_change(is_new=name not in self._compared)
            self._primary = name
            self._compared.add(name)
            self._doubt()
            self.said.compare_by(name)
            self._calls.compare_by(name)
            self._looks.begin_anew()
            self._summing = Summing()

    def _rank(self, name: str) -> int:
        return 0 if name == self._primary else self._trained.get(name, 0)

    def _validate(self, loss: Loss, output: Tensor, args: tuple[Any, ...]) -> None:
        call = loss.call(output, args)
        if self._may_compare(loss.name, call.reduction):
            self._passes.validated(self._evaluation(call), loss=loss.name, rank=self._rank(loss.name))
            self._passes.resumed_at = self._clock()
        elif self._weighing.leaves_out(loss.name, call.reduction):
            self.on_weighed(loss.name)
        elif self._models.any_in_eval_mode():
            self._passes.evaluated_otherwise()

    def _may_compare(self, name: str, reduction: int) -> bool:
        """Whether training calls that loss function, or none so far, and its mean, asked for so, is of use there."""
        is_trained = not self._trained or name in self._trained
        return is_trained and not self._weighing.leaves_out(name, reduction)

    def _evaluation(self, call: LossCall) -> Evaluation:
        return Evaluation(criterion(call), predictions(call), self._origin_of(call.target), self._may_be_trained(call))

    def _may_be_trained(self, call: LossCall) -> bool:
        """Whether it may be of the batch that was trained on last, as where its loss is taken again after the step."""
        if self._passes.is_fed or call.target is None:
            return False
        is_as_large = call.samples in (self._trained_on, self._passes.batch_samples)
        return is_as_large and self._evaluated.is_new(call.target, self._looks.calls)

    def _origin_of(self, target: Tensor | None) -> Origin | None:
        if not self._passes.is_fed:
            return self._origins.of(target)
        return self._origins.of(None) if self._passes.asks_origin else None


def _is_being_traced() -> bool:
    """Under torch.jit.trace and torch.func nothing may be read."""
    return torch._C._get_tracing_state() is not None or torch._C._functorch.peek_interpreter_stack() is not None
