"""What a run tells torch.compile to leave alone is compiled again when the run is over."""

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
