"""What a policy may be made of, in Python and in TOML."""

import math
from dataclasses import dataclass

import msgspec
import pytest
import torch

from trimtab.actions import (
    Action,
    Change,
    ClipGradients,
    Halt,
    LimitUpdates,
    Refused,
    RollBack,
    ScaleLearningRate,
    ScaleWeightDecay,
    SetDropout,
    SkipStep,
)  # fmt: skip
from trimtab.catalog.rules import RULES
from trimtab.errors import ConfigError
from trimtab.policies import Policy, defaults, reading
from trimtab.policies.creeping import CreepBack
from trimtab.policies.policy import check, measured
from trimtab.types import Strides


@dataclass(frozen=True)
class HalveWeightDecay:
    """As the documentation of `actions` shows it."""

    name = "halve_weight_decay"
    stage = "after_step"

    def apply(self, controls):
        return Change()


@dataclass(frozen=True)
class Halved(HalveWeightDecay):
    name: str = "halved"
    stage: str = "after_step"


def test_name_and_group_are_the_rules_unless_given():
    assert (Policy(on="loss_spike", ladder=[Halt()]).name, Policy(on="alert:Hot", ladder=[Halt()]).name) == (
        "loss_spike",
        "Hot",
    )
    assert Policy(on="loss_spike", name="mine", ladder=[Halt()]).group == "mine"


def test_rung_is_an_action_or_several():
    policy = Policy(on="loss_spike", ladder=[RollBack(), (RollBack(), HalveWeightDecay())])
    assert policy.rungs == ((RollBack(),), (RollBack(), HalveWeightDecay()))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ladder": []}, "expected one action at least"),
        ({"ladder": [()]}, "a rung of its ladder is empty"),
        ({"ladder": Halt()}, "expected a list of actions"),
        ({"ladder": 5}, "expected a list of actions"),
        ({"ladder": ["halt"]}, "'halt' in its ladder is no action"),
        ({"ladder": [Halt]}, "in its ladder is no action. Give an instance"),
        ({"ladder": [Halved(stage="now")]}, "stage='now'. Give it a name, and one of the stages before_step"),
        ({"ladder": [Halved(name="")]}, "has name=''"),
        ({"on": ""}, "expected the name of a rule"),
        ({"on": "alert:"}, "expected the name of a rule"),
        ({"name": "two words"}, "Give this policy another name"),
        ({"name": "person"}, "Give this policy another name"),
        ({"name": 5}, r"name=5\): expected a text"),
        ({"group": ["a"]}, r"group=\['a'\]\): expected a text"),
        ({"cooldown": -1}, "a whole number of steps, 0 or more"),
        ({"budget": 0}, "a whole number of adjustments, 1 or more"),
        ({"budget": True}, "a whole number of adjustments, 1 or more"),
        ({"budget": 2**63}, "a whole number of adjustments, 1 or more, and below 2"),
        ({"budget": 10**400}, r"budget=1000.*\.\.\..*0\): expected a whole number of adjustments"),
        ({"cooldown": 10**400}, "a whole number of steps, 0 or more"),
        ({"memory": 1.5}, "a whole number of steps, 0 or more"),
    ],
)
def test_policy_that_cannot_be_gets_a_sentence(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Policy(**{"on": "loss_spike", "ladder": [Halt()], **given})


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [
        (ScaleLearningRate, {"factor": 0}, r"factor=0\): expected a factor over 0, such as 0.5"),
        (ScaleLearningRate, {"factor": "a half"}, "factor='a half'.: expected a factor over 0"),
        (ScaleLearningRate, {"factor": True}, "factor=True.: expected a factor over 0"),
        (
            ScaleLearningRate,
            {"factor": 0.5, "floor": 2, "ceiling": 1},
            "expected 0 <= floor <= ceiling. Lower the floor",
        ),
        (ScaleWeightDecay, {"factor": -1}, r"factor=-1\): expected a factor over 0"),
        (ScaleWeightDecay, {"factor": 2, "floor": "0"}, "floor='0', ceiling=1.0.: expected 0 <= floor"),
        (ScaleLearningRate, {"factor": 0.5, "ramp": 1.5}, r"ramp=1.5\): expected a number of steps"),
        (ScaleLearningRate, {"factor": 0}, r"factor=0\): expected a factor over 0"),
        (SetDropout, {"ratio": "0.5"}, "ratio='0.5'.: expected a ratio"),
        (SetDropout, {"ratio": 1}, r"ratio=1\): expected a ratio from 0 to below 1"),
        (SetDropout, {"ratio": -0.1}, r"ratio=-0.1\): expected a ratio from 0 to below 1"),
        (ClipGradients, {"max_norm": 0}, r"max_norm=0\): expected a norm over 0"),
        (ClipGradients, {"max_norm": "1"}, "max_norm='1'.: expected a norm over 0"),
        (ClipGradients, {"steps": 0}, r"steps=0\): expected a number of steps, 1 or more"),
        (LimitUpdates, {"ratio": "x"}, r"ratio='x'\): expected a number, 0 or more"),
        (LimitUpdates, {"floor": -1}, r"floor=-1\): expected a number, 0 or more"),
        (Halt, {"reason": 5}, r"reason=5\): expected a text"),
        (Halt, {"restore_best": "no"}, r"restore_best='no'\): expected True or False"),
        (SetDropout, {"ratio": 0.5, "lower": 1}, r"lower=1\): expected True or False"),
        (RollBack, {"back": 0.5}, r"back=0.5\): expected a number of snapshots"),
        (ScaleLearningRate, {"factor": 10**400}, r"factor=10+\.\.\.0+\): expected a factor over 0"),
        (ScaleLearningRate, {"factor": 0.5, "ramp": 10**400}, r"ramp=10+\.\.\.0+\): expected a number of steps"),
        (ScaleWeightDecay, {"factor": 2, "ceiling": 10**400}, "expected 0 <= floor <= ceiling"),
        (ClipGradients, {"max_norm": 10**400}, r"max_norm=10+\.\.\.0+\): expected a norm over 0"),
        (LimitUpdates, {"measured": 10**400}, "expected a number, 0 or more"),
        (Halt, {"reason": "half a \ud83d"}, r"reason='half a \\ud83d'\): expected a text"),
    ],
)
def test_action_that_cannot_be_gets_a_sentence(kind, arguments, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kind(**arguments)


def test_unknown_rule_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no such rule\. Did you mean 'loss_spike'"):
        check([Policy(on="loss_spikes", ladder=[Halt()])], ["loss_spike", "overfitting"])


def test_alert_needs_no_rule():
    check([Policy(on="alert:GpuHot", ladder=[Halt()])], [])


@pytest.mark.parametrize("second", [{"on": "a", "name": "other"}, {"on": "b", "name": "a"}])
def test_two_policies_on_one_rule_or_of_one_name_are_refused(second):
    with pytest.raises(ConfigError, match="Two policies have"):
        check([Policy(on="a", ladder=[Halt()]), Policy(ladder=[Halt()], **second)], ["a", "b"])


@pytest.mark.parametrize(
    ("ladder", "goes_back"),
    [
        ([RollBack()], True),
        ([SkipStep(), RollBack()], True),
        ([SkipStep(), (ScaleLearningRate(0.5), RollBack())], True),
        ([ScaleLearningRate(0.5), RollBack()], False),
        ([SkipStep(), SkipStep()], False),
    ],
)
def test_policy_goes_back_where_the_first_that_lasts_does(ladder, goes_back):
    assert Policy(on="a", ladder=ladder).goes_back is goes_back


def read(text):
    return reading.policy(msgspec.toml.decode(text))


def test_policy_of_a_file_is_that_of_python():
    found = read("""
        on = "loss_spike"
        cooldown = 5
        ladder = [
            "skip_step",
            {action = "clip_gradients", steps = 10},
            ["roll_back", {action = "scale_learning_rate", factor = 0.5}],
        ]
    """)
    ladder = [SkipStep(), ClipGradients(steps=10), (RollBack(), ScaleLearningRate(0.5))]
    expected = Policy(on="loss_spike", ladder=ladder, cooldown=5)
    assert (found.rungs, found.cooldown, found.on) == (expected.rungs, 5, "loss_spike")


def test_action_of_ones_own_is_named_by_module_and_class(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mine", type("mine", (), {"Halve": HalveWeightDecay}))
    assert reading.action("mine:Halve") == HalveWeightDecay()


@dataclass(frozen=True)
class Call:
    """Somebody, by name."""

    name = "call"
    stage = "after_step"
    whom: str
    every: tuple[str, ...] = ()

    def apply(self, controls):
        return Change()


def test_action_of_ones_own_takes_arguments_of_any_kind(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mine", type("mine", (), {"Call": Call}))
    given = {"action": "mine:Call", "whom": "Ada", "every": ["monday"]}
    assert reading.action(given) == Call("Ada", ["monday"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('ladder = ["halt"]', "on is missing. Add it, as on = 'loss_spike'"),
        ('on = "a"', r"ladder is missing. Add it, as ladder = \['roll_back'\]"),
        ('on = "a"\nladder = "halt"', "expected a list of actions"),
        ('on = "a"\nladders = []', "ladders is not a setting of a policy. Did you mean 'ladder'"),
        ('on = "a"\nladder = []', "expected one action at least"),
        ('on = "a"\nladder = ["rollback"]', "there is no action 'rollback'. Did you mean 'roll_back'"),
        ('on = "a"\nladder = [5]', "expected the name of an action"),
        ('on = "a"\nladder = [{action = "roll_back", bak = 1}]', "bak is not an argument of roll_back. Did you mean"),
        ('on = "a"\nladder = [{action = "skip_step", x = 1}]', "x is not an argument of skip_step. It takes none"),
        ('on = "a"\nladder = ["scale_learning_rate"]', "scale_learning_rate needs factor. Give {action"),
        ('on = "a"\nladder = [{action = "scale_learning_rate", factor = 0}]', "expected a factor over 0"),
        ('on = "a"\nladder = [{action = "scale_learning_rate", factor = "x"}]', "expected a number"),
        ('on = "a"\nladder = [{action = "scale_learning_rate", factor = 2, floor = 2, ceiling = 1}]', "floor <= ceil"),
        ('on = "a"\nladder = [{action = "halt", restore_best = 1}]', "expected true or false"),
        ('on = "a"\nladder = [{action = "halt", reason = 5}]', "expected a text"),
        ('on = "a"\nladder = ["no_such_module:Thing"]', "cannot be imported"),
        ('on = "a"\nladder = ["math:pi"]', "is no class"),
    ],
)
def test_table_that_cannot_be_read_gets_a_sentence(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read(text)


def test_what_is_no_policy_is_named():
    with pytest.raises(
        ConfigError, match=r"^policies\[1\]: 5: expected the name of a shipped policy, or a table such as"
    ):
        reading.policies(["loss_spike", 5], defaults.POLICIES)


@pytest.mark.parametrize(
    "action",
    [a for policy in defaults.POLICIES for rung in policy.rungs for a in rung] + [CreepBack(1.25), Halt("because")],
    ids=lambda action: action.name,
)
def test_described_action_can_be_made_again(action):
    assert reading.action(msgspec.json.decode(msgspec.json.encode(reading.describe(action)))) == action


def test_argument_of_ones_own_action_may_be_anything_and_is_described_in_plain_values():
    described = reading.describe(Call(torch.ones(2), [print, 1]))
    assert described == {"action": "call", "whom": "tensor([1., 1.])", "every": ["<built-in function print>", 1]}


def test_described_action_of_ones_own_is_found_among_the_known():
    assert reading.action(reading.describe(HalveWeightDecay()), known=[HalveWeightDecay()]) == HalveWeightDecay()


class TestChoosing:
    def test_list_is_exactly_what_is_given(self):
        own = Policy(on="loss_spike", ladder=[Halt()])
        assert [p.on for p in reading.policies([own, "overfitting"], defaults.POLICIES)] == [
            "loss_spike",
            "overfitting",
        ]

    def test_shipped_stands_for_all_whose_rule_has_none(self):
        own = {"on": "loss_spike", "name": "mine", "ladder": ["halt"]}
        found = reading.policies([own, "shipped"], defaults.POLICIES)
        assert len(found) == len(defaults.POLICIES)
        assert [p.name for p in found if p.on == "loss_spike"] == ["mine"]

    def test_unknown_name_is_answered_with_the_nearest(self):
        with pytest.raises(ConfigError, match="Did you mean 'overfitting'"):
            reading.policies(["overfiting"], defaults.POLICIES)


class TestLimitUpdates:
    class Controls:
        def __init__(self, normalizes=False):
            self.normalizes = lambda: normalizes

        def scale_learning_rate(self, factor, *, floor):
            return factor

    @pytest.mark.parametrize(("measured", "factor"), [(0.2, 0.1), (0.05, 0.2), (0.9, 0.05), (0.0, 0.05)])
    def test_lowers_the_rate_by_as_much_as_steps_were_too_long_within_bounds(self, measured, factor):
        assert LimitUpdates(0.02, measured=measured).apply(self.Controls()) == pytest.approx(factor)

    def test_lowers_the_rate_of_an_optimizer_that_normalizes_as_far_as_it_may(self):
        assert LimitUpdates(0.02, measured=0.2).apply(self.Controls(normalizes=True)) == 0.05

    @pytest.mark.parametrize(("first", "factor"), [(0.2, 0.2), (0.8, 0.125), (4.0, 0.025), (70.0, 0.01), (0.0, 0.05)])
    def test_lowers_the_rate_of_an_optimizer_that_normalizes_by_its_first_step(self, first, factor):
        found = LimitUpdates(measured=0.2, first=first).apply(self.Controls(normalizes=True))
        assert found == pytest.approx(factor)

    def test_leaves_exploding_gradients_to_clipping(self):
        with pytest.raises(Refused, match="explode"):
            LimitUpdates(most=1.0, measured=0.9, furthest=15.0).apply(self.Controls())

    def test_lowers_the_rate_where_no_clipping_shortens_a_step(self):
        assert LimitUpdates(most=1.0, furthest=15.0).apply(self.Controls(normalizes=True)) == 0.05

    def test_is_filled_in_with_what_was_measured(self):
        rung = (RollBack(), LimitUpdates())
        assert measured(rung, Strides(0.3, 0.4, 2.0)) == (
            RollBack(),
            LimitUpdates(measured=0.3, furthest=0.4, first=2.0),
        )
        assert measured(rung, Strides()) == rung

    @pytest.mark.parametrize(
        "arguments", [{"ratio": 0}, {"lowest": 0}, {"lowest": 0.5, "highest": 0.1}, {"highest": 2}]
    )
    def test_refuses_bounds_that_are_none(self, arguments):
        with pytest.raises(ConfigError, match="limit_updates"):
            LimitUpdates(**arguments)


class TestShipped:
    def test_fit_together(self):
        check(defaults.POLICIES, [policy.on for policy in defaults.POLICIES])

    def test_answer_every_shipped_rule_or_say_why_not(self):
        assert {policy.on for policy in defaults.POLICIES} | defaults.ADVICE_ONLY.keys() == set(RULES)

    def test_have_a_reason_each(self):
        assert defaults.REASONS.keys() == {policy.on for policy in defaults.POLICIES}

    def test_reach_a_tenth_of_a_hundredth_within_three_adjustments(self):
        """A rate that is a hundred times too high, and diverges."""
        (policy,) = [policy for policy in defaults.POLICIES if policy.on == "loss_diverged"]
        factors = [a.factor for rung in policy.rungs[:3] for a in rung if isinstance(a, ScaleLearningRate)]
        assert math.prod(factors[:2]) <= 0.03
        assert math.prod(factors) >= 1e-3

    def test_raise_no_rate_beyond_ten_times(self):
        rates = [a for p in defaults.POLICIES for rung in p.rungs for a in rung if isinstance(a, ScaleLearningRate)]
        raises = [a for a in rates if a.factor > 1]
        assert raises
        assert all(a.ceiling <= 10 for a in raises)

    def test_are_made_of_actions(self):
        assert all(isinstance(a, Action) for p in defaults.POLICIES for rung in p.rungs for a in rung)
