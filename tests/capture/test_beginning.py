"""Where a training began is known again."""

import pytest
import torch
from torch import nn

from trimtab.capture.beginning import LEARNED, Beginning


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.PReLU())


def test_a_beginning_is_now_until_a_weight_is_another_and_once_it_is_back(model):
    begun, state = Beginning([*model.parameters()]), {n: v.clone() for n, v in model.state_dict().items()}
    assert begun.is_now()
    with torch.no_grad():
        model[0].weight[-1, -1] += 1.0
    assert not begun.is_now()
    model.load_state_dict(state)
    assert begun.is_now()


def test_parameters_that_are_gone_are_nowhere(model):
    begun = Beginning([*model.parameters()])
    del model[0]
    assert not begun.is_now()


@pytest.mark.parametrize(
    "unusual",
    [
        nn.Parameter(torch.ones(2, device="meta")),
        torch.ones(2).to_sparse().requires_grad_(),
        nn.UninitializedParameter(),
    ],
)
def test_of_parameters_that_have_no_element_to_read_nothing_is_noted(model, unusual):
    assert not Beginning([*model.parameters(), unusual]).is_now()


def test_weights_of_another_type_are_not_those_of_then(model):
    begun = Beginning([*model.parameters()])
    model.double()
    assert not begun.is_now()
    model.float()
    assert begun.is_now()


def test_of_a_shard_nothing_is_noted(model):
    model[0].weight._fsdp_flattened = True  # as FSDP marks parameters of which each rank has a part
    assert not Beginning([*model.parameters()]).is_now()


def test_parameters_without_elements_are_passed_over():
    parameter, empty = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.empty(0))
    begun = Beginning([empty, parameter])
    assert begun.is_now()
    parameter.data.add_(1.0)
    assert not begun.is_now()


def test_whose_it_is(model):
    ids = list(map(id, model.parameters()))
    begun = Beginning([*model.parameters()])
    assert begun.is_of(ids)
    assert begun.is_of(ids[:1])
    assert begun.is_of([*ids, 1])
    assert not begun.is_of([*ids[:1], 1])


def test_weights_are_drawn_anew_where_more_is_written_to_them_than_steps(model):
    begun = Beginning([*model.parameters()])
    for _ in range(LEARNED):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.9).add_(0.1)
    begun.steps = LEARNED
    assert not begun.is_drawn_anew()
    model[0].reset_parameters()
    assert not begun.is_drawn_anew()  # not all of them
    for module in model[1:]:
        module.reset_parameters()
    assert begun.is_drawn_anew()


def test_weights_of_few_steps_are_not_drawn_anew(model):
    begun = Beginning([*model.parameters()])
    for module in model:
        module.reset_parameters()
    begun.steps = LEARNED - 1
    assert not begun.is_drawn_anew()
