"""`make stack`: what is installed is started, scrapes runs that it was never told of, and is gone in the end."""

import os
import re
import runpy
import signal
import socket
from pathlib import Path

import pytest
from running_stack import ROOT, need, until

pytestmark = pytest.mark.servers


def children(pid):
    """Processes that `pid` started, by number."""
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_stack_scrapes_a_run_that_it_finds(stack, start_run):
    start_run(stack.directory / "runs", TRIMTAB_RUN="found")
    (result,) = until(lambda: stack.ask('trimtab_global_step{run="found"} > 3'))
    labels = set(result["metric"])
    assert labels == {"__name__", "run", "rank", "instance", "job"}, "discovery adds no label"


def test_stack_loads_every_rule_and_knows_its_alertmanager(stack):
    groups = until(lambda: (stack.get("/api/v1/rules") or {}).get("groups"))
    rules = [rule for group in groups for rule in group["rules"]]
    assert {"TrimtabLossDiverged", "TrimtabTargetDown"} <= {rule["name"] for rule in rules}
    active = until(lambda: (stack.get("/api/v1/alertmanagers") or {}).get("activeAlertmanagers"))
    assert active == [{"url": f"{stack.alertmanager}/api/v2/alerts"}]


def listening(pid):
    """Addresses that process `pid` listens on, as the kernel writes them: in hexadecimal, low byte first."""
    sockets = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    for family in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]]
        yield from (row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets)


def test_stack_listens_on_loopback_only(stack):
    found = [address for pid in children(stack.process.pid) for address in listening(pid)]
    assert len(found) >= 2
    assert {address.split(":")[0] for address in found} == {"0100007F"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stack_leaves_no_process(start_stack, number):
    need("prometheus", "prometheus-alertmanager")
    stack = start_stack()
    assert stack.read_until_ready()[-1].startswith("Ready.")
    started = children(stack.process.pid)
    assert len(started) >= 2
    assert stack.stop(number) == 0
    assert [pid for pid in started if os.path.exists(f"/proc/{pid}")] == []


def test_stack_says_what_is_missing_and_how_to_get_it(start_stack, tmp_path):
    stack = start_stack(path=str(tmp_path))
    said = stack.read_until_ready()
    assert [line.split()[0] for line in said] == ["Prometheus", "Alertmanager", "Grafana"]
    assert "is not installed: apt-get install prometheus" in said[0]
    assert stack.stop() == 1


def test_stack_says_why_a_server_did_not_start(start_stack):
    need("prometheus")
    stack = start_stack()
    with socket.create_server(("127.0.0.1", int(stack.prometheus.rpartition(":")[2]))):
        (said,) = [line for line in stack.read_until_ready() if "Prometheus" in line]
    assert "did not start" in said
    assert "address already in use" in said
    assert stack.stop() == 1


def test_grafana_is_called_as_its_version_wants_it(tmp_path):
    """No Grafana runs where these tests do; its archive has `bin/grafana` beside `conf/defaults.ini`."""
    arguments = runpy.run_path(str(ROOT / "deploy" / "stack.py"))["grafana_arguments"]
    for folder, name in (("bin", "grafana"), ("conf", "defaults.ini")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    assert arguments(str(tmp_path / "bin" / "grafana")) == ["server", "--homepath", str(tmp_path)]
    assert arguments(None, str(tmp_path / "bin" / "grafana-server")) == ["--homepath", str(tmp_path)]


def test_password_of_grafana_is_made_once_and_read_by_nobody_else(tmp_path):
    told = runpy.run_path(str(ROOT / "deploy" / "stack.py"))["grafana_environ"]
    first, second = (told(tmp_path, 3000, "http://127.0.0.1:9090") for _ in range(2))
    path = tmp_path / "grafana-password"
    assert first["GF_SECURITY_ADMIN_PASSWORD"] == second["GF_SECURITY_ADMIN_PASSWORD"] == f"$__file{{{path}}}"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == 24


def test_grafana_is_told_what_its_provisioning_asks_for(tmp_path):
    told = runpy.run_path(str(ROOT / "deploy" / "stack.py"))["grafana_environ"](tmp_path, 3000, "http://127.0.0.1:9090")
    files = Path(told["GF_PATHS_PROVISIONING"]).rglob("*.yml")
    asked = {
        name for file in files for name in re.findall(r"^[^#\n]*\$\{(TRIMTAB_\w+)\}", file.read_text(), re.MULTILINE)
    }
    assert asked == {"TRIMTAB_PROMETHEUS_URL", "TRIMTAB_DASHBOARDS_DIR"}
    assert asked <= told.keys()
    assert list(Path(told["TRIMTAB_DASHBOARDS_DIR"]).rglob("*.json"))
