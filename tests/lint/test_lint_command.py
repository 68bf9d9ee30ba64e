"""`trimtab lint`, from the command line to the exit code."""

import pytest
from click.testing import CliRunner

from trimtab.cli.lint import lint
from trimtab.errors import ConfigError
from trimtab.testing import sample_step
from trimtab.types import RunStart


@pytest.fixture
def run(runs):
    """`run(*arguments)`: exit code and lines."""

    def run(*arguments):
        done = CliRunner().invoke(lint, [*arguments, "--dir", str(runs)], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.return_value, done.output.splitlines()

    return run


def test_exit_code_is_1_when_a_rule_fired_and_0_when_none_did(watched, run):
    watched({"loss_spike": 2.0}, run="bad")
    watched({"loss_spike": 0.5}, run="good")
    assert run("bad")[0] == 1
    assert run("good") == (0, ["good: log, 10 steps, completed", "  no rule fired", *run("good")[1][2:]])
    assert run("good", "bad")[0] == 1


def test_one_log_is_told_rule_by_rule(watched, run):
    watched({"loss_spike": 2.0}, rules={"loss_spike": {"threshold": 10.0}})
    lines = run("sample")[1]
    assert lines[0] == "sample: log, 10 steps, completed"
    assert lines[1].split() == ["RULE", "SEVERITY", "STEP", "VALUE", "THRESHOLD", "LEVEL", "EPISODES"]
    assert lines[2].split() == ["loss_spike", "warning", "10", "20", "10", "2", "1"]
    assert any(line.startswith("  not judged: ") and "overfitting" in line for line in lines)


def test_several_logs_are_a_back_test(watched, run):
    for name, level in (("a", 0.5), ("b", 1.5), ("c", 3.0)):
        watched({"loss_spike": level}, run=name, rules={"loss_spike": {"threshold": 10.0}})
    code, lines = run("a", "b", "c", "--rule", "loss_spike=20")
    assert (code, [line.split() for line in lines]) == (
        1,
        [
            ["LOG", "LAST", "STEP", "STATUS", "FIRED"],
            ["a", "10", "completed", "-"],
            ["b", "10", "completed", "-"],
            ["c", "10", "completed", "loss_spike", "(step", "10)"],
            [],
            ["loss_spike:", "1", "of", "3", "logs"],
        ],
    )


def test_rule_that_was_asked_for_and_caught_nothing_is_counted(watched, run):
    watched({"loss_spike": 0.5}, run="a")
    watched({"loss_spike": 0.5}, run="b")
    code, lines = run("a", "b", "--rule", "loss_spike")
    assert (code, lines[-1]) == (0, "loss_spike: 0 of 2 logs")


@pytest.mark.parametrize(
    "twice", [["--rule", "loss_spike=8", "--rule", "loss_spike=6"], ["--column", "loss=a", "--column", "loss=b"]]
)
def test_name_that_is_given_two_things_is_refused(run, twice):
    with pytest.raises(ConfigError, match=r"(loss_spike|loss): given twice, as two things\. Give it once"):
        run("a", *twice)


def test_rule_may_be_given_twice_as_the_same(watched, run):
    watched({"loss_spike": 2.0}, rules={"loss_spike": {"threshold": 10.0}})
    assert run("sample", "--rule", "loss_spike=8", "--rule", "loss_spike=8")[0] == 1


def test_severity_leaves_out_what_is_below_it(watched, run):
    watched({"no_improvement": 2.0, "loss_spike": 1.0})
    assert run("sample", "--severity", "critical")[0] == 0
    assert [line.split()[0] for line in run("sample", "--severity", "warning")[1][2:3]] == ["loss_spike"]


@pytest.mark.parametrize("given", ["loss_spike=", "loss_spike=abc", "loss_spike=0", "loss_spike=-1", "loss_spike=nan"])
def test_threshold_that_is_none_gets_one_sentence(watched, run, given):
    watched({"loss_spike": 0.5})
    with pytest.raises(ConfigError, match="expected a threshold over 0, as in --rule loss_spike=8"):
        run("sample", "--rule", given)


def test_column_of_a_log_of_ours_is_refused(watched, run):
    watched({"loss_spike": 0.2})
    with pytest.raises(ConfigError, match="a log of ours, of which every column is known"):
        run("sample", "--column", "loss=objective")


def test_column_without_a_name_gets_one_sentence(watched, run):
    watched({"loss_spike": 0.5})
    with pytest.raises(ConfigError, match="expected KIND=NAME, as in --column loss=train_loss"):
        run("sample", "--column", "loss")


def test_log_that_cannot_be_judged_keeps_no_other_from_it(watched, runs):
    watched({"loss_spike": 2.0}, run="a")
    watched({"loss_spike": 0.5}, run="c")
    (runs / "b.csv").write_text("step,loss\n1,abc\n")
    given = ["a", str(runs / "b.csv"), str(runs / "b.csv"), "c", "--dir", str(runs)]
    done = CliRunner().invoke(lint, given, standalone_mode=False)
    assert done.return_value == 2
    assert [line.split()[:1] for line in done.stdout.splitlines()[1:3]] == [["a"], ["c"]]
    assert "loss_spike: 1 of 2 logs" in done.stdout.splitlines()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"trimtab: {runs / 'b.csv'}: loss is 'abc' in row 1")


def test_what_is_wrong_with_every_log_is_said_once(watched, runs):
    watched({"loss_spike": 2.0}, run="a")
    given = ["a", "a", "--rule", "lost", "--dir", str(runs)]
    done = CliRunner().invoke(lint, given, standalone_mode=False)
    assert (done.return_value, done.stdout, done.stderr.count("there is no such rule")) == (2, "", 1)


def test_steps_are_counted_in_words(watched, run, write):
    write(RunStart(ts=0.0, step=0, facts={}), sample_step(1, levels={"loss_spike": 0.5}), run="one")
    assert run("one")[1][0] == "one: log, 1 step, no end in the log"


def test_log_of_another_tool_may_count_from_0_and_is_told_to_its_last_step(run, runs):
    runs.mkdir(exist_ok=True)
    log = runs / "zero.csv"
    log.write_text("step,train_loss\n" + "".join(f"{step},1.0\n" for step in range(300)))
    assert run(str(log))[1][0] == f"{log}: CSV, to step 299"


def test_only_log_of_several_that_can_be_judged_is_one_log(watched, runs):
    watched({"loss_spike": 0.5}, run="a")
    done = CliRunner().invoke(lint, ["a", "lost", "--dir", str(runs)], standalone_mode=False)
    assert "no rule fired in 1 log" in done.stdout.splitlines()


def test_directory_of_files_for_prometheus_is_passed_over(watched, run, runs):
    """The shell makes it part of `runs/*`."""
    watched({"loss_spike": 2.0}, run="bad")
    (runs / "targets").mkdir()
    assert run(*map(str, sorted(runs.iterdir()))) == run("bad")
    with pytest.raises(ConfigError, match="holds no log"):
        run(str(runs / "targets"))
