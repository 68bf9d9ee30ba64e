import contextlib
import itertools
import logging
import os
import signal
import socket
import ssl
import threading
import time

import pytest
from servers import free_port

from trimtab.errors import BackendError
from trimtab.testing import sample_events, sample_run
from trimtab_backends import server
from trimtab_backends.access import tls_context
from trimtab_backends.prometheus import PrometheusBackend

PATIENCE_S = 10.0


def address_of(backend):
    host, port = backend.address.split("/")[2].split(":")
    return host, int(port)


@pytest.fixture
def connect():
    """Open connections that stay open until the test is over."""
    opened = []

    def connect(backend, first_bytes=b""):
        opened.append(socket.create_connection(address_of(backend), timeout=PATIENCE_S))
        opened[-1].sendall(first_bytes)
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def answer_to(connection, request):
    connection.sendall(request)
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


def is_closed_amid(connection, pieces):
    """Whether the server hangs up while these come, a few at a time."""
    try:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
    except OSError:
        return True
    return False


def ask(connection):
    """One request and its answer, on a connection that stays open."""
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = b""
    while not answer.endswith(b"ok"):
        answer += connection.recv(65_536)


def test_idle_clients_do_not_stop_a_scrape(serve, get, connect):
    backend = serve()
    for _ in range(3 * server.WORKERS):
        connect(backend)
    assert get(backend.address, timeout=server.REQUEST_S / 2).status == 200


def test_more_idle_clients_than_are_kept_do_not_stop_a_scrape(serve, get, connect, monkeypatch):
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    monkeypatch.setattr(server, "IDLE_S", 10 * PATIENCE_S)
    monkeypatch.setattr(server._Cheroot, "keep_alive_conn_limit", 4)
    backend = serve()
    idle = [connect(backend) for _ in range(4 + 2 * server.WORKERS)]
    assert get(backend.address).status == 200
    assert all(each.recv(1) == b"" for each in idle[:-4]), "a descriptor each, for as long as the client likes"


def test_slow_clients_are_cut_off(serve, get, connect, monkeypatch):
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    backend = serve()
    slow = [connect(backend, b"GET /metrics HTTP/1.1\r\nHost: a") for _ in range(2 * server.WORKERS)]
    assert get(backend.address).status == 200
    assert all(each.recv(1) == b"" for each in slow)


def test_body_that_drips_is_cut_off(serve, connect, monkeypatch):
    """A worker waits for it, and the server's own patience begins anew with every byte."""
    monkeypatch.setattr(server, "REQUEST_S", 0.3)

    def application(environ, start_response):
        environ["wsgi.input"].read(4_000)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    backend = PrometheusBackend()
    backend.mount("/drips", application, 4_096)
    dripping = connect(serve(backend), b"POST /drips HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n")
    assert is_closed_amid(dripping, itertools.repeat(b"x", 200))


def test_hundreds_of_slow_clients_do_not_stop_a_scrape(serve, get, connect):
    """A worker each for as long as a request may take, and Prometheus would wait for minutes."""
    backend = serve()
    slow = [connect(backend, b"GET /metrics HT") for _ in range(5 * server.CONNECTIONS)]
    assert get(backend.address, timeout=server.REQUEST_S / 2).status == 200
    assert slow[0].recv(1) == b""


def test_client_that_drips_is_answered_when_its_head_is_there(serve, connect):
    connection = connect(serve())
    for byte in b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r":
        connection.sendall(bytes([byte]))
    assert b"200 OK" in answer_to(connection, b"\n")


def test_client_that_pauses_amid_its_head_is_waited_for(serve, connect, monkeypatch):
    monkeypatch.setattr(server._Cheroot, "expiration_interval", 0.05)
    connection = connect(serve(), b"GET /healthz HT")
    time.sleep(0.5)
    assert b"200 OK" in answer_to(connection, b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")


def test_client_that_leaves_amid_its_head_is_let_go_at_once(serve, connect, monkeypatch):
    monkeypatch.setattr(server, "IDLE_S", 10 * PATIENCE_S)
    connection = connect(serve(), b"GET /metrics HT")
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65_536):
        pass


@pytest.mark.parametrize("body", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize(("method", "status"), [(b"POST", b" 405 "), (b"GET", b" 200 ")])
def test_body_that_nobody_wants_is_not_waited_for(serve, connect, get, method, status, body):
    backend = serve()
    head = method + b" /metrics HTTP/1.1\r\nHost: a\r\n" + body + b"\r\n\r\n"
    unwanted = [connect(backend, head) for _ in range(server.WORKERS)]
    assert get(backend.address, timeout=server.REQUEST_S / 2).status == 200
    assert all(status in each.recv(65_536) for each in unwanted)


def test_clients_that_begin_another_request_at_once_do_not_stop_a_scrape(serve, connect, get):
    backend = serve()
    slow = [connect(backend, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nG") for _ in range(server.WORKERS)]
    assert get(backend.address, timeout=server.REQUEST_S / 2).status == 200
    rest = b"ET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert all(answer_to(each, rest).count(b"200 OK") == 2 for each in slow)


def test_body_that_nobody_wants_is_no_request(serve, connect):
    head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = answer_to(connect(serve()), head + b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_refused_client_that_goes_on_sending_is_left(serve, connect):
    """What it sends is read for a while, or it would not see why; a worker does that."""
    began = time.monotonic()
    assert is_closed_amid(connect(serve(), b"nonsense\r\n\r\n"), itertools.repeat(b"x", 200))
    assert time.monotonic() - began < server.REQUEST_S / 2


def test_a_silent_client_does_not_stop_a_tls_scrape(serve, get, connect, certificate, trusting):
    backend = serve(tls_certificate_file=certificate[0], tls_key_file=certificate[1])
    for _ in range(3 * server.WORKERS):
        connect(backend)
    assert get(backend.address, context=trusting, timeout=server.REQUEST_S / 2).status == 200


@pytest.fixture
def shake(connect, trusting):
    """The same in TLS."""
    opened = []

    def shake(backend, first_bytes=b""):
        opened.append(trusting.wrap_socket(connect(backend), server_hostname="127.0.0.1"))
        opened[-1].sendall(first_bytes)
        return opened[-1]

    yield shake
    for each in opened:
        each.close()


@pytest.fixture
def serve_tls(serve, certificate):
    return lambda: serve(tls_certificate_file=certificate[0], tls_key_file=certificate[1])


CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # its first bytes


def test_hundreds_of_tls_clients_amid_their_handshake_do_not_stop_a_scrape(serve_tls, get, connect, trusting):
    backend = serve_tls()
    slow = [connect(backend, CLIENT_HELLO) for _ in range(3 * server.CONNECTIONS)]
    assert get(backend.address, context=trusting, timeout=server.REQUEST_S / 2).status == 200
    assert slow[0].recv(1) == b""


def test_tls_clients_amid_their_request_do_not_stop_a_scrape(serve_tls, get, shake, trusting):
    backend = serve_tls()
    slow = [shake(backend, b"GET /metrics HT") for _ in range(3 * server.WORKERS)]
    assert get(backend.address, context=trusting, timeout=server.REQUEST_S / 2).status == 200
    assert len(slow) == 3 * server.WORKERS


@pytest.mark.parametrize("shaken", [False, True])
def test_slow_tls_clients_are_cut_off(serve_tls, connect, shake, monkeypatch, shaken):
    monkeypatch.setattr(server, "REQUEST_S", 0.2)
    monkeypatch.setattr(server, "IDLE_S", 10 * PATIENCE_S)
    backend = serve_tls()
    slow = shake(backend, b"GET /metrics HT") if shaken else connect(backend, CLIENT_HELLO)
    with contextlib.suppress(ConnectionError):
        assert slow.recv(1) == b""


def test_tls_client_that_drips_is_answered_when_its_head_is_there(serve_tls, shake):
    connection = shake(serve_tls())
    for byte in b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r":
        connection.sendall(bytes([byte]))
    assert b"200 OK" in answer_to(connection, b"\n")


def test_tls_client_that_sends_two_requests_at_once_gets_two_answers(serve_tls, shake):
    head = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    answer = answer_to(shake(serve_tls()), head + b"\r\n" + head + b"Connection: close\r\n\r\n")
    assert answer.count(b"200 OK") == 2


def test_tls_client_that_asks_again_later_is_answered(serve_tls, shake):
    connection, head = shake(serve_tls()), b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    ask(connection)
    assert b"200 OK" in answer_to(connection, head + b"Connection: close\r\n\r\n")


def test_tls_requests_have_limits(serve_tls, shake):
    too_long = b"GET /metrics HTTP/1.1\r\nX: %s" % (b"a" * 2 * server.HEADER_BYTES)
    assert answer_to(shake(serve_tls()), too_long).split()[1] == b"413"


def test_turnstile_lets_a_burst_pass_and_then_its_rate():
    now = 0.0
    turnstile = server.Turnstile(10.0, 3, clock=lambda: now)
    assert [turnstile.wait_s() for _ in range(5)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])
    now = 0.25
    assert turnstile.wait_s() == pytest.approx(0.05)
    now = 60.0
    assert [turnstile.wait_s() for _ in range(4)] == pytest.approx([0.0, 0.0, 0.0, 0.1])


def test_flood_of_requests_is_held_to_the_rate(serve, get, connect, monkeypatch):
    monkeypatch.setattr(server, "RATE", 20.0)
    monkeypatch.setattr(server, "BURST", 5)
    connection, began = connect(serve()), time.monotonic()
    for _ in range(15):
        ask(connection)
    assert time.monotonic() - began >= 10 / 20.0


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /%s HTTP/1.1\r\n" % (b"a" * server.HEADER_BYTES), b"414"),
        (b"GET /metrics HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * server.HEADER_BYTES), b"413"),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (server.BODY_BYTES + 1), b"413"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
    ],
    ids=["line", "headers", "body", "nonsense"],
)
def test_requests_have_limits(serve, connect, request_, status):
    assert answer_to(connect(serve()), request_).split()[1] == status


def test_nothing_is_written_to_stderr(serve, connect, get, capfd, certificate):
    backend = serve(tls_certificate_file=certificate[0], tls_key_file=certificate[1])
    assert b"200 OK" not in answer_to(connect(backend), b"GET /metrics HTTP/1.1\r\n\r\n")
    answer_to(connect(serve()), b"nonsense\r\n\r\n")
    plain = connect(serve(), b"GET /metrics HTTP/1.1\r\n\r\n")
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    plain.close()  # by a reset, in the middle of the answer
    backend.close()
    assert capfd.readouterr() == ("", "")


def test_a_closed_server_is_not_kept_by_cheroot(serve):
    backend = serve()
    before = len(logging.statistics)
    backend.close()
    assert len(logging.statistics) == before - 1


def test_threads_are_daemons(serve):
    before = set(threading.enumerate())
    serve()
    started = set(threading.enumerate()) - before
    assert started
    assert all(thread.daemon for thread in started)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_lets_go_of_the_port(serve, get):
    port = free_port()
    backend = serve(port=port, port_requested=True)
    backend.write(sample_events())
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(1)
    try:
        assert get(backend.address).status == 200
        backend.close()
        assert get(serve(port=port, port_requested=True).address).status == 200
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_bearer_token_is_needed_where_one_is_configured(serve, get, tmp_path):
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("s3cret\n")
    backend = serve(metrics_token_file=token)
    assert get(backend.address, {"Authorization": "Bearer s3cret"}).status == 200
    assert get(backend.address, {"Authorization": "bearer  s3cret "}).status == 200
    for wrong in ("Bearer s3cre", "Bearer s3cret-\u00e9", "Bearer", "Bearer ", "Basic s3cret", "s3cret", ""):
        answer = get(backend.address, {"Authorization": wrong})
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="trimtab"')
        assert "trimtab_" not in answer.body
    assert get(backend.address).status == 401
    assert get(backend.address.replace("metrics", "healthz")).body == "ok"


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [("s", 0o640, "chmod 600"), ("s", 0o604, "chmod 600"), (" \n", 0o600, "empty"), (None, 0, "No such file")],
)
def test_a_token_file_that_protects_nothing_is_refused(serve, tmp_path, content, mode, problem):
    token = tmp_path / "token"
    if content is not None:
        token.write_text(content)
        token.chmod(mode)
    with pytest.raises(BackendError, match=f"metrics_token_file='{token}': .*{problem}"):
        serve(metrics_token_file=token)


def test_tls_is_served_where_a_certificate_is_configured(serve, get, certificate, trusting):
    backend = serve(tls_certificate_file=certificate[0], tls_key_file=certificate[1])
    assert backend.address.startswith("https://127.0.0.1:")
    for _ in range(3):
        assert get(backend.address, context=trusting).status == 200


def test_tls_below_1_2_is_refused(tmp_path, certificate):
    config = sample_run(tmp_path, tls_certificate_file=certificate[0], tls_key_file=certificate[1]).config
    assert tls_context(config).minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_certificate_without_a_key_is_an_error_and_not_plain_text(serve, certificate):
    with pytest.raises(BackendError, match="tls_certificate_file is given without tls_key_file"):
        serve(tls_certificate_file=certificate[0])
    with pytest.raises(BackendError, match="tls_key_file is given without tls_certificate_file"):
        serve(tls_key_file=certificate[1])


def test_a_certificate_that_cannot_be_used_is_an_error(serve, certificate, make_certificate, tmp_path):
    own, other_key = certificate[0], make_certificate()[1]
    encrypted = make_certificate("-passout", "pass:secret")
    for pair in ((own, other_key), (own, tmp_path / "missing.pem"), (own, own), encrypted):
        with pytest.raises(BackendError, match=r"cannot be used .* Give a certificate and its own key"):
            serve(tls_certificate_file=pair[0], tls_key_file=pair[1])


def test_a_backend_that_could_not_start_holds_no_port(serve, tmp_path):
    port = free_port()
    with pytest.raises(BackendError):
        serve(PrometheusBackend(port=port), metrics_token_file=tmp_path / "missing")
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_client_that_sends_too_much_is_told_so(serve):
    """However much of it is still on the way when it is refused."""
    backend = serve()
    size = 8 * server.BODY_BYTES + 2_000_000
    with socket.create_connection(address_of(backend), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection.sendall(f"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        connection.sendall(b"x" * size)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_answer_does_not_wait_for_its_own_second_half(serve):
    """By Nagle's algorithm the body would, for 40 ms, on every connection that is kept."""
    with server.listen("127.0.0.1", 0, exact=True) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
