"""What every test has: no fault hides behind the guard, no setting leaks in. And a run whose events can be read."""

import contextlib
import gc
import os
import resource
import shutil
import signal
import subprocess

import hypothesis
import pytest
import torch
from servers import Prometheus

import trimtab
from trimtab import guard
from trimtab.sample import books, scalars
from trimtab.sample.seclusion import secluded
from trimtab.testing import RecordingBackend
from trimtab.types import Epoch, Health, Metric, Notice, RunEnd, RunStart, Step

hypothesis.settings.register_profile("busy", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("busy")


def pytest_configure():
    """A shell without job control has what it starts in the background ignore Ctrl-C, which children inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Seen:
    """A run, and what it said. Everything is there once the run is over."""

    def __init__(self, backend, run=None):
        self.backend = backend
        self.run = run

    def steps(self, optimizer="0"):
        """The steps that one optimizer took, one record each."""
        return [e for e in self.backend.of(Step) if e.phase == "train" and e.optimizer == optimizer and e.steps]

    def losses(self, optimizer="0"):
        return [step.loss for step in self.steps(optimizer)]

    @property
    def optimizers(self):
        return sorted({e.optimizer for e in self.backend.of(Step) if e.phase == "train"})

    @property
    def validations(self):
        return [e for e in self.backend.of(Step) if e.phase == "validation"]

    @property
    def epochs(self):
        return self.backend.of(Epoch)

    @property
    def metrics(self):
        return self.backend.of(Metric)

    @property
    def notices(self):
        return [notice.text for notice in self.backend.of(Notice)]

    @property
    def start(self):
        (start,) = self.backend.of(RunStart)
        return start

    @property
    def health(self):
        return self.backend.of(Health)[-1]

    @property
    def end(self):
        (end,) = self.backend.of(RunEnd)
        return end


@pytest.fixture(scope="session", autouse=True)
def light_process():
    """Small tensors need no second thread, and a run that scans the objects of the process need not see pytest's."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_hides(monkeypatch):
    """A fault that the guard catches fails the test, where the test does not say otherwise."""
    monkeypatch.setattr(guard, "reraise", True)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """Whoever runs the tests may have set `TRIMTAB_` variables of their own."""
    for name in [name for name in os.environ if name.startswith("TRIMTAB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def guarded(monkeypatch):
    """Faults are caught, as they are outside of tests."""
    monkeypatch.setattr(guard, "reraise", False)


@pytest.fixture
def one_record_a_step(monkeypatch):
    """Nothing is folded, whatever the clock says."""
    monkeypatch.setattr(books, "RECORD_INTERVAL_S", 0.0)


@pytest.fixture
def on_a_device(monkeypatch):
    """Losses, norms and counts are tensors until they are read, as those of a device are: nobody has them at once."""

    def hold(value):
        return value.detach().reshape(()).to(torch.float64, copy=True)

    monkeypatch.setattr(scalars, "_hold", hold)
    monkeypatch.setattr(scalars, "_hold_secluded", secluded(hold))


@pytest.fixture
def watching(tmp_path, one_record_a_step):
    """`with watching(**options) as seen:` is a run. Each step is a record of its own, with gradient statistics."""

    @contextlib.contextmanager
    def watching(**options):
        seen = Seen(RecordingBackend())
        settings = {"run": "test", "directory": tmp_path, "gradients_every": 1, **options}
        with trimtab.watch(backends=[seen.backend], **settings) as seen.run:
            yield seen

    return watching


@pytest.fixture
def full_disk():
    """`with full_disk():` no file grows beyond 1,000 bytes."""

    @contextlib.contextmanager
    def full_disk():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full_disk


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def program():
    """The path of an installed program. Without it the test is skipped, or fails where REQUIRE_SERVERS is set."""

    def program(name, packages="prometheus prometheus-alertmanager"):
        found = shutil.which(name)
        if found is None:
            tell = pytest.fail if os.environ.get("REQUIRE_SERVERS") else pytest.skip
            tell(f"needs {name}: apt-get install {packages}")
        return found

    return program


@pytest.fixture
def promtool(program):
    """Run promtool, and fail with what it says."""

    def promtool(*arguments, cwd=None):
        command = [program("promtool"), *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return promtool


@pytest.fixture
def prometheus(tmp_path, program):
    """Start a Prometheus that scrapes an address, or several, four times a second. See `Prometheus`."""
    running = []

    def start(*addresses, **options):
        program("prometheus")
        running.append(Prometheus(tmp_path / f"prometheus-{len(running)}", addresses, **options))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    """Make a certificate for localhost and its key, the key encrypted when asked for. Returns their paths."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")

    def make(*encryption):
        directory = tmp_path_factory.mktemp("tls")
        certificate, key = directory / "certificate.pem", directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate,
             *(encryption or ("-nodes",))],
            check=True,
            capture_output=True,
        )  # fmt: skip
        return certificate, key

    return make


@pytest.fixture(scope="session")
def certificate(make_certificate):
    return make_certificate()
