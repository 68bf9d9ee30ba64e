"""Commands of a person: none lost, none done twice, none from a stranger."""

import json
import os
import stat

import pytest

from trimtab.actions import RollBack, ScaleLearningRate
from trimtab.errors import ConfigError
from trimtab.steering import control
from trimtab.steering.control import Control

RUN = "0123456789abcdef"
LOWER = ScaleLearningRate(0.5)


class Desk:
    """A run's directory, the run's side of it, and what the run's user was told."""

    def __init__(self, directory):
        self.directory = directory
        self.place = directory / "control"
        self.told = []
        self.now = 0.0
        self.open()

    def open(self, run=RUN, **options):
        self.side = Control(self.directory, run, say=lambda kind, text: self.told.append(text), **options)
        self.side.open()

    def send(self, kind="adjust", *actions, run=RUN):
        return control.send(self.directory, run, kind, actions)

    def poll(self):
        self.now += 1.0
        return list(self.side.poll(self.now))

    def plant(self, content, mode=0o600, name="00000000000000000001-1.json"):
        file = self.place / name
        file.write_text(content)
        file.chmod(mode)
        return file


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


VALID = json.dumps({"command": "pause", "run_id": RUN, "actions": []})


def test_command_arrives_as_it_was_sent(desk):
    id = desk.send("adjust", RollBack(), LOWER)
    (command,) = desk.poll()
    assert (command.id, command.kind, command.actions) == (id, "adjust", (RollBack(), LOWER))


def test_commands_arrive_in_their_order_and_once(desk):
    sent = [desk.send(kind) for kind in ("pause", "adjust", "resume")]
    assert [command.id for command in desk.poll()] == sent
    assert [desk.poll() for _ in range(10)] == [[]] * 10


def test_flood_of_commands_is_taken_a_part_at_each_look(desk):
    for number in range(250):
        desk.plant(VALID if number % 2 else "", name=f"{number:020d}-1.json")
    looks = [[int(command.id[:20]) for command in desk.poll()] for _ in range(4)]
    assert [len(found) for found in looks] == [50, 50, 25, 0]
    assert [number for found in looks for number in found] == list(range(1, 250, 2))


def test_command_that_comes_within_the_same_tick_is_not_missed(desk):
    desk.send()
    desk.poll()
    stamp = desk.place.stat().st_mtime_ns
    desk.poll()
    desk.send("pause")
    os.utime(desk.place, ns=(stamp, stamp))
    assert [command.kind for command in desk.poll()] == ["pause"]


def test_directory_is_looked_at_twice_a_second(desk):
    desk.side.poll(10.0)
    desk.send()
    assert list(desk.side.poll(10.4)) == []
    assert len(desk.side.poll(10.5)) == 1


def test_answer_reaches_the_one_who_asked(desk):
    id = desk.send("pause")
    (command,) = desk.poll()
    assert control.answer(desk.directory, id) is None
    desk.side.acknowledge(command, "applied", "paused", step=7)
    assert control.answer(desk.directory, id) == control.Answer("applied", 7, "paused")
    assert list(desk.place.iterdir()) == []


def test_command_can_be_withdrawn_until_it_is_taken(desk):
    first = desk.send()
    assert control.withdraw(desk.directory, first)
    second = desk.send()
    desk.poll()
    assert not control.withdraw(desk.directory, second)


class TestAnotherRunOfTheName:
    def test_that_begins_anew_does_nothing_that_was_meant_for_the_first(self, desk):
        id = desk.send("adjust", LOWER)
        desk.open(run="another")
        assert desk.poll() == []
        assert control.answer(desk.directory, id).outcome == "refused"

    def test_that_resumes_takes_up_what_was_waiting(self, desk):
        desk.send("adjust", LOWER)
        desk.open(run="another", resumed=True)
        assert [command.actions for command in desk.poll()] == [(LOWER,)]

    def test_that_resumes_is_not_stopped_by_what_was_to_stop_the_first(self, desk):
        desk.send("stop")
        desk.open(run="another", resumed=True)
        assert desk.poll() == []

    def test_does_not_repeat_what_was_under_way(self, desk):
        id = desk.send("adjust", LOWER)
        desk.poll()
        desk.open(run="another", resumed=True)
        assert desk.poll() == []
        assert "see its log" in control.answer(desk.directory, id).text


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        ("", 0o600, "it is no command"),
        ("[" * 9000, 0o600, "it is no command"),
        ("[]", 0o600, "it is no command"),
        (VALID.replace("pause", "explode"), 0o600, "'explode' is none of pause"),
        (VALID.replace("[]", '[{"action": "os:system"}]'), 0o600, "an action that Trimtab does not have"),
        (VALID.replace("[]", "[[]]"), 0o600, "an action that Trimtab does not have"),
        (VALID.replace("[]", '[{"action": "scale_learning_rate", "factor": -1}]'), 0o600, "expected a factor over 0"),
        (VALID.replace("[]", '[{"action": "halt", "reason": 5}]'), 0o600, "expected a text"),
        (VALID + " " * control.LARGEST, 0o600, "larger than"),
        (VALID, 0o666, "can be written by others"),
        (VALID, 0o620, "can be written by others"),
    ],
)
def test_file_that_cannot_be_trusted_is_told_once_and_ignored(desk, content, mode, sentence):
    desk.plant(content, mode)
    desk.send("pause")
    assert [command.kind for command in desk.poll()] == ["pause"]
    desk.send("resume")
    assert [command.kind for command in desk.poll()] == ["resume"]
    (told,) = desk.told
    assert sentence in told


def test_each_order_that_is_no_command_is_told_and_answered(desk):
    for at in (1, 2):
        desk.plant(VALID.replace("pause", f"explode-{at}"), name=f"{at:020d}-1.json")
    assert desk.poll() == []
    assert ["explode-1" in told or "explode-2" in told for told in desk.told] == [True, True]
    found = control.answer(desk.directory, f"{2:020d}-1")
    assert (found.outcome, "'explode-2' is none of pause" in found.text) == ("refused", True)


def test_whoever_orders_nonsense_for_ever_does_not_fill_the_record(desk):
    for at in range(50):
        desk.plant("nonsense", name=f"{at:020d}-1.json")
    assert desk.poll() == []
    assert len(desk.told) == 21
    assert "Of further files" in desk.told[-1]


def test_symlink_is_not_followed(desk, tmp_path):
    real = tmp_path / "elsewhere.json"
    real.write_text(VALID)
    (desk.place / "00000000000000000001-1.json").symlink_to(real)
    assert desk.poll() == []
    assert "is ignored" in desk.told[0]


def test_directory_that_is_a_symlink_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    names = ["00000000000000000001-1.done", "00000000000000000002-1.taken", "00000000000000000003-1.json"]
    for name in names:
        (elsewhere / name).write_text(VALID)
    (tmp_path / "control").symlink_to(elsewhere)
    desk = Desk(tmp_path)
    assert (desk.poll(), sorted(os.listdir(elsewhere))) == ([], names)
    assert "control is no directory" in desk.told[0]


def test_what_is_no_answer_is_left_where_it_is(desk):
    file = desk.plant("mine", name="results.done")
    desk.open()
    assert file.read_text() == "mine"


def test_answer_that_does_not_fit_the_disk_keeps_no_later_run_of_the_same_pid_from_orders(desk, full_disk):
    id = desk.send("adjust", LOWER)
    (command,) = desk.poll()
    with full_disk(), pytest.raises(OSError, match="too large"):
        desk.side.acknowledge(command, "applied", "x" * 2000, step=1)
    assert sorted(os.listdir(desk.place)) == [f"{id}.taken"]
    desk.plant("", name=f".{id}.done.{os.getpid()}")  # as one that was killed leaves
    desk.open()
    assert control.answer(desk.directory, id).outcome == "failed"


def test_pipe_does_not_hold_the_run_up(desk):
    os.mkfifo(desk.place / "00000000000000000001-1.json", 0o600)
    assert desk.poll() == []
    assert "is no regular file" in desk.told[0]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc, as on Linux")
def test_directory_in_the_place_of_a_command_is_not_kept_open(desk):
    (desk.place / "00000000000000000001-1.json").mkdir()
    before = os.listdir("/proc/self/fd")
    assert desk.poll() == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away; run the tests as root")
def test_file_of_somebody_else_is_ignored(desk):
    os.chown(desk.plant(VALID), 12345, 12345)
    assert desk.poll() == []
    assert "belongs to user 12345" in desk.told[0]


def test_directory_that_others_can_write_is_not_read(desk):
    desk.send()
    desk.place.chmod(0o777)
    assert desk.poll() == []
    assert "can be written by others" in desk.told[0]
    with pytest.raises(ConfigError, match="can be written by others"):
        desk.send()


def test_directory_that_is_taken_away_is_told_and_raises_nothing(desk):
    desk.place.rmdir()
    assert desk.poll() == []
    assert "cannot be used" in desk.told[0]


def test_directory_that_is_back_is_looked_at_after_a_while(desk):
    desk.place.rmdir()
    desk.side.poll(10.0)
    desk.place.mkdir(mode=0o700)
    desk.send()
    assert list(desk.side.poll(39.0)) == []
    assert len(desk.side.poll(40.0)) == 1


def test_nobody_else_may_read_or_write_a_command(desk):
    id = desk.send()
    assert stat.S_IMODE(desk.place.stat().st_mode) == 0o700
    assert stat.S_IMODE((desk.place / f"{id}.json").stat().st_mode) == 0o600
