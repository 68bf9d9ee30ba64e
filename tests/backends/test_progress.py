import math

import pytest

from trimtab.testing import SAMPLE_TIME, sample_step
from trimtab.types import Alert, RunEnd
from trimtab_backends import lines
from trimtab_backends.progress import Progress


@pytest.fixture
def progress():
    return Progress()


def text(line):
    return "".join(piece for piece, _ in line)


def styles(line, piece):
    return {style for text, style in line if text == piece}


def batch(number, of=100, epoch=1, after=0.0, **fields):
    return sample_step(number, ts=SAMPLE_TIME + after, batch=number, batches=of, epoch=epoch, **fields)


def test_time_to_go_is_the_rest_at_the_pace_so_far(progress):
    progress.take(batch(10, after=0.0))
    assert progress.seconds_to_go is None
    progress.take(batch(30, after=4.0))
    assert progress.seconds_to_go == pytest.approx(70 * 4.0 / 20)


def test_time_to_go_starts_again_with_the_epoch(progress):
    for number, epoch, after in ((10, 1, 0.0), (100, 1, 100.0), (1, 2, 101.0), (3, 2, 103.0)):
        progress.take(batch(number, epoch=epoch, after=after))
    assert progress.seconds_to_go == pytest.approx(97)


@pytest.mark.parametrize("epoch", [1, None])
def test_rate_of_an_epoch_that_is_over_is_none_of_the_next(progress, epoch):
    progress.take(batch(100, epoch=epoch, learning_rate=[0.1], gradient_norm=1.0))
    progress.end_epoch(1)
    progress.take(batch(1, epoch=2, optimizer="1", learning_rate=[0.2], gradient_norm=2.0))
    assert list(progress.rates_in(2)) == ["1"]


def test_time_to_go_is_not_known_where_the_length_is_not(progress):
    for number in (1, 2):
        progress.take(batch(number, of=None, after=number))
    assert progress.seconds_to_go is None


def test_a_tick_is_one_point_weighted_by_steps(progress):
    progress.take(sample_step(1, loss=1.0, steps=3, step_seconds=0.1))
    progress.take(sample_step(4, loss=5.0, steps=1, step_seconds=0.5))
    progress.tick()
    progress.tick()
    assert list(progress.losses) == [2.0]
    assert progress.steps_per_second == pytest.approx(4 / 0.8)


def test_the_sparkline_follows_one_optimizer_and_forgets(progress):
    for number in range(1, 101):
        progress.take(sample_step(number, loss=float(number), optimizer="G"))
        progress.take(sample_step(number, loss=0.0, optimizer="D"))
        progress.tick()
    assert list(progress.losses) == [float(number) for number in range(81, 101)]


def test_the_live_line_has_all_that_is_known(progress):
    for number, loss in ((25, 3.0), (50, 1.0)):
        progress.take(batch(number, after=number / 10, loss=loss))
        progress.tick()
    assert text(lines.live(progress, 120)) == (
        "epoch 1  ━━━━━━━━━━━━━━━━ 50/100  █▁  loss 1  lr 0.001  |g| 1.5  10 step/s  0:05 left"
    )


def test_the_live_line_of_a_run_without_epochs_counts_steps(progress):
    progress.take(sample_step(7, epoch=None, batch=None, batches=None, learning_rate=None, gradient_norm=None))
    assert text(lines.live(progress, 120)) == "step 7  loss 0.2857"


def test_what_is_not_finite_is_red_and_bold(progress):
    for loss in (1.0, math.nan):
        progress.take(sample_step(1, loss=loss))
        progress.tick()
    line = lines.live(progress, 120)
    assert styles(line, "NaN") == styles(line, "×") == {"bold red"}


@pytest.mark.parametrize(("losses", "sparks"), [((0.0, 5e-324), "▁▁"), ((-1.7e308, 0.0, 1.7e308), "▁▅█")])
def test_losses_at_the_ends_of_what_a_float_holds_have_a_line(progress, losses, sparks):
    for loss in losses:
        progress.take(sample_step(1, loss=loss))
        progress.tick()
    assert f"  {sparks}  " in text(lines.live(progress, 120))


def test_the_sparkline_gives_way_where_columns_are_few(progress):
    for number in range(1, 21):
        progress.take(sample_step(number, epoch=None, batch=None))
        progress.tick()
    rest = len("step 20  loss 0.1  lr 0.001  |g| 1.5  10 step/s")
    assert len(text(lines.live(progress, 120))) == rest + 2 + 20
    assert len(text(lines.live(progress, rest + 2 + 7))) == rest + 2 + 7
    assert len(text(lines.live(progress, rest + 2))) == rest


def test_the_live_line_in_ascii(progress):
    progress.take(batch(50))
    progress.tick()
    line = text(lines.live(progress, 120, ascii=True))
    assert line.isascii()
    assert "########-------- 50/100" in line


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0000051, "0.0051 ms"), (0.0070123, "7.012 ms"), (1.5, "1.5 s"), (99.99, "99.99 s"), (100, "1:40"),
     (3723, "1:02:03")],
)  # fmt: skip
def test_durations(seconds, shown):
    assert lines.duration(seconds) == shown


@pytest.mark.parametrize(("severity", "style"), [("critical", lines.ALARM), ("warning", "bold yellow")])
def test_critical_alert_stands_out(severity, style):
    firing = Alert(ts=SAMPLE_TIME, step=3, rule="loss_spike", episode=1, state="firing", severity=severity, value=2.0)
    line = lines.alert(firing)
    assert styles(line, severity.upper()) == {style}
    assert "threshold" not in text(line)  # which is not known


@pytest.mark.parametrize(("status", "style"), [("completed", "bold green"), ("failed", lines.ALARM)])
def test_run_that_ended_badly_stands_out(status, style):
    assert styles(lines.end(RunEnd(ts=SAMPLE_TIME, step=3, status=status, seconds=1.0), None, {}), f"  {status}") == {
        style
    }
