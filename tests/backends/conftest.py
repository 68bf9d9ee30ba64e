import http.client
import shutil
import ssl
import subprocess
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
