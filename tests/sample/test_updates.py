"""The update ratio of a layer is what the optimizer did to it, whichever optimizer that is."""

import math

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from trimtab.sample import updates
from trimtab.sample.updates import Weights


@pytest.fixture(params=["as held", "on a device"])
def anywhere(request, monkeypatch):
    """The way that a device takes can be taken by tensors of the CPU too."""
    if request.param == "on a device":
        on_device = updates._ratios_on_device
        monkeypatch.setattr(updates, "_ratios", lambda old, new: list(on_device(list(old), list(new)).unbind()))


def ratios_of(layers, move, names=None):
    """The ratios that are found when `move` is done to the layers."""
    weights = Weights()
    weights.hold(layers, names or [str(i) for i in range(len(layers))])
    with torch.no_grad():
        move()
    found = updates.UpdateSample(0, *weights.compare())
    return dict(found.read())


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_ratio_is_that_of_the_norms(dtype):
    layer = nn.Parameter(torch.randn(200, 70).to(dtype))
    before = layer.detach().clone()
    (ratio,) = ratios_of([layer], lambda: layer.mul_(0.99).add_(1e-3)).values()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    change = (layer.detach().to(wide) - before.to(wide)).norm() / before.to(wide).norm()
    assert ratio == pytest.approx(change.item(), rel=1e-5)


@pytest.mark.usefixtures("anywhere")
def test_layers_of_every_shape_have_their_own():
    layers = [nn.Parameter(torch.ones(shape)) for shape in ((), (1,), (3, 5), (2, 3, 4, 5))]
    layers.append(nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)))
    layers.append(nn.Parameter(torch.ones(6, 6)[:, ::2]))

    def move():
        for factor, layer in enumerate(layers, start=1):
            layer.mul_(1 + factor / 100)

    found = ratios_of(layers, move)
    assert list(found.values()) == pytest.approx([factor / 100 for factor in range(1, 7)], rel=1e-5)


@pytest.mark.usefixtures("anywhere")
def test_layer_that_was_zero_has_no_ratio_and_nan_stays_nan():
    zero, bad, still = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

    def move():
        zero.add_(1.0)
        bad[1] = math.nan

    found = ratios_of([zero, bad, still], move)
    assert list(found) == ["1", "2"]
    assert math.isnan(found["1"])
    assert found["2"] == 0.0


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("size", [4, 40_000])
def test_layer_that_was_next_to_nothing_has_no_ratio(size):
    tiny, small = nn.Parameter(torch.full((size,), -1e-3)), nn.Parameter(torch.full((size,), -2e-3))
    assert ratios_of([tiny, small], lambda: [each.mul_(1.5) for each in (tiny, small)]) == {"1": pytest.approx(0.5)}


def test_layer_of_which_this_rank_has_nothing_has_no_ratio():
    """As the second of two ranks has of a bias of one element."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        part = DTensor.from_local(torch.empty(0), mesh, [Shard(0)], run_check=False, shape=(1,), stride=(1,))
        layer = nn.Parameter(torch.ones(4))
        assert ratios_of([nn.Parameter(part), layer], lambda: layer.mul_(1.5)) == {"1": pytest.approx(0.5)}
    finally:
        dist.destroy_process_group()


def test_only_layers_that_are_shown_are_copied():
    layers = [nn.Parameter(torch.ones(4)) for _ in range(3)]
    found = ratios_of(layers, lambda: layers[2].mul_(1.5), names=["a", None, "c"])
    assert found == {"a": 0.0, "c": 0.5}


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_of_large_layers_a_part_is_copied(dtype):
    large, small = nn.Parameter(torch.randn(1001, 300).to(dtype)), nn.Parameter(torch.ones(10, dtype=dtype))
    before = large.detach().clone()
    weights = Weights()
    weights.hold([large, small], ["large", "small"])
    with torch.no_grad():
        large.add_(torch.randn(1001, 300).to(dtype), alpha=0.125)
        small.mul_(1.25)
    found = updates.UpdateSample(0, *weights.compare()).read()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    change = (large.detach().to(wide) - before.to(wide)).norm() / before.to(wide).norm()
    assert weights._buffers[0].numel() <= updates.MOST
    assert found["large"] == pytest.approx(change.item(), rel=0.03)
    assert found["small"] == 0.25


@pytest.mark.parametrize("columns", [1, 16, 48, 128, 384, 768, 1000, 1536])
def test_of_a_large_layer_every_column_is_seen(columns):
    rows = 5 * updates.MOST // columns + 1
    spread = updates._part_of(torch.arange(columns).repeat(rows).view(rows, columns))
    assert updates.MOST / 2 <= spread.numel() <= updates.MOST
    assert len(spread.unique()) == columns


def test_buffers_are_used_again_until_the_layers_change():
    layers, weights, held = [nn.Parameter(torch.ones(4))], Weights(), []
    for more in (0, 0, 1):
        layers += [nn.Parameter(torch.ones(2)) for _ in range(more)]
        weights.hold(layers, ["layer"] * len(layers))
        weights.compare()
        held.append([buffer.data_ptr() for buffer in weights._buffers])
    assert held[0] == held[1]
    assert len(held[2]) == 2


def test_layer_that_is_replaced_by_one_of_another_shape_gives_nothing():
    layer = nn.Parameter(torch.ones(4))

    def move():
        layer.data = torch.ones(6)

    assert ratios_of([layer], move) == {}


def test_no_layer_is_kept_after_the_step():
    weights = Weights()
    weights.hold([nn.Parameter(torch.ones(4))], ["layer"])
    weights.compare()
    assert weights._layers == []
    assert weights.compare() == ((), ())
