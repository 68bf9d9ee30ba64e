"""The doctor asks servers that may be slow, lying, or somebody else's."""

import contextlib
import socket
import threading

import pytest
from answering import Answering, serving

from trimtab import http
from trimtab.doctor import http as asking
from trimtab.doctor.http import Http, Unanswered
from trimtab.errors import ConfigError


class Handler(Answering):
    """Answers what its path asks for, and remembers the headers it was sent."""

    def get(self):
        self.server.seen.append(dict(self.headers))
        getattr(self, self.path.split("?")[0].strip("/"))()

    def json(self):
        self.answer(200, b'{"a": 1}')

    def html(self):
        self.answer(200, b"<html>")

    def deep(self):
        self.answer(200, b"[" * 100_000)

    def broken(self):
        self.answer(500, b"secret details")

    def elsewhere(self):
        self.answer(302, Location=f"http://127.0.0.1:{self.server.server_port}/json")

    def drip(self):
        self.send_response(200)
        self.end_headers()
        while not self.server.over.wait(0.02):
            self.wfile.write(b" ")


@pytest.fixture
def server():
    over = threading.Event()
    with serving(Handler, seen=[], over=over, handle_error=lambda *args: None) as server:
        yield server
        over.set()


@pytest.fixture
def ask(server):
    def ask(path, token=None, **options):
        return Http(f"http://127.0.0.1:{server.server_port}", token, **options).json(path)

    return ask


def test_token_is_sent_and_nothing_of_the_environment(ask, server, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hidden")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert ask("/json", token="t0ken") == {"a": 1}
    assert ask("/json") == {"a": 1}
    assert [headers.get("Authorization") for headers in server.seen] == ["Bearer t0ken", None]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/html", "answers what is no JSON"),
        ("/deep", "answers what is no JSON"),
        ("/broken", "/broken answers 500"),
        ("/elsewhere", "answers with a redirect, which is not followed"),
    ],
)
def test_answer_that_is_none_is_told_in_a_sentence(ask, server, path, said):
    with pytest.raises(Unanswered, match=said) as caught:
        ask(path, token="t0ken")
    assert len(server.seen) == 1
    assert "secret" not in str(caught.value)
    assert "t0ken" not in str(caught.value)


def test_server_that_drips_is_given_up(ask):
    with pytest.raises(Unanswered, match=r"does not answer within 0\.2 s"):
        ask("/drip", answer_s=0.2)


@pytest.fixture
def full():
    """The port of a server that takes no more calls."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_server_that_takes_no_call_is_not_reached(full, monkeypatch):
    monkeypatch.setattr(http, "CONNECT_S", 0.1)
    with pytest.raises(Unanswered, match=r"cannot be reached within 0.1 s"):
        Http(f"http://127.0.0.1:{full}").json("/json")


def test_answer_that_is_too_large_is_given_up(ask, monkeypatch):
    monkeypatch.setattr(asking, "LARGEST_ANSWER", 100)
    with pytest.raises(Unanswered, match="more than 100 bytes"):
        ask("/drip")


@pytest.mark.parametrize("url", ["127.0.0.1:9090", "ftp://host", "http://", "http://host:x", "http://me:hidden@host"])
def test_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="expected an address") as caught:
        Http(url)
    assert "hidden" not in str(caught.value)
