"""Values that do not come from a step: the user's own, and what is measured of the run. Judged between two steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from trimtab.rules.judge import Judge
from trimtab.steering.judging import Judging
from trimtab.steering.keeping import Keeping
from trimtab.types import Verdict


class Elsewhere:
    """Judges values in the order in which they come: at once, or while another thread trains at the end of its step.

    Args:
        keeping: told of what the user logs, which may say that the model is the best so far.
        answer: `answer(verdicts, step)`, with what rules say.
        step: the global step of now.
        trains_alone: whether no thread but the calling one trains.
    """

    def __init__(
        self,
        judge: Judge,
        judging: Judging,
        keeping: Keeping,
        *,
        answer: Callable[[Sequence[Verdict], int], None],
        step: Callable[[], int],
        trains_alone: Callable[[], bool],
    ) -> None:
        self._judge, self._judging, self._keeping = judge, judging, keeping
        self._answer, self._step = answer, step
        self._trains_alone = trains_alone
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def waits(self) -> bool:
        """Whether there is anything to do at the end of the next step."""
        return bool(self._waiting)

    def logged(self, values: Mapping[str, float], *, of_training: bool) -> None:
        """The user logged values, on any thread. Those `of_training` tell no better model."""
        self._bring(partial(self._judge_logged, values, of_training=of_training))

    def recorded(self, values: Mapping[str, float]) -> None:
        """What is measured of the run itself, by the names of the signals. May come on any thread."""
        self._bring(partial(self._judge_recorded, values))

    def hear(self) -> None:
        """On the thread that trains, between two steps: judge what has come."""
        while self._waiting:
            self._waiting.popleft()()

    def _bring(self, judge: Callable[[], None]) -> None:
        if self._trains_alone():
            judge()
        else:
            self._waiting.append(judge)

    def _judge_logged(self, values: Mapping[str, float], *, of_training: bool) -> None:
        step = self._step()
        for name, value in values.items():
            verdicts = self._judging.logged(step, name, value, of_training=of_training)
            self._keeping.monitored(step)
            self._answer(verdicts, step)

    def _judge_recorded(self, values: Mapping[str, float]) -> None:
        step = self._step()
        self._answer(self._judge.record(step, **values), step)
