"""From numbers to `Step` events: what a record says about the steps it stands for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trimtab.sample.ledger import Block, Columns, Ledger, Numbers, known, mean, split_at_first_nonfinite
from trimtab.sample.moments import Moments, combine
from trimtab.types import LayerStatistics, Step, Totals, Verdicts


class Judged(NamedTuple):
    """What rules say of the steps since the last record."""

    levels: Mapping[str, float] | None = None  # rule to its worst level
    verdicts: Verdicts | None = None
    loss_at_chance: float | None = None


class Context(NamedTuple):
    """What a record says beyond its own steps."""

    step: int  # the global step of the block's last row
    totals: Totals
    depths: Mapping[str, int]
    judged: Judged


def step_events(ledger: Ledger, block: Block, numbers: Numbers, context: Context) -> Iterator[Step]:
    """One event for the block, or three when its first non-finite loss is the run's first of this optimizer."""
    whole, judged = slice(0, len(numbers.rows.loss)), context.judged
    parts = [whole]
    if not ledger.nonfinite_seen:
        parts = split_at_first_nonfinite(numbers.rows.loss)
        ledger.nonfinite_seen = not math.isfinite(sum(known(numbers.rows.loss)))
    for part in parts:
        rows = numbers.rows if len(parts) == 1 else numbers.rows.part(part)
        left = whole.stop - part.stop
        last = left == 0
        ledger.average(rows.loss, ledger.steps - left)
        yield Step(
            ts=block.ts,
            step=context.step - left,
            optimizer=ledger.label,
            epoch=block.epoch,
            loss_ema=ledger.loss_ema,
            loss_at_chance=judged.loss_at_chance,
            levels=judged.levels or None if last else None,
            totals=context.totals,
            verdicts=judged.verdicts if last else None,
            batch=block.batch,
            batches=block.batches,
            learning_rate=numbers.learning_rate or None,
            weight_decay=numbers.weight_decay or None,
            skipped=dict(block.skipped) or None if last else None,
            accuracy=_accuracy(numbers) if last else None,
            gradient_preclip_norm=mean([n for row, n in numbers.preclip_norms if part.start <= row < part.stop]),
            **_of_rows(rows),
            **_of_gradients(numbers, part, context.depths, ledger.noise.value),
        )


def _of_rows(rows: Columns) -> dict[str, Any]:
    losses, seconds = known(rows.loss), known(rows.seconds)
    total, steps = sum(losses), len(rows.loss)
    micro_steps = mean(rows.micro_steps)
    several = steps > 1 and bool(losses)
    extremes = [total] if math.isnan(total) else losses  # `min` and `max` miss a NaN that is not the first
    return {
        "steps": steps,
        "micro_steps": int(micro_steps) if micro_steps is not None and micro_steps.is_integer() else micro_steps,
        "loss": total / len(losses) if losses else None,
        "loss_min": min(extremes) if several else None,
        "loss_max": max(extremes) if several else None,
        "samples": sum(rows.samples) or None,
        "step_seconds": mean(seconds),
        "step_durations": seconds,
        "data_wait_seconds": mean(rows.wait_seconds) or None,  # 0 where no loader was asked
    }


def _of_gradients(numbers: Numbers, part: slice, depths: Mapping[str, int], noise: float | None) -> dict[str, Any]:
    sampled = [s for s in numbers.gradients if part.start <= s[0] < part.stop]
    updates = [ratios for row, ratios in numbers.updates if part.start <= row < part.stop]
    if not sampled:
        return {}
    totals = [combine(layers) for _, layers, _ in sampled]
    return {
        "gradient_steps": len(totals),
        "gradient_mean": mean([t.mean for t in totals]),
        "gradient_variance": mean([t.variance for t in totals]),
        "gradient_norm": mean([t.norm for t in totals]),
        "gradient_max_abs": _max([t.max_abs for t in totals]),
        "gradient_nonfinite": sum(not t.finite for t in totals) or None,
        "gradient_noise_scale": noise,
        "layers": _layers(sampled, updates, depths) or None,
    }


def _layers(
    sampled: Sequence[tuple[int, list[Moments], Sequence[str | None]]],
    updates: Sequence[Mapping[str, float]],
    depths: Mapping[str, int],
) -> dict[str, LayerStatistics]:
    by_name: dict[str, list[Moments]] = {}
    for _, layers, names in sampled:
        for name, moments in zip(names, layers, strict=True):
            if name is not None:
                by_name.setdefault(name, []).append(moments)
    return {
        name: LayerStatistics(
            depth=depths[name],
            mean=sum(m.mean for m in moments) / len(moments),
            variance=sum(m.variance for m in moments) / len(moments),
            norm=sum(m.norm for m in moments) / len(moments),
            max_abs=_max([m.max_abs for m in moments]),
            update_ratio=mean([ratios[name] for ratios in updates if name in ratios]),
        )
        for name, moments in sorted(by_name.items(), key=lambda item: depths[item[0]])
    }


def _max(values: Sequence[float]) -> float:
    return next((v for v in values if math.isnan(v)), None) or max(values)


def _accuracy(numbers: Numbers) -> float | None:
    counted = sum(c for _, _, c in numbers.predictions)
    return sum(m for _, m, _ in numbers.predictions) / counted if counted else None
