import importlib
import importlib.util
import os
import sys

import pytest

from trimtab.arrival import call_once_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that nobody has imported yet."""
    (tmp_path / "yet_to_come.py").write_text("ready = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    yield "yet_to_come"
    sys.modules.pop("yet_to_come", None)


def test_callback_comes_once_when_the_module_is_whole(module):
    seen = []
    call_once_imported(module, lambda: seen.append(sys.modules[module].ready))
    assert seen == []
    importlib.import_module(module)
    importlib.reload(sys.modules[module])
    assert seen == [True]


def test_imported_module_looks_as_ever(module):
    call_once_imported(module, lambda: None)
    imported = importlib.import_module(module)
    assert type(imported.__loader__).__name__ == type(imported.__spec__.loader).__name__ == "SourceFileLoader"
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == "trimtab.arrival"]


def test_finder_of_an_old_kind_is_passed_over(module):
    seen = []
    call_once_imported(module, lambda: seen.append(1))
    sys.meta_path.insert(1, object())
    importlib.util.find_spec(module)
    sys.meta_path.pop(1)
    importlib.import_module(module)
    assert seen == [1]


def test_looking_a_module_up_is_no_import(module):
    seen = []
    call_once_imported(module, lambda: seen.append(1))
    spec = importlib.util.find_spec(module)
    assert (spec.origin, spec.loader.get_source(module)) == (spec.loader.path, "ready = True\n")
    assert seen == []
    importlib.import_module(module)
    assert seen == [1]


def test_callback_comes_at_once_when_it_is_imported_already():
    seen = []
    call_once_imported("sys", lambda: seen.append(1))
    assert seen == [1]


def test_what_the_callback_raises_leaves_the_import(module):
    def refuse():
        raise SystemExit(2)

    call_once_imported(module, refuse)
    with pytest.raises(SystemExit):
        importlib.import_module(module)


def test_import_that_fails_is_followed_by_no_callback(module, tmp_path):
    (tmp_path / "yet_to_come.py").write_text("1 / 0\n")
    seen = []
    call_once_imported(module, lambda: seen.append(1))
    with pytest.raises(ZeroDivisionError):
        importlib.import_module(module)
    assert seen == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_forked_child_is_left_alone(module):
    seen = []
    call_once_imported(module, lambda: seen.append(1))
    child = os.fork()
    if child == 0:
        importlib.import_module(module)
        os._exit(len(seen))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
