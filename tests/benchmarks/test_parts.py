"""The parts really run, in their smallest form. What they measure is not judged here."""

from __future__ import annotations

import importlib
from pathlib import Path

import imports
import loop
import loop_bodies
import overhead
import pytest
import torch
from paired import Plan, Side, compare
from parts import Parts
from watched import Watched
from workloads import tiny

from trimtab.testing import RecordingBackend
from trimtab.types import Step


@pytest.fixture
def recording() -> RecordingBackend:
    return RecordingBackend()


def take_turns(recording: RecordingBackend, directory: Path) -> int:
    """Train a bare and a watched loop in turns. Returns the steps that the watched one took."""
    workload, taken = tiny(), 0
    loop = workload.loop()

    def step() -> None:
        nonlocal taken
        loop()
        taken += 1

    with Watched(directory, backends=[recording]) as watched:
        watched.warm_up(step, 0)
        sides = {"bare": Side(workload.loop()), "watched": watched.side(step)}
        compare(sides, Plan(steps=4, settle=1, blocks=2), budget_s=0)
    return taken


def test_run_that_takes_turns_sees_its_own_steps_and_no_bare_one(recording: RecordingBackend, tmp_path: Path) -> None:
    taken = take_turns(recording, tmp_path)
    assert sum(step.steps for step in recording.of(Step)) == taken


def test_samples_are_put_off_to_steps_that_count(recording: RecordingBackend, tmp_path: Path) -> None:
    with Watched(tmp_path, backends=[recording], gradients_every=1) as watched:
        step = tiny().loop()
        watched.warm_up(step, 0)
        ledger = watched.run._books.ledgers[0]
        ledger.gradients.clear()
        watched.enter()
        step()
        assert len(ledger.gradients) == 0
        watched.begin()
        step()
        assert len(ledger.gradients) == 1
        watched.leave()


def test_deadlines_move_by_the_time_put_aside(recording: RecordingBackend, tmp_path: Path) -> None:
    with Watched(tmp_path, backends=[recording]) as watched:
        watched.warm_up(tiny().loop(), 0)
        ledger = watched.run._books.ledgers[0]
        closing, health = ledger.close_at, watched.run._health._told_at
        watched._left_at -= 100.0
        watched.enter()
        watched.begin()
        watched.leave()
        assert ledger.close_at - closing >= 100.0
        assert watched.run._health._told_at - health >= 100.0


def test_nothing_is_hooked_while_the_run_is_put_aside(recording: RecordingBackend, tmp_path: Path) -> None:
    backward, loss = torch.autograd.backward, torch._C._nn.cross_entropy_loss
    with Watched(tmp_path, backends=[recording]) as watched:
        step = tiny().loop()
        watched.warm_up(step, 0)
        assert (torch.autograd.backward, torch._C._nn.cross_entropy_loss) == (backward, loss)
        watched.enter()
        assert torch.autograd.backward is not backward
        watched.begin()
        watched.leave()
        assert torch.autograd.backward is backward


def test_lanes_are_waited_for_in_a_watched_block(recording: RecordingBackend, tmp_path: Path) -> None:
    with Watched(tmp_path, backends=[recording]) as watched:
        step = tiny().loop()
        watched.warm_up(step, 0)
        watched._watched_s = 2.0
        watched.enter()
        watched.run.log(marked=1.0)
        watched.begin()
        watched.finish()
        written = [event for event in recording.events if event.name == "metric"]
        watched.leave()
    assert len(written) == 1


def test_run_that_failed_gives_no_figure(recording: RecordingBackend, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="faults"), Watched(tmp_path, backends=[recording]) as watched:
        watched.run._guard.faults["loss"] += 1


def test_import_loads_nothing_heavy() -> None:
    assert imports.import_once()["heavy"] == []


@pytest.mark.parametrize("parts", [overhead.PARTS, loop.PARTS], ids=["overhead", "loop"])
def test_every_part_exists(parts: Parts) -> None:
    for module, function, _ in parts.parts.values():
        assert callable(getattr(importlib.import_module(module), function))


def test_unknown_part_is_refused_by_name() -> None:
    assert overhead.PARTS.chosen(["default-m", "import"]) == ["default-mlp", "import"]
    with pytest.raises(SystemExit, match="--only imprt: expected the beginning of one of default-mlp"):
        overhead.PARTS.chosen(["imprt"])


def test_part_that_fails_is_a_figure_that_is_not_met(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("raise SystemExit('no such server')")
    (figure,) = Parts(script, {"broken": ("broken", "measure", ())}).measure_all(["broken"], quick=True)
    assert (figure.measured, figure.met, figure.note) == ("failed", False, "no such server")


def test_malformed_bodies_are_of_every_kind_and_none_says_what_the_good_one_does() -> None:
    labels = {"rule": "always", "run_id": "0" * 16}
    alert = {"status": "firing", "labels": labels, "startsAt": "2026-01-01T00:00:00Z", "fingerprint": "f"}
    assert loop_bodies.would_act(loop_bodies.good(alert), alert)
    found = list(loop_bodies.malformed(alert, 500))
    assert {kind for kind, _ in found} == loop_bodies.KINDS.keys()
    assert not any(loop_bodies.would_act(body, alert) for _, body in found)
