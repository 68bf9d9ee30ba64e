"""Training that goes on in eval mode: `model.train()` was forgotten after an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from trimtab.capture.models import Models

TOLD_AFTER = 20  # steps in a row
FORGOTTEN = (
    "The last {steps} steps were taken in eval mode, and those before in training mode: model.train() may be missing "
    "after an evaluation. In eval mode dropout does nothing, and batch normalisation uses its running statistics and "
    "does not learn them."
)


class TrainingMode:
    """Counts steps in eval mode, once there was one in training mode. Steps in the lane are in training mode."""

    def __init__(self, models: Models, say: Callable[[str, str], None]) -> None:
        self._models = models
        self._say = say
        self._any_trained = False
        self._in_eval_mode = 0  # steps in a row

    def stepped(self, parameters: Sequence[Tensor]) -> None:
        """An optimizer of these has stepped. 0.2 us."""
        if not self._models.any_in_eval_mode():
            self._any_trained, self._in_eval_mode = True, 0
        elif self._any_trained:
            self._in_eval_mode += 1
            if self._in_eval_mode == TOLD_AFTER and any(map(_trains_otherwise, self._models.evaluated(parameters))):
                self._say("eval_mode", FORGOTTEN.format(steps=TOLD_AFTER))


def _trains_otherwise(model: nn.Module) -> bool:
    """Whether it is another function in training mode, as far as modules of torch tell."""
    return any(
        (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, _NormBase) and module.track_running_stats)
        or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0)
        for module in model.modules()
    )
