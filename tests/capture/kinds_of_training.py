"""Trainings of kinds that loops seldom are, each with what it saw itself: a list of losses for every optimizer.

`norms` are those of the gradients that the first optimizer applied, `models` whatever must be the same bit for bit.
"""

import copy
import functools
import itertools
import queue
import random
import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Own:
    """What a training saw itself."""

    models: list[nn.Module]
    losses: list[list[float | None]]
    norms: list[float] | None = None
    epochs: int | None = None
    validation: list[float] | None = None
    rates: list[float] | None = None
    preclip: list[float] = field(default_factory=list)


def mlp(*sizes, activation=nn.Tanh):
    layers = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


def blobs(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs, weight = torch.randn(count, 4, generator=generator), torch.randn(4, 3, generator=generator)
    return inputs, (inputs @ weight).argmax(1)


def loaded(count, batch_size):
    return DataLoader(TensorDataset(*blobs(count)), batch_size, shuffle=True)


def norm_of(*models):
    gradients = [p.grad for model in models for p in model.parameters() if p.grad is not None]
    return nn.utils.get_total_norm(gradients).item()


def second_order_meta_learning():
    model = mlp(4, 16, 3)
    optimizer, own = torch.optim.Adam(model.parameters(), 1e-2), Own([model], [[]], [])
    for task in range(12):
        inputs, labels = blobs(32, seed=task)
        fast = dict(model.named_parameters())
        for _ in range(2):
            loss = F.cross_entropy(functional_call(model, fast, (inputs[:16],)), labels[:16])
            gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), gradients, strict=True)}
        loss = F.cross_entropy(functional_call(model, fast, (inputs[16:],)), labels[16:])
        optimizer.zero_grad()
        loss.backward()
        own.losses[0].append(loss.item())
        own.norms.append(norm_of(model))
        optimizer.step()
    return own


def energy_based():
    """Samples are drawn by gradients of the model, which go to its parameters as well and are cleared."""
    model = mlp(4, 16, 1, activation=nn.SiLU)
    optimizer, own = torch.optim.Adam(model.parameters(), 1e-3), Own([model], [[]], epochs=2)
    for _ in range(2):
        for real, _ in loaded(48, 8):
            drawn = torch.randn(8, 4, requires_grad=True)
            for _ in range(3):
                model(drawn).sum().backward()
                with torch.no_grad():
                    drawn -= 0.1 * drawn.grad + 0.01 * torch.randn_like(drawn)
                drawn.grad = None
            optimizer.zero_grad()
            loss = model(real).mean() - model(drawn.detach()).mean()
            loss.backward()
            optimizer.step()
            own.losses[0].append(loss.item())
    return own


def critics_with_a_gradient_penalty():
    generator, critic = mlp(2, 16, 4), mlp(4, 16, 1)
    of_generator = torch.optim.Adam(generator.parameters(), 1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), 1e-3)
    own, batches = Own([generator, critic], [[], []]), iter(loaded(96, 8))
    for _ in range(4):
        for _ in range(3):
            real, fake, share = next(batches)[0], generator(torch.randn(8, 2)).detach(), torch.rand(8, 1)
            between = (share * real + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
            loss = critic(fake).mean() - critic(real).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
            own.losses[0].append(loss.item())
        loss = -critic(generator(torch.randn(8, 2))).mean()
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        own.losses[1].append(loss.item())
    return own


def reloaded_in_the_middle():
    inputs, labels = blobs(64)
    model = mlp(4, 16, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    own = Own([model], [[]], [], rates=[])
    for index in range(30):
        if index == 8:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
        if index == 16:
            for thing, state in zip((model, optimizer, scheduler), saved, strict=True):
                thing.load_state_dict(state)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        own.losses[0].append(loss.item())
        own.norms.append(norm_of(model))
        own.rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return own


class Implicit(torch.autograd.Function):
    """Calls backward inside of its forward, for the slope of an energy, and inside of its backward."""

    @staticmethod
    def forward(ctx, inputs, weight):
        with torch.enable_grad():
            point = inputs.detach().requires_grad_()
            torch.tanh(point @ weight.detach()).sum().backward()
        ctx.save_for_backward(inputs, weight)
        return point.grad + inputs @ weight

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            inputs, weight = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
            torch.autograd.backward(inputs @ weight, gradient)
        return inputs.grad, weight.grad


def backward_inside_of_forward():
    inputs, labels = blobs(64)
    model = nn.ParameterDict({"weight": nn.Parameter(torch.eye(4)), "head": nn.Parameter(torch.ones(4, 3))})
    optimizer, own = torch.optim.SGD(model.parameters(), 0.1), Own([model], [[]], [])
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(Implicit.apply(inputs, model["weight"]) @ model["head"], labels)
        loss.backward()
        own.losses[0].append(loss.item())
        own.norms.append(norm_of(model))
        optimizer.step()
    return own


def checkpoints_accumulated_under_autocast():
    body, head = mlp(4, 16, 16), nn.Linear(16, 3)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer, own, objective = torch.optim.AdamW(parameters, 1e-2), Own([body, head], [[]], epochs=3), 0.0
    for _ in range(3):
        for index, (inputs, labels) in enumerate(loaded(72, 8)):
            with torch.autocast("cpu", torch.bfloat16):
                hidden = checkpoint(body, inputs.requires_grad_(), use_reentrant=True)
                loss = F.cross_entropy(head(hidden), labels) / 3
            loss.backward()
            objective += loss.item()
            if index % 3 == 2:
                own.preclip.append(nn.utils.clip_grad_norm_(parameters, 0.5).item())
                optimizer.step()
                optimizer.zero_grad()
                own.losses[0].append(objective)
                objective = 0.0
    return own


def backpropagation_through_a_part_of_time():
    recurrent, out = nn.GRU(3, 8), nn.Linear(8, 3)
    parameters = [*recurrent.parameters(), *out.parameters()]
    optimizer, own = torch.optim.RMSprop(parameters, 1e-3), Own([recurrent, out], [[]], [])
    sequence, state = torch.randn(121, 4, 3), None
    for start in range(0, 120, 10):
        hidden, state = recurrent(sequence[start : start + 10], None if state is None else state.detach())
        loss = F.mse_loss(out(hidden), sequence[start + 1 : start + 11])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(parameters, 0.1)
        own.losses[0].append(loss.item())
        own.norms.append(norm_of(recurrent, out))
        optimizer.step()
    return own


def contrast_with_a_momentum_encoder():
    query = mlp(4, 16, 8)
    key, bank = copy.deepcopy(query).requires_grad_(False), F.normalize(torch.randn(32, 8), dim=1)
    optimizer = torch.optim.SGD(query.parameters(), 0.05, momentum=0.9)
    own = Own([query, key], [[]], epochs=3)
    for _ in range(3):
        for inputs, _ in loaded(64, 16):
            wanted = F.normalize(query(inputs + 0.1 * torch.randn_like(inputs)), dim=1)
            with torch.no_grad():
                for p, follower in zip(query.parameters(), key.parameters(), strict=True):
                    follower.mul_(0.9).add_(p, alpha=0.1)
                positive = F.normalize(key(inputs + 0.1 * torch.randn_like(inputs)), dim=1)
            logits = torch.cat([(wanted * positive).sum(1, keepdim=True), wanted @ bank.T], 1) / 0.2
            loss = F.cross_entropy(logits, torch.zeros(len(inputs), dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            own.losses[0].append(loss.item())
            bank = torch.cat([positive, bank])[:32]
    return own


def averaged_weights():
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    optimizer, average = torch.optim.SGD(model.parameters(), 0.1), torch.optim.swa_utils.AveragedModel(model)
    scheduler = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
    training, held_out = loaded(64, 16), DataLoader(TensorDataset(*blobs(32, seed=7)), 16)
    own = Own([model, average], [[]], epochs=5, validation=[])
    for epoch in range(5):
        model.train()
        for inputs, labels in training:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            own.losses[0].append(loss.item())
        if epoch >= 2:
            average.update_parameters(model)
            scheduler.step()
        model.eval()
        with torch.no_grad():
            own.validation.append(sum(F.cross_entropy(model(x), y).item() for x, y in held_out) / 2)
    torch.optim.swa_utils.update_bn(training, average)
    return own


def layers_that_thaw():
    model = mlp(4, 16, 16, 3)
    model[:4].requires_grad_(False)
    optimizer, own = torch.optim.AdamW(model[4].parameters(), 1e-2), Own([model], [[]], [], epochs=6)
    for epoch in range(6):
        if epoch in (2, 4):
            part = model[4 - epoch].requires_grad_(True)
            optimizer.add_param_group({"params": list(part.parameters()), "lr": 1e-3})
        for inputs, labels in loaded(64, 32):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            own.losses[0].append(loss.item())
            own.norms.append(norm_of(model))
            optimizer.step()
    return own


def batches_from_another_thread():
    model = mlp(4, 16, 3)
    optimizer, own, loader = torch.optim.SGD(model.parameters(), 0.1), Own([model], [[]]), loaded(40, 8)

    def feed(batches):
        for batch in loader:
            batches.put(batch)
        batches.put(None)

    for _ in range(4):
        batches = queue.Queue(3)
        thread = threading.Thread(target=feed, args=(batches,))
        thread.start()
        for inputs, labels in iter(batches.get, None):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            own.losses[0].append(loss.item())
        thread.join()
    return own


def values_from_a_replay_buffer():
    network, target = mlp(4, 16, 2), mlp(4, 16, 2)
    optimizer, own = torch.optim.Adam(network.parameters(), 1e-3), Own([network, target], [[]], preclip=[])
    state, memory = torch.randn(4), []
    for index in range(60):
        with torch.no_grad():
            action = int(network(state).argmax()) if random.random() > 0.2 else random.randrange(2)
        following = torch.randn(4) + state / 2
        memory.append((state, torch.tensor(action), following.sum() * (2 * action - 1), following))
        state = following
        if len(memory) >= 16:
            states, actions, rewards, nexts = map(torch.stack, zip(*random.sample(memory, 16), strict=True))
            with torch.no_grad():
                wanted = rewards + 0.9 * target(nexts).max(1).values
            loss = F.smooth_l1_loss(network(states).gather(1, actions[:, None])[:, 0], wanted)
            optimizer.zero_grad()
            loss.backward()
            own.preclip.append(nn.utils.clip_grad_norm_(network.parameters(), 1.0).item())
            optimizer.step()
            own.losses[0].append(loss.item())
        if index % 20 == 19:
            target.load_state_dict(network.state_dict())
    return own


def actor_and_critic_over_one_trunk():
    trunk, actor, critic = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)
    of_critic = torch.optim.Adam([*trunk.parameters(), *critic.parameters()], 1e-3)
    of_actor = torch.optim.Adam([*trunk.parameters(), *actor.parameters()], 1e-3)
    own = Own([trunk, actor, critic], [[], []])
    for _ in range(20):
        states, rewards = torch.randn(16, 4), torch.randn(16)
        loss = F.mse_loss(critic(trunk(states).tanh())[:, 0], rewards)
        of_critic.zero_grad()
        loss.backward()
        of_critic.step()
        own.losses[0].append(loss.item())
        policy = Categorical(logits=actor(trunk(states).tanh()))
        loss = -(policy.log_prob(policy.sample()) * rewards).mean() - 0.01 * policy.entropy().mean()
        of_actor.zero_grad()
        loss.backward()
        of_actor.step()
        own.losses[1].append(loss.item())
    return own


def line_search_by_strong_wolfe():
    inputs, labels = blobs(64)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=5)
    own = Own([model], [[]])

    def closure():
        optimizer.zero_grad()
        penalty = 1e-3 * sum(p.square().sum() for p in model.parameters())
        loss = F.cross_entropy(model(inputs), labels) + penalty
        loss.backward()
        return loss

    for _ in range(8):
        own.losses[0].append(optimizer.step(closure).item())
    return own


def weights_shrunk_by_hand_after_each_step():
    inputs, targets = torch.randn(64, 10), torch.randn(64, 1)
    model = nn.Linear(10, 1)
    optimizer, own = torch.optim.SGD(model.parameters(), 0.05), Own([model], [[]], [])
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        own.losses[0].append(loss.item())
        own.norms.append(norm_of(model))
        optimizer.step()
        with torch.no_grad():
            model.weight.copy_(model.weight.sign() * (model.weight.abs() - 0.01).clamp_min(0))
    return own


def private_gradients():
    """Each sample's own gradient by torch.func, shortened, with noise on their mean. No backward is called."""
    model = mlp(4, 8, 3)
    optimizer, own = torch.optim.SGD(model.parameters(), 0.1), Own([model], [[]], [])

    def loss_of(weights, sample, label):
        return F.cross_entropy(functional_call(model, weights, (sample[None],)), label[None])

    for _ in range(3):
        for inputs, labels in loaded(64, 16):
            weights = {name: p.detach() for name, p in model.named_parameters()}
            each = vmap(grad(loss_of), (None, 0, 0))(weights, inputs, labels)
            for name, p in model.named_parameters():
                lengths = each[name].flatten(1).norm(dim=1).clamp_min(1).view(-1, *[1] * p.ndim)
                p.grad = (each[name] / lengths).mean(0) + 0.01 * torch.randn_like(p)
            own.losses[0].append(None)
            own.norms.append(norm_of(model))
            optimizer.step()
    return own


class Cramped(torch.optim.SGD):
    """Now and then there is no memory for a step."""

    is_full = False

    def step(self, closure=None):
        if self.is_full:
            raise torch.OutOfMemoryError("not enough")
        return super().step(closure)


def tried_again_with_half_the_batch():
    model = mlp(4, 16, 3)
    optimizer, own = Cramped(model.parameters(), 0.1), Own([model], [[]], [], epochs=3)

    def step(inputs, labels):
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        norm = norm_of(model)
        optimizer.step()
        optimizer.zero_grad()
        own.losses[0].append(loss.item())
        own.norms.append(norm)

    for _ in range(3):
        for index, (inputs, labels) in enumerate(loaded(64, 16)):
            optimizer.is_full = index == 2
            try:
                step(inputs, labels)
            except torch.OutOfMemoryError:
                optimizer.is_full = False
                optimizer.zero_grad()
                for half in (slice(0, 8), slice(8, 16)):
                    step(inputs[half], labels[half])
    return own


class Tagged(torch.Tensor):
    """A tensor of the user's own class, which its results are of as well."""


def tensors_of_a_class_of_ones_own():
    inputs, labels = blobs(64)
    model = nn.ParameterList([nn.Parameter(torch.randn(4, 3) / 10), nn.Parameter(torch.zeros(3))])
    optimizer, own = torch.optim.Adam(model.parameters(), 1e-2), Own([model], [[]], [])
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs.as_subclass(Tagged) @ model[0] + model[1], labels)
        loss.backward()
        own.losses[0].append(loss.item())
        own.norms.append(norm_of(model))
        optimizer.step()
    return own


def denoising_with_an_average():
    network = mlp(5, 32, 4, activation=nn.SiLU)
    follow = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=follow)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    own = Own([network, average], [[]], epochs=3, rates=[])
    for _ in range(3):
        for inputs, _ in loaded(64, 16):
            time, noise = torch.rand(len(inputs), 1), torch.randn_like(inputs)
            loss = F.mse_loss(network(torch.cat([inputs * (1 - time) + noise * time, time], 1)), noise)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            own.rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            average.update_parameters(network)
            own.losses[0].append(loss.item())
    return own


def factors_in_turns():
    left, right, table = nn.Parameter(torch.randn(20, 3)), nn.Parameter(torch.randn(15, 3)), torch.randn(20, 15)
    own = Own([nn.ParameterList([left, right])], [[], []])
    optimizers = [torch.optim.SGD([factor], 0.01) for factor in (left, right)]
    for _ in range(12):
        for index, optimizer in enumerate(optimizers):
            product = left @ right.detach().T if index == 0 else left.detach() @ right.T
            loss = F.mse_loss(product, table, reduction="sum")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            own.losses[index].append(loss.item())
    return own


def noise_on_the_weights():
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))
    optimizer, own = torch.optim.SGD(model.parameters(), 0.05), Own([model], [[]], epochs=5)
    held_out, held_labels = blobs(16, seed=7)
    for _ in range(5):
        for inputs, labels in loaded(48, 12):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            own.losses[0].append(loss.item())
            with torch.no_grad():
                for p in model.parameters():
                    p += 0.001 * torch.randn_like(p)
        with torch.no_grad():
            votes = functools.reduce(torch.add, [model(held_out).softmax(1) for _ in range(5)])
            assert (votes.argmax(1) == held_labels).any()
    return own


TRAININGS = [
    second_order_meta_learning,
    energy_based,
    critics_with_a_gradient_penalty,
    reloaded_in_the_middle,
    backward_inside_of_forward,
    checkpoints_accumulated_under_autocast,
    backpropagation_through_a_part_of_time,
    contrast_with_a_momentum_encoder,
    averaged_weights,
    layers_that_thaw,
    batches_from_another_thread,
    values_from_a_replay_buffer,
    actor_and_critic_over_one_trunk,
    line_search_by_strong_wolfe,
    weights_shrunk_by_hand_after_each_step,
    private_gradients,
    tried_again_with_half_the_batch,
    tensors_of_a_class_of_ones_own,
    denoising_with_an_average,
    factors_in_turns,
    noise_on_the_weights,
]
