"""Servers of this machine, started by `deploy/stack.py` on free ports, and runs for them to scrape."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from servers import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_S = 40.0


def until(condition):
    """Ask again and again until the answer is truthy; return the last one."""
    end = time.monotonic() + PATIENCE_S
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


class Stack:
    """A running `deploy/stack.py`."""

    def __init__(self, directory, *, path=None):
        self.directory = directory
        self.targets = directory / "runs" / "targets"
        prometheus, alertmanager, grafana = (free_port() for _ in range(3))
        self.prometheus, self.alertmanager, self.grafana = (
            f"http://127.0.0.1:{port}" for port in (prometheus, alertmanager, grafana)
        )
        command = [
            *(sys.executable, ROOT / "deploy" / "stack.py"),
            *(f"--targets={self.targets}", f"--data={directory / 'data'}"),
            *(f"--prometheus-port={prometheus}", f"--alertmanager-port={alertmanager}", f"--grafana-port={grafana}"),
        ]
        environ = {**os.environ, **({"PATH": path} if path is not None else {})}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)

    def read_until_ready(self):
        """What it says before it is ready, or ends."""
        said = []
        for line in self.process.stdout:
            said.append(line.rstrip("\n"))
            if line.startswith("Ready."):
                break
        return said

    def stop(self, number=signal.SIGINT):
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def get(self, path, **query):
        """What Prometheus answers, None while it does not."""
        address = f"{self.prometheus}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
                return json.load(response)["data"]
        except urllib.error.URLError:
            return None

    def ask(self, promql):
        return (self.get("/api/v1/query", query=promql) or {"result": []})["result"]


def need(*programs):
    """Skip where a program is missing, or fail where REQUIRE_SERVERS is set."""
    for program in programs:
        if shutil.which(program) is None:
            tell = pytest.fail if os.environ.get("REQUIRE_SERVERS") else pytest.skip
            tell(f"needs {program}: apt-get install prometheus prometheus-alertmanager")
