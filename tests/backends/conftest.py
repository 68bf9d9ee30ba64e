import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

import pytest

from trimtab.testing import sample_run
from trimtab_backends.prometheus import PrometheusBackend

PATIENCE_S = 30.0


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


@pytest.fixture
def get():
    """GET an address, whatever the status; `context` as for urllib."""

    def get(address, headers=None, context=None, timeout=PATIENCE_S):
        request = urllib.request.Request(address, headers=headers or {})
        try:
            with urllib.request.urlopen(request, context=context, timeout=timeout) as response:
                return Answer(response.status, response.headers, response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())

    return get


@pytest.fixture
def serve(tmp_path):
    """Start a backend with settings of `Config`, and close it in the end."""
    started = []

    def serve(backend=None, *, rank=0, **config):
        backend = backend or PrometheusBackend()
        started.append(backend)
        backend.start(sample_run(tmp_path, rank=rank, **config))
        return backend

    yield serve
    for backend in started:
        backend.close()


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    """Make a certificate for localhost and its key, the key encrypted when asked for. Returns their paths."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")

    def make(*encryption):
        directory = tmp_path_factory.mktemp("tls")
        certificate, key = directory / "certificate.pem", directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate,
             *(encryption or ("-nodes",))],
            check=True,
            capture_output=True,
        )  # fmt: skip
        return certificate, key

    return make


@pytest.fixture(scope="session")
def certificate(make_certificate):
    return make_certificate()


@pytest.fixture(scope="session")
def trusting(certificate):
    return ssl.create_default_context(cafile=certificate[0])


class Prometheus:
    """A running server, to be asked PromQL."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}/api/v1/query?query="

    def __call__(self, promql):
        """Label sets and values; nothing while the server is still starting."""
        try:
            with urllib.request.urlopen(self.address + urllib.parse.quote(promql), timeout=PATIENCE_S) as response:
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


@pytest.fixture
def prometheus(tmp_path, program):
    """Start a Prometheus that scrapes an address four times a second."""
    running = []

    def start(address):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "scrape_configs:\n- job_name: trimtab\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\n"
            f"  static_configs: [{{targets: ['{urllib.parse.urlsplit(address).netloc}']}}]\n"
        )
        arguments = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        log = (tmp_path / "prometheus.log").open("w")
        listen = f"--web.listen-address=127.0.0.1:{port}"
        running.append((subprocess.Popen([program("prometheus"), *arguments, listen], stdout=log, stderr=log), log))
        return Prometheus(port)

    yield start
    for process, log in running:
        process.terminate()
        process.wait(PATIENCE_S)
        log.close()
