"""An engine that is walked along, and policies to walk it with."""

import pytest

from trimtab.actions import Halt, RollBack, ScaleLearningRate, SkipStep
from trimtab.policies import Engine, Policy
from trimtab.types import Verdict


def make_verdict(rule, step, episode=1, *, severity="critical", optimizer="0", state="firing", since=None, judged=None):
    return Verdict(
        rule=rule,
        optimizer=optimizer,
        episode=episode,
        state=state,
        severity=severity,
        value=12.0,
        threshold=6.0,
        level=2.0,
        step=step if judged is None else judged,
        since=step if since is None else since,
    )


class Course:
    """An engine, walked along: every decision is carried out, and episodes are numbered as the judge does."""

    def __init__(self, policies, **options):
        self.engine = Engine(policies, **{"act": "process", **options})
        self.episodes = {}
        self.refusing = ()  # names of actions
        self.decisions = []

    def fire(self, rule, step, *, stepping=None, **more):
        """A new episode begins at `step`. Returns what was decided, each rung as the names of its actions."""
        key = rule, more.get("optimizer", "0")
        self.episodes[key] = self.episodes.get(key, 0) + 1
        return self.judge(step, make_verdict(rule, step, self.episodes[key], **more), stepping=stepping)

    def resolve(self, rule, step, **more):
        key = rule, more.get("optimizer", "0")
        return self.judge(step, make_verdict(rule, step, self.episodes[key], state="resolved", **more))

    def judge(self, step, *verdicts, **more):
        return self.carry_out(self.engine.decide(verdicts, step, **more), step)

    def carry_out(self, decisions, step):
        said = []
        for decision in decisions:
            while decision is not None:
                self.decisions.append(decision)
                said.append(
                    " ".join(a.name for a in decision.actions) if decision.outcome is None else decision.outcome
                )
                decision = self.outcome(decision, step) if decision.outcome is None else None
        return said

    def outcome(self, decision, step):
        done = {action.name: "refused" if action.name in self.refusing else "applied" for action in decision.actions}
        went_back = done.get("roll_back") == "applied"
        return self.engine.settle(decision, list(done.values()), step, went_back=went_back)

    def resumed(self, state, step=None):
        """Another process, which goes on from `state`; after `step` steps, where it counts them anew."""
        other = Course(self.engine.policies, act="process")
        other.engine.restore(state, state["step"] if step is None else step)
        other.episodes = dict(self.episodes)
        return other


@pytest.fixture
def course():
    """`course(policy, ..., act=...)` makes one."""
    return lambda *policies, **options: Course(policies, **options)


@pytest.fixture
def verdict():
    return make_verdict


@pytest.fixture
def spike():
    """A policy with three rungs."""
    return Policy(
        on="loss_spike",
        ladder=[RollBack(), (RollBack(), ScaleLearningRate(0.5)), Halt()],
        cooldown=20,
        memory=100,
        budget=5,
    )


@pytest.fixture
def nonfinite():
    """A policy that begins with first aid."""
    ladder = [SkipStep(), SkipStep(), RollBack(), Halt()]
    return Policy(on="gradient_nonfinite", ladder=ladder, cooldown=10, memory=100)
