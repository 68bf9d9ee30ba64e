import os
import signal
import sys
import zipfile
from pathlib import Path

import pytest

# Says all that a program can see of how it was started, and that can be told from outside.
LOOK_AROUND = """
    import inspect, os, pickle, sys, typing

    class Thing:
        width: int = 3

    if __name__ == "__main__":
        main = sys.modules["__main__"]
        print(sys.argv, sys.path[0], __name__, __file__, __package__, __doc__)
        print(__spec__ and (__spec__.name, __spec__.origin), type(__loader__).__name__, __builtins__)
        print(sorted(vars(main)))
        print(vars(main) is globals(), type(pickle.loads(pickle.dumps(Thing()))) is Thing)
        print(inspect.getsource(Thing), typing.get_type_hints(Thing))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["script.py", "--help", "--", "-m", "-x=1", ""],
        ["./package/../script.py"],
        ["link.py"],
        ["-m", "package.module", "--run", "a"],
        ["-m", "package"],
        ["package"],
        ["package.zip", "a"],
    ],
    ids=" ".join,
)
def test_program_sees_what_it_sees_without_us(desk, command):
    desk.write("script.py", LOOK_AROUND)
    desk.write("package/__init__.py")
    desk.write("package/module.py", LOOK_AROUND)
    desk.write("package/__main__.py", LOOK_AROUND)
    (desk.directory / "elsewhere").mkdir()
    (desk.directory / "link.py").symlink_to(desk.directory / "package" / "module.py")
    with zipfile.ZipFile(desk.directory / "package.zip", "w") as archive:
        archive.write(desk.directory / "script.py", "__main__.py")
    bare, watched = desk.python(*command), desk.trimtab("run", *command)
    assert bare.stdout.count("\n") > 4
    assert (watched.stdout, watched.stderr, watched.returncode) == (bare.stdout, bare.stderr, bare.returncode)


@pytest.mark.parametrize("given", [["--backend", "jsonl, console"], ["--backend", "jsonl", "--backend", "console"]])
def test_backends_are_parted_by_commas_as_everywhere(desk, train, given):
    done = desk.trimtab("run", *given, desk.write("train.py", train))
    assert done.returncode == 0, done.stderr
    assert desk.record()[0]["facts"]["config"]["backends"] == ["jsonl", "console"]


@pytest.mark.parametrize(
    "line",
    [
        "sys.exit()",
        "sys.exit(3)",
        "sys.exit('good bye')",
        "nested()",
        "raise KeyboardInterrupt",
        "raise SystemExit from ValueError(1)",
        "sys.excepthook = lambda *of: print('hook', of[0]); nested()",
        "x = (",
        "os.kill(os.getpid(), 9)",
        "os._exit(4)",
        "input()",
    ],
)
def test_program_ends_as_it_ends_without_us(desk, line):
    desk.write("script.py", "import os, sys\ndef nested(): 1 / 0\nprint('begun')\n", line)
    bare, watched = desk.python("script.py"), desk.trimtab("run", "script.py")
    assert (watched.returncode, watched.stdout, watched.stderr) == (bare.returncode, bare.stdout, bare.stderr)


@pytest.mark.parametrize(
    ("line", "code", "status", "last"),
    [
        ("sys.exit(0)", 0, "completed", ""),
        ("sys.exit(3)", 3, "failed", ""),
        ("sys.exit('good bye')", 1, "failed", "good bye\n"),
        ("step('too many')", 1, "failed", "TypeError: step() takes 0 positional arguments but 1 was given\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "interrupted", "KeyboardInterrupt\n"),
    ],
)
def test_run_ends_with_the_program(desk, train, line, code, status, last):
    desk.write("script.py", "import sys", train, f"step()\n{line}\n")
    done = desk.trimtab("run", "script.py")
    assert (done.returncode, done.stdout, desk.status()) == (code, "", status)
    assert done.stderr.endswith(last)
    assert "trimtab/" not in done.stderr.partition("Traceback")[2]
    assert sum(record["event"] == "step" for record in desk.record()) == 1


def test_ctrl_c_reaches_the_program(desk, train):
    desk.write("script.py", train, "step()\nwait()\n")
    process = desk.start("script.py")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, desk.status()) == (-signal.SIGINT, "interrupted")
    assert stderr.endswith("KeyboardInterrupt\n")


def test_sigterm_reaches_the_programs_own_handler(desk, train):
    handler = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved'))\n"
    desk.write("script.py", handler, train, "step()\nwait()\n")
    process = desk.start("script.py")
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, desk.status()) == (1, "failed")
    assert stderr.endswith("saved\n")


def test_sigterm_ends_a_program_that_does_not_handle_it(desk, train):
    desk.write("script.py", train, "step()\nwait()\n")
    process = desk.start("script.py")
    process.terminate()
    process.communicate(timeout=60)
    assert (process.returncode, desk.status()) == (-signal.SIGTERM, "interrupted")


def test_workers_of_every_start_method_find_the_scripts_classes(desk, train):
    desk.write(
        "script.py",
        train,
        """
        from torch.utils.data import DataLoader, Dataset
        class Squares(Dataset):
            def __len__(self): return 4
            def __getitem__(self, i): return i * i
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                print(method, [int(x) for x in DataLoader(Squares(), num_workers=1, multiprocessing_context=method)])
                step()
        """,
    )
    done = desk.trimtab("run", "script.py")
    assert done.stdout == "".join(f"{method} [0, 1, 4, 9]\n" for method in ("fork", "spawn", "forkserver"))
    assert (done.returncode, desk.status()) == (0, "completed")
    assert desk.record()[-1]["step"] == 3


def test_run_is_closed_before_the_scripts_atexit_handlers(desk, train):
    look = "lambda: print('run_end' in next(pathlib.Path('runs').glob('*/rank-0.jsonl')).read_text())"
    desk.write("script.py", f"import atexit, pathlib\natexit.register({look})\n", train, "step()\n")
    assert desk.trimtab("run", "script.py").stdout == "True\n"


def test_run_goes_on_while_threads_of_the_program_do(desk, train):
    desk.write(
        "script.py",
        train,
        """
        import threading
        def work():
            threading.main_thread().join()
            step()
            print("trained")
        threading.Thread(target=work).start()
        """,
    )
    done = desk.trimtab("run", "script.py")
    assert (done.stdout, desk.status()) == ("trained\n", "completed")
    assert desk.record()[-1]["step"] == 1


HALTING = """
    act = "process"
    on_halt = "unwind"
    rules = [{name = "too_much", signal = "logged:much", threshold = 1}]
    policies = [{on = "too_much", ladder = ["halt"]}]
"""
LATER = """
    import threading
    def work():
        threading.main_thread().join()
        print("worked")
    threading.Thread(target=work).start()
"""


@pytest.mark.parametrize(("beside", "stdout"), [("", ""), (LATER, "worked\n")], ids=["alone", "beside a thread"])
def test_unwound_run_ends_with_75_and_without_a_traceback(desk, train, beside, stdout):
    loop = """
        import trimtab
        for _ in range(100):
            trimtab.log(much=2.0)
            step()
        print("went on")
    """
    desk.write("halting.toml", HALTING)
    desk.write("script.py", train, beside, loop)
    done = desk.trimtab("run", "--config", "halting.toml", "script.py")
    assert (done.returncode, done.stdout, desk.status()) == (75, stdout, "halted")
    assert "Traceback" not in done.stderr


def test_script_may_prepare_before_it_imports_torch(desk):
    desk.environ.pop("OMP_NUM_THREADS")
    prepare = "import os, sys; os.environ['OMP_NUM_THREADS'] = '1'; print('torch' in sys.modules)\n"
    desk.write("script.py", prepare, "import torch; print(torch.get_num_threads())\n")
    assert desk.trimtab("run", "script.py").stdout == "False\n1\n"
    assert desk.status() == "completed"


def test_script_may_log_to_the_run_that_watches_it(desk, train):
    desk.write(
        "script.py", "from trimtab import log, should_stop", train, "step(); log(bleu=31.2); print(should_stop())"
    )
    assert desk.trimtab("run", "script.py").stdout == "False\n"
    assert [record["values"] for record in desk.record() if record["event"] == "metric"] == [{"bleu": 31.2}]


def test_script_that_watches_itself_is_told_of_the_run_there_is(desk):
    desk.write("script.py", "import trimtab\n@trimtab.watch\ndef train(): print('begun')\ntrain()")
    done = desk.trimtab("run", "--run", "outer", "script.py")
    assert (done.returncode, done.stdout, desk.status()) == (1, "", "failed")
    assert "RunActiveError: run 'outer' is active in this process" in done.stderr


def test_script_without_torch_is_no_run(desk):
    desk.write("script.py", "import importlib.util; print(importlib.util.find_spec('torch').name)")
    done = desk.trimtab("run", "script.py")
    assert (done.stdout, done.stderr, desk.runs()) == ("torch\n", "", [])


def test_disabled_watches_nothing(desk, train):
    desk.environ["TRIMTAB_DISABLED"] = "1"
    desk.write("script.py", train, "step(); print('trained')")
    done = desk.trimtab("run", "--config", "none.toml", "script.py")
    assert (done.stdout, done.stderr, desk.runs()) == ("trained\n", "", [])


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["none.py"], "trimtab: none.py: No such file or directory."),
        (["-m", "no.module"], "trimtab: no.module: no Python code was found"),
        (["runs"], "no Python code was found to run"),
        (["--overhead", "2", "script.py"], "trimtab: overhead=2.0: expected a fraction from 0 to 0.5."),
        (["--backend", "jsnl", "script.py"], "Did you mean 'jsonl'?"),
        (["--run", "a/b", "script.py"], "trimtab: run='a/b': expected letters"),
        (["--config", "", "script.py"], "trimtab: config='': expected the path of a TOML file."),
        (["--config", "none.toml", "script.py"], "trimtab: config='none.toml': No such file"),
        (["--overhed", "2", "script.py"], "No such option"),
        (["--epochs", "2", "script.py"], "Options of the script go after its name."),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_run_gets_one_sentence_and_code_2(desk, command, sentence):
    desk.write("script.py", "print('begun'); import torch")
    (desk.directory / "runs").mkdir()
    done = desk.trimtab("run", *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_run_that_cannot_start_ends_the_program_with_one_sentence(desk):
    (desk.directory / "runs").write_text("in the way")
    desk.write("script.py", "import torch; print('went on')")
    done = desk.trimtab("run", "script.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("trimtab: directory=")


def test_options_reach_the_run(desk, train):
    desk.write("script.py", train, "step()")
    options = ["--run", "mine", "--backend", "jsonl", "--dir", "there", "--gradients-every", "4", "--overhead", "0.1"]
    assert desk.trimtab("run", *options, "--layer", "wei*", "script.py").stderr == ""
    start = (desk.directory / "there" / "mine" / "rank-0.jsonl").read_text().splitlines()[0]
    assert '"backends":["jsonl"],"overhead":0.1,"gradients_every":4,"layers":["wei*"]' in start


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P came with Python 3.11")
def test_safe_path_is_respected(desk):
    desk.write("script.py", "import sys; print(sys.path)")
    command = ["-P", "-m", "trimtab", "run", "script.py"]
    assert desk.python(*command).stdout == desk.python("-P", "script.py").stdout


def test_installed_program_leaves_its_own_place_out_of_the_path(desk):
    program = Path(sys.executable).parent / "trimtab"
    if not program.exists():
        pytest.skip("the program trimtab is not beside this python: run the tests where the package is installed")
    desk.write("script.py", "import sys; print(sys.path)")
    watched = desk._complete(os.fspath(program), "run", "script.py")
    assert watched.stdout == desk.python("script.py").stdout


@pytest.mark.ranks
@pytest.mark.parametrize(
    "launch", [["-m", "trimtab"], ["--no-python", f"{Path(sys.executable).parent}/trimtab"]], ids=" ".join
)
def test_ranks_of_torchrun_write_one_run(desk, train, launch):
    desk.write(
        "script.py",
        "import torch.distributed as dist; dist.init_process_group('gloo')",
        train,
        "step(); dist.barrier(); dist.destroy_process_group()",
    )
    if not Path(launch[-1]).exists() and launch[0] != "-m":
        pytest.skip("the program trimtab is not beside this python: run the tests where the package is installed")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *launch]
    done = desk.python(*torchrun, "run", "--run-name", "named", "script.py")
    assert done.returncode == 0, done.stderr
    assert [run.name for run in desk.runs()] == ["named"]
    last = [desk.record(rank)[-1] for rank in (0, 1)]
    assert [record["rank"] for record in last] == [0, 1]
    assert last[0]["run_id"] == last[1]["run_id"]
    assert desk.status() == "completed"


def test_run_is_replayed_from_the_command_line(desk):
    script = desk.write(
        "train.py",
        """
        import sys, torch
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for count in range(80):
            optimizer.zero_grad()
            x = torch.randn(16, 4) * (float("nan") if count in (40, 41, 42) and "spoil" in sys.argv else 1.0)
            torch.nn.functional.mse_loss(model(x), torch.ones(16, 1)).backward()
            optimizer.step()
        print(model.weight.tolist())
        """,
    )
    first = desk.trimtab("run", "--run", "first", "--act", "process", "--gradients-every", "1", script, "spoil")
    again = desk.trimtab("run", "--run", "again", "--replay", "first", "--gradients-every", "1", script, "spoil")
    assert "roll_back" in first.stderr
    assert (first.returncode, again.returncode) == (0, 0)
    assert first.stdout == again.stdout
    assert "nan" not in first.stdout
