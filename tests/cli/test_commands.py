"""The commands other than `run`, as programs."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

COMMANDS = (
    "adjust",
    "backends",
    "dashboards",
    "demo",
    "doctor",
    "lint",
    "pause",
    "report",
    "resume",
    "rules",
    "run",
    "stop",
    "targets",
)


def test_help_lists_the_commands_that_there_are(desk):
    listed = desk.trimtab("--help").stdout.partition("Commands:")[2]
    assert (
        tuple(line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " ") == COMMANDS
    )


def test_version_is_that_of_the_distribution(desk):
    assert desk.trimtab("--version").stdout == f"trimtab {importlib.metadata.version('trimtab')}\n"


def test_unknown_command_is_code_2(desk):
    done = desk.trimtab("reprt")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'reprt'" in done.stderr


def test_script_in_place_of_a_command_names_the_one_that_watches_it(desk):
    done = desk.trimtab("train.py", "--epochs", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "To watch a script: trimtab run train.py" in done.stderr


def test_fault_of_its_own_is_not_taken_for_a_rule_that_fired(desk):
    log = desk.write("a.csv", "step,loss\n1,2\n")
    broken = "from trimtab import cli; from trimtab.lint import judging; judging.judge = lambda *_: 1 / 0; cli.main()"
    done = subprocess.run([sys.executable, "-c", broken, "lint", str(log)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (70, "")
    assert "ZeroDivisionError" in done.stderr


def test_reader_who_has_enough_is_not_taken_for_a_rule_that_fired(desk):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as unread:
        done = subprocess.run([*desk.program, "backends"], stdout=unread, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_finds_no_space_is_one_sentence(desk, unbuffered):
    environ = {**desk.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*desk.program, "backends"], stdout=full, stderr=subprocess.PIPE, text=True, env=environ)
    assert (done.returncode, done.stderr.count("\n")) == (74, 1)
    assert done.stderr.startswith("trimtab: no space is left")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is full")
@pytest.mark.parametrize("asked", [["lint", "nosuch"], ["lint"]])
def test_trouble_that_cannot_be_told_is_not_taken_for_a_rule_that_fired(desk, asked):
    with open("/dev/full", "wb") as full:
        assert subprocess.run([*desk.program, *asked], env=desk.environ, stderr=full).returncode == 2


def test_name_in_a_file_does_not_reach_the_terminal_as_an_order(desk):
    desk.write("a.csv", "step,\x1b[2Jloss \x07\n1,2\n")
    done = desk.trimtab("lint", "a.csv")
    assert done.returncode == 2
    assert "It has step, loss" in done.stderr
    assert all(letter.isprintable() or letter == "\n" for letter in done.stderr)


def test_no_command_loads_torch_to_say_its_help(desk):
    source = "import sys; sys.argv[1:] = ['run', '--help']\ntry:\n from trimtab.cli import main; main()\nfinally:\n"
    loaded = "print({'torch', 'msgspec', 'rich', 'structlog', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    assert desk.python("-c", f"{source} {loaded}").stderr == "set()\n"


def test_backends_lists_ours_as_usable(desk):
    done = desk.trimtab("backends")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["BACKEND", "FROM", "USABLE"]
    version = importlib.metadata.version("trimtab")
    assert rows[1:5] == [[name, "trimtab", version, "yes"] for name in ("console", "grafana", "jsonl", "prometheus")]


def test_backends_says_why_one_is_not_usable(desk):
    metadata = desk.directory / "evil-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[trimtab.backends]\njsonl = evil:Evil\nworse = evil:Evil\n")
    desk.write("evil.py", "import no_such_package")
    out = desk.trimtab("backends").stdout
    assert "jsonl       evil 2.0       no: the name 'jsonl' belongs to trimtab\n" in out
    assert "'no_such_package', which is missing. Run: pip install 'evil'\n" in out


def test_report_draws_a_run_that_was_watched(desk, train):
    desk.write("script.py", train, "for _ in range(20): step()")
    for run in ("a", "b"):
        assert desk.trimtab("run", "--run", run, "script.py").returncode == 0
    assert desk.trimtab("report", "a").stdout == f"{desk.directory / 'runs' / 'a' / 'report.png'}\n"
    assert desk.trimtab("report", "runs/a", "runs/b/rank-0.jsonl", "-o", "both.svg").stdout == "both.svg\n"
    (desk.directory / "runs" / "targets").mkdir(exist_ok=True)  # which the shell makes part of `runs/*`
    assert desk.trimtab("report", "runs/a", "runs/targets").stdout == "runs/a/report.png\n"
    for picture in ("runs/a/report.png", "both.svg"):
        assert (desk.directory / picture).stat().st_size > 10_000


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["nothing"], "trimtab: nothing: neither a log nor the directory of a run."),
        (["empty.jsonl"], "trimtab: empty.jsonl: no record of a run is in it."),
        (["unlogged"], "trimtab: unlogged holds no log: the run had no backend jsonl."),
        ([], "Missing argument 'RUN...'"),
    ],
)
def test_report_of_nothing_gets_one_sentence(desk, command, sentence):
    desk.write("empty.jsonl")
    desk.write("unlogged/run.json")
    done = desk.trimtab("report", *command)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_demo_trains_and_says_what_to_look_at(desk):
    done = desk.trimtab("demo")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert desk.status() == "completed"
    assert said["log"].endswith("rank-0.jsonl")
    assert said["picture"].endswith("report.png")
    assert (desk.directory / said["picture"]).exists()
    last = [record for record in desk.record() if record["event"] == "epoch"][-1]
    assert last["epoch"] == 15
    assert last["validation"]["accuracy"] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"TRIMTAB_BACKENDS": "console"}, {"TRIMTAB_DISABLED": "1"}])
def test_demo_that_writes_no_log_says_so(desk, given):
    desk.environ |= given
    done = desk.trimtab("demo")
    assert done.returncode == 0
    assert done.stdout == "log       none: it takes the backend jsonl, and a run that is watched\n"


def read(address):
    with urllib.request.urlopen(address) as response:
        return response.read().decode()


@pytest.mark.slow
def test_demo_serves_until_it_is_interrupted(desk):
    desk.environ |= {"TRIMTAB_BACKENDS": "prometheus,jsonl", "TRIMTAB_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab", "demo", "--serve"],
        cwd=desk.directory, env=desk.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert "stay up until you press Ctrl-C" in process.stderr.readline()
    address = json.loads((desk.runs()[0] / "rank-0.jsonl").read_text().splitlines()[0])["addresses"]["prometheus"]
    end = time.monotonic() + 60
    while 'status="completed"} 1.0' not in (page := read(address)) and time.monotonic() < end:
        time.sleep(0.05)
    assert "trimtab_epochs_total" in page
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert (process.returncode, desk.status()) == (0, "completed")


def test_example_is_a_script_like_any_other(desk, request):
    example = request.config.rootpath / "examples" / "digits.py"
    assert "import trimtab" not in example.read_text()
    done = desk.trimtab("run", str(example), "--epochs", "1")
    assert done.stdout.startswith("epoch 1: ")
    (epoch,) = [record for record in desk.record() if record["event"] == "epoch"]
    assert done.stdout.startswith(f"epoch 1: {epoch['validation']['accuracy']:.1%} of 359")
