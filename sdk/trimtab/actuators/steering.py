"""The settings of every optimizer that is steered, and what was learned from a run that is resumed."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.actions import Refused
from trimtab.actuators.clipping import Clip
from trimtab.actuators.dropout import Dropout, put_back
from trimtab.actuators.parts import owned_by
from trimtab.actuators.updates import Settings, Updates, Used

OVERWRITTEN = (
    "Optimizer {label} ({kind}) writes its own learning rate or weight decay while it steps, so that no scale can be "
    "held around it. It goes on with its own."
)


class Hooks(Protocol):
    """What is needed of the hooks: see `capture.optimizers.OptimizerHooks`."""

    def surround(self, optimizer: Optimizer, surrounding: Steering) -> object:
        """Call `surrounding` around every update from now on."""
        ...

    def under_closure(self, optimizer: Optimizer) -> bool:
        """Whether the step has begun before its gradients were there."""
        ...


class Steered:
    """One label: an optimizer, or several that step inside `backward` and are one."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.settings = Settings()
        self.dropout = Dropout()
        self.refusal = ""  # why its rates cannot be changed
        self._optimizers: list[weakref.ref[Optimizer]] = []

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that live."""
        return [optimizer for held in self._optimizers if (optimizer := held()) is not None]

    @property
    def parameters(self) -> list[Tensor]:
        """Theirs, in order."""
        return [parameter for optimizer in self.optimizers for parameter in owned_by(optimizer)]

    @property
    def is_gone(self) -> bool:
        """Whether there were any, and none lives."""
        return bool(self._optimizers) and not self.optimizers

    def add(self, optimizer: Optimizer) -> None:
        """Another one with this label."""
        if all(known is not optimizer for known in self.optimizers):
            self._optimizers.append(weakref.ref(optimizer))

    def begin_anew(self) -> None:
        """What was asked of the optimizers so far is asked no more. Should one step on, it is added again."""
        self.settings.clear()
        self.dropout.put_back()
        self.dropout = Dropout()
        self.refusal = ""
        self._optimizers.clear()

    def state(self) -> dict[str, Any]:
        """JSON-able, see `Steering.state_dict`."""
        scale, decay, clip = self.settings.scale.state(), self.settings.decay.state(), self.settings.clip
        return {
            "learning_rate": scale,
            "weight_decay": decay,
            "clip": None if clip is None else clip.state(),
            "clears": self.settings.clears,
            "dropout": self.dropout.ratio,
            "lower": self.dropout.lower,
        }


class Steering:
    """A surrounding for every optimizer that is steered. Optimizers are known by their labels, and held weakly.

    `models_of(parameters)` gives the models that hold them; `usual_norm(label)` the norm that gradients usually have,
    None while it is not known; `say(kind, text)` tells the user something once; `reset(label)` tells whoever keeps
    book of a scale that it is 1 again, and that the one before is over.
    """

    def __init__(
        self,
        hooks: Hooks,
        models_of: Callable[[Iterable[Tensor]], Sequence[nn.Module]],
        usual_norm: Callable[[str], float | None],
        say: Callable[[str, str], None],
        reset: Callable[[str], None] = lambda label: None,
    ) -> None:
        self.models_of = models_of
        self.usual_norm = usual_norm
        self._hooks = hooks
        self._say = say
        self._reset = reset
        self._steered: dict[str, Steered] = {}
        self._updates: weakref.WeakKeyDictionary[Optimizer, Updates] = weakref.WeakKeyDictionary()
        self._resumed: dict[str, Mapping[str, Any]] = {}

    def begin(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """An update begins."""
        self._updates[optimizer].begin(optimizer, gradients_ready)

    def enter(self, optimizer: Optimizer, gradients_ready: bool) -> None:
        """An update goes on after a closure."""
        self._updates[optimizer].enter(optimizer, gradients_ready)

    def leave(self, optimizer: Optimizer) -> None:
        """The user's code runs in the middle of an update."""
        self._updates[optimizer].leave()

    def end(self, optimizer: Optimizer) -> None:
        """An update is over."""
        self._updates[optimizer].end()

    def meet(self, label: str, optimizer: Optimizer) -> None:
        """An optimizer is seen for the first time. It is surrounded at once where a resumed run steered it."""
        steered = self._find(label)
        if steered.is_gone:  # and what was asked of it with it
            steered.settings.clear()
            steered.refusal = ""
            self._reset(label)
        steered.add(optimizer)
        resumed = self._resumed.pop(label, None)
        if resumed is not None:
            self._resume(steered, resumed)
        elif self._is_surrounded(steered):
            self.surround(steered)

    def forget(self, label: str) -> None:
        """Another model is trained under this label: what was asked so far was about the one before it."""
        self._find(label).begin_anew()
        self._reset(label)

    def steered(self, label: str) -> Steered:
        """The optimizers of this label, and what is asked of them."""
        return self._find(label)

    def surround(self, steered: Steered) -> None:
        """From now on the settings hold around every update, also around the one that is about to be made.

        Raises `Refused` for an optimizer without hooks, and does nothing for one that is surrounded already.
        """
        for optimizer in steered.optimizers:
            if not hasattr(optimizer, "_optimizer_step_post_hooks"):
                raise Refused(f"The steps of {type(optimizer).__name__} have no hooks: it calls no super().__init__().")
        steered.settings.shared_by = len(steered.optimizers)
        for optimizer in steered.optimizers:
            if optimizer not in self._updates:
                self._updates[optimizer] = Updates(optimizer, steered.settings, lambda: self._overwritten(steered))
                self._hooks.surround(optimizer, self)

    def under_closure(self, steered: Steered) -> bool:
        """Whether the step that is under way had begun before its gradients were there."""
        return any(self._hooks.under_closure(optimizer) for optimizer in steered.optimizers)

    def used(self, optimizer: Optimizer) -> Used | None:
        """What the last update used where that was not the schedule's and the user's own. Read it after the step."""
        updates = self._updates.get(optimizer)
        return updates.used if updates is not None else None

    def skipped(self, optimizer: Optimizer) -> bool:
        """Whether the last update was left out. Read it after the step."""
        updates = self._updates.get(optimizer)
        return updates is not None and updates.skipped

    def scale(self, label: str) -> float:
        """The scale of the learning rate that the next update uses."""
        return self._steered[label].settings.scale.value if label in self._steered else 1.0

    def target(self, label: str) -> float:
        """The scale that was set last, which may be reached over several updates."""
        return self._steered[label].settings.scale.target if label in self._steered else 1.0

    @property
    def is_under_way(self) -> bool:
        """Whether a learning rate is still on its way to its scale, or clipping to its end."""
        return any(steered.settings.is_under_way for steered in self._steered.values())

    def state_dict(self) -> dict[str, Any]:
        """Scales, decays, clipping and dropout by label, JSON-able."""
        return {label: steered.state() for label, steered in self._steered.items()} | dict(self._resumed)

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on where another run was. What is about an optimizer that is not known yet waits until it is met.

        Raises ValueError, TypeError or KeyError for what `state_dict` does not say. Nothing was changed then.
        """
        for saved in state.values():
            _read(saved)
        for label, saved in state.items():
            if label in self._steered and self._steered[label].optimizers:
                self._resume(self._steered[label], saved)
            else:
                self._resumed[label] = saved

    @property
    def steers(self) -> bool:
        """Whether anything is, or will be, other than what a run begins with."""
        return any(_read(saved).steers or saved["dropout"] is not None for saved in self.state_dict().values())

    def begin_anew(self) -> None:
        """Forget what `load_state_dict` was given."""
        self._resumed.clear()
        self._drop_out_as_before()
        for steered in self._steered.values():
            steered.settings.clear()
            steered.dropout = Dropout()
            self._reset(steered.label)

    def close(self) -> None:
        """Put everything back. The hooks are removed by whoever registered them."""
        for updates in list(self._updates.values()):
            updates.end()
        self._drop_out_as_before()

    def _drop_out_as_before(self) -> None:
        put_back([steered.dropout for steered in self._steered.values()])

    def _find(self, label: str) -> Steered:
        return self._steered.setdefault(label, Steered(label))

    def _is_surrounded(self, steered: Steered) -> bool:
        return any(optimizer in self._updates for optimizer in steered.optimizers)

    def _resume(self, steered: Steered, saved: Mapping[str, Any]) -> None:
        settings = steered.settings
        _load(settings, saved, lambda: self.usual_norm(steered.label))
        if saved["dropout"] is not None:
            with contextlib.suppress(Refused):  # the model has it, or has none any more
                models = self.models_of(steered.parameters)
                steered.dropout.set(models, saved["dropout"], lower=saved.get("lower", False))
        if settings.steers:
            with contextlib.suppress(Refused):
                self.surround(steered)

    def _overwritten(self, steered: Steered) -> None:
        kind = type(steered.optimizers[0]).__name__
        steered.refusal = OVERWRITTEN.format(label=steered.label, kind=kind)
        steered.settings.rescale_no_more()
        self._reset(steered.label)
        self._say("rate_overwritten", steered.refusal)


def _read(saved: Mapping[str, Any]) -> Settings:
    """As settings that nobody uses."""
    trial, ratio = Settings(), saved["dropout"]
    _load(trial, saved, lambda: None)
    if ratio is not None and not 0 <= ratio < 1:
        raise ValueError(f"dropout {ratio}: this is no ratio")
    return trial


def _load(settings: Settings, saved: Mapping[str, Any], usual: Callable[[], float | None]) -> None:
    """Runs of earlier versions say nothing of clipping and clearing."""
    settings.scale.load(saved["learning_rate"])
    settings.decay.load(saved["weight_decay"])
    clip = saved.get("clip")
    settings.clip = None if clip is None else Clip.load(clip, usual)
    settings.clears = bool(saved.get("clears", False))
