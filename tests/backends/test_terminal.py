"""The console on a real terminal: tmux draws it, and tells what stands on it."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PATIENCE_S = 30.0
COLUMNS, ROWS = 80, 12

FEED = """
import sys, threading, time
from pathlib import Path
from trimtab.bus import Bus
from trimtab.guard import Guard
from trimtab.testing import sample_run, sample_step
from trimtab.types import Notice
from trimtab_backends.console import ConsoleBackend

class Console(ConsoleBackend):
    seen = threading.Semaphore(0)

    def write(self, events):
        super().write(events)
        for _ in events:
            self.seen.release()

def say(event):
    bus.publish(event)
    bus.flush(0)
    console.seen.acquire()

def step(number, **fields):
    say(sample_step(number, batch=number, batches=100, **fields))

console = Console()
console.start(sample_run(Path("runs")))
bus = Bus({"console": console}, Guard(print))
"""


@pytest.fixture
def screen(tmp_path):
    """Run a program that feeds a console, in a terminal of its own. Returns a function that reads the terminal."""
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux: apt-get install tmux")
    tmux = ["tmux", "-S", str(tmp_path / "socket")]

    def start(program):
        (tmp_path / "feed.py").write_text(FEED + program)
        shell = f"export LC_ALL=C.UTF-8; {sys.executable} {tmp_path / 'feed.py'}; echo exit=$?; sleep {PATIENCE_S}"
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        subprocess.run([*tmux, "-f", "/dev/null", "new-session", "-d", *size, shell], check=True)
        return read

    def read(until, *options):
        """The lines on the screen and above it, as soon as one of them holds `until`."""
        lines, end = [], time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            capture = [*tmux, "capture-pane", "-p", "-S", "-1000", *options]
            done = subprocess.run(capture, capture_output=True, text=True, check=False)
            lines = [line.rstrip() for line in done.stdout.splitlines()]
            if any(until in line for line in lines):
                return lines
            time.sleep(0.05)
        pytest.fail(f"{until!r} never came: {lines}")

    yield start
    subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)


def until_the_last(lines):
    """Without the empty rows below."""
    return "\n".join(lines).rstrip().splitlines()


def test_the_live_line_is_the_bottom_row_and_is_gone_in_the_end(screen):
    read = screen("step(25); step(50)\nprint('half')\ntime.sleep(1)\nbus.close(5.0)\nprint('over')")
    lines = read("half")
    assert lines[0] == "half"
    assert lines[ROWS - 1].startswith("epoch 1  ━━━━━━━━━━━━━━━━ 50/100")
    assert [line for line in read("exit=0") if line] == ["half", "over", "exit=0"]


def test_the_live_line_tells_the_pace(screen):
    read = screen("step(25); step(50)\nprint('half')\ntime.sleep(1)\nbus.close(5.0)")
    assert " step/s" in read("half")[ROWS - 1]


def test_what_the_program_prints_stays_whole(screen):
    read = screen(
        "for number in range(1, 100):\n"
        "    print('user', number, 'x' * (number % 3 * 40))\n"
        "    step(number)\n"
        "    print('error', number, file=sys.stderr)\n"
        "bus.close(5.0)\n"
    )
    expected = [line for n in range(1, 100) for line in (f"user {n} {'x' * (n % 3 * 40)}".rstrip(), f"error {n}")]
    assert until_the_last(read("exit=0", "-J")) == [*expected, "exit=0"]


def test_what_is_printed_while_the_live_line_is_drawn_stays_whole(screen):
    read = screen(
        "for number in range(1, 1000):\n"
        "    bus.publish(sample_step(number, batch=number, batches=1000))\n"
        "    bus.flush(0)\n"
        "    print('user', number)\n"
        "bus.close(5.0)\n"
    )
    assert until_the_last(read("exit=0")) == [*(f"user {number}" for number in range(1, 1000)), "exit=0"]


def test_an_unfinished_line_is_left_as_it_is(screen):
    read = screen(
        "def tell(text):\n"
        "    say(Notice(ts=0.0, step=1, kind='k', text=text))\n"
        "step(1)\n"
        "print('ready'); tell('One.')\n"
        "print('loading...', end='', flush=True); tell('Two.'); tell('Three.')\n"
        "print('done')\n"
        "bus.close(5.0)\n"
    )
    told = [f"trimtab  {text}" for text in ("One.", "Two.", "Three.")]
    assert until_the_last(read("exit=0")) == ["ready", told[0], "loading...", *told[1:], "done", "exit=0"]


def test_a_progress_bar_of_tqdm_goes_on_above(screen):
    pytest.importorskip("tqdm", reason="needs tqdm: pip install tqdm")
    read = screen(
        "from tqdm import tqdm\n"
        "for number in tqdm(range(1, 51), mininterval=0, ncols=60):\n"
        "    step(number)\n"
        "bus.close(5.0)\n"
    )
    lines = [line for line in read("exit=0") if line]
    assert len(lines) == 2, lines
    assert lines[0].startswith("100%|")
    assert "50/50" in lines[0]


def test_the_live_line_follows_the_size_of_the_terminal(screen, tmp_path):
    read = screen(
        "step(1); print('ready'); input()\n"
        "step(2)\n"
        "for number in range(30): print('user', number)\n"
        "input(); bus.close(5.0)\n"
    )
    read("ready")
    tmux = ["tmux", "-S", str(tmp_path / "socket")]
    subprocess.run([*tmux, "resize-window", "-x", "60", "-y", "8"], check=True)
    subprocess.run([*tmux, "send-keys", "Enter"], check=True)
    assert read("user 29")[-1].startswith("epoch 1  ━━━━━━━━━━━━━━━━ 2/100")
    subprocess.run([*tmux, "send-keys", "Enter"], check=True)
    lines = read("exit=0")
    assert [line for line in lines if line.startswith("user")] == [f"user {number}" for number in range(30)]
    assert "epoch 1" not in "".join(lines)


@pytest.mark.parametrize(("columns", "rows"), [(29, ROWS), (COLUMNS, 4)])
def test_a_terminal_that_is_too_small_has_no_live_line(screen, tmp_path, columns, rows):
    read = screen("step(1); print('ready'); input()\nstep(2); print('done')\ntime.sleep(1)\nbus.close(5.0)")
    read("ready")
    tmux = ["tmux", "-S", str(tmp_path / "socket")]
    subprocess.run([*tmux, "resize-window", "-x", str(columns), "-y", str(rows)], check=True)
    subprocess.run([*tmux, "send-keys", "Enter"], check=True)
    assert "━ 2" not in "".join(read("done"))  # what is left of the one before may be anywhere


def test_what_is_not_finite_is_red_and_bold(screen):
    read = screen("step(1, loss=float('nan'))\nprint('seen')\ntime.sleep(1)\nbus.close(5.0)")
    line = read("seen", "-e")[ROWS - 1]
    before = line[: line.rindex("NaN")]
    assert "\x1b[31m" in before[before.rindex("loss") :]
    assert "1m" in before[before.rindex("loss") :]


def test_a_failing_program_gives_the_screen_back(screen):
    read = screen("step(1)\ntry:\n    1 / 0\nfinally:\n    bus.close(5.0)\n    print('\\n' * 20)")
    lines = [line for line in read("exit=1") if line]
    assert not [line for line in lines if line.startswith("epoch")]
    assert lines[-2:] == ["ZeroDivisionError: division by zero", "exit=1"]


def test_row_of_a_run_that_was_killed_is_given_back_by_the_line_in_the_docs(screen):
    docs = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    command = next(line.removeprefix("$ ") for line in docs.splitlines() if line.startswith("$ printf"))
    read = screen(f"""
step(1)
import os, subprocess
run = os.getpid()
if os.fork() == 0:
    while os.getppid() == run:
        time.sleep(0.01)
    subprocess.run({command!r}, shell=True)
    for number in range(2 * {ROWS}):
        print("line", number, flush=True)
    os._exit(0)
os.kill(run, 9)
""")
    lines = read(f"line {2 * ROWS - 1}")
    assert not any("step/s" in line for line in lines[-ROWS:]), lines
    assert lines[-1] == "", "the bottom row, where the cursor is"
