"""Prometheus, Alertmanager and Grafana as plain processes on this machine: `make stack`, or `python deploy/stack.py`.

Takes the programs that are installed and says what is missing. Every server listens on 127.0.0.1 only, with the files
of this directory; what they store goes to `.stack`. Ctrl-C, or SIGTERM, ends them all. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

DEPLOY = Path(__file__).resolve().parent
GRAFANA_HOMES = ("/usr/share/grafana", "/usr/local/share/grafana", "/opt/homebrew/share/grafana")
READY_S = 30.0
STOP_S = 10.0


@dataclass
class Server:
    """A program that may be installed, and how it is run."""

    title: str
    programs: tuple[str, ...]  # the first that is found is taken
    install: str
    url: str
    ready: str  # path that answers 200 once it serves
    arguments: Sequence[str] = ()
    environ: dict[str, str] = field(default_factory=dict)

    def find(self) -> str | None:
        return next((found for found in map(shutil.which, self.programs) if found), None)

    def start(self, program: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                [program, *self.arguments],
                env={**os.environ, **self.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def is_ready(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + self.ready, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


def servers(targets: Path, data: Path, prometheus: int, alertmanager: int, grafana: int) -> list[Server]:
    """The three, on the ports given. Writes Prometheus' configuration under `data`."""
    config = data / "prometheus.yml"
    config.write_text(prometheus_config(targets, alertmanager))
    local = "http://127.0.0.1"
    return [
        Server(
            "Prometheus",
            ("prometheus",),
            "apt-get install prometheus, brew install prometheus, or https://prometheus.io/download",
            f"{local}:{prometheus}",
            "/-/ready",
            [
                f"--config.file={config}",
                f"--storage.tsdb.path={data / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
                "--rules.alert.resend-delay=10s",  # the first alerts come before it has found Alertmanager
            ],
        ),
        Server(
            "Alertmanager",
            ("prometheus-alertmanager", "alertmanager"),
            "apt-get install prometheus-alertmanager, or https://prometheus.io/download",
            f"{local}:{alertmanager}",
            "/-/ready",
            [
                f"--config.file={DEPLOY / 'alertmanager' / 'alertmanager.yml'}",
                f"--storage.path={data / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ],
        ),
        Server(
            "Grafana",
            ("grafana", "grafana-server"),
            "https://grafana.com/grafana/download",
            f"{local}:{grafana}",
            "/api/health",
            grafana_arguments(shutil.which("grafana"), shutil.which("grafana-server")),
            grafana_environ(data, grafana, f"{local}:{prometheus}"),
        ),
    ]


def prometheus_config(targets: Path, alertmanager: int) -> str:
    """The configuration that ships, with whole paths and the port of this Alertmanager."""
    folder = DEPLOY / "prometheus"
    text = (folder / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:9093", f"127.0.0.1:{alertmanager}")
    text = text.replace("../../runs/targets/*.json", str(targets.resolve() / "*.json"))
    return re.sub(r"^( *- )(\S+\.rules\.yml)$", rf"\g<1>{folder}/\g<2>", text, flags=re.MULTILINE)


def grafana_arguments(program: str | None, older: str | None = None) -> list[str]:
    """How Grafana is called: `grafana server`, before version 9.4 `grafana-server`; and where its own files are."""
    found = program or older
    homes = [Path(found).resolve().parent.parent] if found else []
    homes += map(Path, GRAFANA_HOMES)
    home = next((each for each in homes if (each / "conf" / "defaults.ini").exists()), homes[-1])
    return [*(["server"] if program else []), "--homepath", str(home)]


def grafana_password(data: Path) -> Path:
    """The file of its admin's password, which nobody else may read. Grafana takes it in when it first starts."""
    path = data / "grafana-password"
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_urlsafe(18))
    return path


def grafana_environ(data: Path, port: int, prometheus: str) -> dict[str, str]:
    """What Grafana is told. Whoever is on this machine may look; a change needs the login that Grafana asks for."""
    return {
        "GF_SECURITY_ADMIN_PASSWORD": f"$__file{{{grafana_password(data)}}}",
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(data / "grafana"),
        "GF_PATHS_LOGS": str(data / "grafana"),
        "GF_PATHS_PROVISIONING": str(DEPLOY / "grafana" / "provisioning"),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "TRIMTAB_PROMETHEUS_URL": prometheus,
        "TRIMTAB_DASHBOARDS_DIR": str(DEPLOY.parent / "dashboards" / "trimtab_dashboards"),
    }


def run(wanted: list[Server], data: Path) -> int:
    """Start what is installed, wait to be asked to stop. Exit code 1 when nothing could start, or a server died."""
    found = {server.title: program for server in wanted if (program := server.find())}
    for server in wanted:
        if server.title not in found:
            print(f"{server.title:<13} is not installed: {server.install}", flush=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for server in (each for each in wanted if each.title in found):
            log = data / f"{server.title.lower()}.log"
            running[server.title] = server.start(found[server.title], log)
            if not wait_until_ready(server, running[server.title]):
                print(f"{server.title:<13} did not start: {last_line(log)}  (all of it: {log})", flush=True)
                return 1
            print(f"{server.title:<13} {server.url}", flush=True)
        if not running:
            return 1
        print("Ready. Train, or run `trimtab demo --serve` in another terminal. Ctrl-C stops all.", flush=True)
        return watch(running, data)
    except KeyboardInterrupt:
        return 0
    finally:
        stop(running.values())


def wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        if server.is_ready():
            return process.poll() is None  # or else it is another's server that answers
        time.sleep(0.1)
    return False


def watch(running: dict[str, subprocess.Popen[bytes]], data: Path) -> int:
    while True:
        for title, process in running.items():
            if process.poll() is not None:
                print(f"{title:<13} ended: {last_line(data / f'{title.lower()}.log')}", flush=True)
                return 1
        time.sleep(0.5)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.terminate()
    end = time.monotonic() + STOP_S
    for process in alive:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def targets_of(environ: dict[str, str]) -> Path:
    """Where runs of this directory leave their files, by the same settings."""
    return Path(environ.get("TRIMTAB_TARGETS_DIR") or Path(environ.get("TRIMTAB_DIR") or "runs") / "targets")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--targets", type=Path, default=targets_of(dict(os.environ)), help="files of runs")
    parser.add_argument("--data", type=Path, default=Path(".stack"), help="where the servers store what they know")
    parser.add_argument("--prometheus-port", type=int, default=9090)
    parser.add_argument("--alertmanager-port", type=int, default=9093)
    parser.add_argument("--grafana-port", type=int, default=3000)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    data = given.data.resolve()
    for directory in (data, given.targets):
        directory.mkdir(parents=True, exist_ok=True)
    ports = (given.prometheus_port, given.alertmanager_port, given.grafana_port)
    return run(servers(given.targets, data, *ports), data)


if __name__ == "__main__":
    sys.exit(main())
