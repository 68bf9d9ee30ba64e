"""Where a run's scales, clipping, budgets, cooldowns and episodes stand: what a resumed run goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trimtab.actuators.steering import Steering
from trimtab.alerts.acceptance import numbered
from trimtab.alerts.reception import Reception
from trimtab.errors import ConfigError
from trimtab.guard import Guard, in_words
from trimtab.policies import Engine
from trimtab.rules.judge import Judge


class Standing:
    """In plain values that JSON holds. `step()` is the global step of now."""

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        steering: Steering,
        reception: Reception | None,
        guard: Guard,
        step: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._judge = judge
        self._steering = steering
        self._reception = reception
        self._guard = guard
        self._step = step
        self._alerts: Mapping[str, int] = {}  # episodes of alerts, for a later run, where this one takes none in

    def state(self) -> dict[str, Any]:
        """As it is now."""
        return {
            "engine": {**self._engine.state(), "step": self._step()},  # of several optimizers one is a step ahead
            "judge": self._judge.state(),
            "steering": self._steering.state_dict(),
            "alerts": dict(self._alerts) if self._reception is None else self._reception.acceptance.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. Raises ConfigError where that is none; then everything is as it was."""
        problem = self._guard.attempt(lambda: self._go_on_from(state))
        if problem is not None:
            raise ConfigError(
                f"This is no state of a run ({in_words(problem)}). Give what state_dict() returned."
            ) from problem

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        step, alerts = self._step(), numbered(state.get("alerts", {}))
        Engine(()).restore(state["engine"], step)  # two that nobody uses, to see whether it can be read
        Judge(()).restore(state["judge"])
        self._steering.load_state_dict(state["steering"])  # this is done whole, or not at all
        self._engine.restore(state["engine"], step)
        self._judge.restore(state["judge"])
        self._alerts = alerts
        if self._reception is not None:
            self._reception.acceptance.restore(alerts)
