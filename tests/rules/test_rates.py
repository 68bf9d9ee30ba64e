from trimtab.rules.rates import BACK, SETTLE, LearningRate


def changes(rates):
    """The steps at which a sudden change was seen, and what followed the rate."""
    rate = LearningRate()
    return [step for step, value in enumerate(rates) if rate.update(value)], rate


def test_constant_rate_is_steady_and_settled():
    seen, rate = changes([0.1] * 100)
    assert (seen, rate.settling, rate.steady) == ([], 0, True)


def test_rate_that_halves_is_a_sudden_change_once():
    assert changes([0.1] * 50 + [0.05] * 50)[0] == [50]


def test_rate_that_doubles_within_a_few_steps_is_a_sudden_change():
    (first,), _ = changes([0.1] * 50 + [0.1 * 1.1**i for i in range(1, 10)] + [0.24] * 50)
    assert 50 < first <= 50 + 2 * BACK


def test_rate_that_stays_at_zero_is_no_sudden_change_but_the_step_from_it_is():
    assert changes([0.0] * 30)[0] == []
    assert changes([0.0] * 30 + [0.1] * 50)[0] == [30]


def test_slow_decay_is_no_sudden_change():
    assert changes([0.1 * 0.99**i for i in range(400)])[0] == []


def test_rate_settles_after_so_many_points():
    rate = changes([0.1] * 50 + [0.01] * BACK)[1]
    assert rate.settling == SETTLE
    for left in reversed(range(SETTLE)):
        rate.update(0.01)
        assert rate.settling == left


def test_rate_that_warms_up_is_not_steady():
    warming = [1e-3 * i for i in range(1, 60)]
    assert not changes(warming)[1].steady
    assert changes(warming + [0.06] * 40)[1].steady


def test_rate_may_go_on_rising_until_as_many_steps_have_passed_without():
    warming = [1e-3 * (1 + i // 20) for i in range(100)]  # in stairs, the last one at step 81
    assert changes([*warming, *[5e-3] * 61])[1].may_rise
    assert not changes([*warming, *[5e-3] * 62])[1].may_rise
    assert not changes([0.1] * 50)[1].may_rise


def test_rate_that_falls_after_its_warm_up_is_steady_at_once():
    warming = [1e-3 * i for i in range(1, 40)]
    assert changes([*warming, 0.038])[1].steady


def test_rate_that_is_all_but_gone_is_not_steady():
    assert not changes([0.1] * 50 + [0.01] * 60)[1].steady


def test_rate_that_is_not_known_changes_nothing():
    seen, rate = changes([None] * 50)
    assert (seen, rate.settling, rate.steady) == ([], 0, True)
