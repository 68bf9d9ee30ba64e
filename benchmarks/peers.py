"""What others cost for the same duty: loss and learning rate at every step, statistics of every gradient at every step.

    python benchmarks/peers.py MONITOR WORKLOAD SECONDS     one of them, in a process of its own

In its process the monitor takes turns with the bare loop, in blocks of about a third of a second. What it leaves to
threads is waited for at the end of its blocks where it can be; what wandb leaves to another process is not, to its
favour.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from paired import Estimate, Plan, Side, compare, ratio
from results import PERCENT, Figure
from torch import Tensor
from training import seconds_of
from watched import Watched
from workloads import WORKLOADS, Workload

BLOCK_S = 0.3
TITLES = {"mlp": "perceptron", "cnn": "CNN", "gpt": "GPT"}


class Monitor(Protocol):
    """Who watches. `after_step` is what the user's loop calls; the rest is as in `Side`."""

    def enter(self) -> None: ...
    def after_step(self, loss: Tensor) -> None: ...
    def finish(self) -> None: ...
    def leave(self) -> None: ...


class ByHand:
    """What people write who have Prometheus: `.item()`, mean and variance of each tensor, gauges, a line of JSON."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        self._loss = Gauge("loss", "Training loss", registry=registry)
        self._rate = Gauge("learning_rate", "Learning rate", registry=registry)
        self._mean = Gauge("gradient_mean", "Mean of a gradient", ["layer"], registry=registry)
        self._variance = Gauge("gradient_variance", "Variance of a gradient", ["layer"], registry=registry)
        start_http_server(0, addr="127.0.0.1", registry=registry)
        self._workload = workload
        self._file = (directory / "log.jsonl").open("w", encoding="utf-8")
        self._step = 0

    def enter(self) -> None:
        pass

    def after_step(self, loss: Tensor) -> None:
        self._step += 1
        record: dict[str, Any] = {"step": self._step, "loss": loss.item()}
        record["learning_rate"] = self._workload.optimizer.param_groups[0]["lr"]
        self._loss.set(record["loss"])
        self._rate.set(record["learning_rate"])
        for name, parameter in self._workload.model.named_parameters():
            if parameter.grad is not None:
                mean, variance = parameter.grad.mean().item(), parameter.grad.var().item()
                self._mean.labels(name).set(mean)
                self._variance.labels(name).set(variance)
                record[name] = [mean, variance]
        self._file.write(json.dumps(record) + "\n")

    def finish(self) -> None:
        self._file.flush()

    def leave(self) -> None:
        pass


class TensorBoard:
    """Scalars and a histogram of each gradient, with torch's own SummaryWriter."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory))
        self._workload = workload
        self._step = 0

    def enter(self) -> None:
        pass

    def after_step(self, loss: Tensor) -> None:
        self._step += 1
        self._writer.add_scalar("loss", loss.item(), self._step)
        self._writer.add_scalar("learning_rate", self._workload.optimizer.param_groups[0]["lr"], self._step)
        for name, parameter in self._workload.model.named_parameters():
            if parameter.grad is not None:
                self._writer.add_histogram(f"gradients/{name}", parameter.grad, self._step)

    def finish(self) -> None:
        self._writer.flush()

    def leave(self) -> None:
        pass


class Wandb:
    """Offline, with `watch` for gradients at every step."""

    def __init__(self, workload: Workload, directory: Path) -> None:
        import wandb

        self._wandb: Any = wandb
        self._workload = workload
        wandb.init(mode="offline", project="overhead", dir=str(directory), settings=wandb.Settings(silent=True))

    def enter(self) -> None:
        self._wandb.watch(self._workload.model, log="gradients", log_freq=1)

    def after_step(self, loss: Tensor) -> None:
        rate = self._workload.optimizer.param_groups[0]["lr"]
        self._wandb.log({"loss": loss.item(), "learning_rate": rate})

    def finish(self) -> None:
        pass

    def leave(self) -> None:
        self._wandb.unwatch(self._workload.model)


PEERS: dict[str, Callable[[Workload, Path], Monitor]] = {
    "by hand": ByHand,
    "TensorBoard with histograms": TensorBoard,
    "wandb offline with watch": Wandb,
}
NEEDS = {
    "Trimtab": "trimtab",
    "by hand": "prometheus_client",
    "TensorBoard with histograms": "tensorboard",
    "wandb offline with watch": "wandb",
}


def measure(quick: bool) -> list[Figure]:
    """Each monitor on each workload, in turn; with `quick` on the perceptron alone."""
    return [_figure(name, kind, 2.0 if quick else 6.0) for kind in (["mlp"] if quick else WORKLOADS) for name in NEEDS]


def _figure(monitor: str, kind: str, seconds: float) -> Figure:
    name = f"the same duty, {TITLES[kind]}: {monitor}"
    if importlib.util.find_spec(NEEDS[monitor]) is None:
        return Figure(name, "skipped", note=f"{NEEDS[monitor]} is not installed. Install it: pip install '.[bench]'")
    command = [sys.executable, __file__, monitor, kind, str(seconds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Figure(name, PERCENT.all(Estimate(**json.loads(output.splitlines()[-1]))))


def run(monitor: str, kind: str, seconds: float) -> Estimate:
    """What it adds to a bare step, as a fraction of it."""
    torch.manual_seed(0)
    workload = WORKLOADS[kind]()
    with tempfile.TemporaryDirectory() as directory, _side(monitor, workload, Path(directory)) as monitored:
        sides = {"bare": Side(workload.loop()), "monitored": monitored}
        monitored.enter()
        monitored.begin()
        steps = max(1, round(BLOCK_S / seconds_of(monitored.step)))
        monitored.finish()
        monitored.leave()
        return ratio(compare(sides, Plan(steps), budget_s=seconds), "monitored", "bare")


@contextlib.contextmanager
def _side(monitor: str, workload: Workload, directory: Path) -> Iterator[Side]:
    loop = workload.loop()
    if monitor == "Trimtab":
        with Watched(directory, gradients_every=1) as watched:
            watched.warm_up(loop, 2.0)
            yield watched.side(loop)
        return
    peer = PEERS[monitor](workload, directory)

    def step() -> None:
        peer.after_step(loop())

    yield Side(step, enter=peer.enter, finish=peer.finish, leave=peer.leave)


if __name__ == "__main__":
    found = run(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    print(json.dumps({"middle": found.middle, "low": found.low, "high": found.high}))
