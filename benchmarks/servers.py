"""Real servers on loopback, for benchmarks and tests: they are started, asked, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
LOWEST, HANDED_OUT = 16384, 32768  # `net.ipv4.ip_local_port_range` begins there, 49152 elsewhere
INSTALL = "apt-get install prometheus prometheus-alertmanager"
ROUTE = """
route: {{receiver: {receiver}, group_by: [alertname, run, run_id], group_wait: 0s, group_interval: 1s}}
receivers: [{{name: nobody}}{receivers}]
inhibit_rules: [{{source_matchers: [alertname="HandsOff"], target_matchers: [purpose="act"], equal: [run]}}]
"""
WEBHOOK = (
    ", {{name: run, webhook_configs: [{{url: '{url}', http_config: {{authorization: {{credentials: {token}}}}}}}]}}"
)


def program(*names: str) -> str:
    """The path of the first of these programs that is installed.

    Raises:
        SystemExit: none is.
    """
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise SystemExit(f"needs {names[0]}: {INSTALL}")
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on now, and that nobody is given by chance until it is used.

    Ports that the system hands out, to servers at port 0 and to clients alike, lie above `HANDED_OUT`: one of those
    that was free a moment ago may be any client's by now.
    """
    while True:
        port = random.randrange(LOWEST, HANDED_OUT)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Server:
    """A process that serves HTTP on `port` of loopback, and writes into a log under `directory`."""

    def __init__(
        self, command: Sequence[str], port: int, directory: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = (directory / f"{Path(command[0]).name}.log").open("w")
        given = {**os.environ, **(environ or {})}
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=given)

    def __enter__(self) -> Any:
        self.wait_until_ready()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has used, of user and system. Linux alone says it."""
        after_name = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime, stime

    def get(self, path: str, **query: object) -> Any:
        """What it answers, as JSON.

        Raises:
            OSError: it does not answer, or not with 200.
        """
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        with urllib.request.urlopen(self.url + path + asked, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def post(self, path: str, content: object) -> None:
        """Post JSON.

        Raises:
            OSError: it does not answer, or refuses.
        """
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()

    def wait_until_ready(self) -> None:
        """Wait until it serves.

        Raises:
            RuntimeError: it ended, or took too long.
        """
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=2).close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self._process.args}: does not serve. See {self._log.name}")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()


class Alertmanager(Server):
    """Tells of each alert at once, and of more once a second: nobody, or a run's webhook under the URL `webhook`."""

    def __init__(self, directory: Path, *, webhook: str = "", token: str = "", **environ: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        receivers = WEBHOOK.format(url=webhook, token=token) if webhook else ""
        file = directory / "alertmanager.yml"
        file.write_text(ROUTE.format(receiver="run" if webhook else "nobody", receivers=receivers))
        port = free_port()
        command = [
            program("prometheus-alertmanager", "alertmanager"),
            f"--config.file={file}",
            f"--storage.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        super().__init__(command, port, directory, environ)


class Prometheus(Server):
    """Scrapes `targets` (URLs) each `interval`, evaluates `rules` (files) as often, and is asked PromQL.

    `files` is a pattern of discovery files, whose targets it scrapes too. Alerts go to `alertmanager`, a URL.
    """

    def __init__(
        self,
        directory: Path,
        targets: Iterable[str] = (),
        *,
        interval: str = "250ms",
        rules: Iterable[Path] = (),
        files: str | Path | None = None,
        alertmanager: str | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        scraping: dict[str, Any] = {"job_name": "trimtab", "scrape_interval": interval, "scrape_timeout": interval}
        scraping["static_configs"] = [{"targets": [_host(target) for target in targets]}]
        if files:
            scraping["file_sd_configs"] = [{"files": [str(files)], "refresh_interval": "1s"}]
        settings: dict[str, Any] = {
            "global": {"evaluation_interval": interval},
            "rule_files": list(map(str, rules)),
            "scrape_configs": [scraping],
        }
        if alertmanager:
            settings["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [_host(alertmanager)]}]}]}
        file = directory / "prometheus.yml"
        file.write_text(json.dumps(settings))  # which is YAML too
        port, self.began = free_port(), time.time()
        command = [
            program("prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__(command, port, directory)

    def __call__(self, promql: str) -> list[dict[str, Any]]:
        """Label sets and values; nothing while the server is still starting."""
        return self._result("/api/v1/query", query=promql)

    def since_it_began(self, promql: str) -> list[dict[str, Any]]:
        """Label sets and values, one value a second since the server was started."""
        return self._result("/api/v1/query_range", query=promql, start=self.began, end=time.time(), step=1)

    def names(self, promql: str) -> set[str]:
        """The names of the metrics in the answer."""
        return {each["metric"]["__name__"] for each in self(promql)}

    def until(self, promql: str, condition: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Ask until the answer meets the condition, and return the last one."""
        end = time.monotonic() + PATIENCE_S
        while not condition(result := self(promql)) and time.monotonic() < end:
            time.sleep(0.05)
        return result

    def _result(self, path: str, **query: object) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self.get(path, **query)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is still starting
                return []
            raise ValueError(f"{query['query']}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return []
        return found


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc
