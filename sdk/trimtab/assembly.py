"""Builds the loop that judges and steers a run, from its settings."""

from __future__ import annotations

from collections.abc import Callable

from trimtab.actuators.controls import Actuators
from trimtab.actuators.halting import Halting
from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import Snapshots
from trimtab.actuators.steering import Steering
from trimtab.capture.capture import Capture
from trimtab.capture.models import Models
from trimtab.control import Control
from trimtab.controller import Controller
from trimtab.guard import Guard
from trimtab.policies import Engine, Policy
from trimtab.policies.defaults import POLICIES
from trimtab.policies.policy import check
from trimtab.policies.reading import policies
from trimtab.rules.judge import AnyRule, Judge
from trimtab.rules.rule import resolve
from trimtab.sample.sampler import Sampler
from trimtab.types import Act, Config, Event, RunInfo

SNAPSHOT_EVERY = 32  # steps, where the user fixed an interval and so wants every run to be the same


def rules_and_policies(config: Config) -> tuple[list[AnyRule], tuple[Policy, ...]]:
    """What a run is judged by, and what is done about it.

    A policy that ships is left out where its rule is not judged, and where that has the severity info: such a rule is
    told, and acted upon only by a policy that the user wrote or named.

    Raises:
        ConfigError: a rule or a policy that cannot be used.
    """
    rules = resolve(config.rules)
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
    return rules, chosen


def build(
    info: RunInfo,
    *,
    capture: Capture,
    models: Models,
    sampler: Sampler,
    halting: Halting,
    guard: Guard,
    emit: Callable[[Event], None],
    say: Callable[[str, str], None],
) -> Controller:
    """The controller of one run. Raises what `rules_and_policies` raises."""
    config, world_size = info.config, info.world_size
    rules, chosen = rules_and_policies(config)
    judge = Judge(rules, config.monitor, guard.attempt)
    act: Act = config.act
    if act and world_size > 1:
        act = False
        say(
            "act over ranks",
            f"act={config.act!r}: {world_size} ranks do not agree on adjustments yet, so this is a dry run.",
        )
    controller: Controller

    def parts() -> Parts:
        living = {label: found for label, held in controller.optimizers.items() if (found := held()) is not None}
        return Parts(optimizers=living, models=models.by_name(), scalers=capture.scalers)

    actuators = Actuators(
        Steering(capture.hooks, models.holding, judge.usual_norm, say),
        Snapshots(every=SNAPSHOT_EVERY if config.gradients_every is not None else None),
        halting,
        parts,
        info.directory,
    )
    controller = Controller(
        judge,
        Engine(chosen, act=act),
        actuators,
        sampler,
        guard,
        emit,
        say,
        acts=bool(act),
        control=Control(info.directory, info.run_id, resumed=config.resume, say=say) if info.rank == 0 else None,
        no_orders=f"{world_size} ranks do not agree on adjustments yet" if world_size > 1 else "",
    )
    return controller
