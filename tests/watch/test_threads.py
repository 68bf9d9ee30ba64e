"""Several threads of one process that train at once."""

import pytest


@pytest.mark.parametrize("clears", ["True", "False"])
def test_two_threads_that_train_at_once_are_watched_each_for_itself(complete, clears):
    """A search with two trials at a time. To read a gradient that another thread's backward writes is to crash."""
    script = complete(f"""
        said = []

        def train(name):
            torch.manual_seed(name)
            model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.001 * name)
            losses = []
            for _ in range(400):
                optimizer.zero_grad(set_to_none={clears})
                loss = model(torch.ones(8, 4)).sub(name).square().mean()
                loss.backward()
                losses.append(loss.item())
                optimizer.step()
            said.append(sum(losses))

        with watch():
            threads = [threading.Thread(target=train, args=(name,)) for name in (1, 2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        print(*said)
    """)
    steps = [event for event in script.log() if event["event"] == "step"]
    assert script.log()[-1]["totals"]["steps"] == {"0": 400, "1": 400}
    sums = [sum(e["loss"] * e["steps"] for e in steps if e["optimizer"] == name) for name in ("0", "1")]
    assert sorted(sums) == pytest.approx(sorted(map(float, script.out.split())))
