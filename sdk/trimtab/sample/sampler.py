"""Takes the statistics of gradients and weights for the step that is under way, and writes them into its ledger.

What is on a device is read when its record is, one block later, so that nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trimtab.sample.gradients import Taken, take
from trimtab.sample.layers import LayerChoice
from trimtab.sample.ledger import GradientSample, Ledger
from trimtab.sample.pace import Pace
from trimtab.sample.updates import UpdateSample, Weights


class Sampler:
    """Samples whenever it is told to; `pace` says when that is due, and is to be told what it cost."""

    def __init__(self, layers: LayerChoice, pace: Pace) -> None:
        self.pace = pace
        self._layers = layers

    def take(self, parameters: Sequence[Tensor]) -> tuple[list[Tensor], Taken]:
        """The parameters that have a gradient, and its statistics: a part of a step that is to be added whole."""
        present = [p for p in parameters if p.grad is not None]
        return present, take([p.grad for p in present])  # type: ignore[misc]

    def sample_gradients(
        self, ledger: Ledger, parameters: Sequence[Tensor], scale: Tensor | None = None
    ) -> GradientSample | None:
        """Take the statistics of every gradient there is, for the step that follows. None where there is none."""
        present = [(i, p.grad) for i, p in enumerate(parameters) if p.grad is not None]
        if not present:
            return None
        names = self._layers.names(ledger.label, parameters)
        taken = take([gradient for _, gradient in present], scale)
        sample = GradientSample(len(ledger.rows), [taken], [names[i] for i, _ in present], ledger.newest_update)
        ledger.gradients.append(sample)
        return sample

    def add(self, ledger: Ledger, parameters: Sequence[Tensor], taken: Sequence[Taken]) -> GradientSample:
        """Add statistics that were taken in parts, for the step that follows. One parameter for each gradient."""
        names = self._layers.names(ledger.label, parameters)
        sample = GradientSample(len(ledger.rows), taken, names, ledger.newest_update)
        ledger.gradients.append(sample)
        return sample

    def hold_weights(self, ledger: Ledger, parameters: Sequence[Tensor], weights: Weights) -> None:
        """Copy the layers that are shown, before the step that follows."""
        weights.hold(parameters, self._layers.names(ledger.label, parameters))
        weights.rate = ledger.rate

    def compare_weights(self, ledger: Ledger, weights: Weights) -> None:
        """Take the update ratio of every layer that was held, after the step that is to have the next row."""
        names, ratios = weights.compare()
        ledger.newest_update = UpdateSample(len(ledger.rows), names, ratios, weights.rate)
        ledger.updates.append(ledger.newest_update)
