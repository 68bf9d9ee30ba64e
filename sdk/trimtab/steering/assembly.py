"""Builds the loop that judges and steers a run, from its settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from trimtab import snapshot_places
from trimtab.actuators.controls import Actuators
from trimtab.actuators.halting import Halting
from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import MOST, Snapshots
from trimtab.actuators.steering import Steering
from trimtab.actuators.step_controls import StepControls
from trimtab.alerts.reception import Reception
from trimtab.alerts.silences import Silences
from trimtab.capture.capture import Capture
from trimtab.capture.models import Models
from trimtab.errors import ConfigError
from trimtab.guard import Guard
from trimtab.policies import Engine, Policy
from trimtab.policies.defaults import POLICIES
from trimtab.policies.policy import check
from trimtab.policies.reading import policies
from trimtab.policies.replay import Replay
from trimtab.rules.judge import FAILURES, AnyRule, Judge, Traits
from trimtab.rules.rule import Rule, resolve
from trimtab.sample.books import Books
from trimtab.sample.pace import Pace
from trimtab.steering.control import Control
from trimtab.steering.controller import Controller
from trimtab.steering.evidence import RunEvidence
from trimtab.types import Config, Event, RunInfo

SNAPSHOT_EVERY = 32  # steps, where the user fixed an interval and so wants every run to be the same


def rules_and_policies(config: Config) -> tuple[list[AnyRule], tuple[Policy, ...]]:
    """What a run is judged by, and what is done about it.

    A policy that ships is left out where its rule is not judged, and where that has the severity info: such a rule is
    told, and acted upon only by a policy that the user wrote or named.

    Raises:
        ConfigError: a rule or a policy that cannot be used.
    """
    with _of_file(config, "rules"):
        rules = resolve(config.rules)
    with _of_file(config, "policies"):
        return rules, _policies(config, rules)


@contextlib.contextmanager
def _of_file(config: Config, setting: str) -> Iterator[None]:
    """Name the file that `setting` is from in what is raised, as is done for all others."""
    try:
        yield
    except ConfigError as error:
        if setting not in config.files:
            raise
        raise ConfigError(f"{config.files[setting]}: {error}") from error


def _policies(config: Config, rules: Sequence[AnyRule]) -> tuple[Policy, ...]:
    names = [rule.name for rule in rules]
    acting = {rule.name for rule in rules if rule.severity != "info"}
    chosen = POLICIES if config.policies is None else policies(config.policies, POLICIES)
    asked = {given for given in config.policies or () if isinstance(given, str)}
    chosen = tuple(
        policy
        for policy in chosen
        if policy not in POLICIES or policy.on in acting or (policy.name in asked and policy.on in names)
    )
    check(chosen, names)
    return chosen


def _chosen(config: Config, policies: Sequence[Policy]) -> set[str]:
    """The rules that the user named, or whose policy. Their settings are known to be good."""
    of_rules = {rule["name"] if isinstance(rule, Mapping) else rule.name for rule in config.rules or ()}
    return of_rules | ({policy.on for policy in policies} if config.policies is not None else set())


def record_of(config: Config, world_size: int, chosen: Sequence[Policy], say: Callable[[str, str], None]) -> Replay:
    """The adjustments of the run that `config.replay` names.

    Raises:
        ConfigError: there is no such record, or it cannot be made again here.
    """
    from trimtab import logs

    said = f"replay={config.replay!r}"
    if config.resume:
        raise ConfigError(
            f"{said}, resume=True: a replay begins where the run began that it repeats. Leave one of them out."
        )
    if world_size > 1:
        raise ConfigError(f"{said}: a run of {world_size} ranks cannot be replayed. Replay it on one.")
    try:
        log = logs.read(logs.locate(str(config.replay), config.directory))
    except ConfigError as error:
        raise ConfigError(f"{said}: {error}") from error
    ran_with = {} if log.start is None else log.start.facts.get("config")
    every = ran_with.get("gradients_every") if isinstance(ran_with, dict) else None
    if every != config.gradients_every:
        say("replay spacing", f"{log.run} ran with gradients_every={every}; only with the same is this run the same.")
    replay = Replay(log.adjustments, [a for policy in chosen for rung in policy.rungs for a in rung])
    if not replay.left:
        say(
            "replay empty",
            f"{log.run} applied no adjustment: there is none to repeat, and none is made.",
        )
    return replay


def _heard_of(rule: AnyRule, guard: Guard) -> AnyRule:
    """`rule`, of which the user hears when a function of theirs raises."""
    function = rule.signal
    if isinstance(function, str) or not isinstance(rule, Rule):
        return rule

    def signal(loss: float | None) -> float | None:
        value = function(loss)
        return None if value is None else float(value)

    consequence = f"This rule is left out after {FAILURES} faults."
    return replace(rule, signal=guard.heard_of(f"rule {rule.name}", signal, consequence))


def _snapshots(info: RunInfo, replay: Replay | None, capture: Capture, *, together: bool) -> Snapshots:
    config = info.config
    return Snapshots(
        every=SNAPSHOT_EVERY if config.gradients_every is not None else None,
        most=MOST if replay is None else max(MOST, len(replay.snapshots) + 2),
        cap_bytes=None if config.snapshot_gib is None else int(config.snapshot_gib * 2**30),
        directory=snapshot_places.of(info),
        rng=config.snapshot_rng,
        alone=capture.trains_alone,
        still=capture.backwards.held,
        together=together,
    )


def _traits(controls: StepControls) -> Traits:
    return Traits(controls.averages(), controls.normalizes(), controls.decay())


def build(
    info: RunInfo,
    *,
    capture: Capture,
    models: Models,
    books: Books,
    pace: Pace,
    halting: Halting,
    guard: Guard,
    emit: Callable[[Event], None],
    say: Callable[[str, str], None],
    found_ranks: Callable[[int], None],
) -> Controller:
    """The controller of one run. Raises what `rules_and_policies` raises."""
    config, world_size = info.config, info.world_size
    rules, chosen = rules_and_policies(config)
    judge = Judge(
        [_heard_of(rule, guard) for rule in rules],
        config.monitor,
        guard.attempt,
        lambda label: _traits(StepControls(actuators.steering, label)),
        _chosen(config, chosen),
    )
    replay = None if config.replay is None else record_of(config, world_size, chosen, say)
    together = bool(config.act) and world_size > 1 and replay is None
    controller: Controller

    def parts() -> Parts:
        living = {label: found for label, held in controller.optimizers.items() if (found := held()) is not None}
        for label in controller.shared:
            several = actuators.steering.steered(label).optimizers
            living |= {f"{label}.{at}": optimizer for at, optimizer in enumerate(several)}
        return Parts(optimizers=living, models=models.by_name(), scalers=capture.scalers, averages=models.averages())

    actuators = Actuators(
        Steering(
            capture.hooks,
            models.holding,
            lambda label: controller.usual_norm(label),
            say,
            reset=lambda label: engine.unscaled(label),
        ),
        _snapshots(info, replay, capture, together=together),
        halting,
        parts,
        info.directory,
        info.rank if together else None,
    )
    silences = Silences()

    engine = Engine(
        chosen,
        act=config.act,
        silenced=silences.cover,
        evidence=RunEvidence(judge, actuators.steering, chosen=config.policies is not None),
    )
    reception: Reception | None = None
    if info.rank == 0 and replay is None and (config.alerts is not None or config.webhook_token_file is not None):
        severities = {rule.name: rule.severity for rule in rules}
        reception = Reception(
            info,
            severities,
            chosen,
            engine,
            silences,
            act=config.act,
            guard=guard,
            emit=emit,
            say=say,
            step=lambda: books.global_step,
        )
    controller = Controller(
        judge,
        engine,
        actuators,
        books,
        pace,
        guard,
        emit,
        say,
        acts=bool(config.act) or replay is not None,
        control=Control(info.directory, info.run_id, resumed=config.resume, say=say) if info.rank == 0 else None,
        reception=reception,
        replay=replay,
        no_orders=f"{world_size} ranks take orders together only where act= is set"
        if world_size > 1 and not together
        else "",
        place=(info.rank, world_size),
        resumes=config.resume,
        trains_alone=capture.trains_alone,
        found_ranks=found_ranks,
    )
    return controller
