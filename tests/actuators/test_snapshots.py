"""Which snapshots there are, what they may cost, and which one a rollback goes to."""

import itertools
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from trimtab.actions import Refused
from trimtab.actuators.parts import Parts
from trimtab.actuators.snapshots import Snapshots
from trimtab.actuators.turns import FIRST_INTERVAL, LEAST_STEPS

BYTES = 4 * 100


class Model:
    """One parameter, whose value says after which step it was."""

    def __init__(self):
        self.weight = nn.Parameter(torch.zeros(100))
        self.parts = Parts(optimizers={"0": torch.optim.SGD([self.weight], lr=0.1)})

    def at(self, step):
        self.weight.data.fill_(float(step))
        return self.parts

    @property
    def step(self):
        return self.weight[0].item()


@pytest.fixture
def model():
    return Model()


def filled(model, steps, **options):
    snapshots = Snapshots(**{"cap_bytes": 100 * BYTES, **options})
    snapshots.meet(model.at(0))
    for step in steps:
        snapshots.take(model.at(step), step)
    return snapshots


def test_roll_back_goes_to_the_newest(model):
    snapshots = filled(model, [10, 20, 30])
    change = snapshots.roll_back(model.at(35), 35)
    assert model.step == 30
    assert (change.before, change.after) == ({"weights_of_step": 35}, {"weights_of_step": 30})


def test_roll_back_leaves_no_gradient_of_what_is_undone(model):
    """Nor of what no optimizer steps: a later one that does would apply it."""
    beside = nn.Linear(2, 2)
    model.parts = Parts(optimizers=model.parts.optimizers, models={"beside": beside})
    snapshots = filled(model, [10])
    for parameter in (model.weight, beside.weight):
        parameter.grad = torch.ones_like(parameter)
    snapshots.roll_back(model.at(15), 15)
    assert (model.weight.grad, beside.weight.grad) == (None, None)


def test_roll_back_goes_to_one_whose_loss_was_seen_to_be_good(model):
    snapshots = filled(model, [10, 20, 30])
    snapshots.roll_back(model.at(35), 35, since=31)  # the loss of step 31 was that of the weights after step 30
    assert model.step == 20


def test_roll_back_again_goes_further_back(model):
    snapshots = filled(model, [10, 20, 30])
    snapshots.roll_back(model.at(35), 35, back=1)
    assert model.step == 20
    snapshots.roll_back(model.at(40), 40, back=1)
    assert model.step == 10


def test_snapshots_newer_than_the_restored_one_are_dropped(model):
    snapshots = filled(model, [10, 20, 30])
    snapshots.roll_back(model.at(35), 35, since=25)
    assert snapshots.steps == [0, 10, 20]


def test_a_best_state_from_after_the_restored_one_is_kept_and_not_gone_back_to(model):
    """It was on the way that was given up: a later trouble does not lead there, but `restore_best` does."""
    snapshots = filled(model, [10])
    snapshots.take_best(model.at(20), 20)
    snapshots.roll_back(model.at(35), 35, since=15)
    snapshots.roll_back(model.at(50), 50, since=45)
    assert (model.step, snapshots.best) == (10, 20)
    snapshots.restore_best(model.parts, 60)
    assert model.step == 20


def test_the_state_before_the_first_step_is_good_whatever_came(model):
    snapshots = filled(model, [10])
    snapshots.roll_back(model.at(11), 11, since=0)
    assert model.step == 0


def test_a_best_state_that_was_kept_before_the_first_step_is_the_first_one(model):
    """As in a loop that validates before it trains."""
    snapshots = Snapshots(cap_bytes=100 * BYTES)
    untrained = Parts(optimizers={}, models={"model": nn.ParameterList([model.weight])})
    model.at(0)
    snapshots.take_best(untrained, 0)
    snapshots.meet(model.parts)
    assert not snapshots.due(FIRST_INTERVAL - 1)
    assert snapshots.due(FIRST_INTERVAL)
    snapshots.take(model.at(20), 20)
    snapshots.roll_back(model.at(21), 21, since=0)
    assert model.step == 0


def test_the_best_state_of_another_step_is_not_the_first_one(model):
    snapshots = Snapshots(cap_bytes=100 * BYTES)
    snapshots.take_best(Parts(optimizers={}, models={"model": nn.ParameterList([model.weight])}), 0)
    snapshots.meet(model.at(10), 10)
    with pytest.raises(Refused, match="no snapshot from before step 1"):
        snapshots.roll_back(model.at(21), 21, since=1)


def test_roll_back_without_a_snapshot_is_refused():
    with pytest.raises(Refused, match="none has been taken yet"):
        Snapshots().roll_back(Parts(optimizers={}), 10)


def test_roll_back_further_than_there_is_goes_to_the_oldest(model):
    snapshots = filled(model, [10])
    snapshots.roll_back(model.at(11), 11, back=2)
    assert model.step == 0


def test_a_snapshot_over_the_cap_is_refused_once(model):
    snapshots = Snapshots(cap_bytes=BYTES - 1)
    with pytest.raises(Refused, match="more than the"):
        snapshots.meet(model.parts)
    assert not snapshots.due(1000)
    with pytest.raises(Refused, match="A snapshot takes"):
        snapshots.roll_back(model.parts, 10)
    assert snapshots.why_no_best.startswith("A snapshot takes")


def test_an_optimizer_that_is_met_later_takes_no_more_than_the_cap(model):
    snapshots, later = filled(model, [], cap_bytes=BYTES + 10), Model()
    optimizers = {"0": model.parts.optimizers["0"], "1": later.parts.optimizers["0"]}
    snapshots.meet(Parts(optimizers=optimizers), 5)
    assert snapshots.bytes <= BYTES + 10


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_all_copies_stay_under_the_cap(model, room):
    snapshots = filled(model, range(1, 40), cap_bytes=room * BYTES + 10)
    assert snapshots.bytes == room * BYTES
    assert snapshots.newest == 39


def test_the_first_is_kept_where_two_fit(model):
    assert filled(model, range(1, 40), cap_bytes=2 * BYTES).steps == [0, 39]


def test_the_newer_the_denser(model):
    steps = filled(model, range(10, 4000, 10), most=8).steps
    assert len(steps) == 8
    ages = [4000 - step for step in steps[1:]]
    assert ages[-1] == 10
    assert ages[0] > 600
    assert all(older <= 5 * newer for older, newer in itertools.pairwise(ages))


def test_the_best_is_kept(model):
    snapshots = filled(model, [10])
    snapshots.take_best(model.at(15), 15)
    for step in range(20, 400, 10):
        snapshots.take(model.at(step), step)
    assert 15 in snapshots.steps
    snapshots.restore_best(model.at(400), 400)
    assert model.step == 15


def test_a_better_one_takes_the_place_of_the_best(model):
    snapshots = filled(model, [10], cap_bytes=2 * BYTES)
    snapshots.take_best(model.at(15), 15)
    snapshots.take_best(model.at(25), 25)
    snapshots.restore_best(model.at(30), 30)
    assert (model.step, snapshots.bytes) == (25, 2 * BYTES)


def test_the_best_is_kept_where_only_one_fits(model):
    snapshots = filled(model, [10], cap_bytes=BYTES)
    snapshots.take_best(model.at(15), 15)
    snapshots.take(model.at(20), 20)
    assert snapshots.steps == [15]


def test_the_newest_is_taken_for_the_best_without_a_copy(model):
    snapshots = filled(model, [10])
    snapshots.take_best(model.parts, 10)
    assert (snapshots.best, snapshots.bytes) == (10, 2 * BYTES)


@pytest.mark.parametrize("to_disk", [False, True])
def test_the_best_is_what_was_validated_though_a_snapshot_of_that_step_is_of_other_weights(model, tmp_path, to_disk):
    """As where the weights of an average take the place of those that train, or the mean of those of many clients."""
    snapshots = filled(model, [10], directory=tmp_path / "snapshots" if to_disk else None)
    snapshots.take_best(model.at(-10), 10)
    snapshots.roll_back(model.at(12), 12)
    assert model.step == 10
    snapshots.restore_best(model.parts, 12)
    assert model.step == -10


def test_the_best_is_what_was_validated_though_only_one_of_its_parameters_is_another():
    model = nn.Linear(2, 2)
    parts = Parts(optimizers={"0": torch.optim.SGD(model.parameters(), lr=0.1)}, models={"": model})
    snapshots = Snapshots(cap_bytes=10_000)
    snapshots.meet(parts)
    model.bias.data.fill_(7.0)
    snapshots.take_best(parts, 0)
    model.bias.data.fill_(8.0)
    snapshots.restore_best(parts, 1)
    assert (model.bias == 7.0).all()


def test_the_first_of_a_stage_is_kept(model):
    snapshots = filled(model, [10, 20])
    snapshots.begin_at(20)
    for step in range(30, 400, 10):
        snapshots.take(model.at(step), step)
    assert snapshots.steps[0] == 20


def test_snapshots_newer_than_the_best_are_dropped_with_what_followed_it(model):
    snapshots = filled(model, [10])
    snapshots.take_best(model.at(15), 15)
    snapshots.take(model.at(20), 20)
    snapshots.restore_best(model.at(25), 25)
    snapshots.roll_back(model.at(30), 30)
    assert (model.step, snapshots.steps) == (15, [0, 10, 15])


def test_the_best_is_in_place_for_a_moment_only(model):
    snapshots, seen = filled(model, [10]), []
    snapshots.take_best(model.at(15), 15)
    snapshots.with_best(model.at(20), 20, lambda: seen.append(model.step))
    assert (seen, model.step, snapshots.best) == ([15], 20, 15)


def test_gradients_are_there_again_after_the_best_was_in_place(model):
    """Also of what no optimizer steps: the user may read them."""
    beside = nn.Linear(2, 2)
    model.parts = Parts(optimizers=model.parts.optimizers, models={"beside": beside})
    snapshots = filled(model, [10])
    snapshots.take_best(model.at(15), 15)
    gradients = [torch.ones_like(parameter) for parameter in (model.weight, beside.weight)]
    model.weight.grad, beside.weight.grad = gradients
    snapshots.with_best(model.at(20), 20, lambda: None)
    assert model.weight.grad is gradients[0]
    assert beside.weight.grad is gradients[1]


def test_the_present_state_is_not_copied_beyond_the_cap(model):
    snapshots = filled(model, [10], cap_bytes=BYTES)
    snapshots.take_best(model.at(15), 15)
    with pytest.raises(Refused, match="no room"):
        snapshots.with_best(model.at(20), 20, lambda: pytest.fail("called"))
    assert (model.step, snapshots.best) == (20, 15)


def test_a_best_that_was_taken_in_inference_mode_leaves_memory_for_later_ones(model):
    snapshots = filled(model, [], most=3)
    with torch.inference_mode():
        snapshots.take_best(model.parts, 10)
    for step in (20, 30, 40):
        snapshots.take_best(model.at(step), step)
    snapshots.restore_best(model.at(50), 50)
    assert model.step == 40


def test_best_that_no_other_rank_has_takes_the_place_of_no_common_one(model):
    """Validations that improve come more often than snapshots."""
    ranks = [filled(model, [], together=True, most=4) for _ in range(2)]
    for step in range(1, 81):
        if step % 16 == 0:
            for snapshots in ranks:
                snapshots.take(model.at(step), step)
        ranks[0].take_best(model.at(step), step)
    assert ranks[0].best == 80
    assert ranks[0].steps == ranks[1].steps
    assert ranks[0].bytes == 4 * BYTES


def test_former_best_that_no_other_rank_has_makes_room_before_common_ones(model):
    snapshots = filled(model, [10], together=True, cap_bytes=3 * BYTES)
    for step in (11, 12, 13):
        snapshots.take_best(model.at(step), step)
    assert (snapshots.best, snapshots.steps) == (13, [0, 10, 13])


def test_best_at_which_the_other_ranks_take_theirs_too_stays_when_a_better_one_comes(model):
    snapshots = filled(model, [10], together=True)
    snapshots.take_best(model.at(20), 20)
    snapshots.take(model.at(20), 20)
    snapshots.take_best(model.at(21), 21)
    assert snapshots.steps == [0, 10, 20, 21]


def test_former_best_that_no_rollback_goes_to_is_dropped_for_a_better_one(model):
    """As where an average's weights are validated in the place of those that train."""
    snapshots = filled(model, [10])
    for step in (10, 11, 12):
        average = {(id(model.weight), ""): torch.full((100,), -1.0)}
        snapshots.take_best(model.at(step), step, average)
    assert snapshots.steps == [0, 10, 12]


def test_no_best_is_refused(model):
    with pytest.raises(Refused, match="no validation result"):
        filled(model, [10]).restore_best(model.parts, 11)


def test_an_optimizer_met_later_is_taken_up_by_every_snapshot(model):
    snapshots, other = filled(model, [10, 20]), Model()
    both = Parts(optimizers={**model.parts.optimizers, "1": other.parts.optimizers["0"]})
    other.at(7)
    snapshots.meet(both, 25)
    model.at(30), other.at(30)
    snapshots.roll_back(both, 30, since=15)
    assert (model.step, other.step) == (10, 7)


def test_what_was_added_to_an_optimizer_that_steps_is_not_taken_for_its_first_state(model):
    snapshots, added, other = filled(model, [10, 20]), nn.Parameter(torch.zeros(1)), Model()
    model.parts.optimizers["0"].add_param_group({"params": [added]})
    both = Parts(optimizers={**model.parts.optimizers, "1": other.parts.optimizers["0"]})
    snapshots.meet(both, 25)
    with pytest.raises(Refused, match="some were added"):
        snapshots.roll_back(both, 26)
    snapshots.take(both, 30)
    snapshots.roll_back(both, 31)


def test_optimizer_that_is_gone_is_covered_no_more(model):
    """The next one may have its id, and its state would outlast a rollback."""
    snapshots = filled(model, [10])
    id_of_optimizer = id(model.parts.optimizers["0"])
    assert id_of_optimizer in snapshots._shelf.kept[-1].covers()
    model.parts = None
    assert id_of_optimizer not in snapshots._shelf.kept[-1].covers()


def test_meeting_what_is_known_costs_nothing(model):
    snapshots = filled(model, [10])
    snapshots.meet(model.parts, 11)
    assert snapshots.bytes == 2 * BYTES


def test_memory_of_a_dropped_snapshot_takes_up_the_next(model):
    snapshots = filled(model, [10, 20], most=2)
    (kept,) = [s.own for s in snapshots._shelf.kept[1:]]
    memory = kept._copies[0].data_ptr()
    snapshots.take(model.at(30), 30)
    assert snapshots._shelf.kept[1].own._copies[0].data_ptr() == memory


class Ticking:
    """A clock on which every snapshot takes `cost` seconds."""

    def __init__(self, cost):
        self.now, self.cost = 0.0, cost

    def __call__(self):
        self.now += self.cost
        return self.now


@pytest.mark.parametrize("cost_in_steps", [0.001, 0.1, 1.0])
def test_snapshots_stay_within_their_share_of_the_time(model, cost_in_steps):
    snapshots, share = Snapshots(clock=Ticking(cost_in_steps), share=0.01), 0.01
    snapshots.meet(model.parts)
    for step in range(1, 2000):
        if snapshots.due(step):
            snapshots.take(model.parts, step, step_s=1.0)
    assert snapshots.turns.seconds <= share * 2000
    assert snapshots.turns.interval == LEAST_STEPS or snapshots.turns.seconds >= share * 2000 / 4


def test_a_fixed_interval_is_kept(model):
    snapshots, taken = Snapshots(every=25, clock=Ticking(9.0)), []
    snapshots.meet(model.parts)
    for step in range(1, 101):
        if snapshots.due(step):
            snapshots.take(model.parts, step, step_s=1e-9)
            taken.append(step)
    assert taken == [25, 50, 75, 100]


def test_the_next_one_is_due_some_steps_after_a_rollback(model):
    snapshots = filled(model, [])
    snapshots.roll_back(model.parts, 100)
    assert next(step for step in range(101, 200) if snapshots.due(step)) == 100 + FIRST_INTERVAL


def test_age_is_that_of_the_newest_that_there_still_is(model):
    snapshots = Snapshots(cap_bytes=100 * BYTES, clock=lambda: now)
    for now in (0, 10, 20):
        snapshots.take(model.at(now), now)
    now = 25
    assert snapshots.age_s == 5
    snapshots.roll_back(model.at(now), now, since=15)
    assert snapshots.age_s == 15
    snapshots.forget()
    assert snapshots.age_s is None


def test_snapshots_in_a_directory_are_files_that_load_alone(model, tmp_path):
    snapshots = filled(model, [10, 20], directory=tmp_path, most=2)
    _, newest = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    saved = torch.load(newest, weights_only=True)
    assert saved["step"] == 20
    assert saved["tensors"]["optimizer.0.0"].tolist() == [20.0] * 100
    snapshots.roll_back(model.at(30), 30, since=11)
    assert model.step == 0
    del saved
    snapshots.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_that_lets_go_of_its_copy_leaves_the_files_to_its_parent(model, tmp_path):
    """As each worker of a loader does."""
    snapshots = filled(model, [10, 20], directory=tmp_path)
    child = os.fork()
    if child == 0:
        snapshots.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 3
    assert snapshots.roll_back(model.at(25), 25).after == {"weights_of_step": 20}


def flip(path):
    """One bit of a weight: such a file loads."""
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 20.0) * 100) + 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "gone": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "of one other bit": flip,
    "another": lambda path: torch.save({"step": 20, "tensors": {"optimizer.0.0": torch.ones(100)}}, path),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
class TestFileThatIsDamaged:
    def newest(self, tmp_path):
        (found,) = tmp_path.glob("snapshot-20-*.pt")
        return found

    def test_is_not_gone_back_to_but_the_one_before(self, model, tmp_path, damage):
        snapshots = filled(model, [10, 20], directory=tmp_path)
        damage(self.newest(tmp_path))
        assert snapshots.aim(None) == 10
        change = snapshots.roll_back(model.at(25), 25)
        assert (model.step, change.after, snapshots.steps) == (10, {"weights_of_step": 10}, [0, 10])
        assert "snapshot of step 20 is damaged or gone" in change.note

    def test_is_not_the_best(self, model, tmp_path, damage):
        snapshots = filled(model, [10], directory=tmp_path)
        snapshots.take_best(model.at(20), 20)
        damage(self.newest(tmp_path))
        with pytest.raises(Refused, match="snapshot of step 20 is damaged or gone"):
            snapshots.with_best(model.at(25), 25, lambda: None)
        assert (model.step, snapshots.best) == (25, None)
        assert "snapshot of step 20 is damaged or gone" in snapshots.why_no_best

    def test_is_named_where_the_best_is_asked_for_after_a_rollback_met_it(self, model, tmp_path, damage):
        snapshots = filled(model, [10], directory=tmp_path)
        snapshots.take_best(model.at(20), 20)
        damage(self.newest(tmp_path))
        snapshots.roll_back(model.at(25), 25)
        with pytest.raises(Refused, match="snapshot of step 20 is damaged or gone"):
            snapshots.restore_best(model.parts, 25)


def test_rollback_is_refused_where_every_file_is_gone(model, tmp_path):
    snapshots = filled(model, [10], directory=tmp_path / "snapshots")
    shutil.rmtree(tmp_path / "snapshots")
    with pytest.raises(Refused, match="damaged or gone"):
        snapshots.roll_back(model.at(15), 15)
    assert model.step == 15


def test_a_disk_that_is_full_is_tried_again_when_the_next_one_is_due(model, tmp_path, full_disk):
    snapshots, tried = filled(model, [10], directory=tmp_path, every=10), []
    with full_disk():
        for step in range(11, 41):
            if snapshots.due(step):
                tried.append(step)
                with pytest.raises(Refused, match="cannot be written"):
                    snapshots.take(model.at(step), step)
    assert tried == [20, 30, 40]
    assert len(list(tmp_path.iterdir())) == 2
    snapshots.roll_back(model.parts, 41)
    assert model.step == 10


def test_the_best_that_made_room_for_one_that_cannot_be_written_is_not_gone_back_to(model, tmp_path, full_disk):
    snapshots = filled(model, [], directory=tmp_path, most=1)
    snapshots.take_best(model.at(10), 10)
    with full_disk(), pytest.raises(Refused, match="cannot be written"):
        snapshots.take_best(model.at(20), 20)
    assert snapshots.best is None
    with pytest.raises(Refused, match=r"made room for a better one, which could not be kept: .* cannot be written"):
        snapshots.restore_best(model.parts, 21)


def test_the_best_stays_where_one_that_cannot_be_written_needs_no_more_than_others_leave(model, tmp_path, full_disk):
    snapshots = filled(model, [], directory=tmp_path, most=3)
    snapshots.take_best(model.at(10), 10)
    snapshots.take(model.at(11), 11)
    with full_disk(), pytest.raises(Refused, match="cannot be written"):
        snapshots.take_best(model.at(20), 20)
    assert (snapshots.best, snapshots.steps) == (10, [0, 10])


def test_random_states_are_restored_when_asked_for(model):
    snapshots = filled(model, [10], rng=True)
    drawn = torch.rand(3)
    snapshots.roll_back(model.parts, 11)
    assert torch.rand(3).equal(drawn)


def test_random_states_of_the_best_are_in_place_for_a_moment_only(model):
    snapshots, seen = filled(model, [10], rng=True), []
    snapshots.take_best(model.at(15), 15)
    drawn, _ = torch.rand(3), torch.rand(5)
    state = torch.get_rng_state()
    snapshots.with_best(model.at(20), 20, lambda: seen.append(torch.rand(3)))
    assert seen[0].equal(drawn)
    assert torch.get_rng_state().equal(state)


def test_random_states_are_left_alone_by_default(model):
    snapshots = filled(model, [10])
    torch.rand(3)
    before = torch.get_rng_state()
    snapshots.roll_back(model.parts, 11)
    assert torch.get_rng_state().equal(before)


def with_buffers(**buffers):
    """A module with these buffers, and two snapshots of it."""
    module = nn.Linear(2, 2)
    for name, value in buffers.items():
        module.register_buffer(name, value)
    parts = Parts(optimizers={"0": torch.optim.SGD(module.parameters(), lr=0.1)}, models={"": module})
    snapshots = Snapshots(cap_bytes=10_000)
    snapshots.meet(parts)
    return module, parts, snapshots


def test_mend_puts_back_buffers_that_are_not_finite_and_no_others():
    module, _, snapshots = with_buffers(spoiled=torch.zeros(3), other=torch.zeros(3), mask=torch.tensor([-torch.inf]))
    module.other += 1
    module.spoiled[1] = torch.nan
    weight = module.weight.detach().clone()
    module.weight.data += 1
    assert snapshots.mend() == 0
    assert (module.spoiled.tolist(), module.other.tolist(), module.mask.tolist()) == ([0] * 3, [1] * 3, [-torch.inf])
    assert torch.equal(module.weight, weight + 1)


def test_mend_finds_a_buffer_among_those_of_other_kinds():
    adjacency = torch.eye(3)
    module, _, snapshots = with_buffers(
        indexed=adjacency.to_sparse(), bytes=torch.zeros(3).to(torch.float8_e4m3fn),
        spoiled=torch.zeros(3),
    )  # fmt: skip
    module.spoiled.fill_(torch.nan)
    assert snapshots.mend() == 0
    assert module.spoiled.tolist() == [0] * 3
    assert module.indexed.to_dense().equal(adjacency)


def test_buffers_that_hold_nothing_yet_are_left_out():
    lazy = nn.parameter.UninitializedBuffer()
    module, parts, snapshots = with_buffers(there=torch.zeros(3), lazy=lazy, meta=torch.zeros(3, device="meta"))
    module.there += 1
    snapshots.roll_back(parts, 10)
    assert module.there.tolist() == [0] * 3
    assert module.lazy is lazy


def test_mend_goes_back_to_where_a_buffer_was_finite():
    module, parts, snapshots = with_buffers(spoiled=torch.zeros(3))
    module.spoiled.fill_(torch.inf)
    snapshots.take(parts, 10)
    assert (snapshots.mend(), snapshots.mend()) == (0, None)
    assert module.spoiled.tolist() == [0] * 3


def test_best_has_the_buffers_that_it_is_given_and_the_others_as_they_are():
    module, parts, snapshots = with_buffers(mean=torch.zeros(3), resized=torch.zeros(3), moment=torch.zeros(3))
    noted = snapshots.buffers(parts)
    module.mean += 1
    module.resized = torch.ones(4)
    module.moment = torch.ones(3)
    snapshots.take_best(parts, 10, noted)
    for buffer in (module.mean, module.resized, module.moment):
        buffer.fill_(7.0)
    snapshots.restore_best(parts, 20)
    assert (module.mean.tolist(), module.resized.tolist(), module.moment.tolist()) == ([0] * 3, [1] * 4, [0] * 3)


def test_buffers_are_not_copied_beyond_the_cap():
    _, parts, snapshots = with_buffers(mean=torch.zeros(3))
    assert snapshots.buffers(parts)
    tight = Snapshots(cap_bytes=snapshots.bytes + 11)
    tight.meet(parts)
    assert not tight.buffers(parts)


@pytest.mark.parametrize("persistent", [True, False])
def test_weights_of_before_a_module_had_a_mask_are_not_put_under_it(persistent):
    """As after pruning. A table that is made when it is needed belongs to no weights."""
    layer = nn.Linear(3, 2)
    parts = Parts(optimizers={"0": torch.optim.SGD(layer.parameters(), lr=0.1)}, models={"model": layer})
    snapshots = Snapshots(cap_bytes=100 * BYTES)
    snapshots.meet(parts)
    layer.register_buffer("mask", torch.ones(2, 3), persistent=persistent)
    if persistent:
        with pytest.raises(Refused, match=r"There is a buffer by now, model\.mask"):
            snapshots.roll_back(parts, 10)
        snapshots.take(parts, 10)
    snapshots.roll_back(parts, 11)
