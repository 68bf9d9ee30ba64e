import gc
import json

import pytest
import torch
from torch import nn

from trimtab.actions import Refused
from trimtab.actuators.dropout import LOOK_EVERY_S, LargestRatio


@pytest.fixture
def steer(helm):
    """`steer(model)` gives the controls of an optimizer for `model`, which is kept alive."""
    kept = []

    def steer(model, label="0"):
        kept.append(torch.optim.SGD(model.parameters(), lr=0.1))
        helm.models.append(model)
        return helm.controls(kept[-1], label=label)

    return steer


MODULES = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip


@pytest.mark.parametrize("kind", MODULES)
def test_every_kind_of_dropout_is_set(steer, kind):
    model = nn.Sequential(nn.Linear(2, 2), kind(0.1), nn.Sequential(kind(0.3)))
    change = steer(model).set_dropout(0.5)
    assert (model[1].p, model[2][0].p) == (0.5, 0.5)
    assert (change.before, change.after) == ({"dropout": [0.1, 0.3]}, {"dropout": 0.5})


def test_dropout_drops_that_share(steer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))
    steer(model).set_dropout(0.75)
    dropped = (model[1](torch.ones(10_000)) == 0).float().mean().item()
    assert dropped == pytest.approx(0.75, abs=0.03)


def test_attention_and_deep_recurrent_nets_are_set_too(steer):
    attention, deep, flat = nn.MultiheadAttention(4, 2, dropout=0.1), nn.LSTM(4, 4, 2, dropout=0.1), nn.GRU(4, 4)
    steer(nn.ModuleList([attention, deep, flat])).set_dropout(0.25)
    assert (attention.dropout, deep.dropout, flat.dropout) == (0.25, 0.25, 0.0)


def test_transformer_is_set_throughout(steer):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1)
    steer(layer).set_dropout(0.2)
    assert {layer.self_attn.dropout, layer.dropout.p, layer.dropout1.p, layer.dropout2.p} == {0.2}


def test_model_without_dropout_is_refused(steer):
    with pytest.raises(Refused, match="no dropout module"):
        steer(nn.Linear(2, 2)).set_dropout(0.5)


def test_optimizer_whose_model_is_not_known_is_refused(helm):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(Refused, match="not known"):
        helm.controls(optimizer).set_dropout(0.5)


def test_ratio_that_is_there_already_is_refused(steer):
    with pytest.raises(Refused, match=r"ratio 0\.5 already, or more\."):
        steer(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))).set_dropout(0.5)


def test_close_puts_the_users_ratios_back(helm, steer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.2), nn.Dropout(0.3))
    controls = steer(model)
    controls.set_dropout(0.5)
    controls.set_dropout(0.6)
    model[3].p = 0.7  # by the user
    helm.close()
    assert [module.p for module in model[1:]] == [0.1, 0.2, 0.7]


@pytest.mark.parametrize("labels", ["010", "101", "01", "10"])
def test_close_puts_back_what_two_optimizers_of_one_model_raised_in_turn(helm, steer, labels):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    controls = {label: steer(model, label) for label in "01"}
    for label, ratio in zip(labels, (0.2, 0.5, 0.6), strict=False):
        controls[label].set_dropout(ratio)
    helm.close()
    assert model[1].p == 0.1


def test_resumed_run_keeps_its_dropout(helm, steer):
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)) for _ in range(2))
    steer(first).set_dropout(0.5)
    saved = helm.steering.state_dict()
    helm.models.clear()
    helm.steering.load_state_dict({"1": saved["0"]})
    steer(second, label="1")
    assert second[1].p == 0.5


@pytest.mark.parametrize(
    ("ratio", "lower", "kept"), [(0.3, True, [0.3, 0.3]), (0.0, True, [0, 0]), (0.3, False, [0.3, 0.8])]
)
def test_resumed_run_keeps_a_dropout_that_was_lowered(helm, steer, ratio, lower, kept):
    first, second = (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.8)) for _ in range(2))
    steer(first).set_dropout(ratio, lower=lower)
    saved = json.loads(json.dumps(helm.steering.state_dict()))
    helm.models.clear()
    helm.steering.load_state_dict({"1": saved["0"]})
    steer(second, label="1")
    assert [module.p for module in second[1:]] == kept


def test_ratio_for_export_is_the_largest_as_it_is_now():
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.2), nn.MultiheadAttention(2, 1, dropout=0.05))
    largest = LargestRatio(lambda: [model])
    assert largest.read() == 0.2
    model[2].dropout = 0.4
    assert largest.read() == 0.4
    del model[2]
    gc.collect()
    assert largest.read() == 0.2
    assert LargestRatio(lambda: [nn.Linear(1, 1)]).read() is None


def test_ratio_is_read_as_soon_as_there_is_a_model():
    models = []
    largest = LargestRatio(lambda: models)
    assert largest.read() is None
    models.append(nn.Sequential(nn.Dropout(0.1)))
    assert largest.read() == 0.1


def test_new_dropout_is_found_in_time():
    now, models = 0.0, [nn.Sequential(nn.Dropout(0.1))]
    largest = LargestRatio(lambda: models, lambda: now)
    assert largest.read() == 0.1
    models[0].append(nn.Dropout(0.3))
    now = LOOK_EVERY_S
    assert largest.read() == 0.3


def test_dropout_whose_ratio_is_no_number_is_left_alone(steer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.1))
    model[2].p = None  # a module of the user's own, which makes its ratio as it goes
    assert LargestRatio(lambda: [model]).read() == 0.1
    steer(model).set_dropout(0.5)
    assert [module.p for module in model[1:]] == [0.5, None]


def test_higher_ratio_is_lowered_only_where_that_is_asked_for(steer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.8))
    controls = steer(model)
    change = controls.set_dropout(0.5)
    assert [module.p for module in model[1:]] == [0.5, 0.8]
    assert change.before == {"dropout": 0.1}
    controls.set_dropout(0.5, lower=True)
    assert [module.p for module in model[1:]] == [0.5, 0.5]
    with pytest.raises(Refused, match=r"ratio 0\.5 already\.$"):
        controls.set_dropout(0.5, lower=True)


def test_close_puts_back_what_was_set_in_two_goes(helm, steer):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Dropout(0.6))
    controls = steer(model)
    controls.set_dropout(0.5)
    controls.set_dropout(0.3, lower=True)
    controls.set_dropout(0.7)
    helm.close()
    assert [module.p for module in model[1:]] == [0.1, 0.6]
