import math
import subprocess
import sys

import pytest

from trimtab.errors import ConfigError, TrimtabError
from trimtab.logs import read
from trimtab.report import drawing
from trimtab.testing import sample_step
from trimtab.types import Epoch, RunEnd


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def texts(artist):
    return [text.get_text() for text in artist.texts]


def drawn(axes):
    """The curves of a panel: every line of more than one point that is no grid line."""
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


@pytest.fixture
def log(write, training):
    return read(write(*training()))


def test_six_panels_say_what_the_issue_asks_for(log):
    figure = drawing.draw([log])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Accuracy", "Learning rate", "Gradient norm", "Gradient mean", "Gradient variance"]
    assert "sample" in texts(figure)
    assert any("200 steps" in text and "1 min 15 s" in text and "completed" in text for text in texts(figure))


@pytest.mark.parametrize(
    ("epochs", "told"), [([1], "1 epoch"), ([1, 2, 3], "3 epochs"), ([1, 2, 1, 2, 3], "5 epochs"), ([1, 1], "2 epochs")]
)
def test_epochs_of_a_resumed_run_are_counted_on(write, epochs, told):
    """Each process that goes on with it counts them from 1."""
    ended = (Epoch(ts=0.0, step=10 * at, epoch=epoch) for at, epoch in enumerate(epochs, start=1))
    (facts,) = [text for text in texts(drawing.draw([read(write(sample_step(1), *ended))])) if " step" in text]
    assert told in facts.split(" · ")


def test_curves_are_named_at_their_ends_with_their_last_values(log):
    figure = drawing.draw([log])
    assert texts(panel(figure, "Loss"))[-1] == "validation 0.01"
    assert texts(panel(figure, "Accuracy"))[0].startswith("train 50 %")
    assert sorted(texts(panel(figure, "Gradient norm")))[-2:] == ["as applied", "before clipping"]


def test_drawn_values_are_those_of_the_log(log):
    line = drawn(panel(drawing.draw([log]), "Loss"))[0]
    assert line.get_xdata().tolist() == list(range(1, 201))
    assert line.get_ydata()[19] == pytest.approx(math.exp(-1))


def test_loss_over_decades_is_drawn_on_a_logarithmic_axis(write, training):
    for loss, scale in (({}, "log"), ({"loss": 0.5}, "linear")):
        figure = drawing.draw([read(write(*training(**loss), run=scale))])
        assert panel(figure, "Loss").get_yscale() == scale


def test_losses_below_zero_are_drawn_whole_beside_one_over_decades(write, training):
    below = read(write(*training(loss=-0.5), run="below"))
    over_decades = read(write(*training(), run="over_decades"))
    for logs in ([below, over_decades], [over_decades, below]):
        axes = panel(drawing.draw(logs), "Loss")
        assert axes.get_yscale() == "linear"
        assert axes.get_ylim()[0] < -0.5


def test_nonfinite_values_are_marked_on_the_axis(log):
    axes = panel(drawing.draw([log]), "Gradient norm")
    marks = [line for line in axes.lines if line.get_marker() == "X"]
    assert [mark.get_xdata().tolist() for mark in marks] == [[50]]
    assert "NaN or Inf at step 50" in texts(axes)
    assert "NaN" not in "".join(texts(panel(drawing.draw([log]), "Loss")))


def test_extremes_of_folded_records_are_shaded(write):
    folded = [sample_step(i, steps=5, loss=1.0, loss_min=0.5, loss_max=2.0) for i in range(1, 9)]
    axes = panel(drawing.draw([read(write(*folded))]), "Loss")
    extents = axes.collections[0].get_paths()[0].get_extents()
    assert (extents.ymin, extents.ymax) == (0.5, 2.0)


def test_panel_without_data_says_so(write):
    figure = drawing.draw([read(write(sample_step(1, accuracy=None)))])
    assert texts(panel(figure, "Accuracy")) == ["not in this log"]


def test_several_runs_have_a_colour_each_and_dashes_for_validation(write, training):
    figure = drawing.draw([read(write(*training(), run=run)) for run in ("a", "b")])
    lines = drawn(panel(figure, "Loss"))
    assert {line.get_color() for line in lines} == set(drawing.COLOURS[:2])
    assert {line.get_linestyle() for line in lines if len(line.get_xdata()) == 4} == {"--"}
    assert {"a", "b"} <= set(texts(figure))


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": math.nan, "gradient_mean": math.nan, "learning_rate": [None]},
        {"loss": 0.0, "gradient_variance": 0.0, "gradient_mean": 0.0},
        {"loss": -3.0},
        {"loss": 1e300, "gradient_mean": -1e300, "learning_rate": [1e-300]},
        {"loss": 1.7e308, "gradient_mean": -1.7e308, "learning_rate": [1.7e308]},
        {"accuracy": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [1, 120])
def test_extreme_runs_can_be_drawn(write, training, tmp_path, fields, steps):
    drawing.save([read(write(*training(steps=steps, **fields)))], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("high", "low"), [(1e5, 6e-321), (1e300, 1e-300), (1.7e308, 5e-324), (1e120, 1e-120), (1e38, 1e-45), (1e200, 1.0)]
)
@pytest.mark.parametrize("steps", [40, 400])
def test_values_however_far_apart_can_be_drawn(write, tmp_path, high, low, steps):
    values = [high if step < steps / 2 else low for step in range(steps)]
    names = ("loss", "gradient_variance", "gradient_mean")
    path = write(*(sample_step(n, learning_rate=[v], **dict.fromkeys(names, v)) for n, v in enumerate(values, start=1)))
    drawing.save([read(path)], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_optimizers_are_named_as_they_are_called(write, tmp_path):
    names = ("{0} $x_$ %", "d")
    log = read(write(*(sample_step(step, optimizer=name) for step in (1, 2) for name in names)))
    drawing.save([log], tmp_path / "picture.svg")
    assert texts(panel(drawing.draw([log]), "Gradient mean"))[:2] == [r"{0} \$x_\$ %", "d"]


def test_optimizers_are_named_where_several_runs_are_drawn(write):
    steps = [sample_step(step, optimizer=name) for step in (1, 2) for name in ("generator", "critic")]
    figure = drawing.draw([read(write(*steps, run=run)) for run in ("a", "b")])
    assert sorted(texts(panel(figure, "Loss"))) == ["critic", "critic", "generator", "generator"]


@pytest.mark.parametrize("name", ["", r"$\\nothing$", "$x_$ and $"])
def test_name_in_a_log_is_no_formula(write, tmp_path, name):
    path = write(sample_step(1), sample_step(2))
    path.write_text(path.read_text().replace('"run":"sample"', f'"run":"{name}"'))
    drawing.save([read(path)], tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").exists()


def test_log_that_has_just_begun_can_be_drawn(write, training, tmp_path):
    drawing.save([read(write(training()[0]))], tmp_path / "picture.svg")
    assert "not in this log" in (tmp_path / "picture.svg").read_text()


def test_run_that_lasted_nobody_knows_how_long_can_be_drawn(write, tmp_path):
    end = RunEnd(ts=9.0, step=9, status="completed", seconds=math.nan)
    drawing.save([read(write(sample_step(9), end))], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_drawing_leaves_matplotlibs_state_alone(log):
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawing.draw([log])
    assert dict(matplotlib.rcParams) == before


def test_pyplot_and_windows_stay_unloaded(write, training, tmp_path):
    path = write(*training())
    source = f"""
import sys
from pathlib import Path
from trimtab import logs
from trimtab.report import drawing
assert "matplotlib" not in sys.modules
drawing.save([logs.read(Path({str(path)!r}))], Path({str(tmp_path / "x.png")!r}))
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True)


def test_missing_matplotlib_names_the_extra(log, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrimtabError, match=r"pip install 'trimtab\[report\]'"):
        drawing.save([log], tmp_path / "picture.png")


@pytest.mark.parametrize("name", ["picture.gif", "picture", "none/picture.png"])
def test_file_that_cannot_be_written_is_named(log, tmp_path, name):
    with pytest.raises(ConfigError, match="picture"):
        drawing.save([log], tmp_path / name)


def test_picture_is_written_through_no_link(log, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "picture.png").symlink_to(tmp_path / "precious")
    drawing.save([log], tmp_path / "picture.png")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
