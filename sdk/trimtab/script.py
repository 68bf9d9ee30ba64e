"""Runs a script or a module that knows nothing of us, the way Python itself would.

The program gets `sys.argv`, `sys.path[0]` and a `__main__` module as from `python SCRIPT` or `python -m MODULE`, so
that pickling, `inspect` and processes that are spawned find what they look for. An exception that nobody catches goes
on through here, and Python ends the process as ever: with its own handling of `SystemExit` and of Ctrl-C, and with
the program's `sys.excepthook`, which is only kept from seeing our frames.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib.util
import io
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any, TypeVar

from trimtab.arrival import call_once_imported
from trimtab.errors import ConfigError, HaltTraining, TrimtabError

EXIT_HALTED = 75  # of a program that was unwound: EX_TEMPFAIL, which schedulers may take as "try again"

T = TypeVar("T")
Around = contextlib.AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class Program:
    """What will be run. `module` is its `__main__`, empty but for the names that Python itself gives it."""

    code: CodeType
    module: ModuleType
    argv0: str


def load_file(script: str) -> Program:
    """Read and compile `script`: Python source, or a directory or zip file with a `__main__` in it.

    Sets `sys.path[0]` as Python does. Raises ConfigError when there is no such script, and whatever compiling raises.
    """
    if os.path.isdir(script) or zipfile.is_zipfile(script):
        path = os.path.abspath(script)
        _set_path0(path)
        return _found(PathFinder.find_spec("__main__", [path]), script, argv0=script)
    path = os.path.join(os.getcwd(), script)  # not made any nicer than Python does
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        raise ConfigError(
            f"{script}: {error.strerror}. Give the path of a Python script, or -m and a module."
        ) from error
    _set_path0(os.path.dirname(os.path.realpath(path)))
    module = _main(__file__=path, __loader__=SourceFileLoader("__main__", path), __package__=None, __spec__=None)
    return Program(_compiled(source, path), module, script)


def load_module(name: str) -> Program:
    """Find the module `name`, or the `__main__` of the package `name`; imports the packages above it.

    Sets `sys.path[0]` as Python does. Raises ConfigError when there is none, and whatever those imports raise.
    """
    _set_path0(os.getcwd())
    spec = _spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _spec(f"{name}.__main__")
    return _found(spec, name, argv0=None)


def run(
    load: Callable[[], Program], arguments: Sequence[str], watching: Callable[[], Around], *, once_imported: str
) -> None:
    """Load and run a program, with `watching()` entered as soon as it has imported the module `once_imported`.

    Until then the program is alone: what it does before that import, such as setting `OMP_NUM_THREADS`, still has
    its effect. `watching()` is left when the code of `__main__` is through, before its `atexit` handlers run; where
    threads go on after that, when they are through, for Python waits for them too. A forked child is not watched.

    Raises what the program raises, and SystemExit(2), after one sentence on stderr, when it cannot be found or
    watched.
    """
    try:
        program = _or_exit(load)
        sys.argv = [program.argv0, *arguments]
        sys.modules["__main__"] = program.module
        _run(program, watching, once_imported)
    except BaseException:
        sys.excepthook = _without_our_frames(sys.excepthook)
        raise


def _run(program: Program, watching: Callable[[], Around], once_imported: str) -> None:
    halted = False
    with contextlib.ExitStack() as stack:
        try:
            call_once_imported(once_imported, lambda: _or_exit(lambda: stack.enter_context(watching())))
            exec(program.code, program.module.__dict__)
        except HaltTraining:
            halted = True
            raise
        finally:
            if _threads_go_on():
                # Registered last, hence called first, and not before Python has waited for the threads.
                atexit.register(stack.pop_all().__exit__, *sys.exc_info())
                if halted:  # what ends the halt here otherwise, is called only then
                    raise SystemExit(EXIT_HALTED) from None
    if halted:
        raise SystemExit(EXIT_HALTED)


def _or_exit(start: Callable[[], T]) -> T:
    try:
        return start()
    except TrimtabError as error:
        print(f"trimtab: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _threads_go_on() -> bool:
    return any(thread is not threading.current_thread() and not thread.daemon for thread in threading.enumerate())


def _set_path0(path: str) -> None:
    isolated = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    if not isolated:
        sys.path[0] = path  # what Python put there is the place of our own program


def _compiled(source: bytes, path: str) -> CodeType:
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _found(spec: ModuleSpec | None, what: str, *, argv0: str | None) -> Program:
    """The program behind `spec`. Its `sys.argv[0]` is the file itself where `argv0` is None."""
    get_code = getattr(spec.loader if spec is not None else None, "get_code", None)
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None:
        raise ConfigError(
            f"{what}: no Python code was found to run. Give the path of a Python script, or -m and a module."
        )
    module = _main(
        __file__=spec.origin, __cached__=spec.cached, __loader__=spec.loader, __package__=spec.parent, __spec__=spec
    )
    return Program(code, module, argv0 if argv0 is not None else str(spec.origin))


def _main(**attributes: Any) -> ModuleType:
    module = ModuleType("__main__")
    module.__dict__.update({"__builtins__": builtins, "__cached__": None, **attributes})
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    return module


def _without_our_frames(hook: Callable[..., Any]) -> Callable[..., Any]:
    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        trace = _below_us(trace)
        hook(kind, error.with_traceback(trace), trace)

    return excepthook


def _below_us(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_globals is not globals():
        trace = trace.tb_next
    while trace is not None and trace.tb_frame.f_globals is globals():
        trace = trace.tb_next
    return trace
