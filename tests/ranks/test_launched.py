"""`trimtab run` of a program that starts its other rank itself, as Lightning and Fabric do: by its own command line."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ranks

PROGRAM = """
import json, os, subprocess, sys
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
rank, others = int(os.environ.get("LOCAL_RANK", 0)), []
if rank == 0:
    os.environ.update(NODE_RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    command = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
    others.append(subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": "1"}))
dist.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=rank, world_size=2)
model = DistributedDataParallel(nn.Linear(4, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(rank)
losses = []
for _ in range(5):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(torch.randn(8, 4)), torch.zeros(8, 2))
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if rank == 0 and len(losses) == 1:
        print(json.load(open("runs/a/run.json"))["facts"]["world_size"])
dist.barrier()
dist.destroy_process_group()
if rank == 0:
    print(json.dumps(sum(losses) / len(losses)))
sys.exit(sum(other.wait() for other in others))
"""


@pytest.fixture(scope="module", params=[[], ["--act", "process"]], ids=["watched", "with act"])
def launched(request, tmp_path_factory):
    """What the program printed, what Trimtab said, and what is left of the run."""
    place = tmp_path_factory.mktemp("launched")
    (place / "train.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "trimtab", "run", "--run", "a", *request.param, "train.py"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TRIMTAB_")}
    environ["TRIMTAB_BACKENDS"] = "jsonl"
    done = subprocess.run(command, cwd=place, env=environ, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run = place / "runs" / "a"
    records = [json.loads(line) for line in (run / "rank-0.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in done.stdout.splitlines()], records, json.loads((run / "run.json").read_text())


def test_rank_of_several_is_told_so_whether_it_may_act_or_not(launched):
    _, records, _ = launched
    acts = records[0]["facts"]["config"]["act"] == "process"
    (text,) = (each["text"] for each in records if each["event"] == "notice" and "2 ranks" in each["text"])
    assert "of rank 0 alone" in text
    assert "-m trimtab run" in text
    assert ("This is a dry run." in text) is acts


def test_number_of_ranks_is_in_run_json_from_the_first_step_on(launched):
    (during, loss), records, left = launched
    assert during == 2
    assert (left["status"], left["facts"]["world_size"]) == ("completed", 2)
    steps = [each for each in records if each["event"] == "step"]
    assert sum(each["steps"] for each in steps) == 5
    assert sum(each["loss"] * each["steps"] for each in steps) / 5 == pytest.approx(loss)
