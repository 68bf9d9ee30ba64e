"""Where weights may be changed, told from steps and backwards alone. In a script `b:GD` is a backward that wrote to
the gradients of G and D, `c:D` one that found those of D cleared, and `G` a step."""

import pytest

from trimtab.actuators.cycle import IDLE_STEPS, Cycle


def play(cycle, script):
    """The steps after which weights may be changed, by their place in the script."""
    found = []
    for index, word in enumerate(script.split()):
        kind, _, labels = word.rpartition(":")
        for label in labels if kind else ():
            cycle.backward(label, cleared=kind == "c")
        if not kind and cycle.stepped(word):
            found.append(index)
    return found


def boundaries(script, rounds=6, first=""):
    """Of the last round of a loop: the places after which weights may be changed."""
    cycle = Cycle()
    play(cycle, first)
    return [play(cycle, script) for _ in range(rounds)][-1]


LOOPS = {
    "one optimizer": ("c:A A", [1]),
    "accumulation": ("c:A b:A b:A A", [3]),
    "discriminator first": ("c:D D c:G b:D G", [4]),
    "generator first": ("c:G b:D G c:D D", [4]),
    "both backwards, then both steps": ("c:G c:D G D", [3]),
    "one loss": ("c:AB A B", [2]),
    "critic five times": ("c:D D c:D D c:D D c:D D c:D D c:G b:D G", [12]),
    "one accumulates longer": ("c:A c:B A c:A b:B A B", [6]),
    "three": ("c:A A c:B B c:C C", [5]),
    "actor writes to the critic": ("c:C C c:A b:C A", [4]),
}


@pytest.mark.parametrize(("script", "expected"), LOOPS.values(), ids=LOOPS)
def test_boundary_is_the_end_of_the_cycle(script, expected):
    assert boundaries(script) == expected


def test_the_first_cycle_has_no_boundary():
    assert play(Cycle(), "c:D D c:G b:D G") == []


def test_gradients_that_are_cleared_are_learned_within_two_rounds():
    assert boundaries("c:D D c:G b:D G", rounds=3) == [4]


def test_gradients_of_another_that_wait_to_be_applied_bar_the_boundary():
    cycle = Cycle()
    play(cycle, "c:A A c:B B " * 3)
    assert play(cycle, "c:A A c:B b:A B") == []


def test_an_optimizer_met_late_that_steps_first_leaves_the_end_to_the_one_before():
    joint = "c:B c:A B A"
    assert boundaries(joint, rounds=6, first="c:A A c:A A") == [3]


def test_an_idle_optimizer_leaves_the_end_to_the_one_before():
    cycle = Cycle()
    play(cycle, "c:A A c:B B " * 3)
    assert play(cycle, "c:A A " * IDLE_STEPS) == []
    assert play(cycle, "c:A A") == [1]


def test_a_rare_optimizer_is_not_taken_for_idle():
    rare = "c:A A " * 2 * IDLE_STEPS + "c:B B"
    cycle = Cycle()
    play(cycle, " ".join([rare] * 3))
    assert play(cycle, "c:A A " * 2 * IDLE_STEPS) == []


def test_one_of_two_that_steps_alone_at_first_is_taken_for_the_only_one():
    assert play(Cycle(), "c:D D c:D D c:G b:D G") == [3]


def test_cycle_that_never_ends_is_left_off_where_a_backward_follows():
    cycle, accumulating = Cycle(), "b:AB A b:AB B b:ABC B C "  # nobody clears anything
    assert play(cycle, accumulating * (IDLE_STEPS // 4)) == []
    assert play(cycle, accumulating) == [1, 6]


def test_cycle_that_ends_seldom_is_waited_for():
    cycle = Cycle()
    seldom = "c:A b:B A " * 2 * IDLE_STEPS + "b:A B A "  # B steps before A
    play(cycle, seldom * 3)
    assert play(cycle, seldom) == [6 * IDLE_STEPS + 2]


def test_an_optimizer_after_which_a_graph_is_pending_leaves_the_end_to_the_one_before():
    cycle = Cycle()
    play(cycle, "c:G G c:G G")  # the generator is trained alone at first, and met first
    for _ in range(6):
        if play(cycle, "c:D D"):
            cycle.blocked("D")
        last = play(cycle, "c:G b:D G")
    assert last == [2]


def test_dropped_gradients_say_nothing_of_what_becomes_of_gradients():
    cycle = Cycle()
    play(cycle, "c:A A c:B B " * 3 + "c:A b:B")
    cycle.dropped()
    assert play(cycle, "A c:B B") == [2]


def test_one_that_is_gone_ends_nothing():
    cycle = Cycle()
    play(cycle, "c:A A c:B B " * 3)
    cycle.meet(["A", "C"])
    assert play(cycle, "c:A A") == [1]


def test_one_that_stepped_before_there_was_another_was_met_first():
    cycle = Cycle()
    cycle.meet(["D", "G"])  # of which D has stepped
    assert play(cycle, "c:G b:D G c:D D c:G b:D G") == [7]


def test_one_that_stepped_before_there_was_another_and_no_more_is_waited_for_until_it_is_idle():
    cycle = Cycle()
    cycle.meet(["A", "B"])
    assert play(cycle, "c:B B " * IDLE_STEPS) == []
    assert play(cycle, "c:B B") == [1]
