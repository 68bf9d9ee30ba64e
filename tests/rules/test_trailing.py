import math

from trimtab.catalog import LEVEL_WINDOW_S as WINDOW_S
from trimtab.rules.trailing import BUCKETS, TrailingWorst


def test_worst_level_stays_for_the_window_however_short_it_was():
    trailing = TrailingWorst(["loss_spike"])
    trailing.add(0.0, {"loss_spike": 1.5})
    trailing.add(0.05, {"loss_spike": 0.1})
    assert trailing.worst(WINDOW_S - 1)["loss_spike"] == 1.5
    assert trailing.worst(WINDOW_S + WINDOW_S / BUCKETS)["loss_spike"] == 0.0


def test_rules_that_were_never_near_are_at_zero():
    assert TrailingWorst(["a", "b"]).worst(0.0) == {"a": 0.0, "b": 0.0}


def test_levels_are_withheld_after_a_fence_for_as_long_as_the_window():
    trailing = TrailingWorst(["loss_spike"])
    trailing.add(0.0, {"loss_spike": 2.0})
    trailing.fence(1.0)
    trailing.add(2.0, {"loss_spike": 3.0})
    assert trailing.worst(WINDOW_S + 0.5)["loss_spike"] == 0.0
    assert trailing.worst(WINDOW_S + 1.0)["loss_spike"] == 3.0


def test_what_was_seen_before_a_fence_never_comes_back():
    trailing = TrailingWorst(["loss_spike"])
    trailing.add(0.0, {"loss_spike": 2.0})
    trailing.fence(1.0)
    assert trailing.worst(WINDOW_S + 1.5)["loss_spike"] == 0.0


def test_what_is_forgotten_is_gone_and_what_follows_is_seen_at_once():
    trailing = TrailingWorst(["loss_spike"])
    trailing.add(0.0, {"loss_spike": 2.0})
    trailing.forget()
    assert trailing.worst(1.0)["loss_spike"] == 0.0
    trailing.add(1.0, {"loss_spike": 1.5})
    assert trailing.worst(1.0)["loss_spike"] == 1.5


def test_an_infinite_level_is_the_worst():
    trailing = TrailingWorst(["loss_nonfinite"])
    trailing.add(0.0, {"loss_nonfinite": math.inf})
    trailing.add(1.0, {"loss_nonfinite": 5.0})
    assert trailing.worst(2.0)["loss_nonfinite"] == math.inf
