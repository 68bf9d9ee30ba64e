"""Copies of all that a layout names, and the way back: into the very tensors that they were taken from.

In place, because others hold those tensors too: the user's variables, compiled models, fused and capturable optimizers.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from trimtab.actions import Refused
from trimtab.actuators.layout import Layout
from trimtab.actuators.parts import owned_by
from trimtab.actuators.restoring import Restoring, alike, has_own_memory, put_buffer, put_state
from trimtab.actuators.saving import contents, is_whole, write
from trimtab.devices import can_tell

# By the id of the module and the name; a parameter by its own id, and no name.
Buffers: TypeAlias = Mapping[tuple[int, str], Tensor]
NO_BUFFERS: Buffers = {}


class Pool:
    """Memory of copies that are no longer wanted. Writing to fresh memory takes twice as long as to memory in use."""

    def __init__(self) -> None:
        self._free: dict[Any, list[Tensor]] = {}

    def give(self, tensors: Sequence[Tensor]) -> None:
        """Take memory back. Nobody else may use it any more."""
        for tensor in tensors:
            if tensor.layout is torch.strided:
                self._free.setdefault(_kind(tensor, tensor.is_pinned()), []).append(tensor)

    def get(self, like: Tensor) -> Tensor:
        """Host memory for a copy of `like`: pinned where its device tells when a copy has arrived."""
        pinned = can_tell(like.device.type)
        free = self._free.get(_kind(like, pinned))
        if free:
            return free.pop()
        return torch.empty_like(like, device="cpu", pin_memory=pinned, requires_grad=False)

    def clear(self) -> None:
        """Let go of what nobody asked for."""
        self._free.clear()


class Picture:
    """Copies of the tensors of a layout, in host memory or in a file."""

    def __init__(
        self, layout: Layout, step: int, pool: Pool, path: Path | None = None, buffers: Buffers = NO_BUFFERS
    ) -> None:
        """Copy what `layout` names. With `path` to that file, loadable with `weights_only=True`.

        `buffers` are copied in place of what is there now, where they are alike.

        Cost: reads and writes every byte once. On a CUDA device the copies are ordered with what the device does next,
        and not waited for.

        Raises:
            Refused: a tensor cannot be copied, as torch has no copy of its kind or no memory; or the file cannot be
                written.
        """
        living, layout.tensors = layout.tensors, []
        names, layout.names = layout.names, []
        layout.indices.clear()
        self.layout = layout
        self.bytes = sum(map(bytes_of, living))
        self._devices = [tensor.device for tensor in living]
        places = [((id(each.module()), each.name), each.index) for each in layout.buffers] if buffers else []
        places += [((id(reference()), ""), index) for reference, index in layout.parameters] if buffers else []
        for place, index in places:
            given = buffers.get(place)
            if given is not None and index is not None and alike(living[index], given):
                living[index] = given
        self._path = path
        self._copies: list[Tensor] = []
        # Memory that was made in inference mode could never be written to again outside of it.
        with torch.inference_mode(False), torch.no_grad(), torch._C.DisableTorchFunction():
            if path is None:
                self._copies = _copied(living, pool)
            else:
                self._names = _distinct(names)
                detached = (tensor.detach() for tensor in living)
                write({"step": step, "tensors": dict(zip(self._names, detached, strict=True))}, path)
                weakref.finalize(self, _remove, path, os.getpid()).atexit = False
                self._contents = contents(path)

    def release(self) -> list[Tensor]:
        """Give away the memory of the copies. The picture is of no use then."""
        copies, self._copies = self._copies, []
        return copies

    def is_whole(self) -> bool:
        """Whether all of it is still there: a file may be damaged, replaced or gone. Reads one that is a file."""
        return self._path is None or is_whole(self._path, self._contents)

    def check(self) -> None:
        """Raise `Refused` where a parameter is not what it was, and cannot be: nothing has been written then."""
        copies = self._load()
        for reference, index in self.layout.parameters:
            living, saved = reference(), copies[index]
            if living is None:
                continue
            if not (has_own_memory(living) or living.cpu().equal(saved)):
                raise Refused(f"A parameter of shape {tuple(living.shape)} is a view that cannot be written to.")
            if not alike(living, saved):
                raise Refused(
                    f"A parameter of shape {tuple(living.shape)} and type {living.dtype} had {tuple(saved.shape)} and "
                    f"{saved.dtype} when the snapshot was taken. Snapshots taken from now on can be used."
                )

    def is_now(self) -> bool:
        """Whether the parameters have the values that they had. Reads both, up to the first that has not.

        Of parameters that are sparse or in parts, as those of other ranks are, nothing is asked.
        """
        copies = self._load()
        pairs = [(reference(), copies[index]) for reference, index in self.layout.parameters]
        plain = [(now, then) for now, then in pairs if now is not None and _is_plain(now)]
        with torch.no_grad(), torch._C.DisableTorchFunction():
            return all(alike(now, then) and now.cpu().equal(then) for now, then in plain)

    def unknown_to(self, known: Collection[int]) -> bool:
        """Whether one of its optimizers owns a parameter by now whose id is not in `known`."""
        optimizers = [optimizer for state in self.layout.states if (optimizer := state.optimizer()) is not None]
        return any(id(parameter) not in known for optimizer in optimizers for parameter in owned_by(optimizer))

    def living(self) -> set[int]:
        """The ids of the parameters in it that are still there."""
        return {id(parameter) for reference, _ in self.layout.parameters if (parameter := reference()) is not None}

    def restore(self) -> None:
        """Write everything back, bit for bit. Parameters lose their gradients; state that was born later is deleted."""
        with torch.no_grad(), torch._C.DisableTorchFunction():
            restoring = Restoring(self._load(), self._devices)
            for reference, index in self.layout.parameters:
                living = reference()
                if living is not None:
                    if has_own_memory(living):  # or else it is what it was: see `check`
                        restoring.write(living, index)
                    living.grad = None
            for buffer in self.layout.buffers:
                put_buffer(buffer, restoring)
            for state in self.layout.states:
                optimizer = state.optimizer()
                if optimizer is not None:
                    put_state(state, optimizer, restoring)
            for scaler_reference, saved in self.layout.scalers:
                scaler = scaler_reference()
                if scaler is not None and saved["scale"] is not None:  # or else it had not been used yet
                    scaler._scale = restoring.value(scaler._scale, saved["scale"])
                    scaler._growth_tracker = restoring.value(scaler._growth_tracker, saved["growth_tracker"])
            restoring.finish()

    def mend(self) -> bool:
        """Write back the buffers that have become NaN or infinite, where the copies are neither. Whether any was.

        Nothing else is touched, and no graph hears of it: what one has saved of such a buffer is lost already.
        """
        pairs = [(buffer.living(), buffer.index) for buffer in self.layout.buffers]
        spoiled = [(living, index) for living, index in pairs if living is not None and not _is_finite(living)]
        if not (spoiled and self.is_whole()):
            return False
        copies = self._load()
        good = [(t, copies[i]) for t, i in spoiled if i is not None and alike(t, copies[i]) and _is_finite(copies[i])]
        for living, saved in good:
            living.data.copy_(saved)
        return bool(good)

    def _load(self) -> list[Tensor]:
        if self._path is None:
            return self._copies
        saved = torch.load(self._path, map_location="cpu", weights_only=True, mmap=True)
        return [saved["tensors"][name] for name in self._names]


def _remove(path: Path, written_by: int) -> None:
    """Of a process that was forked since, as workers of loaders are, it is not to remove."""
    if os.getpid() == written_by:
        with contextlib.suppress(OSError):  # somebody else put something there
            path.unlink()


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided


def _is_finite(tensor: Tensor) -> bool:
    """Of another layout there are no running statistics; floats of a byte have no `isfinite` of their own."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        return True
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())


def bytes_of(tensor: Tensor) -> int:
    """Memory of a copy. Of a sparse tensor that of its values, indices and all."""
    if tensor.layout is torch.strided:
        return tensor.numel() * tensor.element_size()
    if tensor.layout is torch.sparse_coo:
        return sum(part.numel() * part.element_size() for part in (tensor._indices(), tensor._values()))
    return tensor._nnz() * (tensor.element_size() + 16)


def _copied(living: Sequence[Tensor], pool: Pool) -> list[Tensor]:
    try:
        return _copies(living, pool)
    except RuntimeError as error:
        kinds = sorted({str(tensor.dtype) for tensor in living})
        raise Refused(f"Tensors of {', '.join(kinds)} cannot be copied: {error}") from error


def _copies(living: Sequence[Tensor], pool: Pool) -> list[Tensor]:
    copies = [pool.get(t) if t.layout is torch.strided else t.detach().to("cpu", copy=True) for t in living]
    pairs = [(c, t) for c, t in zip(copies, living, strict=True) if t.layout is torch.strided]
    if pairs:
        torch._foreach_copy_([c for c, _ in pairs], [t for _, t in pairs], non_blocking=True)
    return copies


def _kind(tensor: Tensor, pinned: bool) -> Any:
    return tensor.shape, tensor.stride(), tensor.dtype, pinned


def _distinct(names: Sequence[str]) -> list[str]:
    used = Counter(names)
    return [name if used[name] == 1 else f"{name}#{index}" for index, name in enumerate(names)]
