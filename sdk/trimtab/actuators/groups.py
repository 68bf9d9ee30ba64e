"""Values that stand in a parameter group for the length of an update, in place of the schedule's own."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

Group: TypeAlias = MutableMapping[str, Any]


def optimizers_in(optimizer: Optimizer) -> list[Optimizer]:
    """`optimizer` and those that it holds, as Lookahead, SAM and ZeroRedundancyOptimizer do."""
    found: list[Optimizer] = [optimizer]
    for each in found:
        found += [inner for inner in held_by(each) if all(inner is not known for known in found)]
    return found


def held_by(optimizer: Optimizer) -> Iterator[Optimizer]:
    """Those that `optimizer` holds itself, one or several in a list."""
    for value in vars(optimizer).values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if issubclass(type(item), Optimizer):  # isinstance would run properties of foreign objects
                yield item


def groups_of(optimizers: list[Optimizer]) -> list[Group]:
    """Every group once: an optimizer often shares its groups with the one that it holds."""
    groups = {id(group): group for optimizer in optimizers for group in optimizer.param_groups}
    return list(groups.values())


class Placed:
    """What was put into groups, and what was there. One update long, but for the products."""

    def __init__(self) -> None:
        self._entries: list[tuple[Group, str, Any, Any]] = []  # group, key, the schedule's value, ours
        self._shared: dict[int, Tensor] = {}  # ours for each tensor of the schedule's, by its id
        self._written: dict[int, tuple[Tensor, Tensor, Tensor, int]] = {}  # tensor, before, ours, its version since
        self._spent: list[tuple[Tensor, Tensor, int]] = []  # tensor, before, its version since
        self._versions: dict[int, int] = {}  # the versions that tensors of ours had, by id
        self._products: dict[tuple[int, str], Any] = {}  # the last of each place

    def __bool__(self) -> bool:
        return bool(self._entries or self._spent)

    def multiply(self, group: Group, key: str, factor: float) -> None:
        """Put `factor` times the value in its place, bit for bit that product. None stays None.

        A tensor in a capturable group is written to, since a graph may hold it; once, however many groups share it.
        """
        value = group[key]
        if value is None:
            return
        if isinstance(value, Tensor) and group.get("capturable"):
            if id(value) not in self._written:
                with torch.no_grad():
                    before = value.detach().clone()
                    ours = before * factor
                    value.copy_(ours)
                self._written[id(value)] = (value, before, ours, value._version)
            self._entries.append((group, key, value, value))
        else:
            shared = self._product_of(value)
            self.put(group, key, self._once(group, key, value * factor) if shared is None else shared)

    def put(self, group: Group, key: str, value: Any) -> None:
        """Put `value` in place."""
        if isinstance(value, Tensor):
            self._versions[id(value)] = value._version
            self._shared[id(group[key])] = value
        self._entries.append((group, key, group[key], value))
        group[key] = value

    def write(self, tensor: Tensor, factor: float) -> None:
        """Multiply a tensor of the optimizer's state, in place, which the update reads and then writes anew."""
        before = tensor.detach().clone()
        with torch.no_grad():
            tensor.mul_(factor)
        self._spent.append((tensor, before, tensor._version))

    def _once(self, group: Group, key: str, product: Any) -> Any:
        """The same object for the same number: an optimizer may keep one, and put it back in the next update."""
        last = self._products.get((id(group), key))
        if type(last) is type(product) is float and last == product:
            return last
        self._products[id(group), key] = product
        return product

    def _product_of(self, value: Any) -> Any:
        """Ours for a tensor that other groups share."""
        return self._shared.get(id(value)) if type(value) is Tensor else None

    def product(self, value: Any) -> Any:
        """What stands in a group, as it was put there: a tensor that was written to will be written back."""
        written = self._written.get(id(value))
        return value if written is None else written[2]

    def put_back(self) -> bool:
        """Put the schedule's values back, where ours still are. False when somebody else has written meanwhile."""
        untouched = True
        ours = {id(entry[3]) for entry in self._entries}
        for group, key, value, _ in reversed(self._entries):  # where two were put in one place
            placed = group.get(key)
            if id(placed) not in ours:
                untouched = False
                continue
            if isinstance(placed, Tensor) and placed._version != self._versions.get(id(placed), placed._version):
                untouched = False
                with torch.no_grad():
                    value.copy_(placed)  # the optimizer wrote to ours: its own tensor has that from now on
            group[key] = value
        for tensor, before, _, version in self._written.values():
            if tensor._version == version:
                with torch.no_grad():
                    tensor.copy_(before)
            else:
                untouched = False
        with torch.no_grad():
            for tensor, before, version in self._spent:
                if tensor._version == version:  # or else the update was made
                    tensor.copy_(before)
        self._entries, self._written, self._spent, self._versions, self._shared = [], {}, [], {}, {}
        return untouched
