import http.client
import ssl
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
def trusting(certificate):
    return ssl.create_default_context(cafile=certificate[0])
