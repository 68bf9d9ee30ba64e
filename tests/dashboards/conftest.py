import pytest
from grafana_server import TOKEN, GrafanaServer

from trimtab_dashboards.grafana_client import Grafana


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
