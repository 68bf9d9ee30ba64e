"""Answers with decisions: what rules say, alerts that came in, or, in a replay, the record of the run before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.alerts.reception import Reception
from trimtab.policies import Engine
from trimtab.policies.replay import Replay
from trimtab.rules.judge import Judge
from trimtab.steering.execution import Execution, Moment
from trimtab.steering.membership import Membership
from trimtab.steering.telling import Telling
from trimtab.types import Verdict


class Answering:
    """Used by the controller, on the thread that trains. How a decision is carried out is its own affair.

    Args:
        reception: where alerts come in; None where none are taken in.
        replay: with it, what it says is done, and what policies say is not.
    """

    def __init__(
        self,
        judge: Judge,
        engine: Engine,
        execution: Execution,
        membership: Membership,
        telling: Telling,
        *,
        reception: Reception | None,
        replay: Replay | None,
    ) -> None:
        self._judge = judge
        self._engine = engine
        self._execution = execution
        self._membership = membership
        self._telling = telling
        self._reception = reception
        self._replay = replay
        self._is_over = False
        self.take_up = (membership.ranks or execution).take_up

    @property
    def replays(self) -> bool:
        """Whether the adjustments of another run are repeated."""
        return self._replay is not None

    def verdicts(self, label: str, verdicts: Sequence[Verdict], moment: Moment) -> None:
        """Tell what rules say, and do what policies make of it. `label` is the optimizer that was judged, or empty."""
        for verdict in verdicts:
            self._telling.tell(verdict)
        if self._replay is not None or not self._membership.leads or (self._is_over and self._membership.acts):
            return
        healthy = (label,) if label and self._judge.healthy(label) else ()
        for decision in self._engine.decide(verdicts, moment.step, healthy=healthy, stepping=label):
            self.take_up(decision, moment)

    def alerts(self, moment: Moment) -> None:
        """Where alerts came in: do what policies do about those that are accepted."""
        if self._reception is None or not self._reception.acceptance.due:
            return
        for decision in self._reception.acceptance.decide(moment.step, self._telling.worst):
            self.take_up(decision, moment)

    def record(self, label: str, moment: Moment) -> None:
        """In a replay: do what was done at this moment."""
        if self._replay is not None:
            for decision in self._replay.due(moment.step, label, applied=moment.applied):
                self._execution.take_up(decision, moment)

    def fence(self, *, of_all: bool) -> None:
        """Alerts that began before an adjustment are no evidence any more, nor `of_all` what rules said."""
        if of_all:
            self._engine.fence()
        if self._reception is not None:
            self._reception.acceptance.fence()

    def begin_anew(self, label: str) -> None:
        """Another model is trained under this label."""
        self._engine.begin_anew(label)

    def close(self, say: Callable[[str, str], None]) -> None:
        """The run ends. What its last steps say is told, and nothing is done any more."""
        self._is_over = True
        if self._replay is not None and self._replay.left:
            say("replay", f"{self._replay.left} adjustments of the record were not reached.")
