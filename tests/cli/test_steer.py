"""What a person may ask of a run, and what they hear."""

import json
import os
import platform
import subprocess

import pytest

from trimtab.actions import FOR_GOOD, ClipGradients, Halt, RollBack, ScaleLearningRate, ScaleWeightDecay, SetDropout
from trimtab.steering import control

RUN_ID = "0123456789abcdef"


@pytest.fixture
def run(desk):
    """The directory of a run that lives as long as this process, and its side of the commands."""
    place = desk.directory / "runs" / "resnet"
    place.mkdir(parents=True)
    describe(place, "running", os.getpid())
    side = control.Control(place, RUN_ID, say=lambda kind, text: pytest.fail(text))
    side.open()
    return side


def describe(place, status, pid):
    facts = {"host": platform.node(), "pid": pid}
    beside = place / "run.json.new"  # whole at every moment, as a run writes it: the command may be reading
    beside.write_text(json.dumps({"status": status, "run_id": RUN_ID, "facts": facts}))
    beside.replace(place / "run.json")


def ask(desk, run, *arguments, answer=("applied", "done")):
    """The command as a program, answered by the run. Returns what was asked for, and what the person saw."""
    process = subprocess.Popen(
        [*desk.program, *arguments, "--wait", "60"],
        cwd=desk.directory, env=desk.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    now, commands = 0.0, ()
    while not commands and process.poll() is None:
        now, commands = now + 1, run.poll(now)
    for command in commands:
        run.acknowledge(command, *answer, step=120)
    out, err = process.communicate(timeout=60)
    return commands, process.returncode, out, err


@pytest.mark.parametrize("kind", ["pause", "resume"])
def test_command_is_taken_and_answered(desk, run, kind):
    (command,), code, out, err = ask(desk, run, kind, "resnet")
    assert (command.kind, command.actions, command.run_id) == (kind, (), RUN_ID)
    assert (code, out, err) == (0, f"{kind}: applied at step 120: done\n", "")


def test_no_answer_is_obeyed_by_the_terminal(desk, run):
    out = ask(desk, run, "pause", "resnet", answer=("applied", "done\x1b[2J"))[2]
    assert out == "pause: applied at step 120: done\n"


def test_refusal_is_code_1_and_says_why(desk, run):
    _, code, out, err = ask(desk, run, "adjust", "resnet", "--dropout", "0.5", answer=("refused", "there is none"))
    assert (code, out, err) == (1, "", "adjust: refused at step 120: there is none\n")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_wait_that_never_ends_is_refused(desk, run, seconds):
    done = desk.trimtab("pause", "resnet", "--wait", seconds)
    assert (done.returncode, run.poll(0.0)) == (2, [])
    assert f"--wait {seconds}: expected a number of seconds" in done.stderr


def test_stop_halts(desk, run):
    (command,), *_ = ask(desk, run, "stop", "resnet", "--restore-best")
    assert command.actions == (Halt("a person asked for it", restore_best=True),)


def test_adjust_may_ask_for_everything_at_once(desk, run):
    decay = ["--scale-weight-decay", "2", "--weight-decay-floor", "1e-4"]
    options = ["--scale-lr", "0.5", *decay, "--dropout", "0.1", "--clip", "1", "--roll-back"]
    (command,), *_ = ask(desk, run, "adjust", "runs/resnet", *options)
    assert command.actions == (
        RollBack(),
        ScaleLearningRate(0.5, floor=0.0, ceiling=1e6),
        ScaleWeightDecay(2.0, floor=1e-4, ceiling=1e6),
        SetDropout(0.1, lower=True),
        ClipGradients(1.0, steps=FOR_GOOD),
    )


def test_run_that_takes_its_time_keeps_the_command(desk, run):
    done = desk.trimtab("pause", "resnet", "--wait", "0")
    assert (done.returncode, done.stdout) == (3, "")
    assert "not taken up within 0 s" in done.stderr
    assert [command.kind for command in run.poll(0.0)] == ["pause"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pause", "resnets"], "trimtab: resnets: neither the directory of a run nor the name of one in"),
        (["pause", "resnets"], "Did you mean 'resnet'?"),
        (["pause", "bert"], "The latest run in"),
        (["adjust", "resnet"], "Nothing to adjust. Give one option at least"),
        (["adjust", "resnet", "--weight-decay-floor", "1"], "--weight-decay-floor: needs --scale-weight-decay FACTOR"),
        (["adjust", "resnet", "--scale-lr", "0"], "trimtab: scale_learning_rate(factor=0.0): expected a factor over 0"),
    ],
)
def test_what_cannot_be_asked_gets_one_sentence(desk, run, arguments, sentence):
    done = desk.trimtab(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert not run.poll(0.0)


def test_run_that_has_ended_is_asked_nothing(desk, run):
    describe(desk.directory / "runs" / "resnet", "completed", os.getpid())
    done = desk.trimtab("stop", "resnet")
    assert (done.returncode, done.stderr) == (2, "trimtab: resnet has ended (completed). There is nothing to stop.\n")


def test_run_that_died_is_asked_nothing(desk, run):
    gone = subprocess.Popen(["true"])
    gone.wait()
    describe(desk.directory / "runs" / "resnet", "running", gone.pid)
    assert f"resnet has died: its process {gone.pid} is gone" in desk.trimtab("pause", "resnet").stderr


def test_run_that_ends_meanwhile_gives_the_command_back(desk, run):
    place = desk.directory / "runs" / "resnet"
    process = subprocess.Popen(
        [*desk.program, "stop", "resnet", "--wait", "60"],
        cwd=desk.directory, env=desk.environ, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not list((place / "control").glob("*.json")) and process.poll() is None:
        pass
    describe(place, "completed", os.getpid())
    assert "The command was withdrawn" in process.communicate(timeout=60)[1]
    assert not run.poll(0.0)


def test_run_that_takes_no_commands_is_told_apart(desk, run):
    (desk.directory / "runs" / "resnet" / "control").rmdir()
    assert "takes no commands" in desk.trimtab("pause", "resnet").stderr


UNTIL_STOPPED = """
    import sys
    import trimtab
    print("ready", flush=True)
    steps = 0
    while not trimtab.should_stop() and steps < 10_000_000:
        step()
        steps += 1
    print("saw", optimizer.param_groups[0]["lr"])
"""


def test_run_is_steered_by_the_real_commands_from_beginning_to_end(desk, train):
    process = desk.start("--run", "steered", desk.write("train.py", train, UNTIL_STOPPED))
    try:
        done = [
            desk.trimtab(*arguments, "--wait", "60")
            for arguments in (
                ("pause", "steered"),
                ("resume", "steered"),
                ("adjust", "steered", "--scale-lr", "0.5"),
                ("adjust", "steered", "--dropout", "0.5"),
                ("stop", "steered"),
            )
        ]
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert [each.returncode for each in done] == [0, 0, 0, 1, 0], [each.stderr for each in done]
    assert "learning_rate_scale 1 -> 0.5" in done[2].stdout
    assert out == "saw 0.1\n"
    recorded = [(e["action"], e["outcome"]) for e in desk.record() if e["event"] == "adjustment"]
    assert recorded == [
        ("pause", "applied"),
        ("resume", "applied"),
        ("scale_learning_rate", "applied"),
        ("set_dropout", "refused"),
        ("halt", "applied"),
    ]
    assert "learning_rate_scale 1 -> 0.5" in err
    assert desk.status() == "halted"
