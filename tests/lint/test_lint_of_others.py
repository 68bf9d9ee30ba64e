"""Logs of other tools are read as they are, and judged by the rules that they can support."""

import csv
import json
import math
import os
import struct

import numpy as np
import pytest

from trimtab.errors import ConfigError, TrimtabError
from trimtab.lint import events
from trimtab.lint.judging import judge
from trimtab.lint.points import LogPoint
from trimtab.lint.tables import read_csv, read_trainer_state

LIGHTNING = """epoch,lr-SGD,step,train_loss_epoch,train_loss_step,val_acc,val_loss
0,,49,,1.5,,
0,0.1,49,,,,
0,,99,,1.25,,
0,,99,,,0.5,1.75
0,,99,1.375,,,
"""
KERAS = "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,2.0,0.4,2.5\n1,0.6,1.5,0.5,2.25\n"
HISTORY = [
    {"epoch": 0.5, "grad_norm": 3.5, "learning_rate": 5e-05, "loss": 2.5, "step": 500},
    {"epoch": 1.0, "grad_norm": math.nan, "learning_rate": 4e-05, "loss": 2.0, "step": 1000},
    {"epoch": 1.0, "eval_accuracy": 0.5, "eval_loss": 2.25, "eval_runtime": 3.1, "step": 1000},
    {"epoch": 1.0, "step": 1000, "total_flos": 1e15, "train_loss": 2.2, "train_runtime": 60.0},
]


@pytest.fixture
def file(tmp_path):
    """`file(name, content)` is a file of that content."""

    def file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    return file


@pytest.fixture
def state(file):
    return file("trainer_state.json", json.dumps({"global_step": 1000, "log_history": HISTORY}))


def judged(path, asked=None, columns=None):
    return judge(str(path), path.parent, asked or {}, columns or {})


def fired(path, **asked):
    return [(found.rule, found.step) for found in judged(path, asked).findings]


def falling(spike_at=None, steps=200):
    """A loss that comes down and swings a little, with one spike."""
    values = [2 * math.exp(-n / 50) + 0.02 * (n % 3) for n in range(steps)]
    return [50.0 if n == spike_at else value for n, value in enumerate(values)]


def test_csv_of_lightning_is_read(file):
    table = read_csv(file("metrics.csv", LIGHTNING), {})
    assert table.points == [
        LogPoint(49, loss=1.5),
        LogPoint(99, loss=1.25),
        LogPoint(99, validation_loss=1.75, validation_accuracy=0.5),
    ]
    assert table.notes == ()  # rows of one step are in order


def test_csv_without_a_step_counts_its_rows_and_says_so(file):
    table = read_csv(file("training.csv", KERAS), {})
    assert [(p.step, p.loss, p.validation_loss) for p in table.points] == [(1, 2.0, 2.5), (2, 1.5, 2.25)]
    assert table.notes == ("No column is the step: rows are counted.",)


@pytest.mark.parametrize(
    "content", ["step;Loss\n1;2.0\n", "step\tloss\n1\t2.0\n", "step|loss\n1|2.0\n", "\ufeffstep,Train/Loss\n1,2.0\n"]
)
def test_csv_may_be_separated_and_spelled_in_other_ways(file, content):
    assert read_csv(file("log.csv", content), {}).points == [LogPoint(1, loss=2.0)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_csv_may_be_in_another_encoding(tmp_path, encoding):
    path = tmp_path / "log.csv"
    path.write_bytes("step,größe,loss\n1,é,2.0\n".encode(encoding))
    assert read_csv(path, {}).points == [LogPoint(1, loss=2.0)]


def test_csv_with_semicolons_may_have_decimal_commas(file):
    assert read_csv(file("log.csv", "step;loss\n1;2,5\n2;1e-3\n"), {}).points == [LogPoint(1, 2.5), LogPoint(2, 0.001)]


def test_csv_of_wandb_is_read(file):
    header = '"Step","calm-sea-7 - train/loss","calm-sea-7 - train/loss__MIN","calm-sea-7 - train/loss__MAX"'
    assert read_csv(file("wandb.csv", f"{header}\n10,2.0,1.0,3.0\n"), {}).points == [LogPoint(10, loss=2.0)]


def test_nan_in_a_validation_that_goes_on_is_a_cell_that_is_not_known(file):
    table = read_csv(file("log.csv", "step,loss,val_loss\n1,3,nan\n2,2,2.5\n3,1,nan\n4,nan,nan\n"), {})
    assert [point.validation_loss for point in table.points] == [None, 2.5, None, None]
    assert math.isnan(table.points[-1].loss)
    assert "NaN in val_loss" in table.notes[0]


def test_nan_at_the_end_of_a_validation_is_its_result(file):
    table = read_csv(file("log.csv", "step,val_loss\n1,2.0\n2,nan\n3,nan\n"), {})
    assert [math.isnan(point.validation_loss) for point in table.points] == [False, True, True]
    assert not table.notes


def test_cell_may_be_blank_nan_or_infinite(file):
    points = read_csv(file("log.csv", "step,loss,lr\n1,nan,0.1\n2,-inf,\n3,None,0.1\n"), {}).points
    assert math.isnan(points[0].loss)
    assert (points[1].loss, points[1].learning_rate) == (-math.inf, None)
    assert len(points) == 2


def test_column_is_what_the_user_says_it_is(file):
    path = file("log.csv", "t,loss,objective\n3,9.0,2.0\n")
    assert read_csv(path, {"loss": "objective", "step": "t"}).points == [LogPoint(3, loss=2.0)]


def test_trainer_state_is_read(state):
    table = read_trainer_state(state, {})
    first, second, validation = table.points
    assert first == LogPoint(500, loss=2.5, gradient_norm=3.5, learning_rate=5e-05)
    assert math.isnan(second.gradient_norm)
    assert validation == LogPoint(1000, validation_loss=2.25, validation_accuracy=0.5)
    assert "logging_nan_inf_filter" in table.notes[-1]


def test_trainer_state_is_judged(state):
    assert fired(state) == [("gradient_nonfinite", 1000)]


def test_trainer_state_of_the_newest_checkpoint_is_found(state, tmp_path):
    for step, age in ((500, 2), (1000, 1)):
        checkpoint = tmp_path / "out" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        copy = checkpoint / "trainer_state.json"
        copy.write_text(json.dumps({"log_history": [row for row in HISTORY if row["step"] <= step]}))
        os.utime(copy, (100 - age, 100 - age))
    assert judged(tmp_path / "out").steps == 1000


@pytest.mark.parametrize(("age_of_root", "steps"), [(2, 1000), (1, 500), (0, 500)])
def test_trainer_state_above_the_checkpoints_counts_unless_they_are_newer(state, tmp_path, age_of_root, steps):
    (tmp_path / "checkpoint-1000").mkdir()
    (tmp_path / "checkpoint-1000" / state.name).write_text(state.read_text())
    os.utime(tmp_path / "checkpoint-1000" / state.name, (99, 99))
    state.write_text(json.dumps({"log_history": HISTORY[:1]}))
    os.utime(state, (100 - age_of_root, 100 - age_of_root))
    assert judged(tmp_path).steps == steps


def test_spike_in_a_csv_fires_the_rule_for_it(file):
    rows = "".join(f"{n},{loss}\n" for n, loss in enumerate(falling(spike_at=150)))
    assert ("loss_spike", 150) in fired(file("log.csv", f"step,loss\n{rows}"))


def test_healthy_csv_fires_nothing(file):
    rows = "".join(f"{n},{loss}\n" for n, loss in enumerate(falling()))
    assert fired(file("log.csv", f"step,loss\n{rows}")) == []


def table_of(losses, steps=None):
    steps = range(len(losses)) if steps is None else steps
    return "".join(f"{step},{loss},\n" for step, loss in zip(steps, losses, strict=True))


HEADER = "step,loss,val_loss\n"
SORTED = "The step goes back from row to row: rows are judged in the order of their steps."


def test_csv_with_the_newest_row_first_is_judged_from_the_oldest_on(file):
    rows = [f"{n},{loss},{'2.5' if n % 10 == 0 else ''}" for n, loss in enumerate(falling(spike_at=150))]
    forwards = file("forwards.csv", HEADER + "\n".join(rows))
    backwards = file("backwards.csv", HEADER + "\n".join(reversed(rows)))
    assert read_csv(backwards, {}).points == read_csv(forwards, {}).points
    assert SORTED in judged(backwards).notes
    assert SORTED not in judged(forwards).notes


def test_validations_below_all_of_training_are_judged_among_it(file):
    validations = "".join(f"{n},,{1 + n}\n" for n in (20, 10))
    points = read_csv(file("log.csv", HEADER + table_of(falling(steps=30)) + validations), {}).points
    assert [(p.step, p.validation_loss) for p in points if p.step in (10, 20)] == [
        (10, None),
        (10, 11),
        (20, None),
        (20, 21),
    ]


def test_run_below_another_in_one_csv_is_judged_by_itself(file):
    healthy = table_of(falling())
    twice = file("twice.csv", HEADER + healthy + healthy)
    assert fired(twice) == []
    assert "The step goes back, to 0: from there on another run is judged." in judged(twice).notes
    assert not any(note.startswith("One point stands for") for note in judged(twice).notes)
    assert fired(file("second.csv", HEADER + healthy + table_of(falling(spike_at=150)))) == [("loss_spike", 150)]


def test_run_that_goes_on_from_a_checkpoint_is_judged_anew_from_there(file):
    losses = falling()
    rows = table_of(losses[:150]) + table_of(losses[100:], range(100, 200))
    assert fired(file("log.csv", HEADER + rows)) == []


def test_row_without_a_step_is_at_that_of_the_row_before(file):
    points = read_csv(file("log.csv", "step,loss,val_loss\n,3,\n40,2,\n,,2.5\n50,1,\n"), {}).points
    assert [point.step for point in points] == [1, 40, 40, 50]


def test_first_of_two_columns_of_a_name_is_read_and_that_is_told(file):
    table = read_csv(file("log.csv", "step,loss,loss\n1,2.0,9.0\n2,,8.0\n3,1.0\n"), {})
    assert table.points == [LogPoint(1, loss=2.0), LogPoint(3, loss=1.0)]
    assert table.notes == ("There are several columns loss: the first one is read.",)


def test_export_of_several_runs_says_which_of_them_is_read(file):
    path = file("wandb.csv", "Step,calm-1 - train/loss,calm-1 - train/loss__MIN,wild-2 - train/loss\n1,2.0,2.0,9.0\n")
    told = (
        "calm-1 - train/loss is read, and not wild-2 - train/loss, which counts as the same name. Judge that by "
        "--column loss=NAME."
    )
    assert (read_csv(path, {}).points, read_csv(path, {}).notes) == ([LogPoint(1, loss=2.0)], (told,))
    assert read_csv(path, {"loss": "wild-2 - train/loss"}).notes == ()


def test_cell_that_r_or_pandas_leave_out_is_blank(file):
    points = read_csv(file("log.csv", "step,loss,val_loss\n1,2.0,NA\n2,1.0,1.5\n"), {}).points
    assert points == [LogPoint(1, loss=2.0), LogPoint(2, loss=1.0, validation_loss=1.5)]


def test_row_may_end_early_as_where_a_run_was_killed(file):
    table = read_csv(file("log.csv", "step,loss,val_loss\n1,3.0,2.5\n2,2.0\n3\n"), {})
    assert table.points == [LogPoint(1, loss=3.0, validation_loss=2.5), LogPoint(2, loss=2.0)]


def test_cell_may_be_long(file):
    limit = csv.field_size_limit()
    text = "word " * 50_000
    assert read_csv(file("log.csv", f'step,sample,loss\n1,"{text}",2.0\n'), {}).points == [LogPoint(1, loss=2.0)]
    assert csv.field_size_limit() == limit


def test_threshold_may_be_another(file):
    path = file("log.csv", "step,loss\n" + "".join(f"{n},{loss}\n" for n, loss in enumerate(falling(spike_at=150))))
    (found,) = judged(path, {"loss_spike": None}).findings
    assert fired(path, loss_spike=found.value * 0.999) == [("loss_spike", 150)]
    assert fired(path, loss_spike=found.value * 1.001) == []


def test_rules_that_a_log_cannot_support_say_what_they_lack(file):
    unjudged = judged(file("log.csv", "step,loss\n1,2.0\n")).unjudged
    assert unjudged["gradient_exploding"] == "it needs a gradient norm, which is not in the log"
    assert unjudged["overfitting"] == "it needs a validation loss, which is not in the log"
    assert unjudged["layer_dead"] == "it needs gradients by layer, which no such log holds"
    assert unjudged["loss_spike"] == "there are too few points for it (1)"
    assert "loss_nonfinite" not in unjudged


def test_points_that_stand_for_many_steps_are_told(state):
    assert any(note.startswith("One point stands for 500 steps") for note in judged(state).notes)


def test_events_of_tensorboard_are_read(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="needs tensorboard: pip install tensorboard")
    with tensorboard.SummaryWriter(tmp_path / "logs") as writer:
        for step, loss in enumerate([2.0, math.nan, 1.0]):
            writer.add_scalar("Loss/train", loss, 10 * step)
            writer.add_scalar("unrelated", 7.0, 10 * step)
        writer.add_scalar("Loss/val", 1.5, 20)
    table = events.read_events(tmp_path / "logs", {})
    assert [(p.step, p.validation_loss) for p in table.points] == [(0, None), (10, None), (20, 1.5)]
    assert (table.points[0].loss, table.points[2].loss) == (2.0, 1.0)
    assert fired(tmp_path / "logs") == [("loss_nonfinite", 10)]
    (written,) = (tmp_path / "logs").glob(events.PATTERN)
    assert fired(written) == [("loss_nonfinite", 10)]


def test_events_that_keras_writes_are_read(tmp_path):
    """Each scalar is a tensor of one number there."""
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util import tensor_util

    plugin = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
    writer = EventFileWriter(str(tmp_path))
    for step, loss in enumerate([2.0, 1.5]):
        tensor = tensor_util.make_tensor_proto(np.float32(loss))
        value = summary_pb2.Summary.Value(tag="epoch_loss", tensor=tensor, metadata=plugin)
        writer.add_event(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[value])))
    writer.close()
    assert events.read_events(tmp_path, {"loss": "epoch_loss"}).points == [LogPoint(0, loss=2.0), LogPoint(1, loss=1.5)]


def test_column_for_the_step_of_events_is_refused(file):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    with pytest.raises(ConfigError, match=r"--column step=epoch: each point of .* has a step already"):
        judged(file("events.out.tfevents.1", ""), columns={"step": "epoch"})


def test_events_without_tensorboard_say_how_to_get_it(monkeypatch, file):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrimtabError, match=r"Run: pip install 'trimtab\[tensorboard\]'"):
        judged(file("events.out.tfevents.1", ""))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "", "it is empty. Give the log of a run"),
        ("a.csv", "\ufeff \n\n", "it is empty. Give the log of a run"),
        ("a.csv", "step,loss\n", "no row of it holds a number in loss. Give the log of a run that took steps"),
        ("a.csv", "time,note\n1,2\n", "It has time, note. Say which is the loss, as in --column loss=NAME"),
        ("a.csv", "step,loss\n1,abc\n", "loss is 'abc' in row 1: expected a number"),
        (
            "a.json",
            '{"log_history": [{"step": 1, "loss": 1%s}]}' % ("0" * 400),
            "loss is 1000.* in row 1: expected a number",
        ),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", "{", "not JSON .* Give the trainer_state.json of a checkpoint"),
        ("a.json", "[1]", "it has no log_history"),
        ("a.json", '{"log_history": [3]}', "it has no log_history"),
        ("a.json", '{"log_history": []}', "nothing in it looks like a loss"),
        (
            "a.txt",
            "step,loss\n",
            "no record of a run is in it. Give a log that the jsonl backend wrote, a trainer_state",
        ),
    ],
)
def test_log_that_cannot_be_judged_says_why(file, name, content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        judged(file(name, content))


def test_csv_may_begin_with_lines_that_are_blank(file):
    assert fired(file("a.csv", "\r\n\nstep;loss\n1;0.5\n2;nan\n")) == [("loss_nonfinite", 2)]


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\nstep;loss\n1;0,5\n2;nan\n",
        '"sep=,"\r\nstep,loss\r\n1,0.5\r\n2,nan\r\n',
        "sep=:\nstep:loss\n1:0.5\n2:nan\n",
        "# seed 3, lr 0.1, batch; 32\n#\n\nstep;loss\n1;0.5\n2;nan\n",
        "# of numpy.savetxt\n# step,loss\n1.0e+00,0.5\n2.0e+00,nan\n",
        "#step\tloss\n1\t0.5\n2\tnan\n",
    ],
)
def test_csv_may_have_its_separator_and_comments_above_the_header(file, content):
    assert fired(file("a.csv", content)) == [("loss_nonfinite", 2)]


def test_csv_that_is_no_text_says_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(struct.pack("<8d", *range(8)) + b"\xff")
    with pytest.raises(ConfigError, match="not a CSV file"):
        judged(path)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"los": "loss"}, "los is not a kind of column. Did you mean 'loss'"),
        ({"loss": "lost"}, "there is no column 'lost'. Did you mean 'loss'"),
    ],
)
def test_column_that_is_not_there_names_the_nearest(file, columns, sentence):
    with pytest.raises(ConfigError, match=sentence):
        judged(file("a.csv", "step,loss\n1,2\n"), columns=columns)


def test_validation_is_judged_against_the_training_before_it(file):
    """Training gets better all the way, validation gets worse from the middle on."""
    rows = "".join(f"{n},{2.0 * 0.9**n},{1.0 + 0.1 * abs(n - 15)}\n" for n in range(1, 40))
    assert "overfitting" in [rule for rule, _ in fired(file("log.csv", f"step,loss,val_loss\n{rows}"))]
    assert "overfitting" not in [rule for rule, _ in fired(file("of-no-loss.csv", f"step,acc,val_loss\n{rows}"))]


def test_validation_that_gets_worse_with_training_is_no_overfitting(file):
    rows = "".join(f"{n},{0.98 + 0.1 * abs(n - 15)},{1.0 + 0.1 * abs(n - 15)}\n" for n in range(1, 40))
    assert "overfitting" not in [rule for rule, _ in fired(file("log.csv", f"step,loss,val_loss\n{rows}"))]


def test_accuracy_in_a_row_of_its_own_does_not_come_between_training_and_validation(file):
    rows = "".join(f"{n},{2.0 * 0.9**n},,\n{n},,0.5,\n{n},,,{1.0 + 0.1 * abs(n - 15)}\n" for n in range(1, 40))
    assert "overfitting" in [rule for rule, _ in fired(file("log.csv", f"step,loss,val_acc,val_loss\n{rows}"))]


def test_norms_without_a_loss_are_judged(file):
    rows = "".join(f"{n},{'nan' if n == 150 else 1.0}\n" for n in range(1, 200))
    assert fired(file("log.csv", f"step,grad_norm\n{rows}")) == [("gradient_nonfinite", 150)]
