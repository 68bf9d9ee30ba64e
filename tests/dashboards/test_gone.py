"""A run that is killed and a run that ends, found by their files and told apart by a real Prometheus."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGING = Path(__file__).parents[2] / "deploy" / "prometheus" / "trimtab-paging.rules.yml"
PATIENCE_S = 60.0
SCRIPT = """
import pathlib, sys, time, torch
weight = torch.nn.Parameter(torch.ones(1))
optimizer = torch.optim.SGD([weight], lr=0.1)
while not pathlib.Path(sys.argv[1]).exists():
    optimizer.zero_grad()
    (weight * weight).sum().backward()
    optimizer.step()
    time.sleep(0.02)
"""

pytestmark = pytest.mark.servers


@pytest.fixture
def start(tmp_path):
    """Start a watched training that goes on until a file of its name is there."""
    started = []
    (tmp_path / "train.py").write_text(SCRIPT)

    def start(name):
        command = [sys.executable, "-m", "trimtab", "run", "--run", name, "--port", "0", "train.py", name]
        started.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(PATIENCE_S)


def runs(answer):
    return {each["metric"]["run"] for each in answer}


def test_killed_run_is_gone_and_one_that_ended_is_not(tmp_path, start, prometheus):
    ask = prometheus(rules=[PAGING], files=tmp_path / "runs" / "targets" / "*.json")
    killed, ended = start("killed"), start("ended")
    # A run waits for its last scrape once it knows how often it is scraped.
    ask.until("count_over_time(trimtab_run_info[1m]) > 3", lambda answer: runs(answer) == {"killed", "ended"})
    killed.kill()
    (tmp_path / "ended").touch()
    while len(list((tmp_path / "runs" / "targets").iterdir())) > 1 and ended.poll() is None:
        time.sleep(0.01)
    over_at = time.monotonic()  # it serves no more; until then a scrape may have failed, on a busy machine
    assert ended.wait(PATIENCE_S) == 0
    ask.until("up", lambda answer: len(answer) == 1)  # that its file is removed has been seen
    assert runs(ask.until("run:trimtab_gone:group", lambda answer: runs(answer) == {"killed"})) == {"killed"}
    since_ms = round(1000 * (time.monotonic() - over_at))
    assert "ended" not in runs(ask(f"count_over_time(run:trimtab_gone:group[{since_ms}ms])"))
    assert runs(ask('ALERTS{alertname="TrimtabRunGone"}')) == {"killed"}
    assert not ask('ALERTS{alertname="TrimtabTargetDown"}')
