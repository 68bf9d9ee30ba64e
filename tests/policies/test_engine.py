"""Cooldowns, budgets, ladders, arbitration, authority."""

import json

import pytest

from trimtab.actions import ClipGradients, Halt, RollBack, ScaleLearningRate, SkipStep
from trimtab.policies import Decision, Evidence, Policy
from trimtab.policies.accounts import ROW_STEPS
from trimtab.policies.creeping import PATIENCE
from trimtab.policies.policy import PERSON

LOWER = "roll_back scale_learning_rate"
RAISE = Policy(on="loss_stalled", ladder=[ScaleLearningRate(2.0)], cooldown=0)


def test_rule_without_a_policy_is_left_alone(course, spike, verdict):
    run = course(spike)
    assert run.fire("layer_dead", 10) == []
    brief = [verdict("loss_stalled", 11), verdict("loss_stalled", 12, state="resolved")]
    assert run.judge(64, *brief) == []


def test_rule_that_fires_again_climbs(course, spike):
    run = course(spike)
    assert [run.fire("loss_spike", step) for step in (10, 40, 70)] == [["roll_back"], [LOWER], ["halt"]]


def test_rule_that_fires_again_after_long_begins_at_the_first_rung(course, spike):
    run = course(spike)
    assert run.fire("loss_spike", 10) == ["roll_back"]
    run.judge(110)
    assert run.fire("loss_spike", 111) == ["roll_back"]


@pytest.mark.parametrize(("judged", "since", "answer"), [(128, 105, ["roll_back"]), (88, 70, [LOWER])])
def test_rule_climbs_by_when_the_trouble_began_and_not_by_when_it_was_seen(course, judged, since, answer):
    """Steps may be judged 64 at a time."""
    run = course(Policy(on="loss_spike", ladder=[RollBack(), (RollBack(), ScaleLearningRate(0.3))], memory=10))
    run.judge(1)
    assert run.fire("loss_spike", 65, since=44) == ["roll_back"]
    assert run.fire("loss_spike", judged, since=since) == answer


def test_top_of_a_ladder_is_repeated_where_it_does_not_halt(course):
    run = course(Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.5)], cooldown=5))
    assert [run.fire("loss_oscillating", step) for step in (10, 20)] == [["scale_learning_rate"]] * 2


def test_rung_that_touches_one_step_climbs_too_where_it_is_no_first_aid(course):
    run = course(Policy(on="loss_spike", ladder=[RollBack(), SkipStep(), ScaleLearningRate(0.5)], cooldown=5))
    said = [run.fire("loss_spike", step) for step in (10, 20, 30)]
    assert said == [["roll_back"], ["skip_step"], ["scale_learning_rate"]]
    assert run.engine.budgets() == {"loss_spike": 5}


def test_policy_that_has_halted_does_nothing_more(course):
    run = course(Policy(on="no_improvement", ladder=[Halt()], cooldown=0))
    assert [run.fire("no_improvement", step) for step in (10, 500)] == [["halt"], []]


def test_episode_that_comes_in_a_cooldown_waits_for_its_end(course, spike):
    run = course(spike)
    run.fire("loss_spike", 10)
    assert run.fire("loss_spike", 20) == []
    assert [run.judge(step) for step in (29, 30, 31)] == [[], [LOWER], []]


def test_episode_that_ends_in_a_cooldown_is_let_go(course, spike):
    run = course(spike)
    run.fire("loss_spike", 10)
    run.fire("loss_spike", 20)
    run.resolve("loss_spike", 25)
    assert run.judge(30) == []


class Passing(Evidence):
    """Of trouble that passes by itself, and may return."""

    def __init__(self):
        self.passed = self.returned = False

    def misleads(self, rule, optimizer):
        return "it has passed" if self.passed else ""

    def has_returned(self, rule, optimizer):
        return self.returned


class TestTroubleThatPassesByItself:
    def fired(self, course, spike, *, passed=True):
        seen = Passing()
        seen.passed = passed
        run = course(spike, evidence=seen)
        said = run.fire("loss_spike", 10)
        assert run.resolve("loss_spike", 12) == []
        return run, seen, said

    def test_is_answered_once_it_returns(self, course, spike):
        run, seen, said = self.fired(course, spike)
        assert said == ["refused"]
        assert run.judge(64) == []
        seen.passed, seen.returned = False, True
        assert [run.judge(step) for step in (128, 192, 256)] == [["roll_back"], [], []]
        assert [(each.episode, each.since) for each in run.decisions] == [(1, 10)] * 2

    def test_is_not_answered_while_there_is_another_reason_for_nothing(self, course, spike):
        run, seen, _ = self.fired(course, spike)
        seen.returned = True
        assert run.judge(64) == []

    def test_is_no_evidence_after_an_adjustment(self, course, spike):
        run, seen, _ = self.fired(course, spike)
        run.engine.fence("0")
        seen.passed, seen.returned = False, True
        assert run.judge(64) == []

    def test_is_answered_once_where_it_was_answered_before(self, course, spike):
        run, seen, said = self.fired(course, spike, passed=False)
        assert said == ["roll_back"]
        seen.returned = True
        assert run.judge(64) == []


def test_episode_of_the_run_waits_on_while_another_rule_adjusts_one_optimizer(course):
    overfitting = Policy(on="overfitting", ladder=[ScaleLearningRate(0.9), Halt()], cooldown=20)
    oscillating = Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.5)], cooldown=5)
    run = course(overfitting, oscillating)
    run.fire("overfitting", 10, optimizer="", severity="warning")
    run.resolve("overfitting", 14, optimizer="")
    run.fire("overfitting", 20, optimizer="", severity="warning")
    run.engine.fence("0")  # as when a person adjusts it
    assert [run.judge(step) for step in (29, 30)] == [[], ["halt"]]


def test_episode_that_waits_is_no_evidence_after_a_fence_of_everything(course, spike):
    run = course(spike)
    run.fire("loss_spike", 10)
    assert run.fire("loss_spike", 15) == []
    run.engine.fence()
    assert run.judge(31) == []


def test_episode_that_ends_when_its_cooldown_is_over_is_let_go(course, spike):
    run = course(spike)
    run.fire("loss_spike", 10)
    assert run.fire("loss_spike", 15) == []
    assert run.resolve("loss_spike", 31) == []


def test_dry_run_answers_all_that_is_still_open(course, spike):
    oscillating = Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.5)], cooldown=5)
    run = course(spike, oscillating, act=False)
    run.fire("loss_oscillating", 9, severity="warning")
    run.resolve("loss_oscillating", 10)
    run.fire("loss_oscillating", 11, severity="warning")
    assert run.fire("loss_spike", 12) == ["dry_run"]
    assert [run.judge(step) for step in (31, 32)] == [[], ["dry_run"]]


def test_episode_is_acted_on_once(course, spike, verdict):
    run = course(spike)
    assert run.judge(10, verdict("loss_spike", 10, 1)) == ["roll_back"]
    assert run.judge(50, verdict("loss_spike", 50, 1)) == []


def test_decision_that_is_withdrawn_leaves_its_episode_to_be_answered(course, spike, verdict):
    run = course(spike)
    (decision,) = run.engine.decide([verdict("loss_spike", 10)], 10)
    assert run.judge(11) == []
    run.engine.withdraw(decision)
    assert run.judge(12) == ["roll_back"]


def test_used_up_budget_is_said_once_for_an_episode(course, spike):
    run = course(Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.5)], cooldown=0, budget=1))
    assert run.fire("loss_oscillating", 10) == ["scale_learning_rate"]
    assert (run.fire("loss_oscillating", 20), run.judge(21)) == (["refused"], [])
    assert run.decisions[-1].reason == "the budget of 1 adjustments is used up"
    assert run.engine.budgets() == {"loss_oscillating": 0}


def test_group_climbs_together(course):
    one = Policy(on="loss_spike", ladder=[RollBack(), (RollBack(), ScaleLearningRate(0.5))], group="instability")
    other = Policy(on="loss_diverged", ladder=[RollBack(), Halt()], group="instability")
    run = course(one, other)
    assert (run.fire("loss_spike", 10), run.fire("loss_diverged", 12)) == (["roll_back"], ["halt"])


def test_policies_without_a_group_climb_alone(course, spike):
    run = course(spike, Policy(on="loss_diverged", ladder=[RollBack(), Halt()]))
    assert (run.fire("loss_spike", 10), run.fire("loss_diverged", 40)) == (["roll_back"], ["roll_back"])


class TestSeveralStepsTogether:
    """On fast loops some dozens of steps are judged at once: what one of them showed may have come of another."""

    DIVERGED = Policy(on="loss_diverged", ladder=[(RollBack(), ScaleLearningRate(0.1))])
    SWINGING = Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.3)])

    def test_first_has_the_turn_where_its_answer_undoes_the_others(self, course, spike, verdict):
        run = course(self.DIVERGED, spike)
        verdicts = [verdict("loss_spike", 11, severity="warning"), verdict("loss_diverged", 40)]
        assert run.judge(64, *verdicts) == ["roll_back"]

    def test_first_has_no_turn_where_its_answer_undoes_nothing(self, course, verdict):
        run = course(self.SWINGING, self.DIVERGED)
        verdicts = [verdict("loss_oscillating", 11, severity="warning"), verdict("loss_diverged", 40)]
        assert run.judge(64, *verdicts) == [LOWER]

    def test_most_severe_has_the_turn_of_one_step(self, course, spike, verdict):
        run = course(spike, self.DIVERGED)
        verdicts = [verdict("loss_spike", 64, severity="warning"), verdict("loss_diverged", 64)]
        assert run.judge(64, *verdicts) == [LOWER]

    def test_more_severe_has_the_turn_before_what_has_waited(self, course, spike, verdict):
        run = course(spike, self.DIVERGED)
        run.fire("loss_spike", 10, severity="warning")
        assert run.fire("loss_spike", 15, severity="warning") == []
        run.fire("loss_diverged", 64)
        assert run.decisions[-1].rule == "loss_diverged"

    def test_episode_that_is_over_by_then_is_answered(self, course, spike, verdict):
        verdicts = [verdict("loss_spike", 11), verdict("loss_spike", 12, state="resolved")]
        assert course(spike).judge(64, *verdicts) == ["roll_back"]

    def test_episode_that_is_over_is_not_answered_where_first_aid_came_too_late(self, course, nonfinite, verdict):
        verdicts = [verdict("gradient_nonfinite", 11), verdict("gradient_nonfinite", 12, state="resolved")]
        assert course(nonfinite).judge(64, *verdicts) == []


class TestFirstAid:
    def test_comes_first_for_each_new_trouble_and_uses_no_budget(self, course, nonfinite):
        run = course(nonfinite)
        for step in (10, 13, 16, 19):
            run.judge(step - 1)
            assert run.fire("gradient_nonfinite", step) == ["skip_step"]
            run.resolve("gradient_nonfinite", step + 1)
        assert run.engine.budgets() == {"gradient_nonfinite": 8}

    def test_that_does_not_help_gives_way_to_the_next_rung(self, course, nonfinite):
        run = course(nonfinite)
        assert run.fire("gradient_nonfinite", 10) == ["skip_step"]
        assert [run.judge(step) for step in (11, 12)] == [["skip_step"], ["roll_back"]]

    def test_does_not_help_when_it_is_fenced_and_fires_again_at_once(self, course, nonfinite):
        run = course(nonfinite)
        assert [run.fire("gradient_nonfinite", step) for step in (10, 11, 12)] == [
            ["skip_step"], ["skip_step"], ["roll_back"],
        ]  # fmt: skip

    @pytest.mark.parametrize(("pause", "rung"), [(ROW_STEPS, 1), (ROW_STEPS + 1, 0)])
    def test_is_in_a_row_with_what_came_just_before(self, course, nonfinite, pause, rung):
        run = course(nonfinite)
        run.judge(9)
        run.fire("gradient_nonfinite", 10)
        run.resolve("gradient_nonfinite", 11)
        for step in range(12, 10 + pause):
            run.judge(step)
        run.fire("gradient_nonfinite", 10 + pause)
        assert [decision.rung for decision in run.decisions] == [0, rung]

    def test_is_not_in_a_row_with_what_a_good_step_lies_between_however_seldom_it_is_judged(self, course, nonfinite):
        run = course(nonfinite)
        for step in range(64, 64 * 6, 64):
            run.fire("gradient_nonfinite", step, stepping="0")
            run.resolve("gradient_nonfinite", step + 1)
        assert {decision.rung for decision in run.decisions} == {0}

    def test_begins_anew_after_a_rung_that_lasts(self, course):
        run = course(Policy(on="gradient_nonfinite", ladder=[SkipStep(), SkipStep(), RollBack()], cooldown=0))
        for step in range(10, 14):
            run.fire("gradient_nonfinite", step)
        assert [decision.rung for decision in run.decisions] == [0, 1, 2, 0]

    def test_goes_on_while_the_next_rung_cools_down(self, course, nonfinite):
        run = course(nonfinite)
        for step in (10, 11, 12):
            run.fire("gradient_nonfinite", step)
        assert [run.fire("gradient_nonfinite", step) for step in range(13, 23)] == [["skip_step"]] * 9 + [["halt"]]

    def test_ends_where_every_attempt_at_one_step_is_bad(self, course, nonfinite):
        """A step that is left out is tried again under its number: a cooldown in steps would never be over."""
        run = course(nonfinite)
        for _ in range(3):
            run.fire("gradient_nonfinite", 10, stepping="0")
        assert [run.fire("gradient_nonfinite", 13, stepping="0") for _ in range(12)].index(["halt"]) <= 8

    def test_is_void_for_a_step_that_was_applied_before_it_was_judged(self, course, nonfinite):
        assert course(nonfinite).fire("gradient_nonfinite", 64, judged=50) == ["roll_back"]

    def test_alone_that_comes_too_late_is_not_given(self, course):
        assert (
            course(Policy(on="gradient_nonfinite", ladder=[SkipStep()])).fire("gradient_nonfinite", 64, judged=50) == []
        )

    def test_is_a_clip_of_one_step_but_not_one_of_many(self, course):
        policy = Policy(on="gradient_exploding", ladder=[ClipGradients(), ClipGradients(steps=100)])
        assert policy.first_aid == 1


class TestArbitration:
    def test_most_severe_rule_has_the_optimizer(self, course, spike, verdict):
        run = course(spike, Policy(on="loss_diverged", ladder=[Halt()]))
        found = run.judge(10, verdict("loss_spike", 10, severity="warning"), verdict("loss_diverged", 10))
        assert found == ["halt"]

    def test_among_equals_the_first_policy_has_it(self, course, spike, verdict):
        run = course(spike, Policy(on="loss_diverged", ladder=[Halt()]))
        assert run.judge(10, verdict("loss_diverged", 10), verdict("loss_spike", 10)) == ["roll_back"]

    def test_optimizers_are_adjusted_each_on_its_own(self, course, spike, verdict):
        run = course(spike)
        found = run.judge(10, verdict("loss_spike", 10), verdict("loss_spike", 10, optimizer="1"))
        assert found == ["roll_back"] * 2

    def test_rule_about_no_optimizer_excludes_every_other(self, course, spike, verdict):
        run = course(spike, Policy(on="overfitting", ladder=[Halt()]))
        found = run.judge(10, verdict("loss_spike", 10), verdict("overfitting", 10, optimizer=""))
        assert found == ["roll_back"]

    def test_nothing_is_decided_while_an_adjustment_is_under_way(self, course, spike, verdict):
        engine = course(spike, Policy(on="loss_diverged", ladder=[RollBack()])).engine
        (decision,) = engine.decide([verdict("loss_spike", 10)], 10)
        assert engine.decide([verdict("loss_diverged", 11)], 11) == []
        engine.settle(decision, ["refused", "refused"], 12)

    def test_less_than_critical_rule_waits_until_the_dust_has_settled(self, course, spike):
        run = course(spike, Policy(on="loss_oscillating", ladder=[ScaleLearningRate(0.5)]))
        run.fire("loss_spike", 10)
        assert run.fire("loss_oscillating", 15, severity="warning") == []
        assert run.judge(30) == ["scale_learning_rate"]

    def test_critical_rule_does_not_wait_for_another_policy(self, course, spike):
        run = course(spike, Policy(on="loss_diverged", ladder=[RollBack()]))
        run.fire("loss_spike", 10)
        assert run.fire("loss_diverged", 15) == ["roll_back"]

    def test_what_was_open_before_an_adjustment_is_no_evidence_after_it(self, course, spike, verdict):
        run = course(spike, Policy(on="loss_diverged", ladder=[Halt()]))
        run.judge(10, verdict("loss_spike", 10), verdict("loss_diverged", 10, severity="warning"))
        assert run.judge(100) == []


class TestRaising:
    def test_is_barred_while_a_rule_that_lowers_fired_of_late(self, course, spike):
        run = course(spike, RAISE)
        run.fire("loss_spike", 10)
        assert run.fire("loss_stalled", 200) == []
        assert [run.judge(210), run.judge(211)] == [[], ["scale_learning_rate"]]

    def test_is_barred_above_a_rate_that_was_found_too_high(self, course):
        run = course(RAISE)
        run.engine.scaled("0", 0.6)
        assert run.fire("loss_stalled", 500) == []
        run.engine.scaled("0", 0.4)
        run.resolve("loss_stalled", 600)
        assert run.fire("loss_stalled", 900) == []

    @pytest.mark.parametrize("about", ["0", ""])
    def test_is_free_of_the_troubles_of_a_model_that_had_the_label_before(self, course, spike, about):
        run = course(spike, RAISE)
        run.fire("loss_spike", 10, optimizer=about)
        run.engine.begin_anew("0")
        assert run.fire("loss_stalled", 20) == ["scale_learning_rate"]

    def test_is_free_of_the_troubles_of_another_optimizer(self, course, spike):
        run = course(spike, RAISE)
        run.fire("loss_spike", 10)
        assert run.fire("loss_stalled", 20, optimizer="1") == ["scale_learning_rate"]


class TestRefusal:
    def test_leads_to_the_next_rung_at_once(self, course):
        run = course(Policy(on="loss_spike", ladder=[RollBack(), ScaleLearningRate(0.5)]))
        run.refusing = ("roll_back",)
        assert run.fire("loss_spike", 10) == ["roll_back", "scale_learning_rate"]
        assert run.decisions[-1].reason.endswith("the rung before was refused")

    def test_says_what_is_left_of_the_budget(self, course, nonfinite):
        run = course(nonfinite)
        left = run.engine.budgets()["gradient_nonfinite"]
        run.refusing = ("skip_step",)
        assert run.fire("gradient_nonfinite", 10) == ["skip_step", "skip_step", "roll_back"]
        assert [decision.budget_remaining for decision in run.decisions] == [left, left, left - 1]

    def test_of_one_action_of_several_is_no_refusal(self, course, spike):
        run = course(spike)
        run.refusing = ("roll_back",)
        assert run.fire("loss_spike", 10) == ["roll_back", LOWER]
        assert run.engine.budgets() == {"loss_spike": 4}

    def test_does_not_lead_to_a_halt(self, course):
        run = course(Policy(on="loss_spike", ladder=[RollBack(), Halt()]))
        run.refusing = ("roll_back",)
        assert run.fire("loss_spike", 10) == ["roll_back"]

    def test_of_everything_cools_down_like_an_adjustment(self, course):
        run = course(Policy(on="loss_spike", ladder=[RollBack()], cooldown=20))
        run.refusing = ("roll_back",)
        run.fire("loss_spike", 10)
        assert [run.fire("loss_spike", 20), run.judge(30)] == [[], ["roll_back"]]


def test_policy_whose_actions_raise_is_disabled_after_five(course):
    run = course(Policy(on="loss_spike", ladder=[RollBack()], cooldown=0))
    run.outcome = lambda decision, step: run.engine.settle(decision, ["failed"], step)
    assert [len(run.fire("loss_spike", step)) for step in range(1, 8)] == [1, 1, 1, 1, 1, 0, 0]


def test_rung_that_raised_does_not_give_way_to_the_next_at_once(course, spike):
    run = course(spike)
    run.outcome = lambda decision, step: run.engine.settle(decision, ["failed"], step)
    assert run.fire("loss_spike", 10) == ["roll_back"]


class TestDryRun:
    def test_decides_as_the_real_one_does(self, course, spike, nonfinite):
        real, dry = (course(spike, nonfinite, act=act) for act in ("process", False))
        fired = [("loss_spike", 10), ("gradient_nonfinite", 35), ("loss_spike", 40), ("loss_spike", 41)]
        for step in range(1, 200):
            for run in (real, dry):
                for rule, at in fired:
                    if at == step:
                        run.fire(rule, step)
                        run.resolve(rule, step + 1)
                run.judge(step + 1)
        assert [(d.step, d.policy, d.rung, d.budget_remaining) for d in dry.decisions] == [
            (d.step, d.policy, d.rung, d.budget_remaining) for d in real.decisions
        ]
        assert {d.outcome for d in dry.decisions} == {"dry_run"}

    def test_does_not_bring_anything_back(self, course, spike):
        run = course(spike, act=False)
        run.engine.scaled("0", 0.5)
        assert [run.judge(step, healthy=["0"]) for step in (0, 2000, 4000)] == [[], [], []]


class TestAuthority:
    @pytest.mark.parametrize(("act", "acts"), [("process", True), ("alerts", False), (True, True)])
    def test_of_the_process(self, course, spike, act, acts):
        assert bool(course(spike, act=act).fire("loss_spike", 10)) == acts

    @pytest.mark.parametrize(("act", "acts"), [("process", False), ("alerts", True), (True, False)])
    def test_of_an_alert_about_a_rule_that_fired_here(self, course, spike, act, acts):
        run = course(spike, act=act)
        run.fire("loss_spike", 10)
        assert bool(run.engine.alerted("loss_spike", 12, source="alertmanager")) == acts

    def test_alert_may_come_when_the_episode_is_over(self, course, spike):
        run = course(spike, act="alerts")
        run.fire("loss_spike", 10)
        run.resolve("loss_spike", 11)
        (decision,) = run.engine.alerted("loss_spike", 12, source="alertmanager")
        assert (decision.source, decision.episode, decision.since) == ("alertmanager", 1, 10)

    def test_alert_about_a_rule_that_never_fired_here_does_nothing(self, course, spike):
        assert course(spike, act=True).engine.alerted("loss_spike", 12, source="grafana") == []

    def test_alert_that_was_bound_by_name_acts_once(self, course, verdict):
        run = course(Policy(on="alert:GpuHot", ladder=[ScaleLearningRate(0.5)], cooldown=0), act="alerts")
        said = verdict("alert:GpuHot", 12, optimizer="")
        found = [
            run.carry_out(run.engine.alerted("alert:GpuHot", step, source="webhook", verdict=said), step)
            for step in (12, 13)
        ]
        assert found == [["scale_learning_rate"], []]


class TestVeto:
    def test_of_a_silence_is_said_once_and_ends_with_it(self, course, spike):
        silences = {"loss_spike"}
        run = course(spike, silenced=silences.__contains__)
        assert [run.fire("loss_spike", 10), run.judge(11)] == [["silenced"], []]
        silences.clear()
        assert run.judge(12) == ["roll_back"]

    def test_of_a_person_stops_every_policy(self, course, spike):
        run = course(spike)
        run.engine.paused = True
        assert run.fire("loss_spike", 10) == ["silenced"]
        assert run.decisions[-1].reason == "paused by a person"

    def test_uses_no_budget(self, course, spike):
        run = course(spike, silenced=lambda rule: True)
        run.fire("loss_spike", 10)
        assert run.engine.budgets() == {"loss_spike": 5}


class TestCreepingBack:
    def test_begins_after_long_health_in_small_steps(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        found = [step for step in range(620) if run.judge(step, healthy=["0"])]
        assert found == [500, 550, 600]
        assert run.decisions[0].actions[0].factor == pytest.approx(1.1)

    def test_begins_anew_after_trouble(self, course, verdict):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        for step in (0, 400):
            run.judge(step, healthy=["0"])
        run.judge(410, verdict("loss_spike", 410))
        assert [run.judge(step, healthy=["0"]) for step in (510, 909, 910)] == [[], [], ["creep_back"]]

    def test_counts_no_step_of_trouble_that_lasts(self, course, verdict):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        run.judge(0, healthy=["0"])
        run.judge(10, verdict("loss_oscillating", 10, severity="warning"))
        for step in range(11, 700):
            run.judge(step)
        run.judge(700, verdict("loss_oscillating", 700, severity="warning", state="resolved"))
        found = next(step for step in range(701, 2000) if run.judge(step, healthy=["0"]))
        assert found == 700 + PATIENCE

    def test_counts_no_health_of_a_model_that_had_the_label_before(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        run.judge(400, healthy=["0"])
        run.engine.begin_anew("0")
        for step in range(401, 1000):
            run.judge(step, healthy=["0"])
        run.engine.scaled("0", 0.5)
        assert next(step for step in range(1000, 2000) if run.judge(step, healthy=["0"])) == 1000 + PATIENCE

    def test_counts_the_health_of_each_optimizer(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        run.engine.scaled("1", 0.5)
        found = [(step, o) for step in range(510) for o in "01" if run.judge(step, healthy=[o])]
        assert found == [(500, "0"), (500, "1")]

    def test_leaves_an_unhealthy_optimizer_where_it_is(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        assert [run.judge(step, healthy=["1"]) for step in (0, 500, 1000)] == [[], [], []]

    def test_waits_while_the_loss_is_worse_than_it_was(self, course):
        class Worse(Evidence):
            steps = range(500, 600)

            def is_worse(self, optimizer):
                return step in self.steps

        run, found = course(act="process", evidence=Worse()), []
        run.engine.scaled("0", 0.5)
        for step in range(660):
            found += [step] * len(run.judge(step, healthy=["0"]))
        assert found == [600, 650]

    def test_waits_while_a_person_has_paused_it(self, course):
        run, found = course(act="process"), []
        run.engine.scaled("0", 0.5)
        for step in range(1200):
            run.engine.paused = step < 600
            found += [step] * len(run.judge(step, healthy=["0"]))
        assert found[0] >= 600

    def test_leaves_what_a_person_chose(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.5, by_person=True)
        assert [run.judge(step, healthy=["0"]) for step in (0, 500, 1000)] == [[], [], []]

    def test_ends_at_what_a_person_chose(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.4, by_person=True)
        run.engine.scaled("0", 0.2)
        assert [run.judge(step, healthy=["0"]) for step in (0, 500)] == [[], ["creep_back"]]
        assert run.decisions[0].actions[0].ceiling == 0.4

    def test_goes_on_when_a_person_changed_something_else(self, course):
        run = course(act="process")
        run.engine.scaled("0", 0.5)
        run.engine.scaled("0", 0.5, by_person=True)
        assert [run.judge(step, healthy=["0"]) for step in (0, 500)] == [[], ["creep_back"]]


class TestResuming:
    def test_goes_on_as_if_nothing_had_been(self, course, spike, nonfinite):
        def drive(run, steps):
            for step in steps:
                if step % 17 == 0:
                    run.fire("loss_spike", step)
                if step % 5 == 0:
                    run.fire("gradient_nonfinite", step)
                    run.resolve("gradient_nonfinite", step + 1)

        whole, first = course(spike, nonfinite), course(spike, nonfinite)
        drive(whole, range(1, 80))
        drive(first, range(1, 22))  # before the first halt
        second = first.resumed(json.loads(json.dumps(first.engine.state())))
        drive(second, range(22, 80))
        assert [*first.decisions, *second.decisions] == whole.decisions

    def test_cools_down_for_as_long_where_steps_are_counted_anew(self, course, spike):
        run = course(spike)
        run.fire("loss_spike", 5000)
        run.judge(5010)
        other = run.resumed(json.loads(json.dumps(run.engine.state())), step=0)
        assert [other.fire("loss_spike", step) for step in (9, 11)] == [[], [LOWER]]

    def test_creeps_back_as_soon_where_steps_are_counted_anew(self, course):
        run = course(RAISE)
        run.engine.scaled("0", 0.5)
        run.judge(5000, healthy=["0"])
        other = run.resumed(json.loads(json.dumps(run.engine.state())), step=0)
        assert next(step for step in range(1, 2000) if other.judge(step, healthy=["0"])) == PATIENCE

    def test_keeps_the_kill_switch(self, course, spike):
        run = course(spike)
        run.engine.paused = True
        assert run.resumed(run.engine.state()).fire("loss_spike", 10) == ["silenced"]

    def test_keeps_how_much_first_aid_was_given(self, course, nonfinite):
        run = course(nonfinite)
        run.fire("gradient_nonfinite", 10)
        other = run.resumed(json.loads(json.dumps(run.engine.state())))
        assert [other.fire("gradient_nonfinite", step) for step in (11, 12)] == [["skip_step"], ["roll_back"]]

    def test_keeps_the_scale_and_where_it_fell(self, course):
        run = course(RAISE)
        run.engine.scaled("0", 0.6)
        other = run.resumed(json.loads(json.dumps(run.engine.state())))
        assert other.fire("loss_stalled", 500) == []


def test_first_aid_waits_for_the_turn_of_its_own_optimizer(course, nonfinite):
    """Or the next step of it would be left out, which may be a good one."""
    run = course(nonfinite)
    assert run.fire("gradient_nonfinite", 10, stepping="1") == []
    assert run.judge(10, stepping="0") == ["skip_step"]


def test_order_of_a_person_ends_no_adjustment_that_waits(course, spike, verdict):
    """A policy's halt of the run may wait for weights that no graph needs."""
    run = course(spike, Policy(on="overfitting", ladder=[Halt()]))
    (waits,) = run.engine.decide([verdict("overfitting", 10, optimizer="")], 10)
    order = Decision(policy=PERSON, step=10, since=12, actions=(ScaleLearningRate(0.5),))
    run.engine.settle(order, ["applied"], 10)
    assert run.fire("loss_spike", 11) == []
    run.engine.settle(waits, ["refused"], 12)
    assert run.judge(13) == ["roll_back"]
