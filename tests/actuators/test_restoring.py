"""What is restored is what was saved, bit for bit, in the tensors that everybody holds already."""

import contextlib
import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimtab.actions import Refused
from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import Snapshots


def small_net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))


def train(model, optimizer, steps, seed=0, **step):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(model(torch.randn(16, 4, generator=generator)), torch.ones(16, 2)).backward()
        optimizer.step(**step)


def parts_of(model, *optimizers, **others):
    return Parts(models={"model": model}, optimizers=dict(enumerate_as_text(optimizers)), **others)


def enumerate_as_text(values):
    return ((str(index), value) for index, value in enumerate(values))


def frozen(*things):
    """The exact bits of state dicts."""
    file = io.BytesIO()
    torch.save([copy.deepcopy(thing.state_dict()) for thing in things], file)
    return file.getvalue()


def tensors_in(optimizer):
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.9),
    "rprop": lambda p: torch.optim.Rprop(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_roll_back_restores_every_bit_in_the_same_tensors(make):
    model = small_net()
    optimizer = make(model.parameters())
    train(model, optimizer, 3)
    snapshots, parts, saved = Snapshots(), parts_of(model, optimizer), frozen(model, optimizer)
    snapshots.take(parts, 3)
    held = list(model.parameters()) + list(model.buffers()) + tensors_in(optimizer)
    train(model, optimizer, 4, seed=1)
    assert frozen(model, optimizer) != saved
    snapshots.roll_back(parts, 7)
    assert frozen(model, optimizer) == saved
    now = list(model.parameters()) + list(model.buffers()) + tensors_in(optimizer)
    assert all(a is b for a, b in zip(now, held, strict=True))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_goes_on_as_one_restored_by_hand(make):
    model = small_net()
    optimizer = make(model.parameters())
    train(model, optimizer, 3)
    other = copy.deepcopy(model)
    theirs = make(other.parameters())
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 3)
    train(model, optimizer, 4, seed=1)
    snapshots.roll_back(parts, 7)
    train(model, optimizer, 5, seed=2)
    train(other, theirs, 5, seed=2)
    assert frozen(model, optimizer) == frozen(other, theirs)


def test_roll_back_from_nan_leaves_none():
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters())
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    train(model, optimizer, 2)
    snapshots.take(parts, 2)
    saved = frozen(model, optimizer)
    for tensor in [*model.parameters(), *model.buffers(), *tensors_in(optimizer)]:
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else 7)
    snapshots.roll_back(parts, 3)
    assert frozen(model, optimizer) == saved


def test_state_born_after_the_snapshot_is_deleted():
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters())
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.meet(parts)
    saved = frozen(model, optimizer)
    train(model, optimizer, 3)
    snapshots.roll_back(parts, 3)
    assert not optimizer.state
    assert frozen(model, optimizer) == saved


def test_momentum_born_after_the_snapshot_is_deleted():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.weight]["kept"] = torch.ones(2)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 1)
    optimizer.state[model.weight]["later"] = torch.ones(3)
    snapshots.roll_back(parts, 2)
    assert list(optimizer.state[model.weight]) == ["kept"]


def test_gradients_are_dropped():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 1)
    train(model, optimizer, 1)
    snapshots.roll_back(parts, 2)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_learning_rate_and_schedule_are_not_turned_back():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.meet(parts)
    train(model, optimizer, 1)
    schedule.step()
    before = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    snapshots.roll_back(parts, 1)
    assert [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups] == before
    assert schedule.last_epoch == 1


class KeepsStateInItsGroups(torch.optim.SGD):
    """As Prodigy and the schedule-free ones do."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["d"] = 2 * group.get("d", 1.0)
        return super().step(closure)


def test_state_that_an_optimizer_keeps_in_its_groups_is_restored():
    model = small_net()
    optimizer = KeepsStateInItsGroups(model.parameters(), lr=0.1)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    train(model, optimizer, 2)
    snapshots.take(parts, 2)
    optimizer.param_groups[0]["lr"] = 0.2
    train(model, optimizer, 3)
    snapshots.roll_back(parts, 5)
    assert optimizer.param_groups[0]["d"] == 4.0
    assert optimizer.param_groups[0]["lr"] == 0.2


class Lookahead(torch.optim.Optimizer):
    """One of the many that hold another optimizer."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure=None):
        return self.inner.step(closure)


def test_the_state_of_a_wrapped_optimizer_is_restored():
    model = small_net()
    inner = torch.optim.Adam(model.parameters())
    optimizer = Lookahead(inner)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    train(model, optimizer, 2)
    saved = frozen(model, inner)
    snapshots.take(parts, 2)
    train(model, optimizer, 3)
    snapshots.roll_back(parts, 5)
    assert frozen(model, inner) == saved


class LookaheadOfSeveral(Lookahead):
    def __init__(self, *inner):
        super().__init__(inner[0])
        self.inner = list(inner)

    def step(self, closure=None):
        for each in self.inner:
            each.step()


def test_the_state_of_several_wrapped_optimizers_is_restored():
    model = small_net()
    inner = [torch.optim.Adam(part.parameters()) for part in (model[0], model[3])]
    optimizer = LookaheadOfSeveral(*inner)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    train(model, optimizer, 2)
    saved = frozen(model, *inner)
    snapshots.take(parts, 2)
    train(model, optimizer, 3)
    snapshots.roll_back(parts, 5)
    assert frozen(model, *inner) == saved


class KeepsStateToItself(torch.optim.Optimizer):
    """As hand-written ones do: `state` is not the only place."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.own = self.param_groups[0]["params"]
        self.count, self.log = 0, []
        self.velocity = [torch.zeros_like(p) for p in self.own]
        self.scale = {p: torch.ones(()) for p in self.own}

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        self.log.append(0.5)
        for p, velocity in zip(self.own, self.velocity, strict=True):
            self.scale[p] *= 0.9
            p -= 0.1 * self.scale[p] * velocity.mul_(0.9).add_(p.grad)


def test_state_that_an_optimizer_keeps_in_attributes_is_restored():
    model = small_net()
    optimizer = KeepsStateToItself(model.parameters())
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    train(model, optimizer, 2)
    saved = copy.deepcopy((optimizer.velocity, [*optimizer.scale.values()]))
    snapshots.take(parts, 2)
    train(model, optimizer, 3)
    snapshots.roll_back(parts, 5)
    now = (optimizer.velocity, [*optimizer.scale.values()])
    assert all(
        torch.equal(a, b) for some, then in zip(now, saved, strict=True) for a, b in zip(some, then, strict=True)
    )
    assert optimizer.count == 2
    assert len(optimizer.log) == 5  # what it wrote down is no state
    assert all(own is p for own, p in zip(optimizer.own, model.parameters(), strict=True))


def test_lbfgs_restores_its_history():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, history_size=4)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(16, 4, generator=generator), torch.randn(16, 2, generator=generator)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    snapshots, parts, saved = Snapshots(), parts_of(model, optimizer), frozen(model, optimizer)
    snapshots.take(parts, 1)
    once = [optimizer.step(closure).item() for _ in range(3)]
    snapshots.roll_back(parts, 4)
    assert frozen(model, optimizer) == saved
    assert [optimizer.step(closure).item() for _ in range(3)] == once


def test_a_scaler_is_restored():
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    snapshots, parts = Snapshots(), parts_of(model, optimizer, scalers=[scaler])

    def step():
        scaler.scale(model(torch.ones(2, 4)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    step()
    snapshots.take(parts, 1)
    saved = copy.deepcopy(scaler.state_dict())
    for _ in range(4):
        step()
    snapshots.roll_back(parts, 5)
    assert scaler.state_dict() == saved


def test_a_scaler_that_has_not_scaled_yet_is_left_alone():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    snapshots, parts = Snapshots(), parts_of(model, optimizer, scalers=[scaler])
    snapshots.take(parts, 1)
    scaler.scale(model(torch.ones(2, 4)).sum()).backward()
    snapshots.roll_back(parts, 2)
    assert scaler.get_scale() == 8.0


def test_tied_weights_are_held_once():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 1)
    assert snapshots.bytes == 8 * 4 * 4
    saved = frozen(model)
    model[0].weight.data.zero_()
    snapshots.roll_back(parts, 2)
    assert frozen(model) == saved
    assert model[1].weight is model[0].weight


def test_what_modules_or_state_share_is_held_once_and_stays_shared():
    model, shared = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(3)
    optimizer, count = torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(())
    for module in model:
        module.register_buffer("table", shared)
        optimizer.state[module.weight].update(count=count, of=module.weight)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 1)
    shared.add_(1)
    count.add_(1)
    snapshots.roll_back(parts, 2)
    assert snapshots.bytes == 4 * (2 * 6 + 3 + 1)
    assert model[0].table is model[1].table is shared
    held = [value for module in model for value in optimizer.state[module.weight].values()]
    assert all(a is b for a, b in zip(held, (count, model[0].weight, count, model[1].weight), strict=True))
    assert (shared.tolist(), count.item()) == ([0.0] * 3, 0.0)


def test_what_is_shared_only_since_the_snapshot_is_apart_again():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model[1].running_mean.fill_(1)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 1)
    model[1].running_mean = model[0].running_mean
    snapshots.roll_back(parts, 2)
    assert [module.running_mean.tolist() for module in model] == [[0.0, 0.0], [1.0, 1.0]]


def test_a_compiled_model_sees_the_restored_weights():
    model = nn.Linear(4, 2)
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snapshots, parts, inputs = Snapshots(), parts_of(compiled, optimizer), torch.ones(3, 4)
    before = compiled(inputs).detach().clone()
    snapshots.take(parts, 1)
    compiled(inputs).sum().backward()
    optimizer.step()
    assert not compiled(inputs).equal(before)
    snapshots.roll_back(parts, 2)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert compiled(inputs).equal(before)


KINDS = {
    "bfloat16": lambda: torch.randn(4, 3).bfloat16(),
    "complex": lambda: torch.randn(4, 3, dtype=torch.complex64),
    "sparse": lambda: torch.randn(4, 3).relu().to_sparse(),
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(4, 3).t(),
    "scalar": lambda: torch.tensor(3.0),
    "empty": lambda: torch.empty(0, 3),
    "negative zero": lambda: torch.tensor([-0.0, 0.0]),
    "integers": lambda: torch.arange(4),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_every_kind_of_tensor_is_restored(make):
    model = nn.Module()
    tensor = make()
    model.register_buffer("as_buffer", tensor.clone())
    if tensor.is_floating_point() or tensor.is_complex():
        model.as_parameter = nn.Parameter(tensor.clone())
    held = dict(model.state_dict(keep_vars=True))
    snapshots, parts, saved = Snapshots(), parts_of(model), frozen(model)
    snapshots.take(parts, 1)
    for each in held.values():
        each.data = each.data.clone()  # a tensor may get other memory; it is the tensor that counts
        with torch.no_grad():
            each.zero_()
    snapshots.roll_back(parts, 2)
    assert frozen(model) == saved
    assert all(model.state_dict(keep_vars=True)[name] is each for name, each in held.items())


VIEWS = {
    "conjugate": (lambda: torch.randn(3, dtype=torch.complex64), torch.conj),
    "negative": (lambda: torch.randn(3), torch._neg_view),
    "expanded": (lambda: torch.randn(1), lambda tensor: tensor.expand(3)),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_that_cannot_be_written_to_is_no_obstacle(kind):
    make, view = VIEWS[kind]
    model = nn.Linear(3, 2)
    model.register_buffer("as_buffer", view(make()))
    model.frozen = nn.Parameter(view(make()), requires_grad=False)
    before = model.as_buffer.clone(), model.weight.detach().clone()
    snapshots, parts = Snapshots(), parts_of(model)
    snapshots.take(parts, 1)
    model.weight.data.zero_()
    model.as_buffer = view(make())
    snapshots.roll_back(parts, 2)
    assert model.as_buffer.equal(before[0])
    assert model.weight.equal(before[1])


def test_a_parameter_that_cannot_be_written_to_and_has_changed_is_refused_and_nothing_changed():
    model = nn.Sequential(nn.Linear(3, 2), nn.Module())
    memory = torch.zeros(1)
    model[1].frozen = nn.Parameter(memory.expand(3), requires_grad=False)
    snapshots, parts = Snapshots(), parts_of(model)
    snapshots.take(parts, 1)
    model[0].weight.data.zero_()
    memory.fill_(1.0)
    with pytest.raises(Refused, match="a view that cannot be written to"):
        snapshots.roll_back(parts, 2)
    assert not model[0].weight.any()


NOT_COPIED = {
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "mkldnn": lambda: torch.ones(2, 2).to_mkldnn(),
    "four bits": lambda: torch.empty(2, dtype=torch.uint4),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.parametrize("make", NOT_COPIED.values(), ids=NOT_COPIED)
def test_a_tensor_of_a_kind_that_is_not_copied_is_refused(make):
    model = nn.Linear(2, 2)
    model.register_buffer("odd", make())
    with pytest.raises(Refused, match=r"of these are not made|cannot be copied"):
        Snapshots().take(parts_of(model), 1)


def test_a_buffer_that_a_module_replaces_is_restored():
    model = nn.Linear(2, 2)
    model.register_buffer("hidden", torch.zeros(3))
    snapshots, parts = Snapshots(), parts_of(model)
    snapshots.take(parts, 1)
    model.hidden = torch.ones(5)
    snapshots.roll_back(parts, 2)
    assert model.hidden.equal(torch.zeros(3))
    model.hidden.fill_(9.0)  # it is the model's own now
    snapshots.roll_back(parts, 3)
    assert model.hidden.equal(torch.zeros(3))


def test_a_buffer_that_carries_a_graph_is_replaced_and_not_written_to():
    model = nn.Linear(2, 2)
    model.register_buffer("hidden", torch.zeros(2))
    snapshots, parts = Snapshots(), parts_of(model)
    snapshots.take(parts, 1)
    model.hidden = torch.ones(2, requires_grad=True).exp()
    carried = model.hidden
    snapshots.roll_back(parts, 2)
    carried.sum().backward()
    assert model.hidden.equal(torch.zeros(2))


def test_parameters_without_a_model_are_restored():
    weight = nn.Parameter(torch.randn(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    snapshots, parts, saved = Snapshots(), Parts(optimizers={"0": optimizer}), weight.tolist()
    snapshots.take(parts, 1)
    weight.data.zero_()
    snapshots.roll_back(parts, 2)
    assert weight.tolist() == saved


def test_a_parameter_of_another_shape_is_refused_and_nothing_changed():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    snapshots, parts = Snapshots(), parts_of(model, optimizer)
    snapshots.take(parts, 1)
    model.bias.data.fill_(7.0)
    model.weight.data = torch.zeros(3, 4)
    with pytest.raises(Refused, match=r"shape \(3, 4\).*had \(2, 4\)"):
        snapshots.roll_back(parts, 2)
    assert model.bias.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("is_held", [True, False])
def test_a_parameter_put_in_the_place_of_another_is_refused_and_nothing_changed(is_held):
    """As by programs that grow or prune, whose state goes over to the new one."""
    optimizer = torch.optim.Adam([{"params": [nn.Parameter(torch.ones(3))]} for _ in range(2)])
    snapshots, parts = Snapshots(), Parts(optimizers={"0": optimizer})
    for group in optimizer.param_groups:
        group["params"][0].grad = torch.ones(3)
    optimizer.step()
    snapshots.take(parts, 1)
    group = optimizer.param_groups[1]
    old, group["params"] = group["params"][0], [nn.Parameter(torch.zeros(5))]
    optimizer.state[group["params"][0]] = {k: v.new_zeros(5) for k, v in optimizer.state.pop(old).items()}
    if not is_held:
        del old
    before = frozen(optimizer)
    with pytest.raises(Refused, match="put in the place of others"):
        snapshots.roll_back(parts, 2)
    assert frozen(optimizer) == before
    snapshots.take(parts, 3)
    snapshots.roll_back(parts, 4)


def test_a_parameter_without_data_is_refused():
    model = nn.Linear(4, 2, device="meta")
    with pytest.raises(Refused, match="meta device"):
        Snapshots().take(parts_of(model), 1)


def test_state_that_cannot_be_copied_is_refused():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.weight]["stream"] = (each for each in ())
    with pytest.raises(Refused, match="generator that cannot be copied"):
        Snapshots().take(parts_of(model, optimizer), 1)


def test_a_user_default_device_has_no_say():
    model = nn.Linear(4, 2)
    snapshots, parts, saved = Snapshots(), parts_of(model), frozen(model)
    with torch.device("meta"):
        snapshots.take(parts, 1)
        model.weight.data.zero_()
        snapshots.roll_back(parts, 2)
    assert frozen(model) == saved


def test_a_model_that_is_gone_is_let_go():
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    snapshots, saved = Snapshots(), frozen(other)
    snapshots.take(Parts(models={"a": model, "b": other}, optimizers={}), 1)
    del model
    other.weight.data.zero_()
    snapshots.roll_back(Parts(models={"b": other}, optimizers={}), 2)
    assert frozen(other) == saved


def test_taking_draws_nothing_and_changes_nothing():
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    saved, generator = frozen(model, optimizer), torch.get_rng_state()
    versions = [parameter._version for parameter in model.parameters()]
    Snapshots(rng=True).take(parts_of(model, optimizer), 2)
    assert frozen(model, optimizer) == saved
    assert torch.get_rng_state().equal(generator)
    assert [parameter._version for parameter in model.parameters()] == versions


def test_no_other_thread_runs_a_backward_while_graphs_are_looked_at(model):
    said = []

    @contextlib.contextmanager
    def still():
        said.append("still")
        yield
        said.append("over")

    snapshots = Snapshots(still=still(), alone=lambda: bool(said.append("asked")) or True)
    snapshots._averages.search = lambda parts: said.append("looked") or []
    assert snapshots.may_restore(parts_of(model))
    assert said == ["still", "asked", "looked", "over"]
