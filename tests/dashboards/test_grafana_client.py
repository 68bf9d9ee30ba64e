"""The seam to Grafana, against a server that answers as Grafana does, or as something else does."""

import contextlib
import re
import shutil
import socket
import ssl
import threading
import traceback
from pathlib import Path

import pytest
from grafana_server import TOKEN
from servers import free_port

from trimtab.errors import ConfigError, GrafanaError
from trimtab_dashboards.grafana_client import Grafana, read_token

HTML = "<html>the token is message</html>"


def failure(grafana):
    with pytest.raises(GrafanaError) as raised:
        grafana.get("health")
    assert TOKEN not in "".join(traceback.format_exception(raised.value))
    return raised.value


def test_client_asks_below_the_path_of_the_address_with_the_token(server, grafana):
    assert grafana.get("health")["database"] == "ok"
    assert server.requests == [("GET", "/grafana/api/health")]


def test_certificates_are_found_after_the_program_went_to_another_directory(server, certificate, tmp_path, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(certificate[0], tmp_path / "ca.pem")
    monkeypatch.chdir(tmp_path)
    client = Grafana(server.url.replace("http:", "https:"), TOKEN, timeout_s=5.0, ca_file=Path("ca.pem"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert client.get("health")["database"] == "ok"
    client.close()


def test_client_quotes_every_part_of_a_path_and_the_query(server, grafana):
    assert grafana.find("dashboards", "uid", "a/../b?c#d") is None
    grafana.get("datasources", query={"a b": "c&d"})
    paths = [path for _, path in server.requests]
    assert paths == ["/grafana/api/dashboards/uid/a%2F..%2Fb%3Fc%23d", "/grafana/api/datasources?a+b=c%26d"]


def test_client_refuses_a_part_that_would_climb(grafana):
    with pytest.raises(ConfigError, match="identifier"):
        grafana.get("folders", "..")


def test_client_takes_an_empty_answer(server, grafana):
    server.answer = (204, {}, "")
    assert grafana.patch("annotations", "1", body={}) is None


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ((302, {"Location": "https://sso.example.org/?q=1"}, ""), 302, "redirect"),
        ((401, {}, '{"message": "Invalid API key"}'), 401, "refuses the token"),
        ((403, {}, '{"message": "You need folders:create"}'), 403, "folders:create"),
        ((412, {}, '{"message": "version\\u001b[31m mismatch"}'), 412, r"version mismatch"),
        ((500, {}, HTML), 500, "answered 500"),
        ((400, {}, '"a message"'), 400, "answered 400"),
        ((400, {}, f'{{"message": "no right for {TOKEN}"}}'), 400, r"no right for \[token\]"),
        ((200, {}, HTML), None, "no JSON"),
        ((200, {}, "[" * 100_000), None, "no JSON"),
    ],
)
def test_client_translates_what_goes_wrong(server, grafana, answer, status, said):
    server.answer = answer
    error = failure(grafana)
    assert error.status == status
    assert re.search(said, str(error))


def test_client_says_when_nobody_listens():
    assert "Connection refused" in str(failure(Grafana(f"http://127.0.0.1:{free_port()}", TOKEN)))


def test_client_does_not_wait_for_ever():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        grafana = Grafana(f"http://127.0.0.1:{silent.getsockname()[1]}", TOKEN, timeout_s=0.2)
        assert "timed out" in str(failure(grafana))
        grafana.close()


def test_client_gives_up_an_answer_that_drips():
    over = threading.Event()

    def drip(listening):
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.wait(0.01):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dripping = threading.Thread(target=drip, args=[listening])
        dripping.start()
        client = Grafana(f"http://127.0.0.1:{listening.getsockname()[1]}", TOKEN, timeout_s=0.2)
        with pytest.raises(GrafanaError, match="took longer than"):
            client.get("health")
        over.set()
        dripping.join()
        client.close()


def test_client_obeys_no_proxy_variable_and_no_netrc(server, grafana, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login else password where\n")
    (tmp_path / ".netrc").chmod(0o600)
    for name, value in {"HOME": str(tmp_path), "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}.items():
        monkeypatch.setenv(name, value)
    assert grafana.get("health")


@pytest.mark.parametrize(
    "url", ["", "grafana:3000", "ftp://x", "http://", "http://x:99999", "http://x/?a=1", "http://x y", "http://[1"]
)
def test_client_refuses_an_address_that_is_none(url):
    with pytest.raises(ConfigError, match="expected http://"):
        Grafana(url, TOKEN)


def test_client_refuses_a_password_in_the_address_and_does_not_repeat_it():
    with pytest.raises(ConfigError) as raised:
        Grafana("http://admin:hunter2@x", TOKEN)
    assert "hunter2" not in str(raised.value)


def test_token_is_read_from_its_file(token_file):
    assert read_token(token_file) == TOKEN


@pytest.mark.parametrize(
    ("mode", "content", "said"), [(0o640, TOKEN, "chmod 600"), (0o600, "a b", "one line"), (0o600, "tök", "ASCII")]
)
def test_token_that_others_may_read_or_that_is_none_is_refused(token_file, mode, content, said):
    token_file.write_text(content)
    token_file.chmod(mode)
    with pytest.raises(ConfigError, match=said) as raised:
        read_token(token_file)
    assert content not in str(raised.value)


def test_token_without_a_file_says_which_variable_names_it():
    with pytest.raises(ConfigError, match="TRIMTAB_GRAFANA_TOKEN_FILE"):
        read_token(None)


def test_token_file_that_is_not_there_is_told_under_the_name_of_its_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"^grafana_token_file='.*none': cannot be read"):
        read_token(tmp_path / "none")
