import math

import numpy as np
import pytest

from trimtab.logs import read
from trimtab.report.curves import curves
from trimtab.testing import sample_step


def test_curve_holds_every_record_of_its_phase(write, training):
    log = read(write(*training()))
    (train,), (validation,) = curves(log, "loss", "train"), curves(log, "loss", "validation")
    assert train.steps.tolist() == list(range(1, 201))
    assert train.values[9] == pytest.approx(math.exp(-0.5))
    assert (validation.steps.tolist(), validation.values[0]) == ([50, 100, 150, 200], 0.04)


def test_extremes_are_those_of_a_folded_record(write):
    log = read(write(sample_step(1, loss=1.0), sample_step(9, steps=8, loss=2.0, loss_min=0.5, loss_max=7.0)))
    (curve,) = curves(log, "loss", "train")
    assert (curve.low.tolist(), curve.high.tolist()) == ([1.0, 0.5], [1.0, 7.0])


def test_nonfinite_values_keep_their_steps(write, training):
    (curve,) = curves(read(write(*training())), "gradient_norm", "train")
    assert curve.nonfinite.tolist() == [50]


def test_groups_that_never_differ_are_one_curve(write):
    same, apart = [[0.1, 0.1], [0.2, 0.2]], [[0.1, 0.1], [0.2, 0.3]]
    for rates, names in ((same, [""]), (apart, ["group 0", "group 1"])):
        path = write(
            *(sample_step(step, learning_rate=rate) for step, rate in enumerate(rates, 1)), run=f"{len(names)}"
        )
        assert [curve.of for curve in curves(read(path), "learning_rate", "train")] == names


def test_optimizers_have_curves_of_their_own(write):
    path = write(*(sample_step(1, optimizer=name, loss=loss) for name, loss in (("g", 1.0), ("d", 2.0))))
    assert [(curve.of, curve.values[0]) for curve in curves(read(path), "loss", "train")] == [("g", 1.0), ("d", 2.0)]


def test_thinning_keeps_means_extremes_and_nan(write, training):
    (curve,) = curves(read(write(*training(steps=1000))), "gradient_norm", "train")
    thin = curve.thinned(100)
    assert len(thin.steps) == 100
    assert thin.steps[-1] == 1000
    assert np.isnan(thin.values).nonzero()[0].tolist() == [4]
    (loss,) = curves(read(write(*training(steps=1000), run="b")), "loss", "train")
    assert loss.thinned(100).values[0] == pytest.approx(loss.values[:10].mean())
    assert (loss.thinned(100).low[0], loss.thinned(100).high[0]) == (loss.values[9], loss.values[0])


def test_smoothing_is_the_mean_around_and_leaves_nan(write):
    values = [1.0, 2.0, 6.0, math.nan, 4.0]
    (curve,) = curves(read(write(*(sample_step(i, loss=v) for i, v in enumerate(values, 1)))), "loss", "train")
    assert curve.smoothed(3) == pytest.approx([1.5, 3.0, 4.0, math.nan, 4.0], nan_ok=True)
    assert curve.smoothed(3, geometric=True)[1] == pytest.approx(12 ** (1 / 3))
