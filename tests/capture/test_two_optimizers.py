"""A loss belongs to the optimizers whose parameters its graph reaches."""

import copy
import gc
import math
import weakref

import pytest
import torch
from kinds_of_loops import Loop, on_and_on
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from trimtab.sample import books, spacing
from trimtab.types import Epoch, Step

pytestmark = pytest.mark.usefixtures("warmth")

STEPS = 5


class Gan:
    """A generator and a discriminator, and the two losses of one round."""

    def __init__(self):
        self.generator, self.discriminator = nn.Linear(2, 4), nn.Linear(4, 1)
        self.of_generator = torch.optim.SGD(self.generator.parameters(), lr=0.01)
        self.of_discriminator = torch.optim.SGD(self.discriminator.parameters(), lr=0.02)
        self.noise, self.real = torch.randn(8, 2), torch.randn(8, 4)

    def generator_loss(self):
        return (self.discriminator(self.generator(self.noise)) - 1).square().mean()

    def discriminator_loss(self):
        fake = self.discriminator(self.generator(self.noise).detach())
        return fake.square().mean() + (self.discriminator(self.real) - 1).square().mean()


@pytest.fixture
def gan():
    return Gan()


def train_in_rounds_of_four_calls(gan):
    """Every fourth call of the loss is about what is real, and so would those be that are read. All is taken for it."""

    def loss(samples, label):
        logits = gan.discriminator(samples)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    nn.init.zeros_(gan.discriminator.weight)
    nn.init.ones_(gan.discriminator.bias)
    gan.of_discriminator.param_groups[0]["lr"] = 0.0
    for _ in range(40):
        gan.of_discriminator.zero_grad()
        ((loss(gan.real, 1.0) + loss(gan.generator(gan.noise).detach(), 0.0)) / 2).backward()
        gan.of_discriminator.step()
        for _ in range(2):
            gan.of_generator.zero_grad()
            loss(gan.generator(gan.noise), 1.0).backward()
            gan.of_generator.step()


def test_accuracy_of_a_step_is_over_all_calls_of_its_loss(watching, gan):
    with watching(gradients_every=None) as seen:
        train_in_rounds_of_four_calls(gan)
    assert {step.accuracy for step in seen.steps("0")} - {None} == {0.5}


def test_labels_are_counted_over_all_calls_of_a_step(watching, gan):
    with watching(act="process", policies=[]) as seen:  # so that each step is judged at once
        train_in_rounds_of_four_calls(gan)
    assert seen.steps("0")[-1].loss_at_chance == pytest.approx(math.log(2), rel=0.02)


def test_gan_with_backward_and_step_in_turn(watching, gan):
    expected = {"0": [], "1": []}
    with watching() as seen:
        for _ in range(STEPS):
            gan.of_discriminator.zero_grad()
            loss = gan.discriminator_loss()
            loss.backward()
            gan.of_discriminator.step()
            expected["0"].append(loss.item())
            gan.of_generator.zero_grad()
            loss = gan.generator_loss()
            loss.backward()
            gan.of_generator.step()
            expected["1"].append(loss.item())
    assert seen.losses("0") == pytest.approx(expected["0"])
    assert seen.losses("1")[1:] == pytest.approx(expected["1"][1:])
    assert seen.losses("1")[0] in (None, pytest.approx(expected["1"][0]))  # that it reaches both was not known yet


def test_gan_with_both_backwards_before_both_steps(watching, gan):
    with watching() as seen:
        for _ in range(STEPS):
            generator_loss, discriminator_loss = gan.generator_loss(), gan.discriminator_loss()
            gan.of_generator.zero_grad()
            generator_loss.backward(inputs=list(gan.generator.parameters()))
            gan.of_discriminator.zero_grad()
            discriminator_loss.backward()
            gan.of_generator.step()
            gan.of_discriminator.step()
    assert seen.losses("0")[-1] == pytest.approx(generator_loss.item())
    assert seen.losses("1")[-1] == pytest.approx(discriminator_loss.item())


def test_loss_that_reaches_parameters_of_another_optimizer_counts_there_too(watching, gan):
    """`G.backward, D.backward, G.step, D.step` without clearing in between: D applies both gradients."""
    with watching() as seen:
        for _ in range(STEPS):
            gan.of_generator.zero_grad()
            gan.of_discriminator.zero_grad()
            generator_loss, discriminator_loss = gan.generator_loss(), gan.discriminator_loss()
            generator_loss.backward()
            discriminator_loss.backward()
            gan.of_generator.step()
            gan.of_discriminator.step()
    assert seen.losses("0")[-1] == pytest.approx(generator_loss.item())
    assert seen.losses("1")[-1] == pytest.approx(generator_loss.item() + discriminator_loss.item())


def test_gradients_cleared_between_two_backwards_take_their_loss_with_them(watching, gan):
    """The generator's loss also reaches the discriminator, which then clears it and never applies it."""
    with watching() as seen:
        for _ in range(STEPS):
            gan.of_generator.zero_grad()
            gan.generator_loss().backward()
            gan.of_generator.step()
            gan.of_discriminator.zero_grad()
            loss = gan.discriminator_loss()
            loss.backward()
            gan.of_discriminator.step()
    assert seen.losses("1")[-1] == pytest.approx(loss.item())
    assert all(step.micro_steps == 1 for step in seen.steps("1"))


def test_master_weights_are_given_no_loss_of_an_optimizer_that_came_later(watching, gan):
    """Gradients are moved to them from the model's own parameters, so that none is left to tell who was reached."""
    weights = list(gan.generator.parameters())
    masters = [p.detach().clone().requires_grad_() for p in weights]
    of_masters, losses = torch.optim.SGD(masters, lr=0.01), []

    def train(beside):
        of_masters.zero_grad()
        loss = gan.generator(gan.noise).square().mean()
        loss.backward()
        losses.append(loss.item())
        if beside:
            gan.of_discriminator.zero_grad()
            gan.discriminator_loss().backward()
        for master, weight in zip(masters, weights, strict=True):
            master.grad, weight.grad = weight.grad, None
        of_masters.step()
        if beside:
            gan.of_discriminator.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)

    with watching() as seen:
        for at in range(2 * STEPS):
            train(beside=at >= STEPS)
    said = seen.losses("0")
    del losses[STEPS], said[STEPS]  # by then the other had never stepped
    assert said[:STEPS] == pytest.approx(losses[:STEPS])
    assert all(found in (None, pytest.approx(own)) for found, own in zip(said, losses, strict=True))  # or not known


def test_joint_loss_belongs_to_both(watching, gan):
    expected = []
    with watching() as seen:
        for _ in range(STEPS):
            gan.of_generator.zero_grad()
            gan.of_discriminator.zero_grad()
            loss = gan.generator_loss()
            loss.backward()
            gan.of_generator.step()
            gan.of_discriminator.step()
            expected.append(loss.item())
    assert seen.losses("0") == seen.losses("1") == pytest.approx(expected)


def test_each_optimizer_has_its_own_rate_and_gradient(watching, gan):
    with watching() as seen:
        gan.generator_loss().backward()
        norms = [
            nn.utils.get_total_norm([p.grad for p in module.parameters()]).item()
            for module in (gan.generator, gan.discriminator)
        ]
        gan.of_generator.step()
        gan.of_discriminator.step()
    both = [*seen.steps("0"), *seen.steps("1")]
    assert [step.learning_rate for step in both] == [[0.01], [0.02]]
    assert [step.gradient_norm for step in both] == pytest.approx(norms)


def test_global_step_is_that_of_the_busiest_optimizer(watching, gan):
    with watching() as seen:
        for index in range(6):
            gan.discriminator_loss().backward()
            gan.of_discriminator.step()
            if index % 3 == 2:
                gan.generator_loss().backward()
                gan.of_generator.step()
    assert seen.end.step == 6
    assert seen.end.totals["steps"] == {"0": 6, "1": 2}


def test_optimizers_are_named_where_a_name_was_given(watching, gan):
    with watching() as seen:
        seen.run.attach(optimizer={"generator": gan.of_generator})
        gan.generator_loss().backward()
        gan.of_discriminator.step()
        gan.of_generator.step()
    assert seen.optimizers == ["0", "generator"]


@pytest.mark.parametrize("cleared", ["before backward", "after step"])
def test_third_optimizer_that_appears_later_has_its_loss(watching, gan, cleared):
    late = nn.Parameter(torch.ones(3))
    with watching() as seen:
        for _ in range(30):
            if cleared == "before backward":
                gan.of_discriminator.zero_grad()
            gan.discriminator_loss().backward()
            gan.of_discriminator.step()
            if cleared == "after step":
                gan.of_discriminator.zero_grad()
        optimizer, expected = torch.optim.SGD([late], lr=0.1), []
        for _ in range(3):
            optimizer.zero_grad()
            loss = late.square().sum()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert seen.losses("1") == pytest.approx(expected)


def test_loss_that_reaches_no_known_optimizer_is_nobodys(watching, gan):
    """A detour between two steps, as of an adversarial attack or a learned temperature."""
    stray = nn.Parameter(torch.ones(3))
    with watching() as seen:
        expected = []
        for _ in range(30):
            loss = gan.discriminator_loss()
            loss.backward()
            gan.of_discriminator.step()
            gan.of_discriminator.zero_grad()
            stray.square().sum().backward()
            expected.append(loss.item())
    assert seen.losses("0") == pytest.approx(expected)
    assert {step.micro_steps for step in seen.steps("0")} == {1}


def test_optimizer_replaced_in_the_middle_takes_over_its_loss(watching, model, inputs):
    first = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching() as seen:
        model(inputs).square().mean().backward()
        first.step()
        second = torch.optim.Adam(model.parameters())
        for _ in range(2):
            second.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            second.step()
    assert len(seen.steps("0")) == 1
    assert seen.losses("1")[-1] == pytest.approx(loss.item())


def test_index_of_an_optimizer_that_is_gone_is_used_again(watching, model, inputs):
    with watching() as seen:
        for _ in range(3):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
            del optimizer
            gc.collect()
    assert seen.optimizers == ["0"]
    assert len(seen.steps("0")) == 3
    assert seen.losses("0")[-1] == pytest.approx(loss.item())


def test_parameters_of_an_optimizer_that_is_gone_are_let_go(watching):
    with watching():
        for _ in range(2):
            parameter = nn.Parameter(torch.ones(3))
            optimizer = torch.optim.SGD([parameter], lr=0.1)
            parameter.square().sum().backward()
            optimizer.step()
            kept = weakref.ref(parameter)
            del parameter, optimizer
            gc.collect()
        other = nn.Parameter(torch.ones(3))
        other.square().sum().backward()
        torch.optim.SGD([other], lr=0.1).step()
        assert kept() is None


@pytest.mark.parametrize("is_in_lane", [True, False])
def test_parameters_are_let_go_as_soon_as_their_optimizer_is(watching, monkeypatch, is_in_lane):
    monkeypatch.setattr(spacing, "WARM_UP_STEPS", 4)
    with watching(gradients_every=1000 if is_in_lane else 1):
        loop = Loop()
        on_and_on(loop)
        kept = [weakref.ref(p) for p in loop.model.parameters()]
        del loop
        gc.collect()
        assert [known() for known in kept] == [None] * len(kept)


def test_parameters_of_a_step_that_raised_are_let_go(watching, model, inputs, labels):
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("no")

    with watching():
        optimizer = Failing(model.parameters(), lr=0.1)
        F.cross_entropy(model(inputs), labels).backward()
        with pytest.raises(RuntimeError, match="no"):
            optimizer.step()
        kept = [weakref.ref(p) for p in model.parameters()]
        for module in model:
            module._parameters.clear()
        del optimizer
        gc.collect()
        assert [known() for known in kept] == [None] * 4


def test_last_record_of_an_optimizer_that_is_gone_has_its_weight_decay(watching, monkeypatch):
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 60.0)
    parameter = nn.Parameter(torch.ones(3))
    with watching() as seen:
        parameter.square().sum().backward()
        torch.optim.SGD([parameter], lr=0.1, weight_decay=0.25).step()
        gc.collect()
    assert seen.steps()[0].weight_decay == [0.25]


def test_optimizer_that_takes_over_from_one_that_is_gone_has_the_losses_that_were_on_their_way(watching):
    parameter = nn.Parameter(torch.ones(3))
    with watching() as seen:
        for kind in (torch.optim.SGD, torch.optim.Adam):
            optimizer = kind([parameter], lr=0.1)
            parameter.grad = None
            loss = parameter.square().sum()
            loss.backward()
            optimizer.step()
        del optimizer
        gc.collect()
        parameter.grad = None
        losses = [parameter.square().sum() for _ in range(2)]
        for each in losses:
            each.backward()
        torch.optim.SGD([parameter], lr=0.1).step()
    assert seen.losses()[-1] == pytest.approx(sum(each.item() for each in losses))
    assert seen.steps()[-1].micro_steps == 2


def test_parameter_that_has_the_id_of_a_leaf_that_is_gone_has_not_its_loss(watching):
    with watching() as seen:
        leaf = torch.ones(3, requires_grad=True)
        leaf.sum().backward()
        address = id(leaf)
        del leaf
        others = [torch.ones(3, requires_grad=True)]
        while id(others[-1]) != address:
            others.append(torch.ones(3, requires_grad=True))
        others[-1].grad = torch.ones(3)
        torch.optim.SGD([others[-1]], lr=0.1).step()
    assert seen.losses() == [None]


def test_optimizer_without_parameters_is_none(watching):
    loop, empty = Loop(), torch.optim.SGD([{"params": []}], lr=0.1)
    with watching() as seen:
        empty.step()
        loop.step(loop.loss())
        empty.step()
        empty.add_param_group({"params": [late := nn.Parameter(torch.ones(1))]})
        late.sum().backward()
        empty.step()
    assert [len(seen.steps(label)) for label in ("0", "1")] == [1, 1]


@pytest.mark.parametrize("dry", [lambda: torch.device("meta"), FakeTensorMode])
def test_dry_run_without_values_is_no_training(watching, dry):
    with watching() as seen:
        with dry():
            rehearsal = Loop()
            for _ in range(3):
                loss = rehearsal.loss()
                torch.autograd.backward([loss, loss.square()], retain_graph=True)
                nn.utils.clip_grad_norm_(rehearsal.model.parameters(), 1.0)
                rehearsal.step(loss)
        loop, losses = Loop(), []
        for _ in range(3):
            losses.append(loop.loss())
            loop.step(losses[-1])
    assert seen.losses() == pytest.approx([loss.item() for loss in losses])
    assert seen.steps()[0].gradient_preclip_norm is None
    assert seen.optimizers == ["0"]


def test_layers_of_two_models_of_one_kind_have_names_of_their_own(watching):
    actor, critic = nn.Linear(2, 1), nn.Linear(2, 1)
    with watching() as seen:
        for module in (actor, critic):
            module(torch.ones(1, 2)).sum().backward()
        optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (actor, critic)]
        for optimizer in optimizers:
            optimizer.step()
    assert list(seen.steps("0")[0].layers) == ["weight", "bias"]
    assert list(seen.steps("1")[0].layers) == ["Linear.weight", "Linear.bias"]


class Fold:
    """One of several models that are trained one after the other, and kept."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.model = nn.Linear(4, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.inputs, self.labels = torch.randn(12, 4), torch.arange(12) % 3
        self.batches = DataLoader(TensorDataset(self.inputs, self.labels), batch_size=4)
        self.losses = []

    def train(self, under_closure=False):
        for inputs, labels in self.batches:

            def closure(inputs=inputs, labels=labels):
                loss = F.cross_entropy(self.model(inputs), labels)
                self.optimizer.zero_grad()
                loss.backward()
                self.losses.append(loss.item())
                return loss

            if under_closure:
                self.optimizer.step(closure)
            else:
                closure()
                self.optimizer.step()

    def validate(self):
        self.model.eval()
        with torch.no_grad():
            loss = F.cross_entropy(self.model(self.inputs[:6]), self.labels[:6])
        self.model.train()
        return loss.item()


@pytest.mark.parametrize("under_closure", [False, True])
def test_epochs_of_every_fold_that_is_kept_have_its_training_loss(watching, under_closure):
    folds = [Fold(0), Fold(1), Fold(2)]
    with watching() as seen:
        for fold in folds:
            fold.train(under_closure)
    epochs = seen.backend.of(Epoch)
    assert [epoch.train.loss for epoch in epochs] == pytest.approx([sum(f.losses) / 3 for f in folds])
    assert [epoch.step for epoch in epochs] == [3, 6, 9]


def test_fold_in_training_is_not_taken_for_evaluated_since_a_kept_one_is_in_eval_mode(watching):
    first, second = Fold(0), Fold(1)
    with watching() as seen:
        first.train()
        first.validate()
        first.model.eval()
        for _ in range(2):
            second.train()
            expected = second.validate()
    epoch = seen.backend.of(Epoch)[-1]
    assert (epoch.train.accuracy_samples or epoch.train.samples) == 12
    assert epoch.validation.loss == pytest.approx(expected)


def test_second_model_is_compared_by_its_own_loss_from_its_first_epoch(watching):
    first, second = Fold(0), Fold(1)
    with watching() as seen:
        for inputs, labels in first.batches:
            loss = F.binary_cross_entropy_with_logits(first.model(inputs), F.one_hot(labels, 3).float())
            first.optimizer.zero_grad()
            (loss + first.model.weight.square().mean()).backward()
            first.optimizer.step()
        for inputs, labels in second.batches:
            loss = F.cross_entropy(second.model(inputs), labels)
            second.losses.append(loss.item())
            second.optimizer.zero_grad()
            (loss + 1).backward()
            second.optimizer.step()
    epoch = seen.backend.of(Epoch)[-1]
    assert epoch.train.criterion == pytest.approx(sum(second.losses[1:]) / 2)  # its first step is met after its loss
    assert epoch.train.accuracy_samples == 8


def test_second_stage_of_the_same_model_counts_steps_on_though_the_first_optimizer_is_kept(watching):
    fold = Fold(0)
    head = fold.optimizer
    with watching() as seen:
        fold.train()
        fold.optimizer = torch.optim.SGD(fold.model.parameters(), lr=0.05)
        fold.train()
        fold.train()
    assert [epoch.step for epoch in seen.backend.of(Epoch)] == [3, 6, 9]
    assert head.param_groups[0]["lr"] == 0.1


def test_lbfgs_after_adam_counts_steps_on_in_a_loop_over_tensors(watching):
    """As networks for differential equations are trained: neither a loader nor a validation ends an epoch."""
    model, x = nn.Linear(2, 1), torch.randn(8, 2)
    adam, lbfgs = torch.optim.Adam(model.parameters()), torch.optim.LBFGS(model.parameters())

    def closure():
        model.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        return loss

    with watching() as seen:
        for _ in range(30):
            adam.step(closure)
        for _ in range(3):
            lbfgs.step(closure)
    assert [step.step for step in seen.backend.of(Step) if step.optimizer == "1"][-1] == 33


def test_optimizers_of_shared_weights_that_take_turns_count_those_of_one(watching):
    shared = nn.Linear(2, 2)
    heads = [nn.Linear(2, 1), nn.Linear(2, 1)]
    optimizers = [torch.optim.SGD([*shared.parameters(), *head.parameters()], lr=0.01) for head in heads]
    with watching() as seen:
        for _ in range(30):
            for head, optimizer in zip(heads, optimizers, strict=True):
                optimizer.zero_grad()
                head(shared(torch.randn(8, 2))).square().mean().backward()
                optimizer.step()
    assert seen.backend.of(Step)[-1].step == 30


def train_on_one_loss(model, rounds):
    """As with Muon for the matrices and Adam for the rest. Returns the optimizers."""
    inputs, labels = torch.randn(6, 4), torch.arange(6) % 3
    optimizers = [torch.optim.SGD([p for p in model.parameters() if p.ndim == ndim], lr=0.1) for ndim in (2, 1)]
    model.train()
    for _ in range(rounds):
        model.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
    model.eval()
    with torch.no_grad():
        F.cross_entropy(model(-inputs), labels)
    return optimizers


def another_model(model):
    return nn.Linear(4, 3)


def drawn_anew(model):
    model.reset_parameters()
    return model


def as_it_is(model):
    return model


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("then", [another_model, drawn_anew, as_it_is])
def test_later_trainings_with_two_optimizers_count_each_round_once(watching, then, is_kept):
    model, kept = nn.Linear(4, 3), []
    with watching() as seen:
        for _ in range(3):
            optimizers = train_on_one_loss(model, rounds=30)
            kept += optimizers if is_kept else []
            del optimizers
            model = then(model)
    trained = [step for step in seen.backend.of(Step) if step.phase == "train"]
    assert [step.step for step in trained if step.optimizer in "024"] == list(range(1, 91))
    assert [step.step for step in trained if step.optimizer in "135"] == list(range(1, 91))
    assert [epoch.step for epoch in seen.epochs] == [30, 60, 90]
    assert seen.end.step == 90


def test_weights_and_states_that_are_put_back_for_two_optimizers_count_each_round_once(watching):
    model, inputs = nn.Linear(4, 3), torch.randn(6, 4)
    optimizers = [torch.optim.SGD([parameter], lr=0.1) for parameter in (model.weight, model.bias)]
    parts = [model, *optimizers]
    first = [copy.deepcopy(part.state_dict()) for part in parts]
    with watching() as seen:
        for _ in range(3):
            for part, state in zip(parts, first, strict=True):
                part.load_state_dict(state)
            for _ in range(STEPS):
                model.zero_grad()
                (model(inputs) - 1).square().mean().backward()
                for optimizer in optimizers:
                    optimizer.step()
    assert [step.step for step in seen.steps("0")] == list(range(1, 3 * STEPS + 1))
    assert [step.step for step in seen.steps("1")] == list(range(1, 3 * STEPS + 1))


@pytest.mark.parametrize("order", [1, -1], ids=["discriminator first", "generator first"])
@pytest.mark.parametrize("often", [1, 3])
def test_later_gans_count_the_steps_of_the_busiest_optimizer(watching, order, often):
    with watching() as seen:
        for _ in range(3):
            gan = Gan()
            turns = [(gan.of_discriminator, gan.discriminator_loss, often), (gan.of_generator, gan.generator_loss, 1)]
            for _ in range(STEPS):
                for optimizer, loss, times in turns[::order]:
                    for _ in range(times):
                        optimizer.zero_grad()
                        loss().backward()
                        optimizer.step()
            with torch.no_grad():
                F.mse_loss(gan.generator(gan.noise), gan.real)
            del gan, turns, optimizer, loss
    assert [epoch.step for epoch in seen.epochs] == [STEPS * often * fold for fold in (1, 2, 3)]
    assert seen.end.step == max(seen.end.totals["steps"].values()) == 3 * STEPS * often


def test_later_training_counts_the_warm_up_of_one_optimizer_before_the_other(watching):
    with watching() as seen:
        for _ in range(2):
            gan = Gan()
            for index in range(2 * STEPS):
                gan.of_discriminator.zero_grad()
                gan.discriminator_loss().backward()
                gan.of_discriminator.step()
                if index >= STEPS:
                    gan.of_generator.zero_grad()
                    gan.generator_loss().backward()
                    gan.of_generator.step()
            with torch.no_grad():
                F.mse_loss(gan.generator(gan.noise), gan.real)
            del gan
    assert [step.step for step in seen.steps("0")] == list(range(1, 4 * STEPS + 1))
    assert seen.end.step == 4 * STEPS


def test_later_training_is_compared_by_the_loss_of_its_first_optimizer_as_the_one_before_it(watching):
    inputs = torch.randn(6, 4)
    with watching() as seen:
        for _ in range(2):
            actor, critic = nn.Linear(4, 4), nn.Linear(4, 1)
            optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (actor, critic)]
            for _ in range(STEPS):
                losses = F.smooth_l1_loss(actor(inputs), inputs), F.mse_loss(critic(inputs), inputs[:, :1])
                for optimizer, loss in zip(optimizers, losses, strict=True):
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            with torch.no_grad():
                expected = F.smooth_l1_loss(actor(-inputs), inputs).item()
                F.mse_loss(critic(-inputs), inputs[:, :1])
            del actor, critic, optimizers, optimizer
    assert seen.validations[-1].loss == pytest.approx(expected)


def test_optimizer_that_takes_turns_by_the_epoch_goes_on_under_its_label(watching):
    first, second = Fold(0), Fold(1)
    with watching() as seen:
        for _ in range(3):
            first.train()
            second.train()
    assert seen.losses("0") == pytest.approx(first.losses)
    assert seen.losses("1") == pytest.approx(second.losses)
    newest = {event.optimizer: event for event in seen.backend.of(Step)}
    assert newest["0"].loss_ema != pytest.approx(first.losses[6], rel=0.01)  # it did not begin anew each time


def test_epoch_tells_of_the_network_and_not_of_what_is_trained_beside_it(watching):
    """As in a search for an architecture, whose weights step first, on other batches."""
    net, beside = nn.Linear(4, 1), nn.Parameter(torch.zeros(4))
    of_net, of_beside = torch.optim.SGD(net.parameters(), lr=0.1), torch.optim.SGD([beside], lr=0.1)
    own = []
    with watching() as seen:
        for _ in range(3):
            losses = []
            for (inputs,) in DataLoader(TensorDataset(torch.randn(12, 4)), batch_size=4):
                of_beside.zero_grad()
                (100 + net(torch.randn(4, 4) * beside).square().mean()).backward()
                of_beside.step()
                of_net.zero_grad()
                loss = (net(inputs * (1 + beside)) - 1).square().mean()
                loss.backward()
                of_net.step()
                losses.append(loss.item())
            own.append(sum(losses) / 3)
    told = [epoch.train.loss for epoch in seen.epochs]
    assert told[1:] == pytest.approx(own[1:])  # the first step of what joins later may have no loss


@pytest.mark.parametrize("order", [1, -1], ids=["small first", "large first"])
def test_epoch_knows_the_samples_of_a_loss_that_two_optimizers_step_on(watching, order):
    """As with Muon for the matrices and Adam for the rest."""
    model, inputs = nn.Linear(4, 3), torch.randn(12, 4)
    labels = inputs[:, :3].argmax(1)
    optimizers = [torch.optim.Adam([model.bias]), torch.optim.SGD([model.weight], lr=0.01)][::order]
    own = []
    with watching() as seen:
        for _ in range(2):
            losses = []
            for batch, targets in DataLoader(TensorDataset(inputs, labels), batch_size=5):
                model.zero_grad()
                loss = F.cross_entropy(model(batch), targets, reduction="sum")
                loss.backward()
                losses.append(loss.item())
                for optimizer in optimizers:
                    optimizer.step()
            own.append(sum(losses) / 12)
    assert [epoch.train.samples for epoch in seen.epochs] == [12, 12]
    assert [epoch.train.criterion for epoch in seen.epochs] == pytest.approx(own)
    assert all(epoch.train.accuracy is not None for epoch in seen.epochs)


def wgan(critic, generator, number):
    """Every third batch the generator learns, too."""
    yield critic
    if number % 3 == 0:
        yield generator


def one_for_each_batch(first, second, number):
    yield (first, second)[number % 2]


def twins(first, second, number):
    yield from (first, second)


@pytest.mark.parametrize("turns", [wgan, one_for_each_batch, twins])
@pytest.mark.parametrize("order", [1, -1], ids=["small first", "large first"])
def test_epoch_has_the_samples_that_its_loader_brought_for_whichever_optimizer(watching, turns, order):
    networks = [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))][::order]
    pairs = [(network, torch.optim.SGD(network.parameters(), lr=0.01)) for network in networks]
    with watching() as seen:
        for _ in range(3):
            for number, (batch,) in enumerate(DataLoader(TensorDataset(torch.randn(22, 4)), batch_size=4)):
                for network, optimizer in turns(*pairs, number):
                    optimizer.zero_grad()
                    F.mse_loss(network(batch), batch[:, :1]).backward()
                    optimizer.step()
    assert [epoch.train.samples for epoch in seen.epochs] == [22, 22, 22]
    assert max(event.totals.samples for event in seen.backend.of(Step)) == 66


def test_epoch_of_twins_without_a_loader_counts_the_targets_of_one(watching):
    """Each has a loss of its own over them."""
    inputs, networks = torch.randn(20, 4), [nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))]
    pairs = [(network, torch.optim.SGD(network.parameters(), lr=0.01)) for network in networks]
    with watching() as seen:
        for _ in range(3):
            for batch in inputs.split(5):
                for network, optimizer in pairs:
                    optimizer.zero_grad()
                    F.mse_loss(network(batch), batch[:, :1]).backward()
                    optimizer.step()
            with torch.no_grad():
                F.mse_loss(networks[1](inputs), inputs[:, :1])
    assert [epoch.train.samples for epoch in seen.epochs] == [20, 20, 20]


def test_generator_that_joins_in_the_second_epoch_is_no_other_training(watching, gan):
    with watching() as seen:
        for epoch in range(3):
            for _ in DataLoader(gan.real, batch_size=4):
                gan.of_generator.zero_grad()
                gan.of_discriminator.zero_grad()
                gan.discriminator_loss().backward()
                if epoch:
                    gan.generator_loss().backward(inputs=list(gan.generator.parameters()))
                    gan.of_generator.step()
                gan.of_discriminator.step()
    newest = {event.optimizer: event for event in seen.backend.of(Step)}
    assert newest["0"].step == 6
    assert newest["0"].totals.steps == 6
    assert newest["1"].step in (5, 6)
    assert all(epoch.train.loss > 0.5 for epoch in seen.backend.of(Epoch))


def test_gradient_replaced_by_hand_after_a_backward_does_not_add_losses_up(watching, model, inputs):
    """GradNorm: the weights of the terms get the gradient of another objective, by `torch.autograd.grad`."""
    weights = nn.Parameter(torch.ones(2))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD([weights], lr=0.1)]
    losses = []
    with watching() as seen:
        for _ in range(6):
            outputs = model(inputs)
            loss = (weights * torch.stack([outputs.square().mean(), outputs.abs().mean()])).sum()
            optimizers[0].zero_grad()
            loss.backward(retain_graph=True)
            weights.grad = None
            weights.grad = torch.autograd.grad(loss.square(), weights)[0]
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
    assert seen.losses("0") == pytest.approx(losses)
    assert seen.losses("1") == pytest.approx(losses)
    assert {step.micro_steps for step in seen.steps("1")} == {1}
