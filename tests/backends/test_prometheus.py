import http.client
import socket
import subprocess
import sys

import pytest

from trimtab.errors import BackendError
from trimtab.testing import BackendContract, sample_events, sample_run
from trimtab_backends.prometheus import PrometheusBackend

TEXT = "text/plain;version=0.0.4"


class TestPrometheusContract(BackendContract):
    def make_backend(self, tmp_path):
        return PrometheusBackend()


def port_of(backend):
    return int(backend.address.rsplit(":", 1)[1].split("/")[0])


def base(backend):
    return backend.address.removesuffix("/metrics")


@pytest.fixture
def taken():
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_what_was_written_is_served(serve, get):
    backend = serve()
    backend.write(sample_events())
    answer = get(backend.address)
    assert answer.status == 200
    assert 'trimtab_loss{optimizer="",phase="train",rank="0",run="sample"} 0.4\n' in answer.body
    assert answer.headers["Content-Length"] == str(len(answer.body))


def test_the_scraper_chooses_the_format(serve, get):
    backend = serve()
    backend.write(sample_events())
    assert get(backend.address, {"Accept": TEXT}).headers["Content-Type"].startswith("text/plain; version=0.0.4")
    answer = get(backend.address, {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith("# EOF\n")


def test_version_that_is_none_is_answered_as_text(serve, get):
    answer = get(serve().address, {"Accept": "application/openmetrics-text;version=abc"})
    assert (answer.status, answer.headers["Content-Type"][:10]) == (200, "text/plain")


def test_healthz_says_ok(serve, get):
    assert get(f"{base(serve())}/healthz").body == "ok"


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/healthz/x", "/api/v1/alerts"])
def test_other_paths_are_not_found(serve, get, path):
    assert get(base(serve()) + path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_other_methods_are_not_allowed(serve, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", port_of(serve()), timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    assert (response.status, response.headers["Allow"]) == (405, "GET")
    response.read()
    connection.close()


def test_the_default_is_loopback(serve):
    assert serve().address.startswith("http://127.0.0.1:")


def test_a_wildcard_address_is_shown_by_the_name_of_the_machine(serve):
    assert serve(host="0.0.0.0").address.startswith(f"http://{socket.gethostname()}:")


def test_a_version_6_address_is_put_in_brackets(serve, get):
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6 on loopback: sysctl net.ipv6.conf.lo.disable_ipv6=0")
    backend = serve(host="::1")
    assert backend.address.startswith("http://[::1]:")
    assert get(f"{base(backend)}/healthz").body == "ok"


def test_a_taken_port_that_was_asked_for_is_an_error_that_names_it(serve, taken):
    with pytest.raises(BackendError, match=rf"port={taken}: already in use on 127.0.0.1. Give another with port="):
        serve(port=taken, port_requested=True)
    with pytest.raises(BackendError, match=f"port={taken}"):
        serve(PrometheusBackend(port=taken))


def test_a_taken_port_that_was_only_the_default_gives_a_free_one(serve, get, taken):
    backend = serve(port=taken)
    assert port_of(backend) != taken
    assert get(f"{base(backend)}/healthz").body == "ok"


def test_runs_side_by_side_take_the_next_ports(serve):
    first = serve()
    second = serve(port=port_of(first))
    assert port_of(first) < port_of(second) <= port_of(first) + 100


def test_a_rank_adds_its_local_rank_to_the_port(serve, taken):
    free = taken + 3
    assert abs(port_of(serve(rank=2, port=free)) - (free + 2)) < 98
    with pytest.raises(BackendError, match=f"port={taken}: already in use"):
        serve(rank=2, port=taken - 2, port_requested=True)


def test_a_port_beyond_the_last_is_an_error(serve):
    with pytest.raises(BackendError, match=r"port=65535: rank 3 of this machine would serve on 65538.*at most 65532"):
        serve(rank=3, port=65535)


def test_an_address_that_is_not_ours_is_an_error(serve):
    with pytest.raises(BackendError, match=r"host='192.0.2.1'.*cannot listen there"):
        serve(host="192.0.2.1")
    with pytest.raises(BackendError, match=r"host='a\.\.b'.*cannot listen there \(not a name of a host\)\. Give an"):
        serve(host="a..b")
    with pytest.raises(
        BackendError, match=r"host='no such host'.*cannot listen there.*Give an address of this machine"
    ):
        serve(host="no such host")


def test_arguments_win_over_the_settings_of_the_run(serve, taken):
    backend = serve(PrometheusBackend(host="127.0.0.1", port=0), host="192.0.2.1", port=taken, port_requested=True)
    assert backend.address.startswith("http://127.0.0.1:")


def test_close_frees_the_port(serve):
    backend = serve()
    backend.close()
    with socket.create_server(("127.0.0.1", port_of(backend))):
        pass


def test_importing_the_backend_imports_no_server():
    program = "import sys, trimtab_backends.prometheus; print({'cheroot', 'prometheus_client'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_run_that_ends_at_once_is_closed_cleanly(tmp_path):
    for _ in range(3):
        backend = PrometheusBackend()
        backend.start(sample_run(tmp_path))
        backend.close()
