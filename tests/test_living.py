"""Searches among the objects of the process."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest

from trimtab.searches import living


class Thing:
    pass


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_search_finds_what_lives_and_keeps_none_of_it(everywhere: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        thing, other = Thing(), [Thing()]
        found = living(Thing, everywhere=everywhere)
        assert any(each is thing for each in found)
        gone = weakref.ref(thing), weakref.ref(other[0])
        del thing, other, found
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_search_disturbs_no_thread_that_is_building_a_tuple(everywhere: bool) -> None:
    """The collector knows the tuple already, which may be held by nobody else when it grows."""
    raised, is_over, usual = [], threading.Event(), sys.getswitchinterval()

    def build() -> None:
        try:
            while not is_over.is_set():
                tuple(number for number in range(1_000))
        except SystemError as error:
            raised.append(error)

    builder = threading.Thread(target=build)
    sys.setswitchinterval(1e-5)
    try:
        builder.start()
        for _ in range(30):
            living(Thing, everywhere=everywhere)
    finally:
        is_over.set()
        builder.join()
        sys.setswitchinterval(usual)
    assert raised == []
