"""What `import trimtab` itself loads, which decides what a script can still set up before torch is imported."""

import pytest

import trimtab


def test_package_waits_for_its_first_use_to_import_torch(desk):
    source = "import sys, trimtab; print('torch' in sys.modules); trimtab.watch; print('torch' in sys.modules)"
    assert desk.python("-c", source).stdout == "False\nTrue\n"


def test_function_watch_is_there_whatever_was_imported_before(desk):
    source = "import trimtab; from trimtab.watching import log; print(trimtab.watch.__name__)"
    assert desk.python("-c", source).stdout == "watch\n"


def test_public_names_can_be_listed_and_had():
    assert set(trimtab.__all__) <= set(dir(trimtab))
    assert all(getattr(trimtab, name) is not None for name in trimtab.__all__)


def test_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'trimtab' has no attribute 'wtach'"):
        _ = trimtab.wtach
