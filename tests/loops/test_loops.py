"""Every script under `scripts/`, as it is: nothing is disturbed, and what is logged is what the script itself saw."""

import pytest

from comparing import Log, assert_folds, assert_last, assert_passes, assert_same, evaluate, number
from expectations import EXACT, LOOPS, NORM


def over(loops):
    marks = {True: [pytest.mark.slow], False: []}
    return pytest.mark.parametrize("loop", [pytest.param(x, id=x.name, marks=marks[x.slow]) for x in loops])


def optimizers_with(field):
    """Tests of `field`, over the loops of which an optimizer has it."""
    return over([loop for loop in LOOPS if any(getattr(o, field) is not None for o in loop.optimizers)])


def each_optimizer(loop, watched):
    found = Log(watched.log).optimizers()
    assert len(found) == len(loop.optimizers), f"{len(found)} optimizers were logged, {len(loop.optimizers)} stepped"
    return zip(loop.optimizers, found, strict=True)


# a good guest


@over(LOOPS)
def test_watched_run_leaves_the_same_state_bit_for_bit(bare, watched):
    assert watched.record["state"] == bare.record["state"]
    assert watched.record["files"] == bare.record["files"]


@over(LOOPS)
def test_watched_run_computes_the_same_numbers(bare, watched):
    assert repr(watched.record["own"]) == repr(bare.record["own"])


@over(LOOPS)
def test_watched_run_prints_the_same(bare, watched):
    assert watched.stdout == bare.stdout


@over(LOOPS)
def test_watched_run_ends_as_the_bare_one(loop, bare, watched):
    assert (bare.exit_code, watched.exit_code) == (loop.exit_code, loop.exit_code), watched.stderr[-2000:]


@over(LOOPS)
def test_nothing_stays_patched(bare, watched):
    assert watched.record["changed"] == bare.record["changed"]


COMPILED = [loop for loop in LOOPS if loop.script.startswith("compiled")]
CAPTURED = ("calls captured", "graphs")  # to compile again is one graph more


@over(COMPILED)
def test_as_much_is_compiled_and_nothing_again(bare, watched):
    bare, watched = bare.record["compiler"], watched.record["compiler"]
    assert bare["calls captured"] > 0
    assert [watched[counter] for counter in CAPTURED] == [bare[counter] for counter in CAPTURED]


@over(COMPILED)
def test_graphs_break_no_more_often(bare, watched):
    assert watched.record["compiler"]["graph breaks"] <= bare.record["compiler"]["graph breaks"]


# A compiled step is left for our hooks where torch itself breaks it bare. What torch calls from there on are other
# frames than bare: some more are looked at and given up, once each.
@over([loop for loop in COMPILED if loop.script == "compiled_model.py"])
def test_no_more_frames_are_looked_at(bare, watched):
    assert watched.record["compiler"] == bare.record["compiler"]


@over(LOOPS)
def test_no_fault_of_ours_was_caught(watched):
    assert watched.log[-1]["totals"]["faults"] == {}


# true numbers


@over(LOOPS)
def test_run_ends_with_its_status(loop, watched):
    assert watched.log[-1]["event"] == "run_end"
    assert watched.log[-1]["status"] == loop.status


@optimizers_with("loss")
def test_loss_of_every_step_is_the_scripts_own(loop, watched):
    for optimizer, records in each_optimizer(loop, watched):
        assert_folds(records, "loss", evaluate(optimizer.loss, watched.record["own"]), loop.loss_tolerance)


@optimizers_with("learning_rate")
def test_learning_rate_of_every_step_is_the_scripts_own(loop, watched):
    for optimizer, records in each_optimizer(loop, watched):
        if optimizer.learning_rate:
            own = evaluate(optimizer.learning_rate, watched.record["own"])
            assert_last(records, "learning_rate", own, loop.loss_tolerance)


@optimizers_with("gradient_norm")
def test_gradient_norm_is_that_of_the_applied_gradient(loop, watched):
    for optimizer, records in each_optimizer(loop, watched):
        if optimizer.gradient_norm:
            assert_folds(records, "gradient_norm", evaluate(optimizer.gradient_norm, watched.record["own"]), NORM)


@optimizers_with("preclip_norm")
def test_preclip_norm_is_what_clipping_returned(loop, watched):
    for optimizer, records in each_optimizer(loop, watched):
        if optimizer.preclip_norm:
            own = evaluate(optimizer.preclip_norm, watched.record["own"])
            assert_folds(records, "gradient_preclip_norm", own, loop.loss_tolerance)


@optimizers_with("micro_steps")
def test_backward_calls_of_a_step_are_counted(loop, watched):
    for optimizer, records in each_optimizer(loop, watched):
        if optimizer.micro_steps:
            assert {record["micro_steps"] for record in records} == {optimizer.micro_steps}


@optimizers_with("skipped")
def test_skipped_steps_are_counted_as_such(loop, watched):
    for optimizer, records in each_optimizer(loop, watched):
        (label,) = {record["optimizer"] for record in records}
        skipped = [e["skipped"] for e in watched.log if e.get("optimizer") == label and "skipped" in e]
        expected = evaluate(optimizer.skipped, watched.record["own"])
        assert sum(sum(reasons.values()) for reasons in skipped) == expected > 0


@over([loop for loop in LOOPS if loop.epochs])
def test_every_epoch_is_seen(loop, watched):
    expected = evaluate(str(loop.epochs), watched.record["own"])
    assert [e["epoch"] for e in Log(watched.log).events("epoch")] == list(range(1, expected + 1))


@over([loop for loop in LOOPS if loop.epochs])
def test_epoch_is_logged_at_the_step_that_ended_it(loop, watched):
    epochs = Log(watched.log).events("epoch")
    steps = max(record["step"] for record in watched.log)
    skipped = watched.record["own"]["skipped"] if loop.optimizers[0].skipped else [False] * steps
    ends = [len(skipped) * e["epoch"] // len(epochs) for e in epochs]
    assert [e["step"] for e in epochs] == [end - sum(skipped[:end]) for end in ends]


@over([loop for loop in LOOPS if loop.epochs])
def test_no_step_belongs_to_an_epoch_that_never_was(loop, watched):
    log = Log(watched.log)
    assert max(record.get("epoch", 0) for record in log.events("step")) <= len(log.events("epoch"))


@over([loop for loop in LOOPS if loop.train_loss is not None])
def test_train_loss_of_an_epoch_is_weighted_by_samples(loop, watched):
    epochs = Log(watched.log).events("epoch")
    for epoch, own in zip(epochs, evaluate(loop.train_loss, watched.record["own"]), strict=True):
        assert_same(number(epoch, "train.loss"), own, loop.loss_tolerance, f"train loss of epoch {epoch['epoch']}")


@over([loop for loop in LOOPS if loop.train_accuracy is not None])
def test_train_accuracy_of_an_epoch_is_over_all_its_samples(loop, watched):
    epochs = Log(watched.log).events("epoch")
    for epoch, own in zip(epochs, evaluate(loop.train_accuracy, watched.record["own"]), strict=True):
        assert_same(number(epoch, "train.accuracy"), own, EXACT, f"train accuracy of epoch {epoch['epoch']}")


@pytest.mark.parametrize("field", ["loss", "accuracy"])
@over([loop for loop in LOOPS if loop.validation_loss is not None])
def test_validation_is_the_scripts_own(loop, watched, field):
    expression = getattr(loop, f"validation_{field}")
    if expression is not None:
        own = evaluate(expression, watched.record["own"])
        assert_passes(Log(watched.log).validations(), field, own, loop.loss_tolerance)


@pytest.mark.parametrize("field", ["loss", "accuracy"])
@over([loop for loop in LOOPS if loop.validation_loss is not None and loop.epochs is not None])
def test_epoch_carries_its_validation(loop, watched, field):
    expression = getattr(loop, f"validation_{field}")
    epochs = Log(watched.log).events("epoch") if expression is not None else []
    for epoch, own in zip(epochs, evaluate(expression or "[]", watched.record["own"]), strict=True):
        about = f"validation {field} of epoch {epoch['epoch']}"
        assert_same(number(epoch, f"validation.{field}"), own, loop.loss_tolerance, about)


@over([loop for loop in LOOPS if loop.samples is not None])
def test_training_samples_are_counted_and_no_others(loop, watched):
    records = [record for records in Log(watched.log).optimizers()[:1] for record in records]
    assert sum(record["samples"] for record in records) == loop.samples


@over([loop for loop in LOOPS if loop.absent])
def test_what_cannot_be_known_is_left_out(loop, watched):
    log = Log(watched.log)
    held = {
        "epoch": log.events("epoch"),
        "validation": log.validations(),
        "accuracy": [e for e in log.events("step") if "accuracy" in e],
    }
    assert [(name, held[name][:1]) for name in loop.absent if held[name]] == []


@over([loop for loop in LOOPS if loop.notice is not None])
def test_what_is_not_seen_is_said_once(loop, watched):
    notices = [n for n in Log(watched.log).events("notice") if n["kind"] == loop.notice]
    assert len(notices) == 1
