"""What torch.compile is to leave alone, it does; and it is compiled again when the run is over."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import sys
    import torch
    import trimtab

    if sys.argv[1] == "watched before":
        trimtab.watch(backends=["jsonl"]).__enter__().close()
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend="eager")
    def train_step(inputs):
        model(inputs).sum().backward()
        optimizer.step()

    for _ in range(3):
        train_step(torch.randn(2, 4))
    from torch._dynamo.utils import counters
    print(sorted(counters["frames"].items()), sorted(counters["stats"].items()))
"""


@pytest.mark.slow
def test_a_step_is_compiled_as_ever_after_the_run(tmp_path):
    def compiled(how):
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), how]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    assert compiled("watched before") == compiled("never watched")


STEADY = """
    import torch
    import trimtab
    from torch import nn

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, labels = torch.randn(64, 8), torch.randint(3, (64,))

    @torch.compile(backend="aot_eager")
    def train_step(inputs, labels):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        return loss

    with trimtab.watch(backends=["jsonl"]):
        for at in range(60):
            batch = torch.randint(64, (16,))
            train_step(inputs[batch], labels[batch])
            if at == 9:
                from torch._dynamo.utils import counters
                warm = dict(counters["frames"])
    print(counters["frames"]["total"] - warm["total"])
"""


@pytest.mark.slow
def test_steps_after_the_first_ones_compile_nothing_of_ours(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(STEADY)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0"


AFTERWARDS = """
    import gc
    import weakref
    import torch
    import trimtab
    from torch import nn

    def train():
        model = nn.Linear(4, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        nn.functional.mse_loss(model(torch.ones(2, 4)), torch.ones(2, 4)).backward()
        optimizer.step()

    with trimtab.watch(backends=["jsonl"]) as run:
        train()

    import torch._dynamo  # an optimizer has imported it already, and it has looked torch's functions up
    divergence = torch.compile(lambda x, y: torch.kl_div(x, y).mean(), fullgraph=True, backend="eager")
    print(float(divergence(torch.zeros(2, 4), torch.ones(2, 4))))
    run = weakref.ref(run)
    gc.collect()
    print(run())
"""

DIRECT = """
    import sys
    import torch
    import trimtab

    def compiled():
        torch._dynamo.reset()
        loss = torch.compile(lambda a, b: torch.kl_div(a, b, 1), backend="eager", fullgraph=True)
        return loss(torch.zeros(3, 2).log_softmax(1), torch.ones(3, 2)).item()

    before = compiled() if sys.argv[1] == "before" else None
    with trimtab.watch(backends=["jsonl"]):
        within = compiled()
    print(within == compiled(), before in (None, within))
"""


@pytest.mark.slow
def test_dynamo_knows_functions_of_torch_after_the_run_and_nothing_of_it(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(AFTERWARDS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0.0", "None"]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["before", "within"])
def test_built_in_loss_is_no_graph_break_wherever_dynamo_was_asked_first(tmp_path, first):
    command = [sys.executable, "-c", textwrap.dedent(DIRECT), first]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"
