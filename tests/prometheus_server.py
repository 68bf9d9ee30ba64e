"""A real Prometheus that scrapes what a test serves."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

PATIENCE_S = 30.0


class Prometheus:
    """Scrapes `targets` (URLs) each `interval`, evaluates `rules` (files) as often, and is asked PromQL.

    `files` is a pattern of discovery files, whose targets it scrapes too.
    """

    def __init__(self, program, directory, targets=(), *, interval="250ms", rules=(), files=None):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        hosts = [urllib.parse.urlsplit(target).netloc for target in targets]
        scraping = {"job_name": "trimtab", "scrape_interval": interval, "scrape_timeout": interval}
        found = {"file_sd_configs": [{"files": [str(files)], "refresh_interval": "1s"}]} if files else {}
        settings = {
            "global": {"evaluation_interval": interval},
            "rule_files": list(map(str, rules)),
            "scrape_configs": [{**scraping, "static_configs": [{"targets": hosts}], **found}],
        }
        directory.mkdir(exist_ok=True)
        config = directory / "prometheus.yml"
        config.write_text(yaml.safe_dump(settings))
        self._log = (directory / "prometheus.log").open("w")
        arguments = [f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        self._process = subprocess.Popen([program, *arguments, listen], stdout=self._log, stderr=self._log)

    def close(self):
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()

    def __call__(self, promql):
        """Label sets and values; nothing while the server is still starting."""
        address = f"http://127.0.0.1:{self.port}/api/v1/query?query={urllib.parse.quote(promql)}"
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
                return json.load(response)["data"]["result"]
        except urllib.error.URLError:
            return []

    def names(self, promql):
        """The names of the metrics in the answer."""
        return {each["metric"]["__name__"] for each in self(promql)}

    def until(self, promql, condition):
        """Ask until the answer meets the condition, and return the last one."""
        end = time.monotonic() + PATIENCE_S
        while not condition(result := self(promql)) and time.monotonic() < end:
            time.sleep(0.05)
        return result
