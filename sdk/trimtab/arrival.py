"""Tells when a module has been imported for the first time, without importing it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def call_once_imported(name: str, callback: Callable[[], object]) -> None:
    """Call `callback` at the end of the first import of the top-level module `name`, or now if it is imported.

    It runs inside the importing statement, and what it raises, that statement raises. In a forked child it is not
    called.
    """
    if name in sys.modules:
        callback()
    else:
        sys.meta_path.insert(0, _Finder(name, callback))


class _Finder(MetaPathFinder):
    """Stands before the other finders, asks them, and lets the module's own loader be followed by the callback.

    Looking a module up is no import (`importlib.util.find_spec` is how libraries ask whether torch is there), so the
    finder stays until the module has been executed.
    """

    def __init__(self, name: str, callback: Callable[[], object]) -> None:
        self._name = name
        self._callback = callback
        self._pid = os.getpid()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):  # up to Python 3.11 some are of an older kind
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self._arrived)
                return spec
        return None

    def _arrived(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            if os.getpid() == self._pid:
                self._callback()


class _Loader(Loader):
    def __init__(self, loader: Loader, arrived: Callable[[], None]) -> None:
        self._loader = loader
        self._arrived = arrived

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source, path and what else a curious program may ask a spec's loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._arrived()
