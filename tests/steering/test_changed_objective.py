"""A real run whose task changes on purpose is left to learn the new one."""

import torch
from torch.nn import functional as F

import trimtab

STEPS, SWITCH = 300, 150


def train(inputs, places):
    """Which place holds the largest number, and from the switch on another order of the answers."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(STEPS):
        x = torch.randn(64, 8)
        wanted = x.argmax(1)
        loss = F.cross_entropy(model(x), wanted if step < SWITCH else places[wanted])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if trimtab.should_stop():
            break
    with torch.no_grad():
        return (model(inputs).argmax(1) == places[inputs.argmax(1)]).float().mean().item()


def test_run_whose_task_changes_is_neither_halted_nor_slowed(tmp_path):
    places = (torch.arange(8) + 3) % 8
    inputs = torch.randn(512, 8, generator=torch.Generator().manual_seed(1))
    bare = train(inputs, places)
    with trimtab.watch(run="tasks", directory=tmp_path, backends=["jsonl"], act="process", gradients_every=1) as run:
        watched = train(inputs, places)
    assert any(each.action == "roll_back" for each in run.adjustments)
    assert "halt" not in {each.action for each in run.adjustments}
    assert watched > bare - 0.05
