"""What gradient statistics cost, against one plain `sum` over as many bytes, and how right they are.

    python benchmarks/gradients.py [--quick]

The method is that of `paired`; every side finds the caches as another left them, as in training. A busy machine spoils
all figures: a reduction on two cores waits for the slower one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from paired import Estimate, Plan, Round, Side, compare, estimate, ratio
from results import MICROSECONDS, TIMES, Figure, judged, load, machine, table
from torch import Tensor

from trimtab.sample.gradients import take
from trimtab.sample.moments import Moments, combine

BAR = 4.0  # times a plain sum, for the GPT; 3 is the prize
RIGHT = 1e-5  # relative to float64

UNIT, AGAIN = "one plain sum of as many bytes", "the same again"
EACH, BY_HAND = "a sum of each gradient", "mean, var, norm, max by hand"
OURS, WHOLE = "take and read", "take, read and combine"
FIGURES = ("mean", "var", "norm", "max")


def gpt() -> list[Tensor]:
    """10.8 M parameters: 65 characters, 256 positions, 6 blocks of width 384, with biases."""
    width = 384
    shapes: list[tuple[int, ...]] = [(65, width), (256, width), (width,), (width,)]
    for _ in range(6):
        shapes += [(width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)]
    return [torch.randn(shape) * 1e-3 for shape in shapes]


def perceptron() -> list[Tensor]:
    return [torch.randn(shape) for shape in [(256, 64), (256,), (10, 256), (10,)]]


def cnn() -> list[Tensor]:
    shapes = [(32, 1, 3, 3), (32,), (64, 32, 3, 3), (64,), (128, 576), (128,), (10, 128), (10,)]
    return [torch.randn(shape) for shape in shapes]


def by_hand(gradients: Sequence[Tensor]) -> list[tuple[float, ...]]:
    """What people write."""
    return [(g.mean().item(), g.var().item(), g.norm().item(), g.abs().max().item()) for g in gradients]


def sides(gradients: Sequence[Tensor]) -> dict[str, Side]:
    flat = torch.randn(sum(g.numel() for g in gradients)).to(gradients[0].dtype)
    calls: dict[str, Callable[[], object]] = {
        UNIT: flat.sum,
        AGAIN: flat.sum,
        EACH: lambda: [g.sum() for g in gradients],
        OURS: lambda: take(gradients).read(),
        WHOLE: lambda: combine(take(gradients).read()),
        BY_HAND: lambda: by_hand(gradients),
    }
    return {name: Side(call) for name, call in calls.items()}


def times(rounds: Sequence[Round], side: str, unit: str = UNIT) -> Estimate:
    return ratio(rounds, side, unit).raised(1.0)


def measure_gpt(budget_s: float) -> list[Figure]:
    rounds = compare(sides(gpt()), Plan(steps=1), budget_s=budget_s)
    control = times(rounds, AGAIN)
    note = f"a plain sum takes {MICROSECONDS.all(estimate([each[UNIT] for each in rounds]))}"
    return [
        judged("statistics of 76 gradients, 10.8 M elements", times(rounds, OURS), TIMES, BAR, control, note),
        judged("... of the whole model as well", times(rounds, WHOLE), TIMES, BAR, control),
        judged("... against a sum of each gradient", times(rounds, OURS, EACH), TIMES),
        judged("... a sum of each gradient", times(rounds, EACH), TIMES),
        judged(f"... {BY_HAND}", times(rounds, BY_HAND), TIMES),
    ]


def measure_others(budget_s: float) -> list[Figure]:
    figures = []
    for name, gradients in (("perceptron, 19 k elements", perceptron()), ("small CNN, 94 k elements", cnn())):
        rounds = compare(sides(gradients), Plan(steps=20, settle=2), budget_s=budget_s)
        for side in (OURS, BY_HAND):
            figures.append(judged(f"{name}: {side}", estimate([each[side] for each in rounds]), MICROSECONDS))
    rarer = {"in bfloat16": [g.bfloat16() for g in gpt()], "each mean 1, deviation 1e-4": [1 + 0.1 * g for g in gpt()]}
    for name, gradients in rarer.items():
        rounds = compare(sides(gradients), Plan(steps=1), budget_s=budget_s)
        figures.append(judged(f"the 76 gradients {name}", times(rounds, OURS), TIMES, control=times(rounds, AGAIN)))
    return figures


def kinds(size: int) -> dict[str, Tensor]:
    noise = torch.randn(size, dtype=torch.float64)
    return {
        "random": (noise * 1e-3).float(),
        "huge, 1e20 to 3e38": (noise.sign() * (1e20 + noise.abs() * 5e37)).float(),
        "tiny, 1e-30": (noise * 1e-30).float(),
        "denormal, 1e-40": (noise * 1e-40).float(),
        "constant": torch.full((size,), 0.1),
        "mean 1, deviation 1e-4": (1 + 1e-4 * noise).float(),
        "mean as large as deviation": (1 + noise).float(),
        "magnitudes all equal": (noise.sign() / 1.7).float(),
        "mean cancels": (noise - noise.mean()).float(),
        "bfloat16": (noise * 1e-3).bfloat16(),
        "float16, to 65504": (noise * 2e4).clamp(-65504, 65504).half(),
    }


def errors(gradient: Tensor, found: Moments) -> tuple[float, ...]:
    """Of mean, variance, norm and maximum, relative to float64; of the mean, relative to the root mean square."""
    exact = gradient.double()
    unit = exact.abs().max().item()
    exact /= unit
    variance, rms = exact.var(correction=0).item(), exact.square().mean().sqrt().item()
    return (
        abs(found.mean / unit - exact.mean().item()) / rms,
        abs(found.variance / unit**2 - variance) / (variance if variance > 1e-25 else 1.0),
        abs(found.norm / unit / exact.norm().item() - 1),
        abs(found.max_abs / unit - 1),
    )


def measure_accuracy(size: int) -> list[Figure]:
    figures = []
    for kind, gradient in kinds(size).items():
        parts = [gradient, gradient[:5000], gradient[:100]]
        found = [errors(part, moments) for part, moments in zip(parts, take(parts).read(), strict=True)]
        worst = [max(column) for column in zip(*found, strict=True)]
        each = ", ".join(f"{name} {error:.0e}" for name, error in zip(FIGURES, worst, strict=True))
        figures.append(Figure(f"error, {kind}", each, bar=f"<= {RIGHT:.0e}", met=max(worst) <= RIGHT))
    return figures


def measure(quick: bool) -> list[Figure]:
    budget_s = 2.0 if quick else 10.0
    return measure_gpt(2 * budget_s) + measure_others(budget_s / 2) + measure_accuracy(4_000_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    quick = parser.parse_args().quick
    print(f"{machine()}; {torch.get_num_threads()} threads, load {load()}\n")
    print(table(measure(quick)))


if __name__ == "__main__":
    main()
