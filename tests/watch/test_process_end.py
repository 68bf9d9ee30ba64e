"""How a run meets the end of its process, in processes of their own."""

import json
import os
import signal

import pytest
import torch

import trimtab

END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def events(script):
    return [event["event"] for event in script.log()]


@pytest.mark.parametrize("number", END_SIGNALS)
def test_end_signal_is_logged_and_still_ends_the_process(start, number):
    script = start("""
        with watch():
            step()
            print("ready", flush=True)
            while True:
                step()
    """).when_ready()
    os.kill(script.pid, number)
    assert script.exit_code() == -number
    end = script.log()[-1]
    assert (end["event"], end["status"]) == ("run_end", "interrupted")
    assert end["totals"]["steps"]["0"] == end["step"] >= 1


def test_sigterm_waits_for_no_backend_that_hangs(start):
    script = start("""
        class Hanging:
            def start(self, run): pass
            def write(self, events): time.sleep(3600)
            def close(self): pass
        with trimtab.watch(run="test", directory="runs", backends=[Hanging(), "jsonl"]):
            step()
            print("ready", flush=True)
            wait()
    """).when_ready()
    os.kill(script.pid, signal.SIGTERM)
    assert script.exit_code() == -signal.SIGTERM
    assert script.log()[-1]["status"] == "interrupted"


def test_backend_that_hangs_is_told_of_while_training_goes_on_and_what_it_lost_at_the_end(complete):
    script = complete("""
        from trimtab import bus, watchdog
        bus.HANGING_S = 0.1
        class Hanging:
            def start(self, run): pass
            def write(self, events): time.sleep(3600)
            def close(self): pass
        watchdog.Watchdog.__init__.__kwdefaults__["interval_s"] = 0.05
        with trimtab.watch(run="test", directory="runs", backends=["jsonl", Hanging()]):
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                step()
    """)
    told = [event["text"] for event in script.log() if event["event"] == "notice"]
    assert len([text for text in told if text.startswith("backend hanging hangs: ")]) == 1
    assert script.err.count("trimtab: backend hanging hangs, and was not waited for: it may have lost") == 1


def test_signal_amid_the_call_that_wakes_a_backend_calls_it_again(complete):
    complete("""
        with watch() as run:
            called, until = [], time.monotonic() + 0.5
            signal.signal(signal.SIGALRM, lambda *_: called.append(run._bus.flush(0)))  # as the end of a run does
            signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
            while time.monotonic() < until:
                run._bus.flush(0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert called
    """)


def test_scales_and_budgets_are_there_after_a_kill(start, tmp_path):
    script = start("""
        from trimtab.actions import ScaleLearningRate
        rule = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5, severity="warning")
        policy = trimtab.Policy(on="always", ladder=[ScaleLearningRate(0.5)], budget=1)
        with watch(act="process", rules=[rule], policies=[policy]) as run:
            while not run.adjustments:
                step()
            until = time.monotonic() + 1.5  # three records
            while time.monotonic() < until:
                step()
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert script.exit_code() == -signal.SIGKILL
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with trimtab.watch(
        run="test", directory=tmp_path / "runs", backends=["jsonl"], act="process", policies=[], resume=True
    ) as run:
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()
        state = run.state_dict()
    assert state["engine"]["accounts"]["spent"] == [["always", "0", 1]]
    assert next(e for e in reversed(script.log()) if e["event"] == "step")["learning_rate"] == [0.05]


def test_what_is_written_is_there_after_a_kill(start):
    script = start("""
        with watch():
            while "step" not in open("runs/test/rank-0.jsonl").read():
                step()
            print("ready", flush=True)
            wait()
    """).when_ready()
    os.kill(script.pid, signal.SIGKILL)
    assert script.exit_code() == -signal.SIGKILL
    assert events(script)[:2] == ["run_start", "step"]


@pytest.mark.parametrize("number", END_SIGNALS)
def test_handler_of_the_user_is_called_and_kept_and_training_goes_on(complete, number):
    script = complete(f"""
        handled = []
        signal.signal({number:d}, lambda number, frame: handled.append(number))
        mine = signal.getsignal({number:d})
        with watch():
            step()
            os.kill(os.getpid(), {number:d})
            step()
        assert handled == [{number:d}]
        assert signal.getsignal({number:d}) is mine
    """)
    assert script.log()[-1]["status"] == "completed"
    assert script.log()[-1]["totals"]["steps"] == {"0": 2}


def test_handler_that_the_user_sets_during_the_run_stays(complete):
    complete("""
        mine = lambda number, frame: None
        with watch():
            signal.signal(signal.SIGTERM, mine)
            step()
        assert signal.getsignal(signal.SIGTERM) is mine
    """)


@pytest.mark.parametrize("number", END_SIGNALS)
def test_signal_that_was_ignored_stays_ignored(complete, number):
    script = complete(f"""
        signal.signal({number:d}, signal.SIG_IGN)  # as `nohup` does with one of them
        with watch():
            os.kill(os.getpid(), {number:d})
            step()
    """)
    assert script.log()[-1]["status"] == "completed"


@pytest.mark.parametrize("number", END_SIGNALS)
def test_signal_has_its_default_meaning_again_after_the_run(complete, number):
    complete(f"""
        with watch():
            assert signal.getsignal({number:d}) is not signal.SIG_DFL
        assert signal.getsignal({number:d}) is signal.SIG_DFL
    """)


def test_run_that_nobody_closed_is_closed_at_exit(complete):
    script = complete("""
        watch().__enter__()
        step()
    """)
    assert script.log()[-1]["status"] == "interrupted"
    assert "step" in events(script)


def test_exception_is_the_programs_own(start):
    script = start("""
        with watch():
            step()
            raise ValueError("no more data")
    """)
    assert script.exit_code() == 1
    assert "ValueError: no more data" in script.err.splitlines()
    assert script.log()[-1]["error"] == "ValueError: no more data"


def test_run_in_a_thread_leaves_signals_alone(complete):
    script = complete("""
        seen = []
        def train():
            with watch():
                step()
                seen.append(signal.getsignal(signal.SIGTERM))
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        assert seen == [signal.SIG_DFL]
    """)
    assert script.log()[-1]["status"] == "completed"


def test_forked_child_neither_watches_nor_writes_and_the_parent_goes_on(complete):
    script = complete("""
        backward = torch.autograd.backward
        with watch() as run:
            step()
            child = os.fork()
            if child == 0:
                unwatched = torch.autograd.backward is backward
                step()
                trimtab.log(value=1)
                run.close()
                os._exit(0 if unwatched else 1)
            assert os.waitpid(child, 0)[1] == 0, "the child was watched, or crashed"
            step()
    """)
    assert events(script).count("run_end") == 1
    assert script.log()[-1]["totals"]["steps"] == {"0": 2}
    assert "metric" not in events(script)


def test_forked_child_that_exits_as_python_does_writes_nothing(complete):
    script = complete("""
        with watch():
            step()
            child = os.fork()
            if child == 0:
                sys.exit(0)
            assert os.waitpid(child, 0)[1] == 0
            step()
    """)
    assert events(script).count("run_end") == 1
    assert script.log()[-1]["status"] == "completed"


def test_forked_child_may_start_a_run_of_its_own(complete):
    script = complete("""
        with watch():
            child = os.fork()
            if child == 0:
                with watch(run="child"):
                    step()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    """)
    assert script.log("child")[-1]["status"] == "completed"


def test_sigterm_in_a_forked_child_ends_the_child_only(complete):
    script = complete("""
        with watch():
            ready, tell = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(tell, b"!")
                wait()
                os._exit(0)
            os.read(ready, 1)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            step()
    """)
    assert script.log()[-1]["status"] == "completed"


def test_sigterm_at_the_instant_of_a_fork_leaves_the_run_to_its_parent(complete):
    script = complete("""
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # before the run lets go there
        with watch() as run:
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            assert '"running"' in (run.directory / "run.json").read_text()
            step()
    """)
    assert script.log()[-1]["status"] == "completed"
    assert events(script).count("run_end") == 1


def test_second_process_may_not_write_the_same_run(complete):
    script = complete("""
        with watch():
            child = os.fork()
            if child == 0:
                try:
                    watch().__enter__()
                except trimtab.ConfigError as error:
                    os._exit(0 if f"process {os.getppid()}" in str(error) else 1)
                os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
    """)
    assert events(script).count("run_start") == 1


def test_program_may_go_to_another_directory_during_the_run(complete, tmp_path):
    script = complete("""
        from trimtab.actions import Halt
        rule = trimtab.Rule("enough", signal="logged:done", threshold=0.5)
        policy = trimtab.Policy(on="enough", ladder=[Halt()])
        options = {"rules": [rule], "policies": [policy], "act": "process", "snapshot_directory": "kept"}
        with trimtab.watch(run="test", directory="runs", backends=["jsonl", "prometheus"], port=0, **options) as run:
            step()
            os.makedirs("other/runs/test")
            os.chdir("other")
            for count in range(200):
                step()
                trimtab.log(done=float(count > 100))
                if trimtab.should_stop():
                    break
        assert os.path.isabs(run.directory)
        print(run.addresses["jsonl"])
    """)
    assert script.out == "runs/test/rank-0.jsonl\n"
    assert script.log()[-1]["status"] == "halted"
    assert script.log()[-1]["totals"]["dropped"] == {}
    assert json.loads((tmp_path / "runs" / "test" / "run.json").read_text())["status"] == "halted"
    assert (tmp_path / "runs" / "test" / "last.pt").exists()
    assert (tmp_path / "runs" / "test" / "steering.json").exists()
    assert [path for path in (tmp_path / "other").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "runs" / "targets").iterdir()) == []
    assert not (tmp_path / "kept").exists() or list((tmp_path / "kept").iterdir()) == []


def test_ctrl_c_twice_leaves_nothing_behind(complete, tmp_path):
    script = complete("""
        class Slow:
            def start(self, run): pass
            def write(self, events):
                first = not writing
                writing.append(True)
                if first:
                    signal.raise_signal(signal.SIGINT)  # is heard by the main thread
                time.sleep(2)
            def close(self): closed.append(True)
        writing, closed = [], []
        options = {"directory": "runs", "backends": ["jsonl", "prometheus", Slow()], "port": 0}
        before = signal.getsignal(signal.SIGTERM)
        backward = torch.autograd.backward
        try:
            with trimtab.watch(run="test", **options) as run:
                step()
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert writing
        assert signal.getsignal(signal.SIGTERM) is before
        assert torch.autograd.backward is backward
        until = time.monotonic() + 20
        while any(thread.name.startswith("trimtab-") for thread in threading.enumerate()):
            assert time.monotonic() < until, threading.enumerate()
            time.sleep(0.01)
        assert closed == [True]
        with watch(run="next"):
            step()
    """)
    assert script.log()[-1]["status"] == "interrupted"
    assert json.loads((tmp_path / "runs" / "test" / "run.json").read_text())["status"] == "interrupted"
    assert list((tmp_path / "runs" / "targets").iterdir()) == []


def test_ctrl_c_while_readers_are_waited_for_leaves_an_error_of_the_users_as_it_is(complete):
    script = complete("""
        class Lingering:
            def start(self, run): pass
            def write(self, events): pass
            def linger(self):
                lingered.append(True)
                signal.raise_signal(signal.SIGINT)
                wait()
            def close(self): pass
        lingered = []
        try:
            with trimtab.watch(run="test", directory="runs", backends=["jsonl", Lingering(), Lingering()]):
                step()
                raise ValueError("mine")
        except ValueError as error:
            print(error, lingered)
    """)
    assert script.out == "mine [True]\n"
    assert script.err.count("no scrape is waited for any more") == 1
    assert script.log()[-1]["status"] == "failed"


def test_second_ctrl_c_is_the_programs(complete):
    script = complete("""
        class Lingering:
            def start(self, run): pass
            def write(self, events): pass
            def linger(self): raise KeyboardInterrupt
            def close(self):
                signal.raise_signal(signal.SIGINT)  # is heard by the main thread
                time.sleep(1)
        try:
            with trimtab.watch(run="test", directory="runs", backends=["jsonl", Lingering()]):
                step()
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert script.out == "interrupted\n"
    assert script.log()[-1]["status"] == "completed"


def test_ctrl_c_at_the_beginning_of_closing_ends_no_other_step(complete, tmp_path):
    script = complete("""
        class Impatient:
            def start(self, run): pass
            def write(self, events): pass
            def close(self): pass
            def linger(self): lingered.append(True)
        lingered = []
        backward = torch.autograd.backward
        try:
            backends = ["jsonl", "prometheus", Impatient()]
            with trimtab.watch(run="test", directory="runs", backends=backends, port=0) as run:
                step()
                run._watchdog.close = lambda: signal.raise_signal(signal.SIGINT)  # the first thing that closing does
        except KeyboardInterrupt:
            pass
        assert not lingered
        assert torch.autograd.backward is backward
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """)
    assert script.log()[-1]["status"] == "completed"
    assert list((tmp_path / "runs" / "targets").iterdir()) == []
