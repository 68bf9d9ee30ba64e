"""What it costs training that somebody scrapes a thousand series each second.

    python benchmarks/scrapes.py URL     the scraper: one scrape for each line that it is given

Windows of half a second take turns: quiet, quiet again, with a scrape in it. The run is watched in all of them, so
what differs is the scrape alone.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from os import devnull
from urllib.parse import urlsplit

import torch
from paired import Plan, Side, compare, difference
from results import MILLISECONDS, Figure, judged
from torch import Tensor, nn
from workloads import Batches, Workload

import trimtab
from trimtab_backends.prometheus import PrometheusBackend

ADDED_BAR_S, LONGEST_BAR_S = 20e-3, 30e-3
WINDOW_S = 0.5
SERIES = 1_000
LAYERS, WIDTH = 100, 64

# What Prometheus 2.42 sends.
HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}

Step = Callable[[], object]


class Scraper:
    """Another process that keeps a connection, as Prometheus does."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, __file__, url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.series = 0  # on the last page

    def ask(self) -> None:
        """Begin a scrape, and do not wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    def answer(self) -> None:
        """Wait for the scrape that was asked for."""
        assert self._process.stdout is not None
        self.series = int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(quick: bool) -> list[Figure]:
    """On a deep model with a parameter group for each tensor, which makes 1,000 series by itself."""
    torch.manual_seed(0)
    prometheus = PrometheusBackend(port=0)
    with (
        tempfile.TemporaryDirectory() as directory,
        open(devnull, "w", encoding="utf-8") as nowhere,
        redirect_stderr(nowhere),
        trimtab.watch(directory=directory, backends=["console", "jsonl", prometheus]),
    ):
        step = _deep().loop()
        scraper = Scraper(prometheus.address or "")
        try:
            step_s = _warm_up(step, scraper)
            return _figures(step, step_s, scraper, 6 if quick else 100)
        finally:
            scraper.close()


def _warm_up(step: Step, scraper: Scraper) -> float:
    """Train and scrape until the series are there. Returns the seconds of a step."""
    durations: list[float] = []
    for _ in range(10):
        until = time.perf_counter() + 1.0
        while time.perf_counter() < until:
            durations.append(_timed(step))
        scraper.ask()
        scraper.answer()
        if scraper.series >= SERIES and len(durations) > 100:
            break
    return sorted(durations)[len(durations) // 2]


def _figures(step: Step, step_s: float, scraper: Scraper, windows: int) -> list[Figure]:
    durations: dict[str, list[float]] = {"quiet": [], "control": [], "scraped": []}
    sides = {name: Side(lambda kept=kept: kept.append(_timed(step))) for name, kept in durations.items()}
    sides["scraped"] = Side(sides["scraped"].step, begin=scraper.ask, leave=scraper.answer)
    steps = max(4, round(WINDOW_S / step_s))
    rounds = compare(sides, Plan(steps), budget_s=0, fewest=windows, most=windows)
    added = difference(rounds, "scraped", "quiet", "control").scaled(steps)
    by_chance = difference(rounds, "control", "quiet").scaled(steps)
    longest = {name: max(kept) for name, kept in durations.items()}
    more, without = longest["scraped"] - longest["quiet"], longest["control"] - longest["quiet"]
    name = f"a scrape of {scraper.series:,} series"
    note = f"{windows} windows of {steps} steps of {MILLISECONDS.one(step_s)}; another process asks, through HTTP"
    return [
        judged(f"{name}: wall time added", added, MILLISECONDS, ADDED_BAR_S, by_chance, note),
        Figure(
            "... longest step, over the longest without",
            MILLISECONDS.one(more),
            bar=f"<= {LONGEST_BAR_S * 1e3:g} ms",
            control=MILLISECONDS.one(without),
            met=more <= LONGEST_BAR_S,
        ),
    ]


def _timed(step: Step) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


class _Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.01 * layer(x).relu()
        return x


def _deep() -> Workload:
    model = _Deep()
    optimizer = torch.optim.SGD([{"params": [parameter]} for parameter in model.parameters()], lr=1e-3)
    inputs, targets = torch.randn(64, WIDTH), torch.randint(WIDTH, (64,))

    def same() -> Batches:
        while True:
            yield inputs, targets

    return Workload("deep perceptron", model, optimizer, nn.CrossEntropyLoss(), same)


def _serve_lines(url: str) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    for _ in sys.stdin:
        try:
            page = _page(connection, parts.path)
        except (http.client.RemoteDisconnected, ConnectionError):  # it was idle for long: ask anew, as Prometheus does
            connection.close()
            page = _page(connection, parts.path)
        print(sum(not line.startswith(b"#") for line in page.splitlines()), flush=True)


def _page(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers=HEADERS)
    return connection.getresponse().read()


if __name__ == "__main__":
    _serve_lines(sys.argv[1])
