import math

import pytest
import torch

from trimtab.sample.scalars import Transfer, hold, sum_of


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
)
def test_value_of_any_dtype_is_a_number(dtype):
    assert hold(torch.tensor(1, dtype=dtype)) == 1


def test_complex_value_gives_its_real_part():
    assert hold(torch.tensor(1.5 + 2j)) == 1.5


def test_value_of_one_element_of_any_shape():
    assert hold(torch.full((1, 1), 2.5, requires_grad=True)) == 2.5


def test_value_is_that_of_the_moment():
    tensor = torch.tensor(1.0)
    held = hold(tensor)
    tensor.fill_(2.0)
    assert held == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(value):
    assert repr(hold(torch.tensor(value))) == repr(value)


def test_numbers_need_no_transfer():
    transfer = Transfer([1.0, 2])
    assert transfer.immediate
    assert transfer.read() == [1.0, 2.0]


def test_transfer_gives_numbers_and_tensors_in_the_order_given():
    transfer = Transfer([1.0, torch.tensor(2.0), 3.0, torch.tensor(math.inf)])
    assert not transfer.immediate
    assert transfer.read() == [1.0, 2.0, 3.0, math.inf]


def test_values_of_several_devices_are_copied_each_from_its_own():
    """As with a model that is spread over devices. The transfer is started where reading has to fail."""
    here, elsewhere = torch.tensor(1.0), torch.tensor(2.0, device="meta")
    transfer = Transfer([here, elsewhere, 3.0])
    with pytest.raises(NotImplementedError):
        transfer.read()
    indexed = torch.tensor(2.0, device="cpu:0")
    assert Transfer([indexed, here, 3.0, indexed + 2, here]).read() == [2.0, 1.0, 3.0, 4.0, 1.0]


def test_sum_is_of_numbers_and_tensors():
    assert sum_of([1.5]) == 1.5
    assert sum_of([1.0, torch.tensor(2.0), 4.0]) == torch.tensor(7.0)
    assert math.isnan(sum_of([1.0, math.nan]))


def test_transfer_is_of_the_values_at_its_start():
    tensor = torch.tensor(1.0)
    transfer = Transfer([tensor])
    tensor.fill_(5.0)
    assert transfer.read() == [1.0]


def test_nothing_to_transfer_is_nothing():
    assert Transfer([]).read() == []
