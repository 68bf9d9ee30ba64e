"""Several threads of one process that train at once."""

import ast

import pytest


@pytest.mark.parametrize(("clears", "clips"), [("True", "True"), ("True", "False"), ("False", "True")])
def test_two_threads_that_train_at_once_are_watched_each_for_itself(complete, clears, clips):
    """A search with two trials at a time. To read a gradient that another thread's backward writes is to crash."""
    script = complete(f"""
        said = []

        def train(name):
            torch.manual_seed(name)
            model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.001 * name)
            losses, norms = [], [0.0]
            for _ in range(400):
                optimizer.zero_grad(set_to_none={clears})
                loss = model(torch.ones(8, 4)).sub(name).square().mean()
                loss.backward()
                losses.append(loss.item())
                if {clips}:
                    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
                optimizer.step()
            said.append((sum(losses), sum(norms)))

        with watch():
            threads = [threading.Thread(target=train, args=(name,)) for name in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print(said)
    """)
    said = sorted(ast.literal_eval(script.out))
    steps = [event for event in script.log() if event["event"] == "step"]
    assert script.log()[-1]["totals"]["steps"] == {"0": 400, "1": 400}
    sums = [
        [sum(e.get(key, 0.0) * e["steps"] for e in steps if e["optimizer"] == name) for name in ("0", "1")]
        for key in ("loss", "gradient_preclip_norm")
    ]
    assert sorted(zip(*sums, strict=True)) == [pytest.approx(each) for each in said]


ROLLING_BACK = """
    from concurrent.futures import ThreadPoolExecutor
    from trimtab.actions import RollBack
    from trimtab.testing import RecordingBackend
    from trimtab.types import Adjustment

    always = trimtab.Rule("always", signal=lambda loss: 1.0, threshold=0.5, severity="warning")
    policy = trimtab.Policy(on="always", ladder=[RollBack()], cooldown=10, budget=1000)
    backend = RecordingBackend()

    def train(name, steps=400):
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001 * name)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(8, 4)).sub(name).square().mean().backward()
            optimizer.step()
        return [model, optimizer]

    settings = {"act": "process", "rules": [always], "policies": [policy], "gradients_every": 1}
    pool = ThreadPoolExecutor()
    with pool, trimtab.watch(run="test", directory="runs", backends=[backend, "jsonl"], **settings):
"""


def test_nothing_is_restored_while_another_thread_trains(complete):
    """It would change weights in the middle of the other's step: `modified by an inplace operation`."""
    script = complete(
        ROLLING_BACK
        + """
        kept = [task.result() for task in [pool.submit(train, 1), pool.submit(train, 2)]]
    refusal = "Another thread of this process trains too, and may need the weights as they are."
    assert ("refused", refusal) in [(done.outcome, done.reason) for done in backend.of(Adjustment)]
    """
    )
    assert script.log()[-1]["totals"]["steps"] == {"0": 400, "1": 400}


def test_nothing_is_restored_while_another_thread_runs_backwards_and_never_steps(complete):
    """Before it changes weights a rollback looks at all graphs. To look at one that a backward frees is to crash."""
    complete(
        ROLLING_BACK
        + """
        has_begun, ended = threading.Event(), threading.Event()

        def differentiate():
            model = torch.nn.Linear(4, 1)
            while not ended.is_set():
                model(torch.ones(8, 4)).sum().backward()
                has_begun.set()

        other = pool.submit(differentiate)
        assert has_begun.wait(60)
        kept = train(2, 50)
        ended.set()
        other.result()
    assert {done.outcome for done in backend.of(Adjustment)} == {"refused"}
    """
    )


def test_thread_of_a_pool_that_waits_for_a_task_trains_no_more(complete):
    complete(
        ROLLING_BACK
        + """
        kept = pool.submit(train, 1, 50).result()
        more = train(2)
    assert any(done.optimizer == "1" and done.outcome == "applied" for done in backend.of(Adjustment))
    """
    )
