"""Finds the model behind an optimizer's parameters: for their names, and for whether it is in eval mode."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from trimtab.searches import living

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class _Known(NamedTuple):
    """A model, and the part of it that is asked for its mode."""

    root: weakref.ref[nn.Module]
    core: weakref.ref[nn.Module]

    @classmethod
    def by(cls, root: nn.Module, parameters: set[int]) -> _Known:
        """`root`, known by these of its parameters, by their ids."""
        return cls(weakref.ref(root), weakref.ref(_core(root, parameters)))


class Models:
    """The models whose parameters are trained. Holds them weakly: a user may drop a model in the middle of a run."""

    def __init__(self) -> None:
        self._known: list[_Known] = []
        self._averages: list[weakref.ref[nn.Module]] = []
        self.before_change: Callable[[], object] = lambda: None
        self._are_guessed = False  # those that are known, from a loss that may be of others than are trained
        self._named: dict[str, weakref.ref[Tensor]] = {}  # so that no two living parameters share a name

    def add(self, model: nn.Module) -> None:
        """A model that the user named."""
        self.before_change()
        self._are_guessed = False
        if all(known.root() is not model for known in self._known):
            self._known.insert(0, _Known(weakref.ref(model), weakref.ref(model)))

    def add_average(self, average: nn.Module) -> None:
        """A copy that follows a model, and trains nothing."""
        if all(known is not average for known in self.averages()):
            self._averages.append(weakref.ref(average))

    def averages(self) -> list[nn.Module]:
        """The copies that the user named, and that live."""
        return [average for known in self._averages if (average := known()) is not None]

    def guesses(self) -> bool:
        """Nobody has stepped: whether no model is known yet, so that those which are found now are a guess."""
        self._are_guessed = not self._known
        return self._are_guessed

    def begin(self, parameters: Iterable[Tensor]) -> None:
        """These are trained: where models were guessed before, others than theirs are forgotten."""
        if self._are_guessed:
            self._are_guessed = False
            self.keep(parameters)

    def search(self, parameters: Iterable[Tensor], *, everywhere: bool = True) -> None:
        """Find the outermost modules that hold `parameters`. One scan of the garbage collector's objects: 40 ms.

        Of those alone that came to be a short while ago, where it is not to be done `everywhere`: 1 ms.
        """
        wanted = {id(p) for p in parameters}
        for index, root in enumerate(self._alive()):
            held = wanted.intersection(map(id, _parameters(root)))
            wanted -= held
            core = self._known[index].core()
            if held and core is not None:
                self._known[index] = _Known.by(root, held.union(map(id, _parameters(core))))
        if not wanted:
            return
        holders = []
        for module in living(nn.Module, everywhere=everywhere):
            held = wanted.intersection(map(id, _parameters(module)))
            if held:
                holders.append((len(held), sum(1 for _ in _modules(module)), module))
        holders.sort(key=lambda holder: (-holder[0], -holder[1]))
        for _, _, module in holders:
            held = wanted.intersection(map(id, _parameters(module)))
            if held:
                self._known.append(_Known.by(module, held))
                wanted -= held

    def keep(self, parameters: Iterable[Tensor]) -> None:
        """Forget the models that hold none of `parameters`: they are trained no more, and may be in eval mode."""
        self.before_change()
        kept = set(map(id, self.holding(parameters)))
        self._known = [known for known in self._known if id(known.root()) in kept]

    def names(self, parameters: Iterable[Tensor]) -> list[tuple[str, int]]:
        """A name, and the place in its model's own order, for each parameter.

        The name is the user's own, under the model's class where another model has it already, and `parameter.<i>`
        where no model is known.
        """
        known: dict[int, tuple[str, int, str]] = {}
        for root in self._alive():
            for depth, (name, parameter) in enumerate(root.named_parameters()):
                known.setdefault(id(parameter), (_unwrapped(name), depth, type(root).__name__))
        return [
            self._name(parameter, *known.get(id(parameter), (f"parameter.{index}", index, "")))
            for index, parameter in enumerate(parameters)
        ]

    def _name(self, parameter: Tensor, name: str, depth: int, model: str) -> tuple[str, int]:
        numbered = (f"{model}.{i}.{name}" for i in range(1, 1000))
        for candidate in itertools.chain((name, f"{model}.{name}"), numbered):
            holder = self._named.get(candidate)
            if holder is None or holder() is None or holder() is parameter:
                self._named[candidate] = weakref.ref(parameter)
                return candidate, depth
        return f"{model}.{name}.{id(parameter)}", depth

    def holding(self, parameters: Iterable[Tensor]) -> list[nn.Module]:
        """The known models that hold any of `parameters`."""
        wanted = {id(p) for p in parameters}
        return [model for model in self._alive() if not wanted.isdisjoint(map(id, _parameters(model)))]

    def evaluated(self, parameters: Iterable[Tensor]) -> list[nn.Module]:
        """Of the known models that hold any of `parameters` those in eval mode."""
        holding = self.holding(parameters)
        cores = (known.core() for known in self._known if known.root() in holding)
        return [core for core in cores if core is not None and not core.training]

    def by_name(self) -> dict[str, nn.Module]:
        """Every known model, under the name of its class, numbered where several share one."""
        named: dict[str, nn.Module] = {}
        for model in self._alive():
            kind = type(model).__name__
            others = sum(name.partition(".")[0] == kind for name in named)
            named[f"{kind}.{others}" if others else kind] = model
        return named

    def any_in_eval_mode(self) -> bool:
        """Whether a known model is in eval mode. 0.1 us."""
        for _, core in self._known:
            model = core()
            if model is not None and not model.training:
                return True
        return False

    def only(self) -> Callable[[], Any] | None:
        """Gives the only model known, or something in training mode where there is none. None where there are more."""
        self._alive()
        if len(self._known) > 1:
            return None
        return self._known[0].core if self._known else _always_training

    def _alive(self) -> list[nn.Module]:
        self._known = [known for known in self._known if known.root() is not None]
        return [model for root, _ in self._known if (model := root()) is not None]


class _Training:
    training = True


def _always_training() -> type[_Training]:
    return _Training


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    """`module` and all below it, by its own dictionaries: foreign modules may be half built, or override `modules`."""
    seen: set[int] = set()
    stack = [module]
    while stack:
        current = stack.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            stack += [child for child in current.__dict__.get("_modules", {}).values() if child is not None]


def _parameters(module: nn.Module) -> Iterator[Tensor]:
    """Those that are registered, and plain tensors that want a gradient, as models from scratch have them."""
    for each in _modules(module):
        yield from (p for p in each.__dict__.get("_parameters", {}).values() if p is not None)
        plain = (value for value in list(each.__dict__.values()) if issubclass(type(value), Tensor))
        yield from (tensor for tensor in plain if tensor.requires_grad and tensor.is_leaf)


def _core(root: nn.Module, wanted: set[int]) -> nn.Module:
    """The innermost module that holds all of `wanted`, which people put into eval mode themselves.

    What is around it may be a loss, which stays in training mode. `eval` of what is around it reaches it too.
    """
    inner, seen = [root], set[int]()  # a module may hold what holds it
    while len(inner) == 1 and id(inner[0]) not in seen:
        (root,) = inner
        seen.add(id(root))
        children = {id(child): child for child in root.__dict__.get("_modules", {}).values() if child is not None}
        inner = [child for child in children.values() if wanted.issubset(map(id, _parameters(child)))]
    return root


def _unwrapped(name: str) -> str:
    for prefix in WRAPPER_PREFIXES:
        name = name.replace(f".{prefix}", ".").removeprefix(prefix)
    return name
