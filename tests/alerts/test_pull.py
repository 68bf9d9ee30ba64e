"""A server is asked, and whatever it answers there is one clear record and no harm."""

import contextlib
import json
import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sending import RUN, RUN_ID, alert, listed, mutilated, silence
from serving import Server, http

from trimtab.alerts import client, payloads
from trimtab.alerts.client import Client, Unanswered
from trimtab.alerts.payloads import Malformed
from trimtab.alerts.pull import CROWDED_S, LONGEST_S, UNREAD_TOLD, Poller
from trimtab.alerts.silences import Silences, expected_labels
from trimtab.guard import Guard

LABELS = expected_labels(RUN, RUN_ID, ["loss_diverged", "alert:GpuHot"])


class Asking:
    """A poller, the server that it asks, and what it told."""

    def __init__(self, inbox, clock, *, token=None, prefix=""):
        self.alerts, self.silences_given, self.told = [], [], []
        self.state = {}
        self.prefix = prefix  # under which the server knows the API
        self.server = Server(self.good)
        self.silences = Silences(clock)
        self.poller = Poller(
            Client(self.server.address, token),
            inbox,
            self.silences,
            LABELS,
            run=RUN,
            interval_s=5.0,
            guard=Guard(lambda place, text: self.told.append(text)),
            say=lambda kind, text: self.told.append(text),
            published=lambda: None,
            jitter=lambda: 0.5,
            clock=clock,
        )

    def good(self, path):
        if path == f"{self.prefix}/api/v2/silences":
            return http(json.dumps(self.silences_given).encode())
        if path.startswith(f"{self.prefix}/api/v2/alerts?"):
            return http(listed(*self.alerts, **self.state))
        return http(b"<html>", "404 Not Found", "text/html")

    def answering(self, answer):
        """From now on the server says this, whatever it is asked."""
        self.server.answer = lambda path: answer() if callable(answer) else answer
        return self


@pytest.fixture
def asking(inbox, clock):
    made = []

    def asking(**options):
        made.append(Asking(inbox, clock, **options))
        return made[-1]

    yield asking
    for each in made:
        each.poller.close()
        each.server.close()


def test_alert_is_handed_in_once_and_ends_when_it_is_listed_no_more(asking, inbox, clock):
    it = asking()
    it.alerts = [alert(at=clock.now)]
    it.poller.ask()
    it.alerts = [alert(at=clock.now, annotations={"value": "9"})]
    it.poller.ask()
    it.alerts = []
    it.poller.ask()
    assert [(w.alert.source, w.alert.state) for w in inbox.take()] == [
        ("alertmanager", "firing"),
        ("alertmanager", "resolved"),
    ]
    assert inbox.received == {}
    assert inbox.last_success == {"alertmanager": clock.now}


def test_question_is_about_this_run_alone(asking):
    it = asking()
    it.poller.ask()
    assert "GET /api/v2/alerts?unprocessed=false&filter=run%3D%22resnet%22 HTTP/1.1" in it.server.requests[1]


def test_grafana_is_found_under_its_own_path(asking, inbox, clock):
    it = asking(prefix="/api/alertmanager/grafana")
    it.alerts = [alert(at=clock.now)]
    it.poller.ask()
    assert inbox.take()[0].alert.source == "grafana"
    assert it.told == []


def test_token_is_sent_and_told_to_nobody(asking):
    it = asking(token=b"s3cret")
    it.answering(http(b"{}", "401 Unauthorized")).poller.ask()
    assert "Authorization: Bearer s3cret" in it.server.requests[0]
    assert "refuses the token" in it.told[0]
    assert "s3cret" not in it.told[0]


def test_proxies_and_netrc_are_not_obeyed(asking, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    it = asking()
    it.poller.ask()
    assert it.told == []
    assert "authorization" not in it.server.requests[0].lower()


def test_silence_and_suppressed_alert_veto_their_rules(asking, clock):
    it = asking()
    it.silences_given = [silence(("alertname", "GpuHot"))]
    it.alerts, it.state = [alert(at=clock.now)], {"state": "suppressed", "inhibited_by": ["f9"]}
    it.poller.ask()
    assert it.silences.rules == {"loss_diverged", "alert:GpuHot"}


def test_alert_that_nobody_suppressed_vetoes_nothing(asking, clock):
    it = asking()
    it.alerts = [alert(at=clock.now)]
    it.poller.ask()
    assert it.silences.rules == frozenset()


def test_alert_that_pages_may_be_silenced_while_the_run_is_steered(asking, clock):
    it = asking()
    it.alerts, it.state = [alert(at=clock.now, purpose="page")], {"silenced_by": ["5c1c"]}
    it.poller.ask()
    assert it.silences.rules == frozenset()


def drip():
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(1_000):
        threading.Event().wait(0.02)
        yield b" "


def drip_headers():
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(1_000):
        threading.Event().wait(0.02)
        yield b"X-%d: y\r\n" % number


def endless():
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n["
    while True:
        yield b" " * 65_536


BOMB = zlib.compress(b" " * 50_000_000)
WRONG = {
    "HTML": (http(b"<html>Sign in</html>", kind="text/html"), "something else than JSON"),
    "500": (http(b"{}", "500 Internal Server Error"), "answers 500"),
    "503": (http(b"upstream connect error", "503 Service Unavailable", "text/plain"), "answers 503"),
    "403": (http(b"{}", "403 Forbidden"), "refuses the token"),
    "404": (http(b"", "404 Not Found"), "neither an Alertmanager nor a Grafana"),
    "redirect": (http(b"", "302 Found", "text/html", "Location: http://127.0.0.1:1/"), "redirects (302)"),
    "cut short": (http(b"[" * 50)[:-20], "in part only"),
    "silent": (b"", "in part only"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
    "gzip bomb": (http(BOMB, "200 OK", "application/json", "Content-Encoding: deflate"), "something else than JSON"),
    "huge": (endless, "more than 4,194,304 bytes"),
    "slow": (drip, "does not answer within"),
    "slow headers": (drip_headers, "does not answer within"),
    "deep": (http(b'[{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]"), "nested too deeply"),
    "no list": (http(b'{"status": "success"}'), "expected a JSON list"),
    "many headers": (http(b"[]", "200 OK", "application/json", *["X: y"] * 200), "does not speak HTTP"),
}


@pytest.mark.parametrize("how", WRONG)
def test_answer_that_is_wrong_is_told_in_one_sentence(asking, inbox, monkeypatch, how):
    monkeypatch.setattr(client, "DEADLINE_S", 0.3)
    answer, sentence = WRONG[how]
    it = asking().answering(answer)
    it.poller.ask()
    (told,) = it.told
    assert sentence in told
    assert not inbox.waiting
    assert inbox.last_success == {}


def test_server_that_is_away_is_told_and_asked_less_and_less_often(asking, clock):
    it = asking()
    it.poller._client = Client("http://127.0.0.1:1")
    pauses = []
    for _ in range(6):
        it.poller.ask()
        pauses.append(it.poller.pause_s)
    assert pauses == [10.0, 20.0, 40.0, LONGEST_S, LONGEST_S, LONGEST_S]
    assert "cannot be reached (Connection refused)" in it.told[0]
    assert "alerts_ca_file" not in it.told[0]


CROWDED = http(
    b"Limit of concurrent GET requests reached (8), try again later.\n", "503 Service Unavailable", "text/plain"
)


def test_server_that_has_others_to_answer_is_asked_less_often_until_it_has_time(asking, inbox, clock):
    it = asking().answering(CROWDED)
    pauses = []
    for _ in range(4):
        it.poller.ask()
        pauses.append(it.poller.pause_s)
    assert pauses == [0.5 * 5.0 * intervals for intervals in (1.5, 2.0, 2.0, 2.0)]
    it.alerts = [alert(at=clock.now)]
    it.server.answer = it.good
    it.poller.ask()
    assert len(inbox.take()) == 1
    assert it.poller.pause_s == 5.0 * 1.5**4
    for _ in range(50):
        it.poller.ask()
    assert it.poller.pause_s == 5.0
    assert it.told == []


def test_server_that_had_others_to_answer_for_long_is_asked_as_often_again_within_fifty_questions(asking):
    it = asking().answering(CROWDED)
    for _ in range(20):
        it.poller.ask()
    it.server.answer = it.good
    it.poller.ask()
    assert it.poller.pause_s == LONGEST_S
    for _ in range(50):
        it.poller.ask()
    assert it.poller.pause_s == 5.0


@pytest.mark.parametrize(("answer", "status"), [(CROWDED, 503), (http(b"", "429 Too Many Requests"), 429)])
def test_server_that_has_others_to_answer_is_told_of_when_that_lasts(asking, clock, answer, status):
    it = asking().answering(answer)
    it.poller.ask()
    clock.now += CROWDED_S
    it.poller.ask()
    assert it.told == []
    clock.now += 1
    it.poller.ask()
    assert f"has too many to answer ({status})" in it.told[0]


def test_runs_that_started_together_ask_at_any_time_from_the_second_question_on(asking):
    it = asking()
    waits = []

    def wait(seconds):
        waits.append(seconds)
        return len(waits) > 3

    it.poller._ending.wait = wait
    it.poller._jitter = lambda: 0.25
    it.poller._work()
    assert waits == [5.0 * 0.1 * 0.25, 5.0 * 0.25, 5.0 * 0.95, 5.0 * 0.95]


def test_silences_outlive_a_server_that_is_away_by_five_minutes(asking, clock):
    it = asking()
    it.silences_given = [silence(("run", RUN))]
    it.poller.ask()
    it.answering(http(b"{}", "500 Internal Server Error"))
    clock.now += 299
    it.poller.ask()
    assert it.silences.cover("loss_diverged")
    clock.now += 2
    it.poller.ask()
    assert not it.silences.cover("loss_diverged")
    assert "its silences hold no longer" in it.told[-1]


@pytest.mark.parametrize("many", ["alerts", "bytes", "too busy"])
def test_silences_hold_where_there_are_more_alerts_than_are_taken_in(asking, inbox, clock, many):
    it = asking()
    it.silences_given = [silence(("alertname", "GpuHot"))]
    it.alerts, it.state = [alert(at=clock.now)], {"state": "suppressed"}
    it.poller.ask()
    inbox.take()
    it.alerts = [alert("alert:Junk", at=clock.now, fingerprint=f"f{number}") for number in range(1_001)]
    if many == "bytes":
        it.alerts = [alert(at=clock.now, annotations={"text": "x" * 1_000_000}) for _ in range(5)]
    if many == "too busy":
        good = it.server.answer
        it.server.answer = lambda path: http(b"", "503 Busy") if "alerts?" in path else good(path)
    clock.now += 299
    it.poller.ask()
    assert it.silences.rules == {"alert:GpuHot", "loss_diverged"}
    clock.now += 299
    it.poller.ask()
    assert it.silences.rules == {"alert:GpuHot"}  # whether the other is still suppressed is no longer known
    it.silences_given = []
    it.poller.ask()
    assert it.silences.rules == frozenset()
    assert inbox.take() == []


def test_alert_that_came_while_the_inbox_was_full_is_handed_in_again(asking, inbox, clock):
    it = asking()
    it.alerts = [alert(at=clock.now, fingerprint=str(number)) for number in range(201)]
    it.poller.ask()
    assert len(inbox.take()) == 200
    clock.now += 5
    it.poller.ask()
    assert len(inbox.take()) == 1


def test_end_that_came_while_too_much_did_is_handed_in_again(asking, inbox, clock):
    it = asking()
    hot, others = alert(at=clock.now, fingerprint="hot"), [alert(at=clock.now, fingerprint=str(n)) for n in range(300)]
    it.alerts = [hot, *others]
    it.poller.ask()
    it.alerts = others
    it.poller.ask()
    inbox.take()
    clock.now += 5
    it.poller.ask()
    assert ("hot", "resolved") in [(waiting.alert.fingerprint, waiting.alert.state) for waiting in inbox.take()]


def test_thread_asks_until_it_is_closed(asking, inbox):
    it = asking()
    it.poller._interval_s = 0.01
    it.poller.start()
    until = time.monotonic() + 10
    while len(it.server.requests) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    it.poller.close()
    assert len(it.server.requests) >= 4
    assert not it.poller._thread.is_alive()


def test_address_of_ipv6_needs_no_port():
    with pytest.raises(Unanswered) as caught:
        Client("http://[::a]").get("/")  # nobody's
    assert caught.value.kind in ("unreachable", "cut off")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The path of a certificate for 127.0.0.1 with its key, which nobody signed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=alerts", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def test_server_with_ever_new_silences_that_cannot_be_read_does_not_fill_the_record(asking):
    it = asking()
    for number in range(30):
        it.silences_given = [silence(("run", "=~", f"(?i){number}"))] * 2
        it.poller.ask()
    assert len(it.told) == UNREAD_TOLD


@pytest.mark.parametrize("trusted", [False, True])
def test_server_is_believed_when_its_certificate_is_trusted(certificate, trusted):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server(lambda path: http(b"[]"), tls=context)
    refused = pytest.raises(Unanswered, match=r"is not trusted .*alerts_ca_file")
    with contextlib.closing(server), contextlib.nullcontext() if trusted else refused:
        assert Client(server.address, b"s3cret", certificate if trusted else None).get("/") == b"[]"
    assert len(server.requests) == int(trusted)


def test_handshake_that_drips_is_given_up(monkeypatch):
    """Each byte comes in time, the handshake never."""
    monkeypatch.setattr(client, "DEADLINE_S", 0.3)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip_bytes():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB follows
                while not over.wait(0.02):
                    connection.sendall(b"\x02")

        dripping = threading.Thread(target=drip_bytes)
        dripping.start()
        started = time.monotonic()
        try:
            with pytest.raises(Unanswered, match=r"does not answer within 0\.3 s"):
                Client(f"https://127.0.0.1:{listening.getsockname()[1]}").get("/")
            assert time.monotonic() - started < 5
        finally:
            over.set()
            dripping.join()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(seed=st.integers(0))
def test_a_hundred_times_a_hundred_mutilated_answers_neither_crash_nor_act(inbox, clock, seed):
    """Nothing can come of them but an alert that was in the good one, and no silence but that of the good one."""
    draw = random.Random(seed)
    for body in mutilated(listed(alert(at=clock.now)), 50, draw):
        try:
            inbox.offer(payloads.listed(body, "alertmanager")[0])
        except Malformed:
            continue
        clock.now += 1
        assert {waiting.rule for waiting in inbox.take()} <= {"loss_diverged", ""}
    for body in mutilated(json.dumps([silence(("rule", "none"))]).encode(), 50, draw):
        try:
            found = payloads.silences(body)
        except Malformed:
            continue
        assert all(isinstance(matcher.name, str) for each in found for matcher in each.matchers)


@pytest.mark.slow
def test_ten_thousand_spoilt_answers_neither_crash_nor_act_nor_stop_the_asking(asking, inbox, clock):
    """Over a socket, head and body alike: one of the two answers of each question is spoilt."""
    it = asking()
    it.alerts, it.silences_given = [alert(at=clock.now)], [silence(("rule", "none"))]
    good = it.good

    @settings(max_examples=100, deadline=None, database=None)
    @given(seed=st.integers(0))
    def ask(seed):
        draw = random.Random(seed)
        for place in draw.choices(["/api/v2/silences", "/api/v2/alerts"], k=100):
            it.server.answer = lambda path, at=place: spoilt(good(path), draw) if path.startswith(at) else good(path)
            it.poller.ask()
            clock.now += 1
            assert {waiting.rule for waiting in inbox.take()} <= {"loss_diverged", ""}

    ask()
    it.server.answer = good
    it.alerts = [alert(at=clock.now, fingerprint="after all that")]
    it.poller.ask()
    assert [waiting.rule for waiting in inbox.take() if waiting.alert.state == "firing"] == ["loss_diverged"]
    assert len(it.server.requests) >= 15_000


def spoilt(answer, draw):
    return next(mutilated(answer, 1, draw))
