"""More healthy loops, of sorts in which training is disturbed on purpose."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import rescue_models as models
import torch
from rescue_data import DATA
from rescue_recipes import (
    CNN,
    CNN_SGD,
    GRU,
    LSTM,
    MLP,
    NORMED,
    TRANSFORMER,
    Objective,
    Recipe,
    classify,
    cosine,
    sgd,
)
from torch import Tensor, nn
from torch.nn import functional as F

Variants = Iterator[Recipe]


def noisy_labels() -> Variants:
    """Another part of the labels is wrong at each step."""
    for recipe, share in itertools.product((MLP, CNN, NORMED, LSTM), (0.1, 0.3)):
        yield _named(recipe, f"{share} of them", curriculum=_mislabelled(share))


def noisy_gradients() -> Variants:
    """As in private training (DP-SGD, arXiv 1607.00133): noise on every gradient."""
    for recipe, size in ((MLP, 0.01), (MLP, 0.03), (CNN_SGD, 0.01), (GRU, 0.003)):
        yield _named(recipe, f"of {size}", objective=_disturbed(size))


def unfrozen() -> Variants:
    """The last layer first, and then the others one by one (ULMFiT, arXiv 1801.06146)."""
    for recipe in (MLP, CNN, CNN_SGD, GRU, TRANSFORMER):
        yield _named(recipe, "layer by layer", objective=_from_the_top)


def distilled() -> Variants:
    """A model learns what another one says, at a temperature of 4 (Hinton et al., arXiv 1503.02531)."""
    for recipe in (MLP, CNN, NORMED):
        yield _named(recipe, "from a larger one", objective=_from_teacher, model=_after_teacher(recipe))


def another_loss() -> Variants:
    """The second half of the run is by another loss function than the first: larger by far, or smaller."""
    for recipe in (MLP, CNN, NORMED):
        yield _named(recipe, "squares, then cross entropy", objective=_squares_first)
        yield _named(recipe, "cross entropy, then focal loss", objective=_focal_later)


def bags() -> Variants:
    """Batches of few classes each, as where data comes from one user after another."""
    for recipe, classes in itertools.product((MLP, CNN), (3, 5)):
        yield _named(recipe, f"of {classes} classes", curriculum=_few_classes(classes), batch_size=64)


def highest_rates() -> Variants:
    """At 0.5 to 0.9 of the highest rate at which the run still ends well, as far as other seeds tell."""
    rnn = GRU.but(name="tanh-rnn", model=lambda classes: models.Recurrent(classes, "RNN"))
    recipes = (MLP, CNN, NORMED, GRU, LSTM, rnn)
    for optimizer, name, rates in (
        (sgd(0.0), "SGD without momentum", (0.6, 0.3, 0.5, 2.5, 7.0, 0.8)),
        (sgd(0.9), "SGD", (0.17, 0.1, 0.25, 0.7, 2.5, 0.45)),
        (torch.optim.Adam, "Adam", (0.03, 0.015, 0.05, 0.025, 0.025, 0.015)),
    ):
        for recipe, rate in zip(recipes, rates, strict=True):
            yield _named(recipe, f"{name} {rate}", optimizer=optimizer, lr=rate, schedule=cosine)


def _named(recipe: Recipe, variant: str, **changes: object) -> Recipe:
    return recipe.but(name=f"{recipe.name}, {variant}", **changes)


def _mislabelled(share: float) -> Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    def curriculum(inputs: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        others = targets.flatten()[torch.randperm(targets.numel())].view_as(targets)
        return inputs, torch.where(torch.rand(targets.shape) < share, others, targets)

    return curriculum


def _disturbed(size: float) -> Objective:
    """The loss is as it was: what is added is nothing, and has a gradient."""

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
        loss = classify(model, inputs, targets, progress)
        if not model.training:
            return loss
        noise = [(size * torch.randn_like(p) * (p - p.detach())).sum() for p in model.parameters()]
        return loss + torch.stack(noise).sum()

    return objective


def _from_the_top(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    trained = 1 + int(progress * 1.5 * len(layers))
    for index, layer in enumerate(reversed(layers)):
        layer.requires_grad_(index < trained)
    return classify(model, inputs, targets, progress)


def _squares_first(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    if progress >= 0.5:
        return classify(model, inputs, targets, progress)
    return F.mse_loss(model(inputs), F.one_hot(targets, 10).float())


def _focal_later(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    """Lin et al., arXiv 1708.02002, with a focus of 2."""
    if progress < 0.5:
        return classify(model, inputs, targets, progress)
    said = model(inputs).log_softmax(1).gather(1, targets.unsqueeze(1))
    return -((1 - said.exp()).square() * said).mean()


def _from_teacher(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    with torch.no_grad():
        said = F.log_softmax(_teacher()(inputs) / 4, -1)
    return F.kl_div(F.log_softmax(model(inputs) / 4, -1), said, log_target=True, reduction="batchmean")


def _after_teacher(recipe: Recipe) -> Callable[[int], nn.Module]:
    """The recipe's model, once there is a teacher: that is trained before anybody watches."""

    def make(classes: int) -> nn.Module:
        _teacher()
        return recipe.model(classes)

    return make


@functools.cache
def _teacher() -> nn.Module:
    """Trained with random numbers of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        data, model = DATA["digits"](), models.cnn(10)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(10):
            for inputs, targets in data.loader(32):
                optimizer.zero_grad()
                classify(model, inputs, targets, 0.0).backward()
                optimizer.step()
    return model.eval()


def _few_classes(count: int) -> Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]:
    """Of each batch what belongs to some classes, which are others each time."""

    def curriculum(inputs: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        chosen = (targets.unsqueeze(1) == torch.randperm(10)[:count]).any(1)
        return inputs[chosen], targets[chosen]

    return curriculum
