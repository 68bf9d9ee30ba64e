"""Compares what was logged with what the script itself wrote down, whatever steps were folded into one record.

A record of n steps is the mean of n of the script's own numbers; `loss_min` and `loss_max` are their extremes; learning
rates are those of the last. Comparing record by record is therefore exact, however the steps were cut.
"""

import math

import pytest


def evaluate(expression, own):
    """The value of `expression` over the script's own globals, as they were at its end."""
    return eval(expression, {**HELPERS, **own})


def mean(values):
    return sum(values) / len(values)


def chunks(values, size):
    return [values[start : start + size] for start in range(0, len(values), size)]


def epoch_means(losses, sizes):
    """Sample-weighted means of the losses of epochs whose batches have the given sizes."""
    return [
        sum(loss * n for loss, n in zip(epoch, sizes, strict=True)) / sum(sizes) for epoch in chunks(losses, len(sizes))
    ]


def clipped(norms, limit):
    """Norms as `clip_grad_norm_` leaves them."""
    return [norm * min(1.0, limit / (norm + 1e-6)) for norm in norms]


def kept(values, skipped):
    """The values of the steps that were not skipped."""
    return [value for value, skip in zip(values, skipped, strict=True) if not skip]


HELPERS = {f.__name__: f for f in (mean, chunks, epoch_means, clipped, kept)}


class Log:
    """The record of one run, as the contract describes it."""

    def __init__(self, lines):
        self.lines = lines

    def events(self, name):
        return [line for line in self.lines if line["event"] == name]

    def optimizers(self):
        """The train records of each optimizer, in the order of first steps; not those of skipped steps alone."""
        by_label = {}
        for line in self.events("step"):
            if line["phase"] == "train" and line["steps"]:
                by_label.setdefault(line.get("optimizer", ""), []).append(line)
        return list(by_label.values())

    def validations(self):
        """The records of validation passes. One before the first step is a sanity check, as in Lightning: not this."""
        steps = self.events("step")
        began = min((e["ts"] for e in steps if e["phase"] == "train"), default="")
        return [e for e in steps if e["phase"] == "validation" and e["ts"] > began]


def steps_in(records):
    return sum(record.get("steps", 1) for record in records)


def assert_folds(records, key, own, tolerance):
    """Every record's `key` is the mean of the script's own numbers over the steps that it stands for."""
    assert steps_in(records) == len(own), f"{steps_in(records)} steps were logged, the script made {len(own)}"
    start = 0
    for record in records:
        part = own[start : start + record.get("steps", 1)]
        start += len(part)
        about = f"{key} of steps {start - len(part)} to {start - 1}"
        assert_same(number(record, key), mean(part), tolerance, about)
        if key == "loss" and len(part) > 1:
            assert_same(number(record, "loss_min"), least(part), tolerance, f"least {about}")
            assert_same(number(record, "loss_max"), most(part), tolerance, f"largest {about}")


def assert_passes(records, key, own, tolerance):
    """Every validation record's `key` is the mean of the script's own over the passes that it stands for."""
    batches = steps_in(records) // len(own)
    assert batches * len(own) == steps_in(records), f"{steps_in(records)} batches in {len(own)} passes"
    start = 0
    for record in records:
        passes, rest = divmod(record.get("steps", 1), batches)
        assert rest == 0, f"a record of {record['steps']} batches cuts a pass of {batches} in two"
        part = own[start : start + passes]
        start += passes
        assert_same(number(record, key), mean(part), tolerance, f"{key} of passes {start - passes} to {start - 1}")


def assert_last(records, key, own, tolerance):
    """Every record's `key`, a list over groups, is the script's own of the last step that it stands for."""
    assert steps_in(records) == len(own), f"{steps_in(records)} steps were logged, the script made {len(own)}"
    end = 0
    for record in records:
        end += record.get("steps", 1)
        expected = own[end - 1]
        for group, value in enumerate(expected if isinstance(expected, list) else [expected]):
            assert_same(record[key][group], value, tolerance, f"{key} of group {group} at step {end - 1}")


def assert_same(logged, own, tolerance, about):
    if own is None:
        assert logged is None, f"{about}: logged {logged}, the script had none"
        return
    assert logged is not None, f"{about}: nothing was logged, the script had {own}"
    if math.isfinite(own):
        assert logged == pytest.approx(own, rel=tolerance, abs=tolerance * 1e-2), about
    else:
        assert not math.isfinite(logged), f"{about}: logged {logged}, the script had {own}"


def number(record, key):
    """The value of a dotted key; what is named in `nonfinite` is NaN here."""
    if key in record.get("nonfinite", ()):
        return math.nan
    for part in key.split("."):
        record = record.get(part) if record is not None else None
    return record


def least(values):
    return math.nan if any(map(math.isnan, values)) else min(values)


def most(values):
    return math.nan if any(map(math.isnan, values)) else max(values)
