"""Looking at the frames of other threads."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from trimtab import frames

DEADLY = """
import gc, threading, time
from trimtab import frames

def rest():
    time.sleep(0)

def work():
    while True:
        rest()

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
for at in range(3_000):
    gc.set_threshold(1 + at % 12)
    gc.disable()
    cycle = [threading.local()]
    cycle.append(cycle)
    del cycle
    gc.enable()
    frames.of_threads()
"""


def test_look_at_threads_never_meets_the_garbage_collector() -> None:
    """On Python 3.11 a `threading.local` that is freed meanwhile would stop the process for good."""
    subprocess.run([sys.executable, "-c", DEADLY], check=True, timeout=60)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_look_at_threads_leaves_the_garbage_collector_as_it_was(is_enabled: bool) -> None:
    if not is_enabled:
        gc.disable()
    try:
        assert threading.get_ident() in frames.of_threads()
        assert gc.isenabled() is is_enabled
    finally:
        gc.enable()
