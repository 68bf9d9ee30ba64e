"""What the norm of gradients usually is."""

from __future__ import annotations

import math

AFTER = 50  # norms, among which the first may have exploded
FAR = 2.3  # in logarithms, from what is usual
WEIGHT = 0.03  # of the newest norm, in the logarithm: ZClip's 0.97 (arXiv 2504.02507)


class UsualNorm:
    """The geometric mean of the norms before the newest one; once it is known, what is ten times it is none of them."""

    __slots__ = ("_count", "_log", "value")

    def __init__(self) -> None:
        self.value: float | None = None  # while there are few
        self._log = 0.0
        self._count = 0

    def update(self, norm: float) -> None:
        """Take a norm in. One that is infinite, as that of finite elements may be, is none."""
        known = self._count >= AFTER
        self.value = math.exp(self._log) if known else None
        if not 0.0 < norm < math.inf:
            return
        value = math.log(norm)
        self._count += 1
        if self._count == 1:
            self._log = value
        elif value - self._log < FAR or not known:
            weight = max(WEIGHT, 1 / self._count)
            self._log += weight * max(-FAR, min(FAR, value - self._log))
