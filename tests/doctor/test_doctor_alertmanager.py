"""The links at an Alertmanager of its own, at that of a Grafana, and behind a token."""

import ssl

import pytest
from answering import Answering, serving

from trimtab.discovery import Target
from trimtab.doctor import alertmanager

TOKEN = "t0ken"
NAMED = {"run": "resnet", "run_id": "0" * 16, "rank": 0, "host": "here", "pid": 1, "process_start": "1"}
TARGET = Target(address="127.0.0.1:9464", scheme="http", **NAMED)


class Handler(Answering):
    """Serves the API under `server.prefix`, to whoever brings the token where there is one."""

    def get(self):
        wanted = self.server.token
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            return self.answer(401, {})
        path = self.path.partition("?")[0]
        pages = {
            f"{self.server.prefix}/api/v2/status": {"versionInfo": {"version": "0.25.0"}},
            f"{self.server.prefix}/api/v2/alerts": self.server.alerts,
            f"{self.server.prefix}/api/v2/silences": self.server.silences,
        }
        return self.answer(200, pages[path]) if path in pages else self.answer(404, {})


@pytest.fixture
def server():
    with serving(Handler, prefix="", token=None, alerts=[{"labels": {}}], silences=[]) as server:
        yield server


@pytest.fixture
def tls_server(server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def verdicts(server, token=None):
    found = alertmanager.check(f"http://127.0.0.1:{server.server_port}", token, target=TARGET)
    return {finding.subject: (finding.verdict, finding.text) for finding in found}


@pytest.mark.parametrize("prefix", ["", "/api/alertmanager/grafana"])
def test_alertmanager_is_found_where_a_run_finds_it(server, prefix):
    server.prefix = prefix
    found = verdicts(server)
    assert {subject: verdict for subject, (verdict, _) in found.items()} == dict.fromkeys(
        ("alertmanager", "token", "alerts", "silences"), "ok"
    )


def test_alert_that_does_not_arrive_is_told(server):
    server.alerts = []
    assert verdicts(server)["alerts"][0] == "wrong"


def silence(state="active", **labels):
    matchers = [{"name": name, "value": value, "isRegex": True, "isEqual": True} for name, value in labels.items()]
    return {"id": "1", "status": {"state": state}, "matchers": matchers}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"alertname": "TrimtabLoss(Spike|High)"}, "loss_high, loss_spike of resnet"),
        ({"run": "res.*"}, "every rule of resnet"),
        ({"run": "another"}, "none holds for resnet"),
        ({"run": "resnet", "state": "expired"}, "none holds for resnet"),
    ],
)
def test_silences_are_told_as_the_run_reads_them(server, labels, said):
    server.silences = [silence(**labels)]
    verdict, text = verdicts(server)["silences"]
    assert (verdict, text.startswith(said)) == ("ok", True), text


def test_silences_that_are_none_are_no_answer_of_alertmanager(server):
    server.silences = {"status": "success"}
    assert verdicts(server)["alertmanager"][0] == "wrong"


def test_token_is_accepted_wanted_or_refused(server):
    server.token = TOKEN
    assert verdicts(server, TOKEN)["token"] == ("ok", "accepted")
    assert "wants a token" in verdicts(server)["token"][1]
    verdict, text = verdicts(server, "n0t-this")["token"]
    assert (verdict, "refuses the token (401)" in text, "n0t-this" in text) == ("wrong", True, False)


def test_server_of_another_kind_is_not_taken_for_one(server):
    server.prefix = "/elsewhere"
    verdict, text = verdicts(server)["alertmanager"]
    assert (verdict, "answers, but not as Alertmanager does" in text) == ("wrong", True)


def test_server_is_believed_for_the_certificates_that_a_run_is_given(tls_server, certificate):
    url = f"https://127.0.0.1:{tls_server.server_port}"
    assert {finding.verdict for finding in alertmanager.check(url, None, certificate[0])} == {"ok"}
    (doubted,) = alertmanager.check(url, TOKEN)
    assert (doubted.verdict, "is not trusted" in doubted.text) == ("wrong", True)
    assert "TRIMTAB_ALERTS_CA_FILE" in doubted.advice
