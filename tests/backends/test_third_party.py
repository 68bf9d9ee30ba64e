"""The backend of docs/backends.md, taken from there letter by letter, built, installed and run like anybody's."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import trimtab.types
import trimtab_backends

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
BLOCK = re.compile(r"```\w+\n# (?P<name>\S+)\n(?P<code>.*?)```", re.DOTALL)

FIND = """
from importlib.metadata import entry_points
(entry,) = entry_points(group="trimtab.backends", name="statsd")
assert entry.dist.name == "trimtab-statsd"
print(entry.load()().address)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The files that the page shows."""
    directory = tmp_path_factory.mktemp("project")
    for block in BLOCK.finditer(PAGE.read_text()):
        (directory / block["name"]).write_text(block["code"])
    return directory


@pytest.fixture(scope="module")
def run_python(project, tmp_path_factory):
    """Run Python where the page's backend is installed, from a wheel of its own and without a network."""
    site = tmp_path_factory.mktemp("site")
    roots = [site, *(Path(module.__file__).parents[1] for module in (trimtab.types, trimtab_backends))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots)), "STATSD_PORT": "8127"}

    def run(*arguments, **extra):
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=site, env={**environment, **extra}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=project, check=True)
    (wheel,) = (project / "dist").glob("*.whl")
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    return run


def test_the_backend_on_the_page_is_under_40_lines(project):
    assert len((project / "trimtab_statsd.py").read_text().splitlines()) < 40


def test_it_is_found_through_its_entry_point(run_python):
    assert run_python("-c", FIND) == "udp://127.0.0.1:8127\n"


def test_it_passes_its_tests_and_the_contract_suite(run_python, project):
    report = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", project / "test_statsd.py")
    assert re.search(r"1[0-9] passed", report)


def test_a_run_that_chooses_it_by_name_reaches_it(run_python, project, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        run_python(project / "use.py", STATSD_PORT=str(server.getsockname()[1]), TRIMTAB_DIR=str(tmp_path))
        server.setblocking(False)
        assert "trimtab_logged_value.bleu.:31.2|g" in "".join(received(server))


def received(server):
    while True:
        try:
            yield server.recv(4096).decode()
        except BlockingIOError:
            return
