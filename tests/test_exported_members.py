import os
import subprocess
import sys

import trimtab

HEAVY = ("structlog", "requests", "rich", "cheroot", "prometheus_client", "matplotlib", "grafana_api", "torch._dynamo")


def python(program):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    return subprocess.run(
        [sys.executable, "-c", program], env=environ, text=True, capture_output=True, check=True
    ).stdout


def test_public_names():
    assert trimtab.__all__ == sorted(trimtab.__all__)
    assert trimtab.__all__ == [
        "BackendError",
        "BackendUnavailable",
        "ConfigError",
        "HaltTraining",
        "Policy",
        "Rule",
        "Run",
        "RunActiveError",
        "TrimtabError",
        "log",
        "restore_best",
        "should_stop",
        "watch",
    ]


def test_every_public_name_is_there_and_is_listed():
    assert all(getattr(trimtab, name) is not None for name in trimtab.__all__)
    assert set(trimtab.__all__) <= set(dir(trimtab))


def test_importing_after_torch_loads_no_backends_library():
    program = f"""
import sys, torch
before = set(sys.modules)
import trimtab
[getattr(trimtab, name) for name in trimtab.__all__]
print(*(name for name in {HEAVY} if name in sys.modules and name not in before))
print(*(name for name in sys.modules if name.startswith("trimtab_backends")))
"""
    assert python(program).split() == []


def test_importing_alone_waits_with_torch():
    assert python("import sys, trimtab; print('torch' in sys.modules)") == "False\n"


def test_errors_are_one_tree():
    assert issubclass(trimtab.ConfigError, ValueError)
    assert issubclass(trimtab.BackendUnavailable, trimtab.BackendError)
    for name in ("BackendError", "ConfigError", "RunActiveError"):
        assert issubclass(getattr(trimtab, name), trimtab.TrimtabError)
