from pathlib import Path

import pytest
from grafana_server import TOKEN, GrafanaServer
from relay import Relay
from servers import Prometheus

from trimtab_dashboards.grafana_client import Grafana

ACTING = Path(__file__).parents[2] / "deploy" / "prometheus" / "trimtab-acting.rules.yml"


@pytest.fixture
def server():
    server = GrafanaServer()
    yield server
    server.close()


@pytest.fixture
def grafana(server):
    grafana = Grafana(server.url, TOKEN, timeout_s=5.0)
    yield grafana
    grafana.close()


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def relay():
    relay = Relay()
    yield relay
    relay.close()


@pytest.fixture(scope="module")
def ask(relay, program, tmp_path_factory, request):
    """A Prometheus that scrapes the relay as often as the module says, and evaluates the rules that act as often."""
    directory = tmp_path_factory.mktemp("prometheus")
    program("prometheus")
    server = Prometheus(directory, [relay.url], interval=request.module.SCRAPED_EACH, rules=[ACTING])
    server.until("up", bool)
    yield server
    server.close()
