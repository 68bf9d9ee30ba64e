import json
import math

import pytest
import torch
from every_schedule import Recording, parameters

from trimtab.actions import Refused


def with_decays(*decays):
    return Recording([{"params": [p], "weight_decay": d} for p, d in zip(parameters(len(decays)), decays, strict=True)])


def test_decay_is_scaled_for_the_update_only(helm):
    optimizer = with_decays(0.01, 0.3)
    helm.controls(optimizer).scale_weight_decay(3.0)
    optimizer.step()
    assert optimizer.decays == [[0.01 * 3.0, 0.3 * 3.0]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.3]


def test_decay_of_0_begins_at_the_floor(helm):
    optimizer = with_decays(0, 0.0)
    controls = helm.controls(optimizer)
    change = controls.scale_weight_decay(2.0, floor=1e-4)
    optimizer.step()
    controls.scale_weight_decay(2.0, floor=1e-4)
    optimizer.step()
    assert optimizer.decays == [[1e-4, 1e-4], [2e-4, 2e-4]]
    assert (change.before, change.after) == ({"weight_decay": [0.0, 0.0]}, {"weight_decay": [1e-4, 1e-4]})


def test_group_that_the_user_exempted_stays_without_decay(helm):
    optimizer = with_decays(0.1, 0.0)
    helm.controls(optimizer).scale_weight_decay(2.0, floor=1e-4)
    optimizer.step()
    assert optimizer.decays == [[0.2, 0.0]]


def test_decay_is_bounded(helm):
    optimizer = with_decays(0.3)
    controls = helm.controls(optimizer)
    controls.scale_weight_decay(2.0, ceiling=0.5)
    optimizer.step()
    assert optimizer.decays == [[0.5]]
    with pytest.raises(Refused, match=r"ceiling of 0\.5"):
        controls.scale_weight_decay(2.0, ceiling=0.5)
    controls.scale_weight_decay(0.5, ceiling=0.5)
    optimizer.step()
    assert optimizer.decays[1] == [pytest.approx(0.25)]


def test_bounds_never_work_against_the_factor(helm):
    high, none = with_decays(5.0), with_decays(0.0)
    with pytest.raises(Refused, match="ceiling of 1"):
        helm.controls(high).scale_weight_decay(2.0, ceiling=1.0)
    with pytest.raises(Refused, match=r"0\.5 times 0 is 0\.$"):
        helm.controls(none, label="1").scale_weight_decay(0.5, floor=1e-4)
    with pytest.raises(Refused, match=r"2 times 0 is 0\. Give a floor"):
        helm.controls(none, label="1").scale_weight_decay(2.0)
    with pytest.raises(Refused, match=r"5 already\.$"):
        helm.controls(high).scale_weight_decay(1.0)


def test_optimizer_without_decay_is_refused(helm):
    optimizer = torch.optim.Rprop(parameters())
    with pytest.raises(Refused, match="Rprop has no weight decay"):
        helm.controls(optimizer).scale_weight_decay(2.0)


def test_decay_that_is_kept_in_a_tensor_is_refused(helm):
    optimizer = torch.optim.AdamW(parameters(), weight_decay=torch.tensor(0.1))
    with pytest.raises(Refused, match="AdamW keeps its weight decay in a tensor"):
        helm.controls(optimizer).scale_weight_decay(2.0)


def test_decay_and_rate_go_together(helm):
    optimizer = Recording(parameters())
    controls = helm.controls(optimizer)
    controls.scale_weight_decay(2.0)
    controls.scale_learning_rate(0.5)
    optimizer.step()
    assert (optimizer.used, optimizer.decays) == ([[0.05]], [[0.02]])
    assert helm.steering.used(optimizer).weight_decays == [0.02]


def test_decay_that_the_user_schedules_goes_on_beneath(helm):
    optimizer = with_decays(0.1)
    helm.controls(optimizer).scale_weight_decay(2.0)
    for decay in (0.1, 0.2, 0.4):
        optimizer.param_groups[0]["weight_decay"] = decay
        optimizer.step()
    assert optimizer.decays == [[0.2], [0.4], [0.8]]


def test_adam_without_decay_trains_as_with_one(helm):
    trained = []
    for decay, factor in ((0.1, None), (0.0, 2.0)):
        layer = parameters()
        optimizer = torch.optim.AdamW(layer, lr=0.1, weight_decay=decay)
        if factor is not None:
            helm.controls(optimizer).scale_weight_decay(factor, floor=0.1)
        for p in layer:
            p.grad = torch.ones(3)
        optimizer.step()
        trained.append(layer)
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize("decay", [0.1, 0.0])
@pytest.mark.parametrize("ceiling", [1.0, math.inf])
def test_resumed_run_keeps_its_decay(helm, decay, ceiling):
    first, second = with_decays(decay), with_decays(decay)
    helm.controls(first).scale_weight_decay(2.0, floor=1e-4, ceiling=ceiling)
    first.step()
    saved = json.loads(json.dumps(helm.steering.state_dict(), allow_nan=False))
    helm.steering.load_state_dict({"1": saved["0"]})
    helm.controls(second, label="1")
    second.step()
    assert second.decays == first.decays != [[decay]]


def test_resumed_run_keeps_a_decay_that_was_switched_off(helm):
    first, second = with_decays(0.1), with_decays(0.1)
    helm.controls(first).scale_weight_decay(0.5, floor=0.0, ceiling=0.0)
    helm.steering.load_state_dict({"1": helm.steering.state_dict()["0"]})
    helm.controls(second, label="1")
    second.step()
    assert second.decays == [[0.0]]
