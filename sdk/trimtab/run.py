"""One run: starts the rooms in order, hands values in, and closes them in the opposite order."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trimtab import apart, attaching, bookends, directory, facts, lifecycle, names, plugins, snapshot_places
from trimtab.actuators import generators
from trimtab.actuators.halting import Halting
from trimtab.bus import HANGING_S, QUEUE_EVENTS, Bus
from trimtab.capture.capture import Capture
from trimtab.capture.models import Models
from trimtab.guard import Guard
from trimtab.health import HealthReport
from trimtab.logged import Logged
from trimtab.sample.books import Books
from trimtab.sample.layers import LayerChoice
from trimtab.sample.meter import Meter
from trimtab.sample.pace import Pace
from trimtab.sample.sampler import Sampler
from trimtab.steering.assembly import build
from trimtab.steering.state import SteeringState
from trimtab.types import (
    Adjustment,
    Alert,
    Backend,
    Config,
    Event,
    Intake,
    Metric,
    Notice,
    RunInfo,
    Status,
    Step,
)
from trimtab.watchdog import RULE, Watchdog

LINGERED = "Ctrl-C: no scrape is waited for any more, and the program goes on."
HANGS = (
    f"backend {{backend}} hangs: it has been at one batch for over {HANGING_S:.0f} s. Training goes on. Up to "
    f"{QUEUE_EVENTS:,} events wait for it, then the oldest are lost."
)
LOST = "backend {backend} hangs, and was not waited for: it may have lost the last events of the run ({events:,})."
CLOSE_DEADLINE_S = 4.0  # torchrun and Kubernetes kill 30 s after SIGTERM, some schedulers sooner


class Run:
    """A watched run: what `with trimtab.watch() as run:` gives.

    Public are `id` (16 hex digits, new for each run), `name`, `directory` (of its log, absolute), `addresses`
    (by backend, where its output is found), `log`, `attach`, `should_stop`, `restore_best`, `alerts`, `adjustments`,
    `state_dict`, `load_state_dict` and `close`.
    """

    def __init__(self, config: Config, id: str | None = None) -> None:
        rank, local_rank, world_size = facts.rank_of()
        self.id = id or names.new_id(config.run)  # which asks the other ranks
        self.directory: Path = directory.of(config)
        self.info = RunInfo(
            run=config.run,
            run_id=self.id,
            rank=rank,
            local_rank=local_rank,
            world_size=world_size,
            directory=self.directory,
            config=config,
            facts=facts.collect(),
        )
        self.addresses: dict[str, str] = {}  # backend name to where its output is found
        self._guard = Guard(lambda place, text: self._say(f"fault in {place}", text))
        self._meter = Meter()
        self._models = Models()
        self._told: set[str] = set()
        self._told_lost: set[str] = set()
        self._early: list[Event] = []  # said before the bus was there
        self._bus: Bus | None = None
        self._health: HealthReport  # comes with the bus
        layers = LayerChoice(config.layers, self._models.names, self._say)
        self._books = Books(self._emit, layers)
        self._pace = Pace(config.overhead, config.gradients_every)
        self._capture = Capture(
            self._books,
            Sampler(layers, self._pace),
            self._models,
            self._meter,
            self._guard,
            self._say,
            lambda: self._logged.any,
        )
        self._halting = Halting(
            config.on_halt,
            self._say,
            self._capture.before_backwards,
            self._books.steps_written,
            self._guard.wrap("halt", self._capture.look_out),
        )
        self._controller = build(
            self.info,
            capture=self._capture,
            models=self._models,
            books=self._books,
            pace=self._pace,
            halting=self._halting,
            guard=self._guard,
            emit=self._emit,
            say=self._say,
            found_ranks=self._guard.wrap("run.json", self._found_ranks),
        )
        self._books.judged = self._controller.judged
        self._books.on_record = self._controller.look_for_orders
        self._watchdog = Watchdog(
            self._capture.progress,
            self._books.steps_written,
            on_hung=self._controller.hung,
            on_recovered=self._controller.recovered,
            on_alive=self._moved_on,
            number=lambda: self._controller.number(RULE),
            guard=self._guard,
            threshold=self._controller.rules.get(RULE, {}).get("threshold", math.inf),
        )
        self._logged = Logged(self._emit_logged, self._say, self._books.steps_written, self._books.nonfinite)
        self._log = self._guard.wrap("log", self._logged.log)
        self._hear = self._guard.wrap("halt", self._halting.hear)
        self._state = SteeringState(self.info, self._controller, self._guard, self._meter)
        self._former: directory.Former | None = None  # once the directory is this run's
        self._snapshots_at: Path | None = None  # once that is, too
        self._closing = threading.RLock()  # SIGTERM may come while it is held
        self._closed = True  # until it is started: a run that never is does nothing
        self._left_s = CLOSE_DEADLINE_S  # of closing
        self._forget_exit: Callable[[], None] = lambda: None
        self._signals = lifecycle.EndSignals(on_end=lambda: self.close("interrupted"), on_passing=self._flush_backends)

    def __repr__(self) -> str:
        return f"<trimtab.Run {self.name!r}, {'closed' if self._closed else 'running'}, in {self.directory}>"

    @property
    def name(self) -> str:
        """The run's name, which is its directory's too."""
        return self.info.run

    @property
    def closed(self) -> bool:
        """Whether the run is over, or never began."""
        return self._closed

    def start(self) -> None:
        """Open backends, attach to torch. Raises `ConfigError` or `BackendError`; then nothing is left behind."""
        try:
            with generators.kept(), apart.kept():  # rich draws a number from `random` when it is imported
                self._start()
        except BaseException:
            if not self._closed:
                self.close("failed")
            else:
                self._release(CLOSE_DEADLINE_S)
                self._leave_snapshots()
                if self._former is not None:
                    directory.unmake(self.info, self._former)
            raise

    def _start(self) -> None:
        self._former = directory.make(self.info)
        if self._controller.acts:
            directory.make_for_snapshots(self.info)
            self._snapshots_at = snapshot_places.claim(self.info)
        backends, notices = plugins.load(self.info.config)
        if self.info.config.resume:
            self._books.steps_before, notice = directory.last_step(self.info)
            notices += [notice] if notice else []
            notices += self._state.resume()
        reception = self._controller.reception
        notices += [text] if reception is not None and (text := reception.mount(backends)) else []
        started, more = plugins.start(backends, self.info)
        try:
            directory.write_status(self.info, "running", self._books.global_step)
            self._bus = Bus(started, self._guard)
        except BaseException:
            plugins.close(started)
            raise
        if not self.info.config.resume:
            directory.drop_state(self.info)
        self._health = HealthReport(
            self._bus,
            self._meter,
            self._books,
            self._pace,
            budget=self.info.config.overhead,
            elsewhere_s=lambda: reception.busy_seconds if reception is not None else 0.0,
            hung_after_s=lambda: self._watchdog.limit_s,
            recorded=self._guard.wrap("record", self._controller.recorded),
        )
        self._publish_start(started)
        for text in (*self.info.config.notices, *notices, *more):
            self._say(text, text)
        for event in self._early:
            self._emit(event)
        self._controller.open()
        self._closed = False
        self._capture.attach(self._controller)
        self._watchdog.start()
        if reception is not None:
            reception.start()
        self._signals.install()
        self._forget_exit = lifecycle.at_exit(lambda: self.close("interrupted"))
        self._health.begin()

    def log(self, values: Mapping[str, Any] | None = None, /, *, phase: str | None = None, **more: Any) -> None:
        """Record numbers of your own, at the current global step: `run.log(bleu=31.2, phase="validation")`.

        Args:
            values: names and numbers, as a mapping; for names that are no Python identifiers.
            phase: "train", "validation" or "test", or None.
            more: names and numbers.

        A number may be a tensor or array with one element. For a tensor on a GPU this waits for the value. What is no
        number is reported once, by name, and left out; nothing is raised. All names are in the log, the first 50 also
        in /metrics.

        May be called on any thread. While another one trains, the values are judged at the end of its next step.
        """
        if not self._closed:
            self._log(values, phase, more)

    def attach(
        self,
        *,
        model: nn.Module | None = None,
        optimizer: Optimizer | Mapping[str, Optimizer] | None = None,
        criterion: nn.Module | None = None,
        average: nn.Module | None = None,
    ) -> None:
        """Name what Trimtab cannot find by itself. May be called more than once; does nothing when the run is over.

        Args:
            model: a model, whose parameter names then stand in log and metrics.
            optimizer: optimizers by name. Without it they are found when they step, and called by their index.
            criterion: a loss module of your own, called on (input, target), that returns the mean loss of a batch.
            average: a copy that follows the weights (EMA), so that a rollback turns it back too. `AveragedModel` of
                torch is found by itself.

        Raises:
            ConfigError: `optimizer` is neither an optimizer nor a mapping of names to optimizers, or one of the others
                is no module. Nothing was taken then.
        """
        names = attaching.named(optimizer)
        for argument, given in (("model", model), ("criterion", criterion), ("average", average)):
            attaching.refuse_no_module(argument, given)
        if self._closed:
            return
        if model is not None:
            self._models.add(model)
        for name, each in names.items():
            self._capture.name(each, name)
        if criterion is not None:
            self._capture.watch_criterion(criterion)
        if average is not None:
            self._models.add_average(average)

    @property
    def should_stop(self) -> bool:
        """Whether a policy or a person asked the loop to stop.

        After a halt the first look puts the best weights back, where the halt wants that.
        """
        asked = self._halting.asked()
        if asked:
            self._hear()
        return asked

    @property
    def alerts(self) -> Sequence[Alert]:
        """Every rule that began or ceased to fire, oldest first.

        An adjustment ends the episodes that are open without a "resolved": nobody has seen yet whether it helped. So
        does another model, or another loss function: nobody can see any more.
        """
        return tuple(self._controller.alerts)

    @property
    def adjustments(self) -> Sequence[Adjustment]:
        """Everything that policies and persons did, or would have done, oldest first."""
        return tuple(self._controller.adjustments)

    def restore_best(self) -> bool:
        """Put the best state of the run back into the model, in place: the one with the best value of `monitor`.

        Call it after the loop and its last validation, which counts, and before the run is over. Parameters, buffers,
        states of optimizers and scaler, and averages are bit for bit what they were then. Gradients are dropped;
        learning rates and schedules stay. Rules judge what follows by what was known then.

        A best state is kept only with `act=` set (with `policies=[]` nothing else is done). A dry run has none, since
        a copy at each best validation costs time and memory. Of several ranks the first writes the state to `best.pt`,
        and no weights change.

        Cost: one write of every byte. A notice says which state was put back, or why none was.

        Returns:
            Whether the best state is in place now. False, too, when the run is over.
        """
        if self._closed:
            if self._bus is not None:  # it was one
                lifecycle.warn_that_over(self.name)
            return False
        self._guard.wrap("validation", self._capture.end_validation)()
        return bool(self._guard.wrap("restore_best", self._controller.restore_best)())

    def state_dict(self) -> dict[str, Any]:
        """Scales, clipping, budgets, cooldowns and episodes, for your checkpoint: plain values that JSON holds."""
        return self._controller.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the scales, clipping, budgets, cooldowns and episodes of another run's `state_dict`.

        Raises:
            ConfigError: `state` is none. Nothing was changed then.
        """
        self._controller.restore(state)
        self._state.given()

    @property
    def halted(self) -> bool:
        """Whether a policy or a person halted the run, and somebody heard of it: the loop, or its framework."""
        return self._halting.heeded

    def close(self, status: Status = "completed", error: str | None = None) -> None:
        """End the run: put back every hook, write what is left, close every backend. May be called twice.

        `watch` calls it. Takes up to 4 s when a backend hangs, and as long as `linger` says for a last scrape: a
        Ctrl-C ends that, and no more. One at any other time is raised when the rest is done.
        """
        with self._closing:
            if self._closed:
                return self._release(CLOSE_DEADLINE_S)  # SIGTERM while backends linger
            self._closed = True
        reception = self._controller.reception
        written = self._guard.wrap("run.json", directory.write_status)
        try:
            lifecycle.each(
                self._watchdog.close,
                lambda: self._complete() if status == "completed" else None,
                self._guard.wrap("alerts", reception.close) if reception is not None else lambda: None,
                self._state.write,
                self._guard.wrap("steering", self._controller.close),
                self._leave_snapshots,
                self._guard.wrap("detach", self._capture.detach),
                self._guard.wrap("finish", self._capture.finish),
                self._forget_exit,
                lambda: self._publish_end(status, error),
                self._flush_last,
                lambda: written(self.info, status, self._books.global_step),
            )
            if self._bus is not None and status != "interrupted":
                lifecycle.until_ctrl_c(self._bus.linger, LINGERED)
        finally:
            lifecycle.each(lambda: self._release(self._left_s), self._signals.remove)

    def _complete(self) -> None:
        self._guard.wrap("validation", self._capture.end_validation)(is_last=True)
        self._guard.wrap("best", self._controller.completed)()

    def _publish_end(self, status: Status, error: str | None) -> None:
        if status == "completed" and not (self._capture.has_seen_any() or self._logged.any):
            self._say("no_training", self._capture.why_no_step() or bookends.no_training())
        self._health.publish(last=True)
        seconds = self._health.seconds
        self._emit(bookends.run_end(status, error, seconds, books=self._books, guard=self._guard, bus=self._bus))

    def _moved_on(self) -> None:
        """As the watchdog has seen, on its thread."""
        self._health.alive()
        for backend in self._bus.hanging() if self._bus is not None else ():
            self._say(f"backend {backend} hangs", HANGS.format(backend=backend))

    def _flush_last(self) -> None:
        began = time.monotonic()
        try:
            self._flush_backends()
        finally:
            self._left_s -= time.monotonic() - began

    def _release(self, deadline_s: float) -> None:
        if self._bus is None:
            return
        for backend, events in self._bus.close(max(0.0, deadline_s)).items():
            if backend not in self._told_lost:
                self._told_lost.add(backend)
                lifecycle.tell(LOST.format(backend=backend, events=events))

    def _leave_snapshots(self) -> None:
        if self._snapshots_at is not None:
            snapshot_places.leave(self._snapshots_at)

    def abandon(self) -> None:
        """In a forked child: watch nothing, write nothing."""
        self._closed = True
        self._controller.abandon()
        self._capture.detach()
        self._signals.remove()

    def _emit(self, event: Event) -> None:
        if self._bus is None:
            self._early.append(event)
            return
        self._bus.publish(event)
        self._state.follow(event)
        if isinstance(event, Step):
            self._health.judge(event)
        if isinstance(event, Intake | Notice) or self._watchdog.speaks:
            return  # may be said on a thread that does not train
        if not self._closed and self._health.due:
            self._health.publish()

    def _emit_logged(self, event: Metric) -> None:
        self._emit(event)
        self._controller.logged(event.values, of_training=event.phase == "train")

    def _say(self, kind: str, text: str) -> None:
        """Tell the user something, once."""
        if kind not in self._told:
            self._told.add(kind)
            self._emit(Notice(ts=time.time(), step=self._books.steps_written(), kind=kind, text=text))

    def _found_ranks(self, ranks: int) -> None:
        """This one took itself for the only one."""
        self.info = replace(self.info, world_size=ranks)
        directory.write_status(self.info, "running", self._books.global_step)

    def _publish_start(self, backends: Mapping[str, Backend]) -> None:
        found = {name: getattr(backend, "address", None) for name, backend in backends.items()}
        self.addresses = {name: address for name, address in found.items() if address}
        step = self._books.global_step
        self._emit(bookends.run_start(self.info, backends, self.addresses, self._controller.rules, step))

    def _flush_backends(self) -> None:
        if self._bus is not None:
            self._bus.flush(CLOSE_DEADLINE_S)
