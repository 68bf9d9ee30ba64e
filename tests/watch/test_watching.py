import inspect
import json
import re
import threading
import time

import pytest
import torch

import trimtab
from trimtab import health
from trimtab.catalog import LAST_ACTIVITY
from trimtab.errors import BackendError, ConfigError, RunActiveError
from trimtab.measurements import measure
from trimtab.steering.controller import Controller
from trimtab.testing import RecordingBackend
from trimtab.types import Health, Notice, RunEnd, Step
from trimtab.watchdog import Watchdog


@pytest.fixture
def options(tmp_path):
    """What `watch` is given here, and where the events are."""
    return {"run": "test", "directory": tmp_path, "backends": [RecordingBackend()]}


def end_of(options):
    (end,) = options["backends"][0].of(RunEnd)
    return end


def status_on_disk(tmp_path):
    return json.loads((tmp_path / "test" / "run.json").read_text())["status"]


def test_decorated_function_keeps_its_face(options):
    @trimtab.watch(**options)
    def train(epochs: int, *, rate: float = 0.1) -> str:
        """Trains."""
        return f"{epochs} at {rate}"

    assert train(3, rate=0.5) == "3 at 0.5"
    assert (train.__name__, train.__doc__) == ("train", "Trains.")
    assert str(inspect.signature(train)) == "(epochs: int, *, rate: float = 0.1) -> str"


def test_bare_decorator_needs_no_call(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_DIR", str(tmp_path))
    monkeypatch.setenv("TRIMTAB_BACKENDS", "jsonl")

    @trimtab.watch
    def train(value):
        return value

    assert train(7) == 7
    (run,) = tmp_path.iterdir()
    assert run.name.startswith("train-")


def test_run_says_in_a_notebook_which_it_is_and_where(options, tmp_path):
    with trimtab.watch(**options) as run:
        assert repr(run) == f"<trimtab.Run 'test', running, in {tmp_path / 'test'}>"
    assert "closed" in repr(run)


def test_decorated_function_can_run_again(options):
    @trimtab.watch(**{**options, "run": None})
    def train():
        return trimtab.log(value=1)

    train()
    train()
    assert len(options["backends"][0].of(RunEnd)) == 2
    assert len(list(options["directory"].iterdir())) == 2


def test_recursive_function_is_refused_as_a_second_run(options):
    @trimtab.watch(**options)
    def train(depth):
        return train(depth - 1) if depth else 0

    with pytest.raises(RunActiveError, match="'test' is active"):
        train(1)


def test_context_manager_gives_the_run(options, tmp_path):
    with trimtab.watch(**options) as run:
        assert run.directory == tmp_path / "test"
        assert len(run.id) == 16
        assert not run.should_stop
    assert end_of(options).status == "completed"


def test_exception_goes_through_and_the_run_failed(options, tmp_path):
    with pytest.raises(ZeroDivisionError), trimtab.watch(**options):
        assert 1 / 0
    assert end_of(options).status == status_on_disk(tmp_path) == "failed"
    assert end_of(options).error == "ZeroDivisionError: division by zero"


def test_exception_without_a_text_goes_through_too(options):
    class WordlessError(Exception):
        def __str__(self):
            return self.nosuch

    with pytest.raises(WordlessError), trimtab.watch(**options):
        raise WordlessError
    assert end_of(options).status == "failed"
    with trimtab.watch(**options) as another:  # which there can be, as none is active
        assert not another.closed


def test_completed_run_says_so_on_disk(options, tmp_path):
    with trimtab.watch(**options):
        assert status_on_disk(tmp_path) == "running"
    assert status_on_disk(tmp_path) == "completed"


def test_interrupt_goes_through_and_the_run_was_interrupted(options, tmp_path):
    @trimtab.watch(**options)
    def train():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert end_of(options).status == status_on_disk(tmp_path) == "interrupted"


@pytest.mark.parametrize(
    ("code", "status"), [(None, "completed"), (0, "completed"), (3, "failed"), ("no data", "failed")]
)
def test_exit_goes_through_with_its_code(options, tmp_path, code, status):
    with pytest.raises(SystemExit) as exit, trimtab.watch(**options):
        raise SystemExit(code)
    assert exit.value.code == code
    assert end_of(options).status == status_on_disk(tmp_path) == status


def test_second_run_is_an_error_that_names_the_first(options, tmp_path):
    with trimtab.watch(**options) as run:
        with pytest.raises(RunActiveError, match="'test' is active"), trimtab.watch(directory=tmp_path):
            pass
        trimtab.log(value=1)
        assert not run.should_stop
    assert end_of(options).status == "completed"


def test_run_that_could_not_start_does_not_block_the_next(options, tmp_path):
    class Broken(RecordingBackend):
        def start(self, run):
            raise OSError("no space left on device")

    with pytest.raises(BackendError, match="no space left"), trimtab.watch(directory=tmp_path, backends=[Broken()]):
        pass
    with trimtab.watch(**options):
        pass
    assert end_of(options).status == "completed"


def test_backends_started_before_one_that_fails_are_closed(tmp_path):
    class Broken(RecordingBackend):
        def start(self, run):
            raise OSError("no space left on device")

    first = RecordingBackend()
    with pytest.raises(BackendError), trimtab.watch(directory=tmp_path, backends=[first, Broken()]):
        pass
    assert first.closed


class Broken(RecordingBackend):
    def start(self, run):
        raise OSError("no space left on device")


def test_run_that_could_not_start_leaves_no_directory(tmp_path):
    with pytest.raises(BackendError), trimtab.watch(directory=tmp_path, backends=["jsonl", Broken()]):
        pass
    assert not list(tmp_path.iterdir())


def test_run_that_could_not_start_leaves_what_an_earlier_one_of_its_name_wrote(tmp_path):
    with trimtab.watch(run="test", directory=tmp_path, backends=["jsonl"]):
        pass
    place = tmp_path / "test"
    (place / "steering.json").write_text("{}")
    written = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    assert {"rank-0.jsonl", "run.json", "steering.json"} <= written.keys()
    with pytest.raises(BackendError), trimtab.watch(run="test", directory=tmp_path, backends=["jsonl", Broken()]):
        pass
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == written


async def coroutine():
    pass


def generator():
    yield


async def async_generator():
    yield


@pytest.mark.parametrize("function", [coroutine, generator, async_generator])
def test_function_whose_body_runs_later_is_refused(function):
    with pytest.raises(ConfigError, match=r"with trimtab\.watch"):
        trimtab.watch(function)
    with pytest.raises(ConfigError, match=function.__name__):
        trimtab.watch(run="test")(function)


def test_something_that_is_no_function_is_refused():
    with pytest.raises(ConfigError, match=r"expected a function.*@watch\(run='resnet'\)"):
        trimtab.watch("resnet")


@pytest.mark.parametrize("watch", [trimtab.watch, trimtab.watch(backends=["jsonl"])], ids=["bare", "with options"])
def test_what_would_not_be_itself_any_more_is_refused(watch):
    class Trainer:
        def train(): ...

    with pytest.raises(ConfigError, match=r"watch\(Trainer\): a class is not watched\. Put @watch on its method"):
        watch(Trainer)
    for kind in (staticmethod, classmethod):
        with pytest.raises(ConfigError, match=rf"a {kind.__name__} is not watched\. Put @{kind.__name__} above @watch"):
            watch(kind(Trainer.train))
    with pytest.raises(ConfigError, match=r"watch\(5\): expected a function"):
        watch(5)


def test_static_method_whose_function_is_watched_stays_one(options):
    class Trainer:
        @staticmethod
        @trimtab.watch(**options)
        def train():
            return 1

    assert Trainer.train() == 1
    assert Trainer().train() == 1


def test_function_and_options_together_are_refused():
    with pytest.raises(ConfigError, match=r"watch\(function, run=\.\.\.\): give options first"):
        trimtab.watch(print, run="test")


def test_bad_option_is_told_where_it_is_written():
    with pytest.raises(ConfigError, match=r"overhead=2: expected a fraction from 0 to 0\.5"):
        trimtab.watch(overhead=2)
    with pytest.raises(ConfigError, match="Did you mean 'overhead'"):
        trimtab.watch(overheat=0.1)


@pytest.mark.skipif("os.name != 'posix' or os.geteuid() == 0", reason="needs a user whom permissions bind: not root")
def test_directory_that_cannot_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot write"), trimtab.watch(directory=tmp_path / "runs"):
        pass


def test_directory_that_is_a_file_is_told(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match="cannot write"), trimtab.watch(directory=tmp_path / "runs"):
        pass


@pytest.mark.parametrize("options", [{"act": "process"}, {"act": "process", "policies": []}, {"act": True}])
def test_place_of_snapshots_that_cannot_be_written_is_told_where_the_run_may_act(tmp_path, options):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "snapshots"
    backend = RecordingBackend()
    settings = {"directory": tmp_path / "runs", "backends": [backend], "snapshot_directory": place}
    told = r"snapshot_directory='.*snapshots': cannot be written: Not a directory\. Give a directory"
    with pytest.raises(ConfigError, match=told), trimtab.watch(**settings, **options):
        pass
    assert backend.run is None
    assert list((tmp_path / "runs").iterdir()) == []
    with trimtab.watch(**settings):  # a dry run takes none
        pass


def test_run_begins_nowhere_where_the_status_cannot_be_written(tmp_path):
    (tmp_path / "test" / "run.json").mkdir(parents=True)
    with (
        pytest.raises(ConfigError, match=r"cannot write .*run.json: Is a directory"),
        trimtab.watch(run="test", directory=tmp_path, backends=[RecordingBackend()]),
    ):
        pass


def test_backends_are_closed_where_the_status_cannot_be_written_any_more(tmp_path):
    class Obstructing(RecordingBackend):
        def start(self, run):
            super().start(run)
            (run.directory / "run.json").unlink()
            (run.directory / "run.json").mkdir()

    backend = Obstructing()
    with (
        pytest.raises(ConfigError, match=r"cannot write .*run.json: Is a directory"),
        trimtab.watch(run="test", directory=tmp_path, backends=[backend]),
    ):
        pass
    assert backend.closed


def test_run_that_saw_no_training_says_so(watching, model):
    with watching() as idle:
        pass
    with watching() as validated, torch.no_grad():
        torch.nn.functional.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1))
    with pytest.raises(ZeroDivisionError), watching() as failed:
        raise ZeroDivisionError
    assert [notice[:35] for notice in idle.notices] == ["No step and no validation was seen."]
    assert validated.notices == failed.notices == []


def test_run_that_saw_backwards_and_no_step_says_so(watching, model):
    with watching() as seen:
        for _ in range(4):
            torch.nn.functional.mse_loss(model(torch.ones(4, 2)), torch.ones(4, 1)).backward()
    (notice,) = seen.notices
    assert notice.startswith("Backward was called, and no step was seen")


def test_attach_refuses_what_is_no_optimizer_instead_of_leaving_it_out(options, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with trimtab.watch(**options) as run:
        run.attach(optimizer=optimizer)
        for given in ([optimizer], {"generator": model}, "adam"):
            with pytest.raises(ConfigError, match="expected an optimizer, or a mapping"):
                run.attach(optimizer=given)
        with pytest.raises(ConfigError, match="expected names, but got 5"):
            run.attach(optimizer={5: optimizer})


@pytest.mark.parametrize(
    ("argument", "given", "sentence"),
    [
        ("model", 5, "expected a torch.nn.Module, but got an object of type int. Give the model itself."),
        ("model", torch.nn.Linear, "but got the class Linear. Give the model itself."),
        (
            "criterion",
            torch.nn.functional.mse_loss,
            "but got an object of type function. Give the loss module itself; the loss func",
        ),
        ("criterion", torch.nn.MSELoss, "but got the class MSELoss."),
        ("average", {"weight": torch.ones(1)}, "but got an object of type dict. Give the copy itself."),
    ],
)
def test_attach_refuses_what_is_no_module(options, model, argument, given, sentence):
    said = re.escape(f"attach({argument}=...)") + ".*" + re.escape(sentence)
    with trimtab.watch(**options) as run, pytest.raises(ConfigError, match=said):
        run.attach(**{"model": model, argument: given})


def test_disabled_watch_does_nothing(options, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_DISABLED", "1")
    backward, criterion = torch.autograd.backward, torch.nn.MSELoss()
    with trimtab.watch(**options) as run:
        assert torch.autograd.backward is backward
        run.log(value=1)
        trimtab.log(value=1)
        run.attach(model=torch.nn.Linear(1, 1), criterion=criterion)
        assert not run.should_stop
        assert not criterion._forward_hooks
    assert trimtab.watch(**options)(lambda: 5)() == 5
    assert list(tmp_path.iterdir()) == []
    assert options["backends"][0].run is None


@pytest.mark.parametrize(
    "given",
    [
        {"config": "none.toml"},
        {"webhook_token_file": "none"},
        {"replay": "none"},
        {"alerts": "https://alerts.example", "alerts_ca_file": "none"},
        {"rules": [{"name": "none"}]},
        {"backends": ["none"]},
        {"run": "a/b"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_disabled_watch_looks_at_no_setting(given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_DISABLED", "1")
    with trimtab.watch(**given) as run:
        assert not run.should_stop
    assert trimtab.watch(**given)(lambda: 5)() == 5
    assert list(tmp_path.iterdir()) == []


def test_disabled_watch_knows_where_it_would_be(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_DISABLED", "1")
    with trimtab.watch(run="a", directory=tmp_path) as run:
        assert (run.name, run.directory) == ("a", tmp_path / "a")
    monkeypatch.setenv("TRIMTAB_RUN", "b")
    monkeypatch.setenv("TRIMTAB_DIR", str(tmp_path))
    with trimtab.watch() as run:
        assert (run.name, run.directory) == ("b", tmp_path / "b")
        assert len(run.id) == 16


def test_outside_of_a_run_logging_does_nothing_and_nobody_asks_to_stop():
    assert trimtab.log(value=1) is None
    assert trimtab.should_stop() is False


def test_closed_run_takes_no_more(options):
    with trimtab.watch(**options) as run:
        pass
    events = len(options["backends"][0].events)
    run.log(value=1)
    run.attach(criterion=(criterion := torch.nn.MSELoss()))
    run.close()
    assert len(options["backends"][0].events) == events
    assert not criterion._forward_hooks


def test_run_closed_early_is_over_and_another_may_start(options, tmp_path):
    with trimtab.watch(**options) as run:
        run.close()
        assert status_on_disk(tmp_path) == "completed"
        with trimtab.watch(**{**options, "run": "other"}) as other:
            assert other.name == "other"


def test_what_a_run_is_stands_on_disk_from_the_start(watching, tmp_path):
    with watching() as seen:
        content = json.loads((tmp_path / "test" / "run.json").read_text())
        assert content["run_id"] == seen.run.id
        assert content["facts"]["torch"] == torch.__version__
        assert content["facts"]["world_size"] == 1


def test_status_on_disk_knows_the_last_step(watching, tmp_path, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching():
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert json.loads((tmp_path / "test" / "run.json").read_text())["step"] == 3


def test_start_says_what_was_configured(watching):
    with watching(gradients_every=4, layers=["0.*"]) as seen:
        pass
    assert seen.start.facts["config"]["gradients_every"] == 4
    assert seen.start.facts["config"]["layers"] == ["0.*"]


def test_layer_pattern_that_matches_nothing_is_told_once(watching, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watching(layers=["encodr.*"]) as seen:
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert sum("'encodr.*' matches no parameter" in notice for notice in seen.notices) == 1


def test_resumed_run_goes_on_counting_its_steps(tmp_path, model):
    def train(steps, **options):
        backend = RecordingBackend()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with trimtab.watch(run="test", directory=tmp_path, backends=["jsonl", backend], **options):
            for _ in range(steps):
                model(torch.ones(1, 2)).sum().backward()
                optimizer.step()
        return backend.events

    train(3)
    start, *between, end = train(2, resume=True)
    assert (start.step, end.step) == (3, 5)
    counted = [event.totals.steps for event in between if isinstance(event, Step)][-1]
    assert (counted, end.totals["steps"]) == (2, {"0": 2})  # counters begin anew, all of them


def test_every_rank_says_which_it_is(watching, monkeypatch, tmp_path):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with watching() as seen:
        pass
    info = seen.backend.run
    assert (info.rank, info.local_rank, info.world_size) == (1, 1, 4)
    assert not (tmp_path / "test" / "run.json").exists()  # rank 0 writes it for all


def test_long_validation_is_told_to_be_alive(watching, model, monkeypatch):
    monkeypatch.setitem(Watchdog.__init__.__kwdefaults__, "interval_s", 0.01)
    monkeypatch.setattr(health, "ALIVE_INTERVAL_S", 0.0)
    with watching() as seen:
        model.eval()
        end = time.monotonic() + 10
        while not seen.backend.of(Health) and time.monotonic() < end:
            with torch.no_grad():
                torch.nn.functional.mse_loss(model(torch.ones(1, 2)), torch.ones(1, 1))
        (first, *_) = seen.backend.of(Health)
    assert [m.value for m in measure(first, seen.backend.run) if m.spec is LAST_ACTIVITY] == [first.moved_on_at]
    assert seen.end.ts > first.moved_on_at > seen.start.ts


def test_ctrl_c_while_a_backend_starts_leaves_nothing_behind(tmp_path):
    class Impatient(RecordingBackend):
        def start(self, run):
            self.address = "open"
            raise KeyboardInterrupt

    first, interrupted = RecordingBackend(), Impatient()
    threads = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        trimtab.watch(run="test", directory=tmp_path, backends=["jsonl", "prometheus", first, interrupted], port=0),
    ):
        pass
    assert first.closed
    assert interrupted.closed
    assert [path.name for path in tmp_path.iterdir()] == ["targets"]
    assert list((tmp_path / "targets").iterdir()) == []
    assert threading.active_count() == threads


def test_ctrl_c_after_the_backends_started_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(controller):
        raise KeyboardInterrupt

    monkeypatch.setattr(Controller, "open", interrupted)
    backend = RecordingBackend()
    with pytest.raises(KeyboardInterrupt), trimtab.watch(run="test", directory=tmp_path, backends=[backend]):
        pass
    assert backend.closed
    assert not (tmp_path / "test" / "run.json").exists()


def test_notice_has_the_step_that_was_taken_last_though_no_record_of_it_is_out(options):
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with trimtab.watch(**options) as run:
        backend = options["backends"][0]
        for _ in range(300):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
        recorded = max((event.step for event in backend.of(Step)), default=0)
        run.restore_best()
    (notice,) = [each for each in backend.of(Notice) if each.kind.startswith("restore_best")]
    assert notice.step == 300 > recorded
