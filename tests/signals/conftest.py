"""Losses made for a purpose, and a loss signal fed with them."""

import math
import random

import pytest

from trimtab.signals import Course


@pytest.fixture
def healthy():
    """`healthy(n)`: losses that come down from 2.3 to 0.3, with the noise of small batches."""

    def healthy(count=300, seed=0):
        noise = random.Random(seed)
        return [0.3 + 2.0 * math.exp(-i / 60) + noise.gauss(0.0, 0.05) for i in range(count)]

    return healthy


@pytest.fixture
def scores():
    """`scores(Signal, losses)`: what a loss signal says to each, beside a course of its own."""

    def scores(signal, losses):
        course = Course()
        judge = signal(course)
        found = []
        for loss in losses:
            found.append(judge.update(loss))
            course.update(loss)
        return found

    return scores
