"""`trimtab doctor` against real servers, and against nothing at all."""

import os
import subprocess
import sys

import pytest
from running_stack import until
from servers import free_port

pytestmark = pytest.mark.servers


def doctor(*arguments, directory, **environ):
    """What it says: verdicts by subject, all of it, and the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "trimtab", "doctor", *arguments],
        cwd=directory, env={**os.environ, **environ}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    rows = [line.split()[:2] for line in done.stdout.splitlines() if not line.startswith(" ")]
    verdicts = {subject: verdict for verdict, subject in rows if verdict in ("ok", "wrong", "skipped")}
    return verdicts, done.stdout, done.returncode


@pytest.fixture
def ask(stack):
    """Ask about a stack, without the Grafana that may run on this machine."""
    addresses = ("--prometheus", stack.prometheus, "--alertmanager", stack.alertmanager, "--targets", stack.targets)
    return lambda *more, **environ: doctor(*addresses, *more, directory=stack.directory, **environ)


def test_whole_chain_of_a_stack_is_in_order(stack, ask, start_run):
    start_run(stack.directory / "runs", TRIMTAB_RUN="sound")
    links = ("package", "backends", "run", "port", "prometheus", "scraping", "labels", "clock", "rules", "window")
    links = (*links, "alerting", "alertmanager", "token", "alerts", "silences")
    last = {}

    def all_is_well():
        last["said"] = ask("--run", "sound")
        return {link: last["said"][0].get(link) for link in links} == dict.fromkeys(links, "ok")

    assert until(all_is_well), last["said"][1]
    assert last["said"][2] == 0


def test_run_that_wants_a_token_is_found_wanting_at_prometheus(stack, ask, start_run, tmp_path):
    token = tmp_path / "token"
    token.write_text("t0ken")
    token.chmod(0o600)
    start_run(stack.directory / "runs", TRIMTAB_RUN="closed", TRIMTAB_METRICS_TOKEN_FILE=str(token))
    last = {}

    def refused():
        last["said"] = ask("--run", "closed", TRIMTAB_METRICS_TOKEN_FILE=str(token))
        return "HTTP status 401" in last["said"][1]

    assert until(refused), last["said"][1]
    verdicts, said, code = last["said"]
    assert (verdicts["port"], verdicts["scraping"], code) == ("ok", "wrong", 1)
    assert "credentials_file" in said
    assert "t0ken" not in said


def test_alertmanager_is_not_taken_for_a_prometheus(stack):
    verdicts, _, code = doctor("--prometheus", stack.alertmanager, directory=stack.directory)
    assert (verdicts["prometheus"], code) == ("wrong", 1)


def test_nothing_at_all_is_told_link_by_link(tmp_path):
    prometheus, alertmanager, grafana = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
    addresses = ("--prometheus", prometheus, "--alertmanager", alertmanager, "--grafana", grafana)
    verdicts, said, code = doctor(*addresses, directory=tmp_path)
    wrong = {subject for subject, verdict in verdicts.items() if verdict == "wrong"}
    assert wrong == {"run", "prometheus", "alertmanager", "grafana"}
    assert said.count("Connection refused") == 3
    assert code == 1
