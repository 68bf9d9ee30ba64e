"""Searches among the objects of the process."""

from __future__ import annotations

import gc
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
