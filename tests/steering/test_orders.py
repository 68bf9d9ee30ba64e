"""What a person orders in the middle of a run is done at the end of a step, answered and recorded."""

import itertools
import json
import math
import os
import time

import pytest
import torch
from controller_training import Training, same
from torch.utils.data import DataLoader

import trimtab
from trimtab.actions import FOR_GOOD, ClipGradients, Halt, RollBack, ScaleLearningRate, SkipStep
from trimtab.sample import books
from trimtab.steering import control
from trimtab.testing import RecordingBackend
from trimtab.types import Adjustment, Notice

ALWAYS = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5, severity="warning")
LOWER = ScaleLearningRate(0.5)


@pytest.fixture(autouse=True)
def looked_at_once(monkeypatch):
    """Orders are looked for at every step, and not twice a second."""
    monkeypatch.setattr(control, "INTERVAL_S", 0.0)


def order(seen, kind, *actions):
    return control.send(seen.run.directory, seen.run.id, kind, actions)


def answered(seen, id):
    return control.answer(seen.run.directory, id)


def by_person(seen):
    return [(a.action, a.outcome) for a in seen.backend.of(Adjustment) if a.policy == "person"]


def test_order_is_done_in_a_dry_run_too(watching, training):
    with watching(act=False) as seen:
        training.steps(3)
        id = order(seen, "adjust", LOWER)
        training.steps(2)
        assert answered(seen, id) == control.Answer(
            "applied", 4, "learning_rate_scale 1 -> 0.5, learning_rate [0.05] -> [0.025]"
        )
        training.step()
    assert seen.steps()[-1].learning_rate == pytest.approx([0.025])
    (adjustment,) = [a for a in seen.backend.of(Adjustment) if a.policy == "person"]
    assert (adjustment.before["learning_rate_scale"], adjustment.after["learning_rate_scale"]) == (1.0, 0.5)


def test_steps_before_an_adjustment_are_no_evidence_though_they_are_judged_after_it(watching, training):
    held = trimtab.Rule("held", signal=lambda loss: 1.0, threshold=0.5, hold=8, severity="warning")
    with watching(act=False, rules=[held], gradients_every=16) as seen:
        training.steps(24)
        id = order(seen, "adjust", LOWER)
        training.steps(40)
        fenced_at = answered(seen, id).step
    begun = [alert.step for alert in seen.run.alerts if alert.rule == "held"]
    assert 24 <= fenced_at < 32  # between two judgements
    assert begun == [8, fenced_at + 8]


def test_what_was_done_is_told_in_one_sentence(watching, training):
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.01)
    with watching() as seen:
        training.steps(2)
        id = order(seen, "adjust", LOWER, ClipGradients(1.0, steps=FOR_GOOD))
        training.steps(2)
        text = answered(seen, id).text
    assert text.endswith("multiplied by its rate, and scales too; max_norm None -> 1")


def test_pause_keeps_policies_from_acting_until_it_ends(watching, training):
    policies = [trimtab.Policy(on="always", ladder=[ScaleLearningRate(0.9)], cooldown=0, budget=99)]
    with watching(act="process", rules=[ALWAYS], policies=policies) as seen:
        order(seen, "pause")
        training.steps(20)
        while_paused = [a.outcome for a in seen.run.adjustments if a.policy == "always"]
        order(seen, "resume")
        training.steps(20)
    assert "applied" not in while_paused[1:]
    assert by_person(seen) == [("pause", "applied"), ("resume", "applied")]
    assert [a.reason for a in seen.run.adjustments if a.policy == "person"] == ["trimtab pause", "trimtab resume"]
    assert seen.run.adjustments[-1].outcome == "applied"


def test_what_a_policy_has_decided_and_not_done_is_dropped_by_a_pause(watching, training):
    policies = [trimtab.Policy(on="always", ladder=[RollBack()])]
    beside = Training().model
    training.optimizer.add_param_group({"params": beside.parameters()})
    with watching(act="process", rules=[ALWAYS], policies=policies) as seen:
        graph = beside(training.inputs)  # which needs weights as they are: a rollback has to wait
        training.steps(1)
        order(seen, "pause")
        training.steps(1)
        del graph
        training.steps(5)
    assert [(a.action, a.outcome) for a in seen.run.adjustments][:2] == [
        ("roll_back", "silenced"),
        ("pause", "applied"),
    ]
    assert ("roll_back", "applied") not in [(a.action, a.outcome) for a in seen.run.adjustments]


def test_stop_saves_and_asks_the_loop_to_stop(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        order(seen, "stop", Halt("a person asked for it", restore_best=False))
        taken = 0
        while not trimtab.should_stop() and taken < 50:
            training.step()
            taken += 1
        last = torch.load(seen.run.directory / "last.pt", weights_only=True)
    assert taken < 5
    assert same(last["models"]["Sequential"].values(), training.weights)
    assert json.loads((seen.run.directory / "run.json").read_text())["status"] == "halted"


def test_stop_saves_the_best_state_too_where_it_is_not_put_back(watching, training):
    with watching(act="process", monitor=("bleu", "max")) as seen:
        training.steps(5)
        seen.run.log(bleu=30.0)
        training.steps(2)
        id = order(seen, "stop", Halt("a person asked for it", restore_best=False))
        training.steps(5)
        assert torch.load(seen.run.directory / "best.pt", weights_only=True)["step"] == 5
        assert "once the loop asks" in answered(seen, id).text
    bare = type(training)()
    bare.steps(12)
    assert same(training.weights, bare.weights)


@pytest.mark.parametrize(
    ("act", "why"), [(False, "this is a dry run, in which no state is copied"), ("process", "no validation result")]
)
def test_stop_says_that_there_are_no_best_weights_to_put_back(watching, training, act, why):
    with watching(act=act) as seen:
        trimtab.should_stop()
        training.steps(2)
        id = order(seen, "stop", Halt("a person asked for it", restore_best=True))
        training.steps(2)
        answer = answered(seen, id)
        assert trimtab.should_stop()
    assert by_person(seen) == [("halt", "applied"), ("restore_best", "refused")]
    assert answer.outcome == "refused"
    assert "halted False -> True" in answer.text
    assert "restore_best was refused: " in answer.text
    assert why in answer.text
    assert why in seen.run.adjustments[-1].reason


@pytest.fixture
def answer_to_stop(watching, training):
    """`answer_to_stop(restore_best)`: what a loop that never asks whether to stop is answered with."""

    def answer_to_stop(restore_best):
        with watching(act=False) as seen:
            training.steps(2)
            id = order(seen, "stop", Halt("a person asked for it", restore_best=restore_best))
            training.steps(2)
            return answered(seen, id)

    return answer_to_stop


def test_stop_of_a_loop_that_never_asks_is_answered_with_what_can_be_done(answer_to_stop):
    answer = answer_to_stop(restore_best=False)
    assert answer.outcome == "applied"
    assert "but nobody asks: the loop does not call trimtab.should_stop()." in answer.text
    assert answer.text.endswith("or use on_halt='unwind'")


def test_stop_that_nobody_hears_and_without_best_weights_is_answered_in_whole_sentences(answer_to_stop):
    answer = answer_to_stop(restore_best=True)
    assert "or use on_halt='unwind'; restore_best was refused: " in answer.text


def test_stop_with_the_best_weights_is_done_where_they_are_kept(watching, training):
    with watching(act="process", monitor=("bleu", "max")) as seen:
        trimtab.should_stop()
        training.steps(5)
        seen.run.log(bleu=30.0)
        training.steps(2)
        id = order(seen, "stop", Halt("a person asked for it", restore_best=True))
        training.steps(2)
        answer = answered(seen, id)
    assert by_person(seen) == [("halt", "applied")]
    assert (answer.outcome, "weights_of_step" in answer.text) == ("applied", True)


def test_halt_of_a_policy_notes_that_there_are_no_best_weights_to_put_back(watching, training):
    policies = [trimtab.Policy(on="always", ladder=[Halt()])]
    with watching(act="process", rules=[ALWAYS], policies=policies) as seen:
        training.steps(5)
    (halt,) = [a for a in seen.run.adjustments if a.action == "halt"]
    assert halt.outcome == "applied"
    assert "The best weights are not put back: No state was kept as the best one" in halt.reason


def test_rollback_that_nobody_keeps_snapshots_for_is_refused(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        id = order(seen, "adjust", RollBack())
        training.steps(2)
        assert answered(seen, id).outcome == "refused"


def test_rollback_goes_to_the_newest_snapshot(watching, training):
    with watching(act="process") as seen:
        training.steps(70)
        order(seen, "adjust", RollBack(), LOWER)
        training.steps(2)
    assert by_person(seen) == [("roll_back", "applied"), ("scale_learning_rate", "applied")]
    back = next(a for a in seen.run.adjustments if a.action == "roll_back")
    assert back.after["weights_of_step"] == 64


def test_order_is_taken_while_a_scaler_skips_every_step(watching, training):
    scaler = torch.amp.GradScaler("cpu")
    with watching(act=False) as seen:
        id = order(seen, "stop", Halt("a person asked for it", restore_best=False))
        for _ in range(4):
            scaler.scale(training.model(training.inputs).sum() * math.inf).backward()
            scaler.step(training.optimizer)
            scaler.update()
        assert answered(seen, id).outcome == "applied"


def test_order_for_two_optimizers_is_done_to_both(watching):
    one, other = Training(), Training(lr=0.1)
    with watching(act=False) as seen:
        for count in range(6):
            if count == 3:
                order(seen, "adjust", LOWER)
            one.step()
            other.step()
    assert [a.optimizer for a in seen.run.adjustments] == ["0", "1"]
    assert seen.steps("0")[-1].learning_rate == pytest.approx([0.025])
    assert seen.steps("1")[-1].learning_rate == pytest.approx([0.05])


def test_order_is_done_to_the_optimizers_that_there_still_are(watching):
    one, other = Training(), Training(lr=0.1)
    with watching(act=False) as seen:
        for training in (one, other, one, other):
            training.step()
        del training, other
        id = order(seen, "adjust", LOWER)
        one.steps(3)
        answer = answered(seen, id)
    assert [(a.optimizer, a.outcome) for a in seen.run.adjustments] == [("0", "applied")]
    assert answer.outcome == "applied"


def test_order_to_a_loop_without_an_optimizer_is_refused_with_the_reason(watching):
    weight = torch.nn.Parameter(torch.ones(4))
    with watching(act=False) as seen:
        for step in range(6):
            if step == 3:
                id = order(seen, "adjust", LOWER)
            torch.nn.functional.mse_loss(weight, torch.zeros(4)).backward()
            with torch.no_grad():
                weight.sub_(0.1 * weight.grad)
            weight.grad = None
        answer = answered(seen, id)
    assert (answer.outcome, "has not been seen to step" in answer.text) == ("refused", True)


def test_clipping_by_a_person_leaves_the_scale_that_policies_chose_to_them(watching, training):
    policies = [trimtab.Policy(on="always", ladder=[LOWER], budget=1)]
    with watching(act="process", rules=[ALWAYS], policies=policies) as seen:
        training.steps(5)
        order(seen, "adjust", ClipGradients(1.0, steps=2**31))
        training.steps(3)
        rates = seen.run.state_dict()["engine"]["rates"]
    assert rates["creeping"]["0"]["home"] == 1.0


def test_file_of_a_stranger_is_refused_and_said_once(watching, training):
    with watching(act=False) as seen:
        planted = seen.run.directory / "control" / "00000000000000000001-1.json"
        planted.write_text(json.dumps({"command": "stop", "run_id": seen.run.id, "actions": []}))
        planted.chmod(0o666)
        training.steps(5)
    assert by_person(seen) == []
    assert len([text for text in seen.notices if "can be written by others" in text]) == 1


def test_number_that_no_step_can_use_is_refused_and_the_run_goes_on(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        action = {"action": "scale_learning_rate", "factor": 0.5, "ramp": 10**400}
        place = seen.run.directory / "control" / "00000000000000000001-1.json"
        place.write_text(json.dumps({"command": "adjust", "run_id": seen.run.id, "actions": [action]}))
        place.chmod(0o600)
        training.steps(4)
        refused = answered(seen, "00000000000000000001-1")
    assert (refused.outcome, len(refused.text) < 200, len(seen.steps())) == ("refused", True, 6)


def test_every_order_of_an_unknown_kind_reaches_the_user(watching, training):
    with watching(act=False) as seen:
        for at in (1, 2):
            planted = seen.run.directory / "control" / f"{at:020d}-1.json"
            planted.write_text(json.dumps({"command": f"explode-{at}", "run_id": seen.run.id, "actions": []}))
            planted.chmod(0o600)
        training.steps(5)
        assert [answered(seen, f"{at:020d}-1").outcome for at in (1, 2)] == ["refused", "refused"]
    assert len([text for text in seen.notices if "is no command: 'explode" in text]) == 2


def test_directory_that_cannot_be_made_is_said_and_training_goes_on(watching, training, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "control").write_text("in the way")
    with watching(act=False) as seen:
        training.steps(3)
    assert len(seen.steps()) == 3
    assert [text for text in seen.notices if text.startswith("Commands are not taken up: ")]


def test_answer_that_cannot_be_written_is_said_and_the_order_done(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        id = order(seen, "adjust", LOWER)
        (seen.run.directory / "control" / f"{id}.done").mkdir()
        training.steps(2)
    assert by_person(seen) == [("scale_learning_rate", "applied")]
    assert [text for text in seen.notices if f"What became of command {id} cannot be written down" in text]


def test_order_that_comes_too_late_is_answered_when_the_run_ends(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        id = order(seen, "adjust", LOWER)
        seen.run._controller.look_for_orders()
    assert answered(seen, id) == control.Answer("refused", 2, "adjust was refused: the run ended first")


def test_order_that_nobody_has_looked_at_is_answered_when_the_run_ends(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        id = order(seen, "pause")
    assert answered(seen, id) == control.Answer("refused", 2, "pause was refused: the run ended first")
    assert by_person(seen) == [("pause", "refused")]
    assert list((seen.run.directory / "control").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_order_that_waits_is_not_answered_in_a_forked_child(watching, training):
    with watching(act=False) as seen:
        training.steps(2)
        id = order(seen, "adjust", LOWER)
        seen.run._controller.look_for_orders()
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert answered(seen, id) is None
        training.step()
        assert answered(seen, id).outcome == "applied"


@pytest.mark.parametrize("gradients_every", [None, 1000])
def test_fast_loop_takes_an_order_up_within_a_second(tmp_path, training, monkeypatch, gradients_every):
    """Most of its steps go by without a word to whoever judges, and all of them where the user said so."""
    monkeypatch.setattr(control, "INTERVAL_S", 0.5)
    options = {"run": "fast", "directory": tmp_path, "backends": ["jsonl"], "gradients_every": gradients_every}
    with trimtab.watch(**options) as run:
        training.steps(300)
        id = control.send(run.directory, run.id, "adjust", [LOWER])
        deadline = time.monotonic() + 20
        began = time.monotonic()
        while not run.adjustments and time.monotonic() < deadline:
            training.step()
        assert time.monotonic() - began < 5
        assert control.answer(run.directory, id).outcome == "applied"


def test_pause_outlives_the_process_and_is_said_again(tmp_path, training):
    options = {"run": "paused", "directory": tmp_path, "act": "process", "gradients_every": 1}
    policies = [trimtab.Policy(on="always", ladder=[LOWER])]
    with trimtab.watch(**options, backends=["jsonl"]) as run:
        training.steps(2)
        control.send(run.directory, run.id, "pause")
        training.steps(1)
        run._controller.look_for_orders()
        training.steps(1)
    backend = RecordingBackend()
    with trimtab.watch(**options, backends=[backend], resume=True, rules=[ALWAYS], policies=policies):
        training.steps(5)
    assert {a.outcome for a in backend.of(Adjustment)} == {"silenced"}
    assert any("paused by a person, and still is" in notice.text for notice in backend.of(Notice))


def test_slow_loop_that_is_judged_seldom_takes_an_order_up_within_two_steps(watching, training):
    with watching(act=False, gradients_every=64) as seen:
        training.steps(200)
        order(seen, "adjust", LOWER)
        training.steps(2)
        (adjustment,) = seen.run.adjustments
    assert adjustment.step <= 202


def test_going_back_by_order_is_to_the_newest_state_though_it_is_that_of_this_very_step(watching, training):
    """Validation has it kept after step 10. The next step is skipped, so the order comes after 10 too."""
    calls = itertools.count(1)
    bad = trimtab.Rule("bad", signal=lambda loss: float(next(calls) == 11), threshold=0.5)
    skip = trimtab.Policy(on="bad", ladder=[SkipStep()])
    with watching(act="process", rules=[bad], policies=[skip]) as seen:
        training.steps(10)
        training.model.eval()
        with torch.no_grad():
            torch.nn.functional.cross_entropy(training.model(training.inputs), training.labels)
        training.model.train()
        id = order(seen, "adjust", RollBack())
        training.step()
    (skipped, back) = seen.run.adjustments
    assert (skipped.action, back.action, back.outcome) == ("skip_step", "roll_back", "applied")
    assert (back.step, back.after["weights_of_step"]) == (10, 10)
    assert answered(seen, id).outcome == "applied"


def test_order_is_taken_up_though_every_record_is_ended_by_a_validation(tmp_path, training):
    def train_and_validate():
        training.steps(3)
        with torch.no_grad():
            torch.nn.functional.cross_entropy(training.model(training.inputs), training.labels)

    with trimtab.watch(run="short", directory=tmp_path, backends=[RecordingBackend()]) as run:
        train_and_validate()
        id = control.send(run.directory, run.id, "pause")
        train_and_validate()
        training.step()
        assert control.answer(run.directory, id).outcome == "applied"


@pytest.mark.parametrize("act", [False, "process"])
def test_order_is_taken_up_though_every_record_is_ended_by_an_epoch_and_nothing_is_validated(
    tmp_path, training, monkeypatch, act
):
    monkeypatch.setattr(books, "MARKS", math.inf)  # as if each epoch took half a second

    def train_for_an_epoch():
        for _ in DataLoader(training.inputs, batch_size=16):
            training.step()

    with trimtab.watch(run="short", directory=tmp_path, backends=[RecordingBackend()], act=act) as run:
        for _ in range(20):
            train_for_an_epoch()
        id = control.send(run.directory, run.id, "pause")
        train_for_an_epoch()
        train_for_an_epoch()
        assert control.answer(run.directory, id).outcome == "applied"


def test_order_is_taken_up_where_each_of_many_optimizers_has_a_record_in_ten_seconds(tmp_path):
    trainings = [Training() for _ in range(10)]
    with trimtab.watch(run="many", directory=tmp_path, backends=[RecordingBackend()], act="process") as run:
        for training in trainings:
            training.steps(10)
        id = control.send(run.directory, run.id, "pause")
        training.steps(64)  # of which one is judged at least
        assert control.answer(run.directory, id).outcome == "applied"
