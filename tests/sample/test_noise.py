import math

import pytest

from trimtab.sample.noise import NoiseScale

SQUARE, TRACE = 4.0, 400.0  # |G|^2 and tr(S): a scale of 100 samples


def pair(samples):
    return samples, math.sqrt(SQUARE + TRACE / samples)


def test_scale_is_found_again_from_norms_that_have_it():
    scale = NoiseScale()
    for _ in range(20):
        assert scale.value is None
        scale.update(pair(8), pair(64))
    assert scale.value == pytest.approx(100.0)


def test_factor_that_both_norms_have_drops_out():
    scale = NoiseScale()
    for _ in range(20):
        (b, small), (big, large) = pair(8), pair(64)
        scale.update((b, 1e-6 * small), (big, 1e-6 * large))
    assert scale.value == pytest.approx(100.0)


@pytest.mark.parametrize("small", [(8, math.nan), (8, math.inf), (8, 1e200), (64, 1.0)])
def test_pair_that_tells_nothing_is_left_out(small):
    scale = NoiseScale()
    for _ in range(20):
        scale.update(pair(8), pair(64))
        scale.update(small, (64, 1.0))
    assert scale.value == pytest.approx(100.0)


def test_there_is_none_where_the_signal_drowns():
    scale = NoiseScale()
    for _ in range(40):
        scale.update((8, 10.0), (64, 1.0))
    assert scale.value is None
