"""At the end of a run the last state waits for whoever scrapes it."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import trimtab
from trimtab import discovery
from trimtab_backends.prometheus import PrometheusBackend
from trimtab_backends.scrapers import FORGOTTEN_S, LONGEST_S, SCRAPERS, Scrapers

PATIENCE_S = 30.0


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Scraper:
    """A client that reads an address again and again until the address is gone; keeps what it read last."""

    def __init__(self, address, interval_s):
        self.address, self.interval_s, self.pages = address, interval_s, []
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        try:
            while True:
                with urllib.request.urlopen(self.address, timeout=PATIENCE_S) as response:
                    self.pages.append(response.read().decode())
                time.sleep(self.interval_s)
        except OSError:
            return

    def wait_for_pages(self, count):
        end = time.monotonic() + PATIENCE_S
        while len(self.pages) < count and time.monotonic() < end:
            time.sleep(0.01)

    def last_page(self):
        self.thread.join(PATIENCE_S)
        return self.pages[-1]


@pytest.fixture
def scrapers():
    clock = Clock()
    return Scrapers(clock), clock


def visits(scrapers, clock, client, *intervals):
    scrapers.visited(client, clock.now)
    for interval in intervals:
        clock.now += interval
        scrapers.visited(client, clock.now)


def test_scraper_is_expected_though_many_came_before_it_that_are_gone(scrapers):
    """A Prometheus has another address, or another version in its name, whenever it is started anew."""
    scrapers, clock = scrapers
    for number in range(2 * SCRAPERS):
        visits(scrapers, clock, f"client {number}")
    clock.now += FORGOTTEN_S + 1
    visits(scrapers, clock, "prometheus", 15.0)
    assert scrapers.due() == {"prometheus": 15.0}


def test_no_more_are_remembered_than_there_is_place_for(scrapers):
    scrapers, clock = scrapers
    for number in range(2 * SCRAPERS):
        visits(scrapers, clock, f"client {number}", 1.0)
    assert len(scrapers.due()) <= SCRAPERS
    clock.now += 1.0
    visits(scrapers, clock, "client 0", 1.0)
    assert "client 0" in scrapers.due()


def test_interval_is_known_after_two_visits(scrapers):
    scrapers, clock = scrapers
    visits(scrapers, clock, "prometheus")
    assert scrapers.due() == {}
    visits(scrapers, clock, "prometheus", 15.0)
    clock.now += 1
    assert list(scrapers.due()) == ["prometheus"]


def test_two_servers_that_scrape_in_turn_are_told_apart(scrapers):
    scrapers, clock = scrapers
    for _ in range(3):
        scrapers.visited("a", clock.now)
        clock.now += 5
        scrapers.visited("b", clock.now)
        clock.now += 10
    assert scrapers.due() == {"a": 15.0, "b": 15.0}


def test_scraper_that_went_away_is_not_waited_for(scrapers):
    scrapers, clock = scrapers
    visits(scrapers, clock, "prometheus", 15.0)
    clock.now += 60
    assert scrapers.due() == {}


def test_person_who_looks_now_and_then_is_not_waited_for(scrapers):
    scrapers, clock = scrapers
    visits(scrapers, clock, "curl", LONGEST_S + 1)
    assert scrapers.due() == {}
    assert not scrapers.wait(clock.now, None), "returns at once"


def test_wait_ends_with_the_visit_that_comes_after_the_last_state(scrapers):
    scrapers, clock = scrapers
    visits(scrapers, clock, "prometheus", 15.0)
    written_at = clock.now + 1
    threading.Timer(0.05, scrapers.visited, ["prometheus", written_at - 0.5]).start()  # the page as it was before
    threading.Timer(0.1, scrapers.visited, ["prometheus", written_at + 0.5]).start()
    assert scrapers.wait(written_at, PATIENCE_S)


def test_anybody_will_do_where_nobody_is_expected(scrapers):
    scrapers, clock = scrapers
    visits(scrapers, clock, "came once")
    since = clock.now + 1.0
    assert not scrapers.wait(since, 0.0)
    clock.now += 2.0
    visits(scrapers, clock, "comes now")
    assert scrapers.wait(since, 0.0)


def test_one_scraper_does_not_stand_for_another(scrapers):
    scrapers, clock = scrapers
    for client in ("a", "b"):
        visits(scrapers, clock, client, 15.0)
    written_at = clock.now + 1
    scrapers.visited("a", written_at + 1)
    assert not scrapers.wait(written_at, 0.01)
    scrapers.visited("b", written_at + 2)
    assert scrapers.wait(written_at, 0.01)


def test_last_state_of_a_run_is_scraped(tmp_path):
    with trimtab.watch(run="short", directory=tmp_path, backends=["prometheus"], port=0) as run:
        scraper = Scraper(run.addresses["prometheus"], interval_s=0.3)
        scraper.wait_for_pages(3)
    assert 'trimtab_run_status{rank="0",run="short",status="completed"} 1.0' in scraper.last_page()


def wait_for_status(directory, status):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if any(f'"status": "{status}"' in path.read_text() for path in directory.glob("*/run.json")):
            return
        time.sleep(0.01)


def test_linger_that_was_asked_for_waits_for_the_first_scrape(tmp_path):
    pages = []

    def scrape_when_it_is_over(address):
        wait_for_status(tmp_path, "completed")
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
            pages.append(response.read().decode())

    with trimtab.watch(run="short", directory=tmp_path, backends=["prometheus"], port=0, linger=PATIENCE_S) as run:
        late = threading.Thread(target=scrape_when_it_is_over, args=[run.addresses["prometheus"]])
        late.start()
    late.join(PATIENCE_S)
    assert 'status="completed"} 1.0' in pages[0]


def test_interrupted_run_does_not_linger(tmp_path, monkeypatch):
    lingered = []
    monkeypatch.setattr(PrometheusBackend, "linger", lambda self: lingered.append(self))
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), trimtab.watch(run=error.__name__, directory=tmp_path, backends=["prometheus"]):
            raise error
    assert len(lingered) == 1, "the failed one does: its last state is what people are paged for"


def test_sigterm_ends_a_linger_and_removes_the_file(tmp_path):
    script = "import trimtab\nwith trimtab.watch(run='r', backends=['prometheus'], port=0, linger=3600): pass"
    environ = {**os.environ, "TRIMTAB_DIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environ)
    try:
        wait_for_status(tmp_path, "completed")
        assert len(list(discovery.read(tmp_path / "targets"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
    finally:
        process.kill()
    assert list(discovery.read(tmp_path / "targets")) == []


@pytest.mark.parametrize("linger", ["math.inf", "3600"])
def test_ctrl_c_ends_a_linger_and_not_the_program(tmp_path, linger):
    script = (
        f"import math, trimtab\n@trimtab.watch(run='r', backends=['prometheus'], port=0, linger={linger})\n"
        "def train(): return 'trained'\nprint(train())"
    )
    environ = {**os.environ, "TRIMTAB_DIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for_status(tmp_path, "completed")
        time.sleep(0.2)  # in which the waiting begins
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "trained\n")
    assert err == "trimtab: Ctrl-C: no scrape is waited for any more, and the program goes on.\n"
    assert list(discovery.read(tmp_path / "targets")) == []


def test_scrape_touches_the_file_of_the_run(tmp_path, monkeypatch, serve, get):
    monkeypatch.setattr(discovery, "TOUCH_INTERVAL_S", -1.0)
    backend = serve()
    (path,) = (tmp_path / "targets").glob("*.json")
    os.utime(path, (0, 0))
    get(backend.address)
    assert next(discovery.read(path.parent)).age_s < 60
