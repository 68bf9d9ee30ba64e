"""Which threads may be in the middle of a step."""

import os
import threading

import pytest

from trimtab.capture.threads import Backwards


@pytest.fixture
def running():
    """`running(path)` is the ident of a thread that is inside of a function of that file of the standard library's."""
    release, threads = threading.Event(), []

    def running(path):
        inside = threading.Event()
        file = os.path.join(os.path.dirname(threading.__file__), path)
        functions = {"inside": inside, "release": release}
        exec(compile("def work():\n    inside.set()\n    release.wait()", file, "exec"), functions)
        threads.append(threading.Thread(target=functions["work"]))
        threads[-1].start()
        inside.wait()
        return threads[-1].ident

    yield running
    release.set()
    for thread in threads:
        thread.join()


def test_thread_in_the_standard_library_alone_is_not_at_work(running):
    assert Backwards().are_alone([running("concurrent/futures/thread.py")])


@pytest.mark.parametrize("packages", ["site-packages", "dist-packages"])
def test_thread_in_a_library_that_is_installed_beside_the_standard_one_is_at_work(running, packages):
    assert not Backwards().are_alone([running(f"{packages}/trainer.py")])


def test_thread_that_has_ended_is_not_at_work():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert Backwards().are_alone([thread.ident])


def test_backward_waits_while_another_thread_looks_at_graphs():
    backwards, has_begun = Backwards(), threading.Event()

    def run():
        backwards.begin()
        has_begun.set()

    thread = threading.Thread(target=run)
    with backwards.held:
        backwards.begin()  # who looks may run one
        thread.start()
        assert not has_begun.wait(0.2)
    assert has_begun.wait(10)
    thread.join()


def test_no_thread_is_alone_while_one_that_ran_a_backward_is_at_work():
    backwards, release, has_begun = Backwards(), threading.Event(), threading.Event()

    def run():
        backwards.begin()
        has_begun.set()
        release.wait()

    thread = threading.Thread(target=run)
    assert backwards.are_alone([])
    thread.start()
    assert has_begun.wait(10)
    assert not backwards.are_alone([])
    release.set()
    thread.join()
    assert backwards.are_alone([])
