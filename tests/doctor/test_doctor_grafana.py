"""The links at Grafana, against a server that answers as its HTTP API does. No real Grafana runs here."""

import ssl

import pytest
from answering import Answering, serving

from trimtab.doctor import grafana

TOKEN = "t0ken"
DASHBOARDS = {"trimtab-run": "Run", "trimtab-fleet": "Fleet"}


class Grafana(Answering):
    def get(self):
        if self.path == "/api/health":
            return self.answer(200, {"database": "ok", "version": "11.6.0"})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"message": "Invalid API key"})
        if self.path == "/api/datasources":
            return self.answer(200, self.server.sources)
        uid = self.path.removeprefix("/api/dashboards/uid/")
        if uid in self.server.dashboards:
            return self.answer(200, {"dashboard": {"uid": uid}, "meta": {}})
        return self.answer(404, {"message": "Dashboard not found"})


@pytest.fixture
def server():
    with serving(Grafana, sources=[{"name": "Main", "type": "prometheus"}], dashboards=set(DASHBOARDS)) as server:
        yield server


def verdicts(server, token=TOKEN):
    found = grafana.check(f"http://127.0.0.1:{server.server_port}", token, DASHBOARDS)
    return {finding.subject: (finding.verdict, finding.text) for finding in found}


def test_grafana_that_holds_what_ships_is_in_order(server):
    assert {verdict for verdict, _ in verdicts(server).values()} == {"ok"}
    assert set(verdicts(server)) == {"grafana", "datasource", "dashboards"}


def test_dashboards_that_are_missing_are_named(server):
    server.dashboards.remove("trimtab-fleet")
    assert verdicts(server)["dashboards"] == ("wrong", "missing: Fleet.")


def test_grafana_without_a_prometheus_is_told(server):
    server.sources = [{"name": "Logs", "type": "loki"}]
    assert verdicts(server)["datasource"][0] == "wrong"


@pytest.mark.parametrize("sources", [{"message": "no list"}, [{"name": "Main"}], 5])
def test_answer_that_is_none_of_grafana_is_told(server, sources):
    server.sources = sources
    assert verdicts(server)["datasource"] == (
        "wrong",
        f"http://127.0.0.1:{server.server_port} answers, but not as Grafana does.",
    )


def test_token_that_is_refused_is_told_without_the_token(server):
    verdict, text = verdicts(server, "n0t-this")["token"]
    assert verdict == "wrong"
    assert "401" in text
    assert "n0t-this" not in text


def test_dashboards_are_skipped_without_a_token(server):
    assert verdicts(server, None)["dashboards"][0] == "skipped"


def test_grafana_is_believed_for_the_certificates_that_a_run_is_given(server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_port}"
    assert {finding.verdict for finding in grafana.check(url, TOKEN, DASHBOARDS, certificate[0])} == {"ok"}
    (doubted,) = grafana.check(url, TOKEN, DASHBOARDS)
    assert (doubted.verdict, "TRIMTAB_GRAFANA_CA_FILE" in doubted.advice) == ("wrong", True)
