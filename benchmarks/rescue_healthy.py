"""Runs that look suspicious and are healthy: nothing should act on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import rescue_models as models
import rescue_recipes as recipes
import rescue_unusual as unusual
import torch
from rescue_data import DATA
from rescue_recipes import CNN, CNN_SGD, GRU, GRU_SGD, LSTM, MLP, NORMED, TRANSFORMER, Recipe, classify, sgd, warm_up
from torch import Tensor, nn
from torch.nn import functional as F

Variants = Iterator[Recipe]


@dataclass(frozen=True)
class Healthy:
    """One kind of loop, with its variants: two models and several hyperparameters."""

    name: str
    variants: tuple[Recipe, ...]
    held_out: bool = False  # nothing was tuned on it


def _warm_up_cosine() -> Variants:
    for recipe, share, factor in itertools.product((CNN, TRANSFORMER), (0.04, 0.25), (0.5, 1.5)):
        yield _named(recipe, f"warm-up {share} x{factor}", schedule=warm_up(share), lr=recipe.lr * factor)


def _one_cycle() -> Variants:
    for recipe, peak in itertools.product((CNN_SGD, GRU), (0.5, 1.0, 2.0)):
        yield _named(recipe, f"peak {peak}", scheduler=recipes.one_cycle(recipe.lr * peak))


def _cyclic() -> Variants:
    for recipe, period, mode in itertools.product((MLP, GRU_SGD), (20, 60), ("triangular", "exp_range")):
        yield _named(recipe, f"{mode} {period}", scheduler=recipes.cyclic(recipe.lr, period, mode))


def _restarts() -> Variants:
    for recipe, period, growth in ((CNN, 60, 1), (CNN, 40, 2), (LSTM, 80, 1), (LSTM, 40, 2), (MLP, 90, 1)):
        yield _named(recipe, f"every {period}", scheduler=recipes.restarts(period, growth))


def _drops() -> Variants:
    for recipe, every in itertools.product((CNN_SGD, GRU_SGD), (120, 200)):
        yield _named(recipe, f"every {every}", scheduler=recipes.drops(every))


def _small_batches() -> Variants:
    for size, factor in ((2, 0.2), (4, 0.3), (8, 0.5)):
        yield _named(MLP, f"of {size}", batch_size=size, lr=MLP.lr * factor, steps=80)
        yield _named(CNN, f"of {size}", batch_size=size, lr=CNN.lr * factor * 2, steps=80)
    for size in (2, 4):
        yield _named(GRU, f"of {size}", batch_size=size, lr=GRU.lr * 0.5)


def _heavy_dropout() -> Variants:
    for ratio in (0.4, 0.6):
        yield _named(MLP, f"{ratio}", model=lambda classes, ratio=ratio: models.mlp(classes, dropout=ratio))
        yield _named(
            CNN_SGD, f"{ratio}", model=lambda classes, ratio=ratio: models.cnn(classes, dropout=ratio), lr=0.02
        )
        yield _named(GRU, f"{ratio}", model=lambda classes, ratio=ratio: models.Recurrent(classes, dropout=ratio))


def _rises_early() -> Variants:
    for recipe, weight in itertools.product((MLP, GRU), (0.3, 1.0)):
        yield _named(recipe, f"penalty {weight}", objective=_penalised(weight))
    for recipe, factor in ((MLP, 2.0), (MLP, 3.0), (CNN_SGD, 1.5), (CNN_SGD, 2.0)):
        tuned = recipe.but(model=_trained_before(recipe), schedule=warm_up(0.06), lr=recipe.lr * factor)
        yield _named(tuned, f"fine-tuned x{factor}")


def _negative() -> Variants:
    for lr, batch_size in ((1e-3, 32), (3e-3, 16), (3e-3, 64)):
        density = CNN.but(model=lambda classes: models.Density(), objective=_density, reconstructs=True, score="loss")
        yield _named(density, f"density {lr} {batch_size}", lr=lr, batch_size=batch_size)
        yield _named(
            density,
            f"cosine similarity {lr} {batch_size}",
            objective=_similarity,
            model=lambda classes: models.Density(dropout=0.2),
            lr=lr,
            batch_size=batch_size,
        )


def _accumulation() -> Variants:
    for recipe, (count, size) in itertools.product((CNN, TRANSFORMER, MLP), ((2, 4), (4, 8))):
        yield _named(recipe, f"{count} of {size}", accumulate=count, batch_size=size)


def _curriculum() -> Variants:
    yield _named(MLP, "noise in four stages", curriculum=_noisier(4))
    yield _named(CNN, "noise in two stages", curriculum=_noisier(2))
    yield _named(CNN_SGD, "noise in three stages", curriculum=_noisier(3))
    yield _named(GRU, "longer and longer", curriculum=_longer)
    yield _named(TRANSFORMER, "longer and longer", curriculum=_longer)
    yield _named(CNN, "classes one by one", curriculum=_more_classes)


def _saturated() -> Variants:
    for recipe in (MLP, CNN):
        yield _named(recipe, "to nothing", schedule=recipes.gentle, epochs=20)
        yield _named(
            recipe, "to nothing, small batches", schedule=recipes.gentle, batch_size=8, lr=recipe.lr / 2, steps=120
        )


def _in_order() -> Variants:
    for recipe in (GRU, TRANSFORMER, LSTM):
        yield _named(recipe, "of the text", shuffle=False)


def _constant_rate() -> Variants:
    yield _named(MLP, "SGD", schedule=recipes.constant, optimizer=sgd(0.0), lr=0.2)
    yield _named(MLP, "RMSprop", schedule=recipes.constant, optimizer=torch.optim.RMSprop, lr=2e-3)
    yield _named(CNN, "Adam", schedule=recipes.constant, optimizer=torch.optim.Adam)
    yield _named(LSTM, "Adam", schedule=recipes.constant)
    yield _named(TRANSFORMER, "AdamW", schedule=recipes.constant, lr=1e-3)


def _fine_tuning() -> Variants:
    for recipe, factor in itertools.product((MLP, CNN, NORMED), (0.3, 1.0)):
        tuned = recipe.but(model=_trained_before(recipe), schedule=recipes.constant, lr=recipe.lr * factor)
        yield _named(tuned, f"trained before x{factor}")


def _plain_sgd() -> Variants:
    for recipe, lr in ((MLP, 0.5), (CNN, 0.2), (NORMED, 0.1), (GRU, 2.0)):
        yield _named(recipe, "SGD without momentum", optimizer=sgd(0.0), lr=lr, schedule=recipes.cosine)


def _little_data() -> Variants:
    for recipe, samples in itertools.product((MLP, CNN), (256, 512)):
        yield _named(recipe, f"{samples} samples", samples=samples, epochs=8)


def _regression() -> Variants:
    for objective, name in ((_reconstruction, "MSE"), (_absolute, "L1")):
        for lr in (1e-3, 1e-2):
            coder = CNN.but(model=lambda classes: models.Density(), objective=objective, reconstructs=True)
            yield _named(coder.but(score="loss"), f"{name} {lr}", lr=lr)


def _late_starters() -> Variants:
    for depth, lr in ((2, 3e-3), (3, 3e-3), (3, 1e-2)):
        model = lambda classes, depth=depth: models.deep_sigmoid(classes, depth=depth)  # noqa: E731
        yield _named(MLP, f"sigmoid {depth} {lr}", model=model, optimizer=torch.optim.Adam, lr=lr, epochs=16)


def _optimizers() -> Variants:
    for kind, lr in (
        *((torch.optim.Adagrad, 0.02), (torch.optim.NAdam, 2e-3), (torch.optim.RAdam, 3e-3)),
        *((torch.optim.Adamax, 5e-3), (torch.optim.Adadelta, 1.0), (torch.optim.ASGD, 0.2)),
    ):
        yield _named(CNN, kind.__name__, optimizer=kind, lr=lr)
    yield _named(LSTM, "RMSprop", optimizer=torch.optim.RMSprop, lr=3e-3)


def _other_losses() -> Variants:
    for recipe in (MLP, CNN, NORMED):
        yield _named(recipe, "label smoothing", objective=recipes.smoothed)
        yield _named(recipe, "mixup", objective=_mixed)
    contrastive = CNN.but(objective=_contrastive, reconstructs=True, score="loss")
    yield _named(contrastive, "contrastive", model=models.cnn)
    yield _named(contrastive, "contrastive, mlp", model=models.mlp)


KINDS: dict[str, tuple[Callable[[], Variants], bool]] = {  # name to variants, and whether it is held out of tuning
    "warm-up and cosine": (_warm_up_cosine, False),
    "OneCycle": (_one_cycle, False),
    "cyclic": (_cyclic, True),
    "restarts": (_restarts, False),
    "drops": (_drops, True),
    "small batches": (_small_batches, False),
    "heavy dropout": (_heavy_dropout, True),
    "rises early": (_rises_early, True),
    "negative loss": (_negative, False),
    "accumulation": (_accumulation, False),
    "curriculum": (_curriculum, True),
    "saturated": (_saturated, True),
    "in order": (_in_order, True),
    "constant rate": (_constant_rate, False),
    "fine-tuning": (_fine_tuning, True),
    "plain SGD": (_plain_sgd, False),
    "near the highest rate": (unusual.highest_rates, False),
    "little data": (_little_data, True),
    "regression": (_regression, True),
    "late starters": (_late_starters, True),
    "other optimizers": (_optimizers, True),
    "other losses": (_other_losses, True),
    "noisy labels": (unusual.noisy_labels, True),
    "noisy gradients": (unusual.noisy_gradients, True),
    "unfrozen": (unusual.unfrozen, False),
    "distilled": (unusual.distilled, True),
    "bags": (unusual.bags, True),
    "another loss": (unusual.another_loss, True),
}


def healthy() -> list[Healthy]:
    """Every kind."""
    return [Healthy(name, tuple(variants()), held_out) for name, (variants, held_out) in KINDS.items()]


def _named(recipe: Recipe, variant: str, **changes: object) -> Recipe:
    return recipe.but(name=f"{recipe.name}, {variant}", **changes)


def _penalised(weight: float) -> recipes.Objective:
    """A penalty on large logits that is phased in from a tenth to a quarter of the run."""

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
        logits = model(inputs).flatten(0, -2)
        share = min(1.0, max(0.0, (progress - 0.1) / 0.15))
        return F.cross_entropy(logits, targets.flatten()) + weight * share * logits.square().mean()

    return objective


def _density(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    mean, log_variance = model(inputs)
    return F.gaussian_nll_loss(mean, inputs.flatten(1), log_variance.exp())


def _similarity(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return -F.cosine_similarity(model(inputs)[0], inputs.flatten(1)).mean()


def _reconstruction(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return F.mse_loss(model(inputs)[0], inputs.flatten(1))


def _absolute(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    return F.l1_loss(model(inputs)[0], inputs.flatten(1))


def _mixed(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    """Mixup: each image with another one, and both labels (Zhang et al., arXiv 1710.09412)."""
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    logits = model(share * inputs + (1 - share) * inputs.flip(0))
    return share * F.cross_entropy(logits, targets) + (1 - share) * F.cross_entropy(logits, targets.flip(0))


def _contrastive(model: nn.Module, inputs: Tensor, targets: Tensor, progress: float) -> Tensor:
    """Two noisy views of an image should be closer than those of different ones (SimCLR, arXiv 2002.05709)."""
    views = [F.normalize(model(inputs + 0.2 * torch.randn_like(inputs)), dim=1) for _ in range(2)]
    return F.cross_entropy(views[0] @ views[1].T / 0.2, torch.arange(len(inputs)))


def _trained_before(recipe: Recipe) -> Callable[[int], nn.Module]:
    """Weights that are good already, on half of the images: a rate that rises does harm at first."""

    def make(classes: int) -> nn.Module:
        model, data = recipe.model(classes), DATA[recipe.data]()
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for inputs, targets in itertools.islice(data.loader(32, samples=640), 20):
            for _ in range(15):
                optimizer.zero_grad()
                classify(model, inputs, targets, 0.0).backward()
                optimizer.step()
        return model

    return make


def _noisier(stages: int) -> recipes.Curriculum:
    """Noise on the images, more at each stage of the first two thirds."""

    def curriculum(inputs: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        stage = min(stages - 1, int(progress * 1.5 * stages))
        return inputs + 0.25 * stage / (stages - 1) * torch.randn_like(inputs), targets

    return curriculum


def _longer(inputs: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    length = (3, 6, 12, 24)[min(3, int(progress * 6))]
    return inputs[:, :length], targets[:, :length]


def _more_classes(inputs: Tensor, targets: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Five digits at first, then one more at each twentieth of the run."""
    chosen = targets < 5 + int(progress * 20)
    return inputs[chosen], targets[chosen]
