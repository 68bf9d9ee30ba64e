"""What is known of a run besides which rules fire: by its judge, its adjustments and the libraries that it uses."""

from __future__ import annotations

import sys

from trimtab.actuators.steering import Steering
from trimtab.policies import Evidence
from trimtab.policies.defaults import UNMISTAKABLE
from trimtab.rules.judge import Judge
from trimtab.types import Strides

AT_REST = (
    "the loss has come down by less than it swings, but it has not exploded, is not known to be at chance, and steps "
    "are no longer than usual: there may be less to learn than what it swings by"
)
IMPROVES = "validation gets better from pass to pass, so that the weights are not lost, however high the loss is"
RECOVERED = "by now the loss has come down again by itself"  # several steps are judged together
ENVIRONMENTS = ("gymnasium", "gym", "pettingzoo", "dm_env", "torchrl")  # what reinforcement learning is done with


def doubt_of_loss() -> str:
    """Why nothing follows from a loss that rises; empty where something does. Costs 0.3 us."""
    library = next((name for name in ENVIRONMENTS if name in sys.modules), None)
    if library is None:
        return ""
    return f"{library} is loaded, and in reinforcement learning the loss may rise as the policy gets better"


class RunEvidence(Evidence):
    """The evidence of a real run. `chosen`: whether the user chose its policies, and so knows what they rest on."""

    def __init__(self, judge: Judge, steering: Steering, *, chosen: bool) -> None:
        self._judge, self._steering, self._chosen = judge, steering, chosen

    def level(self, rule: str, optimizer: str) -> float:
        """See `Findings.level`."""
        return self._judge.findings(optimizer).level(rule)

    def is_slow(self, rule: str, optimizer: str) -> bool:
        """See `Findings.is_slow`."""
        return self._judge.findings(optimizer).is_slow(rule)

    def is_harmful(self, optimizer: str) -> bool:
        """See `Findings.is_harmful`."""
        return self._judge.findings(optimizer).is_harmful

    def is_worse(self, optimizer: str) -> bool:
        """See `Findings.is_worse`."""
        return self._judge.findings(optimizer).is_worse

    def were_good(self, optimizer: str) -> bool:
        """See `Findings.were_good`."""
        return self._judge.findings(optimizer).were_good

    def strides(self, rule: str, optimizer: str) -> Strides:
        """As the judge has them, which knows the schedule's rate alone; the first step also had a scale of ours."""
        found = self._judge.findings(optimizer).strides(rule)
        return found._replace(first=found.first * self._steering.scale(optimizer))

    def has_returned(self, rule: str, optimizer: str) -> bool:
        """See `Findings.has_returned`."""
        return self._judge.findings(optimizer).has_returned(rule)

    def misleads(self, rule: str, optimizer: str) -> str:
        """A loss that has come down again, that of reinforcement learning, and one that is high and does no harm.

        The last two are left to the user who chose the policies.
        """
        found = self._judge.findings(optimizer)
        if found.has_recovered(rule):
            return RECOVERED
        if self._chosen or rule in UNMISTAKABLE:
            return ""
        if doubt := doubt_of_loss():
            only = f"only {', '.join(UNMISTAKABLE)} are acted upon"
            return f"{doubt}: {only}. policies=['shipped'] lets all of them act"
        if found.is_lost(rule):
            return ""
        return IMPROVES if found.validation_improves else AT_REST
