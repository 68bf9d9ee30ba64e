"""What a script leaves behind when it is through: its own numbers, and digests of everything that must not change.

Called in the process of the script, as the very last of its `atexit` handlers.
"""

import gc
import hashlib
import json
import os
import random
import sys

import numpy as np
import torch
from torch import nn

LONGEST_LIST = 20_000
DESCRIPTORS = (classmethod, staticmethod, property)


def write(path, *, before):
    gc.collect()
    main = vars(sys.modules["__main__"])
    record = {
        "own": {n: plain for n, v in main.items() if n[:2] != "__" and (plain := plain_numbers(v)) is not None},
        "state": state(),
        "files": files(),
        "changed": changes(before),
        "compiler": compiler(),
    }
    with open(path, "w") as file:
        json.dump(record, file)


def plain_numbers(value):
    """`value` as JSON can hold it, None where it cannot."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return plain_numbers(value.tolist()) if np.prod(value.shape) <= LONGEST_LIST else None
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and len(value) <= LONGEST_LIST:
        return [plain_numbers(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and "__builtins__" not in value:
        return {key: plain_numbers(item) for key, item in value.items()}
    return None


def state():
    """Digests of every model, optimizer and schedule that is still alive, and of the random number generators."""
    objects = [o for o in gc.get_objects() if issubclass(type(o), nn.Module | torch.optim.Optimizer | Schedule)]
    models = [o for o in objects if issubclass(type(o), nn.Module)]
    inner = {id(child) for model in models for child in model.modules() if child is not model}
    return {
        "models": sorted(f"{type(m).__name__} {digest(model_state(m))}" for m in models if id(m) not in inner),
        "optimizers": sorted(named_digests(objects, torch.optim.Optimizer, optimizer_state)),
        "schedules": sorted(named_digests(objects, Schedule, lambda o: o.state_dict())),
        "torch": digest(torch.get_rng_state()),
        "numpy": digest(list(np.random.get_state())),
        "python": digest(list(random.getstate())),
    }


Schedule = torch.optim.lr_scheduler.LRScheduler


def named_digests(objects, kind, state_of):
    return [f"{type(o).__name__} {digest(state_of(o))}" for o in objects if issubclass(type(o), kind)]


def model_state(model):
    parameters = [[p, p.grad, p.requires_grad] for p in model.parameters()]
    hooks = [len(getattr(m, name)) for m in model.modules() for name in sorted(vars(m)) if name.endswith("_hooks")]
    attributes = [sorted(vars(m)) for m in model.modules()]
    return [model.state_dict(), parameters, hooks, attributes, [m.training for m in model.modules()]]


def optimizer_state(optimizer):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    hooks = {key: len(value) for key, value in vars(optimizer).items() if key.endswith("_hooks")}
    return [parameters, [optimizer.state.get(p) for p in parameters], groups, hooks, sorted(vars(optimizer))]


def digest(value):
    hasher = hashlib.sha256()
    feed(hasher, value)
    return hasher.hexdigest()[:16]


def feed(hasher, value):
    if isinstance(value, torch.Tensor):
        value = value.detach().coalesce().to_dense() if value.is_sparse else value.detach()
        hasher.update(f"{value.dtype}{tuple(value.shape)}".encode())
        hasher.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, np.ndarray):
        hasher.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            feed(hasher, str(key))
            feed(hasher, item)
    elif isinstance(value, list | tuple):
        hasher.update(b"[%d" % len(value))
        for item in value:
            feed(hasher, item)
    elif value is None or isinstance(value, bool | int | float | str):
        hasher.update(repr(value).encode())
    else:
        hasher.update(type(value).__name__.encode())


def files():
    """Digests of what the script wrote into its directory."""
    found = [os.path.join(root, name) for root, _, names in os.walk(".") for name in names]
    return {path: hashlib.sha256(open(path, "rb").read()).hexdigest()[:16] for path in sorted(found)}


def fingerprint():
    """Every function and class that torch holds by name now, and every list of process-wide hooks."""
    held = {}
    for module_name, module in list(sys.modules.items()):
        if module is not None and module_name.partition(".")[0] == "torch":
            held.update(callables(module_name, vars(module)))
    for owner in {value for value in held.values() if issubclass(type(value), type)}:
        held.update(callables(f"{owner.__module__}.{owner.__qualname__}", vars(owner)))
    return held


def callables(owner, namespace):
    for name, value in list(namespace.items()):
        kind = type(value)  # not callable(value): some deprecated names of torch warn when they are asked anything
        if any("__call__" in vars(base) for base in kind.__mro__) or issubclass(kind, DESCRIPTORS):
            yield (owner, name), value
        elif name.startswith("_global") and name.endswith("hooks"):
            yield (owner, name), len(value)


def changes(before):
    """The names that no longer hold what they held."""
    now = fingerprint()
    return sorted(".".join(name) for name, value in before.items() if now.get(name) is not value)


def compiler():
    """How much torch.compile captured, and how often it broke."""
    counters = sys.modules["torch._dynamo.utils"].counters
    return {
        "frames": counters["frames"]["total"],
        "frames compiled": counters["frames"]["ok"],
        "calls captured": counters["stats"]["calls_captured"],
        "graphs": counters["stats"]["unique_graphs"],
        "graph breaks": counters["graph_break"].total(),
        "given up": counters["unimplemented"].total(),
    }
