"""An alert moves the run when the run itself agrees, once for an episode, and not after a fence."""

import pytest
from sending import alert, listed, posted

from trimtab.actions import RollBack, ScaleLearningRate, SkipStep
from trimtab.alerts import payloads
from trimtab.alerts.acceptance import Acceptance
from trimtab.alerts.silences import Silences
from trimtab.catalog import CLOCK_SKEW_S
from trimtab.policies import Engine, Policy
from trimtab.types import Verdict

HALVE = [ScaleLearningRate(0.5)]
POLICIES = [Policy(on="loss_diverged", ladder=HALVE), Policy(on="alert:GpuHot", ladder=HALVE, cooldown=0)]


class Desk:
    """A run of which the test says how bad it is."""

    def __init__(self, inbox, clock, act=True):
        self.inbox, self.clock, self.records, self.step = inbox, clock, [], 100
        self.level = 2.0
        self.silences = Silences(clock)
        self.engine = Engine(POLICIES, act=act, silenced=self.silences.cover)
        rules = {"loss_diverged": "critical", "loss_spike": "warning"}
        self.passed = 50_000.0  # seconds since some moment, whatever the clock says
        self.acceptance = Acceptance(
            inbox, self.silences, self.engine, rules, self.records.append, act=act, clock=clock,
            elapsed=lambda: self.passed,
        )  # fmt: skip

    def fires(self, episode=1):
        """The run judges itself."""
        verdict = Verdict(
            rule="loss_diverged", optimizer="0", episode=episode, state="firing", severity="critical", value=2.0,
            threshold=1.0, level=2.0, step=self.step, since=self.step - 25,
        )  # fmt: skip
        return self.engine.decide([verdict], self.step)

    def receives(self, **changes):
        """An alert comes in: what is decided."""
        self.clock.now += 1
        self.passed += 1
        self.step += 1
        (incoming,), _ = payloads.webhook(posted(alert(**{"at": self.clock.now, **changes})))
        self.inbox.offer([incoming])
        return self.decides()

    def decides(self):
        self.step += 1
        return self.acceptance.decide(self.step, lambda: {"loss_diverged": self.level})

    @property
    def outcomes(self):
        return [record.outcome for record in self.records]


@pytest.fixture
def desk(inbox, clock):
    return lambda **options: Desk(inbox, clock, **options)


def test_alert_moves_the_run_once_for_an_episode(desk):
    it = desk(act="alerts")
    assert it.fires() == []
    (decision,) = it.receives()
    assert (decision.rule, decision.source, decision.episode, decision.outcome) == ("loss_diverged", "webhook", 1, None)
    it.engine.settle(decision, ["applied"], it.step)
    assert it.receives(fingerprint="of another replica") == []
    assert it.outcomes == ["accepted", "accepted"]


def test_alert_that_the_run_does_not_agree_with_is_ignored(desk):
    it = desk()
    it.level = 0.99
    assert it.receives() == []
    assert it.outcomes == ["disagrees"]


def test_level_of_1_is_at_the_threshold_and_agrees(desk):
    it = desk(act="alerts")
    it.level = 1.0
    it.fires()
    assert [decision.rule for decision in it.receives()] == ["loss_diverged"]
    assert it.outcomes == ["accepted"]


def test_first_to_come_has_the_episode(desk):
    it = desk(act=True)
    (decision,) = it.fires()
    it.engine.settle(decision, ["applied"], it.step)
    assert it.receives() == []


@pytest.mark.parametrize("hot", ["warning", "critical"])
def test_most_severe_of_alerts_that_come_together_is_answered(desk, hot):
    """Among equals that of the policy that stands first, in whatever order a server lists them."""
    it = desk(act="alerts")
    it.fires()
    both = posted(
        alert(rule=None, at=it.clock.now, alertname="GpuHot", severity=hot, fingerprint="f2"), alert(at=it.clock.now)
    )
    it.inbox.offer(payloads.webhook(both)[0])
    (decision,) = it.decides()
    assert decision.rule == "loss_diverged"
    assert it.outcomes == ["accepted", "accepted"]


@pytest.mark.parametrize(("before_s", "outcome"), [(CLOCK_SKEW_S - 1, "accepted"), (CLOCK_SKEW_S + 2, "too_old")])
def test_alert_from_before_a_fence_is_ignored_but_for_the_skew_of_clocks(desk, clock, before_s, outcome):
    it = desk()
    clock.now += 1_000
    it.acceptance.fence()
    it.receives(at=clock.now - before_s)
    assert it.outcomes == [outcome]


@pytest.mark.parametrize(("after_s", "outcome"), [(1, "accepted"), (-CLOCK_SKEW_S - 1, "too_old")])
def test_fence_moves_with_a_clock_that_is_set_back(desk, clock, after_s, outcome):
    it = desk()
    clock.now += 7_200
    it.acceptance.fence()
    clock.now += 60 - 3_600
    it.passed += 60
    it.receives(at=clock.now - 60 + after_s)
    assert it.outcomes == [outcome]


def test_clock_that_is_set_forward_leaves_the_fence_where_it_was(desk, clock):
    it = desk()
    it.acceptance.fence()
    clock.now += 3_600
    it.receives(at=clock.now - 1_800)
    assert it.outcomes == ["accepted"]


def test_alert_that_has_to_wait_is_answered_later_if_it_still_goes_on(desk):
    it = desk(act="alerts")
    it.fires()
    it.engine.paused = True
    (vetoed,) = it.receives()
    assert vetoed.outcome == "silenced"
    it.engine.paused = False
    assert it.acceptance.due
    assert [decision.outcome for decision in it.decides()] == [None]


def test_alert_that_is_over_is_recorded_with_its_own_episode(desk, clock):
    it = desk()
    it.fires(episode=1)
    began = clock.now + 1
    it.receives(fingerprint="f1")
    it.fires(episode=2)
    it.receives(fingerprint="f2")
    it.receives(fingerprint="f1", at=began, status="resolved")
    it.receives(fingerprint="never seen to fire", status="resolved")
    assert [(record.state, record.episode) for record in it.records] == [
        ("firing", 1), ("firing", 2), ("resolved", 1), ("resolved", 0)
    ]  # fmt: skip


def test_alert_that_is_bound_by_name_ends_with_the_number_that_it_began_with(desk, clock):
    it = desk()
    hot = {"rule": None, "alertname": "GpuHot", "fingerprint": "f2"}
    began = clock.now + 1
    it.receives(**hot)
    it.receives(**hot, at=began, status="resolved")
    assert [(record.state, record.episode) for record in it.records] == [("firing", 1), ("resolved", 1)]


def test_resolved_undoes_nothing_and_ends_the_waiting(desk):
    it = desk(act="alerts")
    it.fires()
    it.engine.paused = True
    it.receives(at=it.clock.now)
    it.engine.paused = False
    assert it.receives(at=it.clock.now, status="resolved") == []
    assert it.decides() == []
    assert it.outcomes == ["accepted", "resolved"]


def test_end_of_another_alert_about_the_rule_does_not_end_the_waiting(desk):
    it = desk(act="alerts")
    it.fires()
    it.engine.paused = True
    it.receives()
    it.engine.paused = False
    assert len(it.receives(fingerprint="of another", status="resolved")) == 1


def test_silence_vetoes_alerts_and_what_is_judged_in_process(desk):
    it = desk(act=True)
    it.silences.set(frozenset({"loss_diverged"}))
    assert [decision.outcome for decision in it.fires()] == ["silenced"]
    assert it.receives() == []
    assert it.outcomes == ["silenced"]


def test_alert_bound_by_name_is_taken_at_its_word_each_time_it_fires(desk):
    it = desk(act="alerts")
    for episode in (1, 2):
        (decision,) = it.receives(rule=None, alertname="GpuHot", run_id=None)
        assert (decision.rule, decision.episode, decision.outcome) == ("alert:GpuHot", episode, None)
        it.engine.settle(decision, ["applied"], it.step)
        it.step += 100
    assert not it.acceptance.due
    assert it.decides() == []
    assert {record.severity for record in it.records} == {"critical"}  # as its label says


def test_alert_bound_by_name_that_comes_by_two_ways_is_answered_once(desk):
    it = desk(act="alerts")
    hot = {"rule": None, "alertname": "GpuHot"}
    (decision,) = it.receives(**hot)
    it.engine.settle(decision, ["applied"], it.step)
    it.acceptance.fence()
    it.step += 100
    again, _ = payloads.listed(listed(alert(**hot, at=it.clock.now)), "alertmanager")
    it.inbox.offer(again)
    assert it.decides() == []
    assert it.outcomes == ["accepted", "duplicate"]


@pytest.mark.parametrize("labels", [{}, {"rule": None, "alertname": "GpuHot"}], ids=str)
def test_alert_that_waits_is_answered_though_its_server_was_started_anew_meanwhile(desk, labels):
    it = desk(act="alerts")
    it.fires()
    it.engine.paused = True
    began = it.clock.now + 1
    for status in ("firing", "resolved", "firing"):
        it.receives(**labels, at=began, status=status)
    it.engine.paused = False
    assert [decision.outcome for decision in it.decides()] == [None]


def test_numbers_of_episodes_outlive_a_resume(desk, inbox, clock):
    it = desk(act="alerts")
    it.receives(rule=None, alertname="GpuHot")
    resumed = Desk(inbox, clock, act="alerts")
    resumed.acceptance.restore(it.acceptance.state())
    resumed.engine.restore(it.engine.state(), it.step)
    (decision,) = resumed.receives(rule=None, alertname="GpuHot")
    assert decision.episode == 2


def test_dry_run_says_what_it_would_have_done(desk):
    it = desk(act=False)
    it.fires(episode=1)
    it.fires(episode=2)  # which waits for the cooldown, and is still open
    it.step += 1_000
    assert [decision.outcome for decision in it.receives()] == ["dry_run"]


def test_run_that_acts_on_its_own_rules_only_ignores_alerts(desk):
    it = desk(act="process")
    assert it.receives() == []
    assert it.outcomes == ["not_asked"]


def test_hostile_names_are_recorded_short_and_printable(desk):
    it = desk()
    it.receives(rule=None, alertname="\x1b[2J" + "x" * 200)
    assert it.records[0].rule == "x" * 60
    assert it.outcomes == ["unknown_rule"]


def test_first_aid_is_not_given_when_an_alert_comes():
    engine = Engine([Policy(on="loss_diverged", ladder=[SkipStep(), RollBack()])], act="alerts")
    desk = Desk.__new__(Desk)
    desk.engine, desk.step = engine, 100
    desk.fires()
    (decision,) = engine.alerted("loss_diverged", 100, source="alertmanager")
    assert [action.name for action in decision.actions] == ["roll_back"]
