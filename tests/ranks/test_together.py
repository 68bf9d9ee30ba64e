"""Every rank is adjusted alike, at the same optimizer step, or none is."""

import pytest

from trimtab.steering.ranks import UNMET

pytestmark = pytest.mark.ranks

TRAINING = """
import trimtab
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from trimtab.policies.causes import CHANGED
from trimtab.testing import RecordingBackend
from trimtab.types import Adjustment, Notice

torch.manual_seed(0)
inputs = torch.randn(64, 8)
labels = inputs[:, :3].argmax(1)
model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
parallel = DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
half = slice(32 * rank, 32 * rank + 32)  # of the batch

def step(spoil=1.0):
    optimizer.zero_grad()
    nn.functional.cross_entropy(parallel(inputs[half] * spoil), labels[half]).backward()
    optimizer.step()

backend = RecordingBackend()

def said(**more):
    of = ("learning_rate_scale", "weights_of_step")
    done = [
        (a.step, a.policy, a.action, a.outcome, [a.after[name] for name in of if name in a.after])
        for a in backend.of(Adjustment)
        if a.reason != CHANGED  # why nothing is done the first rank alone says
    ]
    total = [p.detach().double().sum().item() for p in model.parameters()]
    say(done=done, total=total, notices=[n.text for n in backend.of(Notice)], **more)
"""


def alike(ranks):
    """What both ranks say, where they say the same."""
    first, second = ranks
    assert (first["done"], first["total"]) == (second["done"], second["total"])
    return [tuple(done) for done in first["done"]]


def gone_back_to(ranks):
    """The steps whose weights were restored, on both alike."""
    return [values[0] for *_, action, outcome, values in alike(ranks) if (action, outcome) == ("roll_back", "applied")]


@pytest.fixture(scope="module")
def poisoned(in_ranks):
    """The loss of one rank alone is NaN at one step. By itself each would judge and sample other steps."""
    return in_ranks(
        TRAINING
        + """
with trimtab.watch(run="a", backends=[backend], act="process"):
    for _ in range(150):
        step()
    step(math.nan if rank == 1 else 1.0)
    for _ in range(150):
        step()
said(finite=all(p.isfinite().all().item() for p in model.parameters()))
"""
    )


def test_bad_batch_of_one_rank_is_undone_on_all(poisoned):
    assert {(action, outcome) for _, _, action, outcome, _ in alike(poisoned)} <= {
        ("skip_step", "applied"),
        ("skip_step", "refused"),
        ("roll_back", "applied"),
    }
    assert [rank["finite"] for rank in poisoned] == [True, True]


def test_every_rank_judges_the_mean_of_the_losses_of_all(in_ranks):
    """Each has other samples, and so another loss."""
    ranks = in_ranks(
        TRAINING
        + """
judged, own = [], []
rules = [trimtab.Rule("listens", signal=lambda loss: judged.append(loss) or 0.0, threshold=1.0)]
with trimtab.watch(run="a", backends=[backend], act="process", rules=rules, policies=[]):
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(parallel(inputs[half]), labels[half])
        loss.backward()
        optimizer.step()
        own.append(loss.item())
say(judged=judged, own=own)
"""
    )
    means = [sum(losses) / 2 for losses in zip(*(rank["own"] for rank in ranks), strict=True)]
    for rank in ranks:
        assert len(rank["judged"]) > 16
        assert rank["judged"] == pytest.approx(means[: len(rank["judged"])])
        assert rank["judged"] != pytest.approx(rank["own"][: len(rank["judged"])])


def test_weights_for_which_scalers_skip_every_step_are_turned_back_on_all(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
scaler = torch.amp.GradScaler("cpu")

with trimtab.watch(run="a", backends=[backend], act="process"):
    for number in range(120):
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(parallel(inputs[half]), labels[half])).backward()
        scaler.step(optimizer)
        scaler.update()
        if number == 60:
            model[0].weight.data.fill_(math.nan)
said(finite=all(p.isfinite().all().item() for p in model.parameters()))
"""
    )
    assert [(action, outcome) for _, _, action, outcome, _ in alike(ranks)][-1] == ("roll_back", "applied")
    assert [rank["finite"] for rank in ranks] == [True, True]


def test_ranks_that_are_only_watched_have_the_weights_of_the_bare_run(in_ranks):
    """Each its own: buffers differ from rank to rank. In the end rules fire, of which only word is given."""
    ranks = in_ranks(
        TRAINING
        + """
from contextlib import nullcontext

def trained(watching):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 3))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=0.01)
    with watching:
        for at in range(120):
            wanted = labels[half] if at < 100 else 2 - labels[half]
            optimizer.zero_grad()
            nn.functional.cross_entropy(parallel(inputs[half]), wanted).backward()
            optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [value.numpy().tobytes() for value in (*model.state_dict().values(), *states, torch.get_rng_state())]

alike = trained(nullcontext()) == trained(trimtab.watch(run="a", backends=[backend], gradients_every=4))
outcomes = sorted({a.outcome for a in backend.of(Adjustment)})
say(alike=alike, steps=backend.of(trimtab.types.Step)[-1].step, outcomes=outcomes)
"""
    )
    assert ranks == [{"alike": True, "steps": 120, "outcomes": ["dry_run"]}] * 2


def test_step_of_an_optimizer_whose_state_the_ranks_share_out_is_skipped(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from torch.distributed.optim import ZeroRedundancyOptimizer
optimizer = ZeroRedundancyOptimizer(parallel.parameters(), torch.optim.Adam, lr=0.01)
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1):
    for at in range(60):
        step(math.nan if rank == 1 and at == 40 else 1.0)
said(finite=all(p.isfinite().all().item() for p in model.parameters()))
"""
    )
    assert [(action, outcome) for _, _, action, outcome, _ in alike(ranks)] == [("skip_step", "applied")]
    assert [rank["finite"] for rank in ranks] == [True, True]


def test_rank_that_is_waited_for_leaves_the_jobs_own_collectives_their_time(in_ranks):
    """The first rank runs out of data, and waits for the other one where nothing of ours is asked of it."""
    ranks = in_ranks(
        TRAINING
        + """
from datetime import timedelta
dist.distributed_c10d._set_pg_timeout(timedelta(seconds=10))
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1):
    with parallel.join():
        for _ in range(10 + 5 * rank):
            step()
said(steps=backend.of(trimtab.types.Step)[-1].step)
"""
    )
    alike(ranks)
    assert [rank["steps"] for rank in ranks] == [10, 15]


def test_decision_of_the_first_rank_is_carried_out_on_all(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=8):
    for at in range(300):
        if at == 150:
            optimizer.param_groups[0]["maximize"] = True
        step()
said()
"""
    )
    applied = {action for _, _, action, outcome, _ in alike(ranks) if outcome == "applied"}
    assert applied >= {"roll_back", "scale_learning_rate"}


def test_ranks_of_which_one_is_not_watched_are_left_alone(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.steering import ranks
ranks.MEETING_S = 1.0
if rank == 0:
    with trimtab.watch(run="a", backends=[backend], act="process"):
        for _ in range(100):
            step()
else:
    for _ in range(100):
        step()
said()
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert any("Not every rank is watched" in notice for notice in ranks[0]["notices"])


def test_word_of_a_run_before_does_not_count(in_ranks):
    """Both ranks watch the first training, and one of them the second, which has two optimizers."""
    ranks = in_ranks(
        TRAINING
        + """
import time
from trimtab.actions import ScaleLearningRate
from trimtab.steering import control, ranks
with trimtab.watch(run="a", backends=[backend], act="process"):
    for _ in range(5):
        step()
id = None
ranks.MEETING_S = 4.0
began = time.monotonic()
if rank == 0:
    with trimtab.watch(run="b", backends=[backend], act="process") as run:
        for at in range(40):
            if at == 20:
                id = control.send(run.directory, run.id, "adjust", [ScaleLearningRate(0.5)])
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            step()
            time.sleep(0.03)
else:
    for at in range(40):
        if at == 20:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        step()
said(seconds=time.monotonic() - began, answer=id and control.answer(run.directory, id).text)
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert any("Not every rank is watched" in notice for notice in ranks[0]["notices"])
    assert "Not every rank is watched" in ranks[0]["answer"]
    assert ranks[0]["seconds"] < 9  # the second optimizer waits for nobody


def test_ranks_hear_of_each_other_as_seldom_as_it_costs_and_as_the_first_one_says(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
import time
from trimtab.sample.pace import Pace
from trimtab.steering.agreement import Agreement

exchanged = []
exchange, tell = Agreement.mean_losses, Agreement.tell

def counted(agreement, place, losses):
    exchanged.append(len(losses))
    return exchange(agreement, place, losses)

def slow(agreement, message):
    time.sleep(0.05)
    return tell(agreement, message)

Agreement.mean_losses, Agreement.tell = counted, slow
if rank == 1:
    Pace.judging_interval = lambda pace, acts: 3
with trimtab.watch(run="a", backends=[backend], act="process"):
    for _ in range(180):
        step()
        time.sleep(0.02)
said(exchanged=exchanged)
"""
    )
    assert alike(ranks) == []
    assert ranks[0]["notices"] == ranks[1]["notices"] == []
    assert ranks[0]["exchanged"] == ranks[1]["exchanged"]
    assert max(ranks[0]["exchanged"]) == 64


def test_word_of_a_rank_that_was_started_again_does_not_count(in_ranks):
    """What torchrun starts again may find the store of before, and one rank of two is not watched this time."""
    ranks = in_ranks(
        TRAINING
        + """
import itertools
from contextlib import nullcontext
from trimtab.steering import ranks
ranks.MEETING_S, ranks.PATIENCE_S = 1.0, 3.0
for attempt in (0, 1):
    os.environ["TORCHELASTIC_RESTART_COUNT"], ranks._runs = str(attempt), itertools.count()
    is_watched = attempt == 0 or rank == 0
    with trimtab.watch(run="a", backends=[backend], act="process") if is_watched else nullcontext():
        for _ in range(10):
            step()
said()
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert any("Not every rank is watched" in notice for notice in ranks[0]["notices"])


def test_rank_that_is_lost_ends_adjusting_and_not_training(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.steering import ranks
ranks.PATIENCE_S = 3.0
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1):
    for _ in range(30):
        step()
    if rank == 0:
        optimizer.step()  # by itself
    for _ in range(30):
        step()
said()
"""
    )
    assert all(any("lost each other" in notice for notice in rank["notices"]) for rank in ranks)


def test_best_state_of_ranks_is_written_and_their_weights_stay_alike(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from pathlib import Path
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=8, policies=[]) as run:
    for _ in range(40):
        step()
    with torch.no_grad():
        nn.functional.cross_entropy(model(inputs + 0.1), labels)
    for _ in range(8):
        step()
    restored = trimtab.restore_best()
    saved = torch.load(run.directory / "best.pt", weights_only=True)["step"] if rank == 0 else None
said(restored=restored, saved=saved)
"""
    )
    alike(ranks)
    assert [rank["restored"] for rank in ranks] == [False, False]
    assert ranks[0]["saved"] == 40
    assert any("best.pt" in notice for notice in ranks[0]["notices"])


def test_halt_that_the_first_rank_cannot_save_stops_none(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
import resource
from trimtab.actions import Halt
rules = [trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)]
policies = [trimtab.Policy(on="always", ladder=[Halt("enough")])]
if rank == 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
taken = 0
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1, rules=rules, policies=policies):
    while taken < 20 and not trimtab.should_stop():
        step()
        taken += 1
if rank == 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
said(taken=taken)
"""
    )
    assert [(rank["taken"], [outcome for *_, outcome, _ in rank["done"]]) for rank in ranks] == [(20, ["refused"])] * 2


def test_halt_waits_on_every_rank_for_the_one_that_asks(in_ranks):
    """The first rank asks, now and then, and tells the others."""
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.actions import Halt
rules = [trimtab.Rule("late", signal=lambda loss: float(taken > 25), threshold=0.5)]
policies = [trimtab.Policy(on="late", ladder=[Halt("enough")])]
options = {"act": "process", "gradients_every": 1, "on_halt": "unwind", "rules": rules, "policies": policies}
stop = torch.zeros(1)
with trimtab.watch(run="a", backends=[backend], **options):
    for taken in range(100):
        step()
        if taken % 20 == 0:
            stop[0] = rank == 0 and trimtab.should_stop()
            dist.broadcast(stop, 0)
            if stop:
                break
said(taken=taken)
"""
    )
    assert [rank["taken"] for rank in ranks] == [40, 40]


def test_snapshot_that_is_damaged_on_one_rank_is_gone_back_to_by_none(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from pathlib import Path
from trimtab.actions import RollBack
rules = [trimtab.Rule("late", signal=lambda loss: float(taken > 70), threshold=0.5)]
options = {"rules": rules, "policies": [trimtab.Policy(on="late", ladder=[RollBack()], budget=1)], "gradients_every": 1}
with trimtab.watch(run="a", backends=[backend], act="process", snapshot_directory="snapshots", **options):
    for taken in range(140):
        if taken == 70 and rank == 1:
            for file in Path("snapshots").glob("*-rank-1/*.pt"):
                file.write_bytes(file.read_bytes()[:-50])
        step()
said()
"""
    )
    assert [(action, outcome) for _, _, action, outcome, _ in alike(ranks)] == [("roll_back", "refused")]


def test_resumed_run_goes_on_from_where_the_first_rank_was(in_ranks):
    """The other rank's disk holds neither a log nor a state, as a disk of its own does after a move to another node."""
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.actions import RollBack, ScaleLearningRate
once = trimtab.Rule("once", signal=lambda loss: float(calls.pop(0)) if calls else 0.0, threshold=0.5)
options = {"run": "a", "act": "process", "gradients_every": 1, "rules": [once]}
ladder = [ScaleLearningRate(0.5), RollBack()]
options["policies"] = [trimtab.Policy(on="once", ladder=ladder, cooldown=0)]
calls = [0, 0, 1]
first = ["jsonl"] if rank == 0 else [RecordingBackend()]
with trimtab.watch(backends=first, directory=f"runs-{rank}", **options):
    for _ in range(10):
        step()
calls = [0] * 40 + [1]
with trimtab.watch(backends=[backend], directory=f"runs-{rank}", resume=True, **options):
    for _ in range(45):
        step()
said(scale=backend.of(trimtab.types.Step)[-1].learning_rate)
"""
    )
    assert [outcome for *_, outcome, _ in alike(ranks)] == ["applied"]
    assert [rank["scale"] for rank in ranks] == [[0.005], [0.005]]


SCALED_BEFORE = """
from pathlib import Path
from trimtab.actions import ScaleLearningRate
options = {"directory": f"runs-{rank}", "run": "a", "gradients_every": 1}
always = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)
policies = [trimtab.Policy(on="always", ladder=[ScaleLearningRate(0.5)])]
with trimtab.watch(backends=["jsonl"], act="process", rules=[always], policies=policies, **options):
    for _ in range(10):
        step()
if rank == 1:  # after a move to another node
    Path("runs-1/a/steering.json").unlink(missing_ok=True)
    Path("runs-1/a/rank-1.jsonl").unlink()
"""


def test_resumed_run_that_only_watches_has_the_scales_of_the_first_rank_on_all(in_ranks):
    ranks = in_ranks(
        TRAINING
        + SCALED_BEFORE
        + """
with trimtab.watch(backends=[backend], resume=True, **options) as run:
    for _ in range(10):
        step()
last = backend.of(trimtab.types.Step)[-1]
said(rate=last.learning_rate, at=last.step)
"""
    )
    alike(ranks)
    assert [(rank["rate"], rank["at"]) for rank in ranks] == [([0.005], 20)] * 2


def test_resumed_run_clips_on_all_ranks_as_the_first_one_did(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.actions import FOR_GOOD, ClipGradients
options = {"directory": f"runs-{rank}", "run": "a", "gradients_every": 1, "act": "process"}
always = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)
policies = [trimtab.Policy(on="always", ladder=[ClipGradients(1e-6, steps=FOR_GOOD)])]
first = ["jsonl"] if rank == 0 else [RecordingBackend()]
with trimtab.watch(backends=first, rules=[always], policies=policies, **options):
    step()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
before = [p.detach().clone() for p in model.parameters()]
with trimtab.watch(backends=[backend], resume=True, policies=[], **options):
    step()
moved = [(p.detach() - q).double().square().sum().item() for p, q in zip(model.parameters(), before)]
said(moved=sum(moved) ** 0.5)
"""
    )
    alike(ranks)
    assert [rank["moved"] for rank in ranks] == [pytest.approx(1e-6, rel=0.2)] * 2


def test_scales_that_the_first_rank_does_not_know_are_taken_on_by_no_other(in_ranks):
    """The other rank's disk has the state of an older run of that name, which was the first rank's place then."""
    ranks = in_ranks(
        TRAINING
        + """
from pathlib import Path
from trimtab.actions import ScaleLearningRate
other = DistributedDataParallel(nn.Linear(8, 1))
second = torch.optim.SGD(other.parameters(), lr=0.1)

def both():
    step()
    second.zero_grad()
    other(inputs[half]).square().mean().backward()
    second.step()

options = {"directory": f"runs-{rank}", "run": "a", "gradients_every": 1, "act": "process", "backends": [backend]}
always = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)
policies = [trimtab.Policy(on="always", ladder=[ScaleLearningRate(0.5)])]
with trimtab.watch(rules=[always], policies=policies, **options) as run:
    for _ in range(5):
        both()
    state = json.dumps(run.state_dict())
dist.barrier()
if rank == 0:
    Path("runs-0/a/steering.json").unlink()
else:
    Path("runs-1/a/steering.json").write_text(state)
with trimtab.watch(resume=True, policies=[], **options):
    for _ in range(5):
        both()
said(rates=[step.learning_rate for step in backend.of(trimtab.types.Step)[-2:]])
"""
    )
    alike(ranks)
    assert [rank["rates"] for rank in ranks] == [[[0.01], [0.1]]] * 2


def test_scales_of_before_are_not_taken_on_by_a_rank_that_is_watched_alone(in_ranks):
    ranks = in_ranks(
        TRAINING
        + SCALED_BEFORE
        + """
from contextlib import nullcontext
from trimtab.steering import ranks
ranks.MEETING_S = 1.0
with trimtab.watch(backends=[backend], resume=True, **options) if rank == 0 else nullcontext():
    for _ in range(10):
        step()
said()
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert any("They begin anew, at 1" in notice for notice in ranks[0]["notices"])


def test_best_state_that_one_rank_alone_keeps_hinders_no_rollback(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.actions import RollBack
rules = [trimtab.Rule("late", signal=lambda loss: float(taken > 75), threshold=0.5)]
policies = [trimtab.Policy(on="late", ladder=[RollBack()], cooldown=1000)]
options = {"rules": rules, "policies": policies, "gradients_every": 1}
with trimtab.watch(run="a", backends=[backend], act="process", **options):
    for taken in range(80):
        step()
        if taken in (40, 69):  # the best is that of step 70, of which the other rank has no copy
            with torch.no_grad():
                nn.functional.cross_entropy(model(inputs + 0.1), labels)
said()
"""
    )
    assert [tuple(done[2:]) for done in alike(ranks)] == [("roll_back", "applied", [64])]


def test_best_states_that_come_more_often_than_snapshots_leave_a_late_one_to_go_back_to(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=8):
    for taken in range(180):
        step()
        with torch.no_grad():
            nn.functional.cross_entropy(model(inputs + 0.1), labels)
        if taken == 155:
            model[0].weight.data.fill_(math.nan)
said()
"""
    )
    (back,) = gone_back_to(ranks)
    assert back >= 64


def test_snapshots_are_taken_when_the_first_rank_says_so(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from trimtab.actuators.snapshots import Snapshots
if rank == 1:
    Snapshots.due = lambda snapshots, step: False
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=8):
    for taken in range(120):
        step()
        if taken == 90:
            model[0].weight.data.fill_(math.nan)
said()
"""
    )
    (back,) = gone_back_to(ranks)
    assert back > 32


def test_ranks_that_part_over_an_action_try_no_other_one(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
from dataclasses import dataclass
from trimtab.actions import Change, Refused, ScaleLearningRate

@dataclass(frozen=True)
class Uneven:
    name = "uneven"
    stage = "after_step"

    def apply(self, controls):
        if rank == 0:
            raise Refused("not here")
        return Change({}, {"done": True})

rules = [trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5)]
policies = [trimtab.Policy(on="always", ladder=[Uneven(), ScaleLearningRate(0.1)])]
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1, rules=rules, policies=policies):
    for _ in range(30):
        step()
said()
"""
    )
    applied = [[action for *_, action, outcome, _ in rank["done"] if outcome == "applied"] for rank in ranks]
    assert applied == [[], ["uneven"]]
    assert ranks[0]["total"] == ranks[1]["total"]


def test_ranks_that_have_lost_each_other_go_on_clipping_alike(in_ranks):
    """Each of them samples other steps, so that what is usual there is not the same."""
    ranks = in_ranks(
        TRAINING
        + """
import time
from trimtab.actions import FOR_GOOD, ClipGradients
from trimtab.sample import pace
from trimtab.steering import ranks
ranks.PATIENCE_S, ranks.SHARE = 2.0, 1.0
pace.JUDGED_TOGETHER, pace.GRADIENT_SHARE = 1, 5.0 if rank == 0 else 0.5
rules = [trimtab.Rule("late", signal=lambda loss: float(taken > 200), threshold=0.5)]
policies = [trimtab.Policy(on="late", ladder=[ClipGradients(steps=FOR_GOOD)], cooldown=1000)]
with trimtab.watch(run="a", backends=[backend], act="process", rules=rules, policies=policies):
    for taken in range(400):
        if taken == 300 and rank == 0:
            optimizer.zero_grad()
            nn.functional.cross_entropy(parallel(inputs[half]), labels[half]).backward()
            time.sleep(4)
            optimizer.step()
        else:
            step(1.0 if taken % 3 else 5.0)
said()
"""
    )
    applied = [(action, outcome) for _, _, action, outcome, _ in alike(ranks)]
    assert applied == [("clip_gradients", "applied")]
    assert all(any("lost each other" in notice for notice in rank["notices"]) for rank in ranks)


def test_order_that_the_others_never_hear_of_is_answered(in_ranks):
    """They hear of each other at every 64th step, and the run ends at the 120th."""
    ranks = in_ranks(
        TRAINING
        + """
import time
from trimtab.actions import ScaleLearningRate
from trimtab.steering import control
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=64) as run:
    for at in range(120):
        if at == 70 and rank == 0:
            id = control.send(run.directory, run.id, "adjust", [ScaleLearningRate(0.5)])
        step()
        time.sleep(0.03 if at > 70 else 0)
said(answer=control.answer(run.directory, id).text if rank == 0 else None)
"""
    )
    assert ranks[0]["answer"] == "scale_learning_rate was refused: the run ended first"
    assert [outcome for *_, outcome, _ in ranks[0]["done"]] == ["refused"]


# As with `torch.multiprocessing.spawn`, or Lightning.
WITHOUT_LAUNCHER = """
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
    os.environ.pop(name)

def train():
    for at in range(240):
        step(-20.0 if at >= 150 and rank == 1 else 1.0)
"""


def test_ranks_of_a_process_group_agree_and_are_one_run(in_ranks):
    ranks = in_ranks(
        TRAINING
        + WITHOUT_LAUNCHER
        + """
with trimtab.watch(backends=[backend], act="process", gradients_every=8) as run:
    train()
said(place=[run.info.rank, run.info.world_size], name=run.name, id=run.id)
"""
    )
    assert "applied" in [outcome for *_, outcome, _ in alike(ranks)]
    assert [rank["place"] for rank in ranks] == [[0, 2], [1, 2]]
    assert (ranks[0]["name"], ranks[0]["id"]) == (ranks[1]["name"], ranks[1]["id"])


def test_ranks_whose_program_sets_their_number_are_one_run(in_ranks):
    """As where a function that `torch.multiprocessing.spawn` calls sets RANK and WORLD_SIZE."""
    ranks = in_ranks(
        TRAINING
        + """
del os.environ["TORCHELASTIC_USE_AGENT_STORE"]
with trimtab.watch(backends=["jsonl"]) as run:
    step()
said(name=run.name)
"""
    )
    assert ranks[0]["name"] == ranks[1]["name"]


def test_ranks_below_a_launcher_of_a_single_process_are_one_run(in_ranks):
    """As where `srun` starts one task, which calls `torch.multiprocessing.spawn`."""
    ranks = in_ranks(
        TRAINING
        + WITHOUT_LAUNCHER
        + """
os.environ.update(SLURM_STEP_ID="0", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NTASKS="1")
with trimtab.watch(run="a", backends=["jsonl"]) as run:
    step()
    dist.barrier()
said(place=[run.info.rank, run.info.world_size], log=run.info.log.name)
"""
    )
    assert [rank["place"] for rank in ranks] == [[0, 2], [1, 2]]
    assert [rank["log"] for rank in ranks] == ["rank-0.jsonl", "rank-1.jsonl"]


def test_nothing_is_adjusted_where_the_process_group_comes_after_the_run_began(in_ranks):
    ranks = in_ranks(
        TRAINING.replace("parallel = DistributedDataParallel(model)\n", "")
        + WITHOUT_LAUNCHER
        + """
dist.destroy_process_group()
with trimtab.watch(backends=[backend], act="process", gradients_every=8):
    dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=rank, world_size=2)
    parallel = DistributedDataParallel(model)
    train()
said()
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert {outcome for rank in ranks for *_, outcome, _ in rank["done"]} == {"dry_run"}
    assert all(any("There are 2 ranks" in notice for notice in rank["notices"]) for rank in ranks)


def test_ranks_whose_optimizer_is_not_seen_are_not_said_to_have_lost_each_other(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
del optimizer  # which might step yet
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1):
    for at in range(30):
        model.zero_grad()
        spoil = math.nan if at == 20 and rank == 1 else 1.0
        nn.functional.cross_entropy(parallel(inputs[half] * spoil), labels[half]).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
said(reasons=sorted({a.reason for a in backend.of(Adjustment)}))
"""
    )
    assert [rank["reasons"] for rank in ranks] == [[UNMET], []]


SLOWED_BY_A_VALUE = (
    TRAINING
    + """
bad = trimtab.Rule("bad", signal="logged:bad", threshold=1.0)
steered = {"rules": [bad], "policies": [trimtab.Policy(on="bad", ladder=[trimtab.actions.ScaleLearningRate(0.1)])]}
"""
)


def test_what_the_last_validation_of_a_fold_brings_about_is_done_to_the_next_one_on_no_rank(in_ranks):
    ranks = in_ranks(
        SLOWED_BY_A_VALUE
        + """
with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=1, **steered) as run:
    for fold in range(2):
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(20):
            step()
        with torch.no_grad():
            nn.functional.cross_entropy(model(inputs[half]), labels[half])
        if fold == 0:
            run.log(bad=2.0)
said(reasons=[a.reason for a in backend.of(Adjustment)])
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert (ranks[0]["reasons"], ranks[1]["reasons"]) == (["another model is trained by now"], [])


def test_pause_drops_what_a_policy_has_decided_and_the_other_ranks_have_not_heard(in_ranks):
    ranks = in_ranks(
        SLOWED_BY_A_VALUE
        + """
import time
from trimtab.steering import control

with trimtab.watch(run="a", backends=[backend], act="process", gradients_every=8, **steered) as run:
    for _ in range(17):
        step()
    if rank == 0:
        run.log(bad=2.0)
        control.send(run.directory, run.id, "pause")
        time.sleep(1.0)  # the disk is looked at twice a second
        run._controller.look_for_orders()
    for _ in range(17):
        step()
said(reasons=[a.reason for a in backend.of(Adjustment)])
"""
    )
    assert ranks[0]["total"] == ranks[1]["total"]
    assert ranks[0]["reasons"][:2] == ["paused by a person", "trimtab pause"]
    assert ranks[1]["reasons"] == []


def test_gradients_that_are_never_cleared_are_cleared_on_all(in_ranks):
    ranks = in_ranks(
        TRAINING
        + """
def forgetful():
    nn.functional.cross_entropy(parallel(inputs[half]), labels[half]).backward()
    optimizer.step()

with trimtab.watch(run="a", backends=[backend], act="process"):
    for _ in range(60):
        forgetful()
said(empty=not any(p.grad.any() for p in model.parameters()))
"""
    )
    done = [(policy, action, outcome) for _, policy, action, outcome, _ in alike(ranks)]
    assert done == [
        ("gradients_uncleared", "roll_back", "applied"),
        ("gradients_uncleared", "clear_gradients", "applied"),
    ]
    assert [rank["empty"] for rank in ranks] == [True, True]
