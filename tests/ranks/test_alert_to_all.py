"""An alert comes to rank 0 alone, and moves every rank at the same step."""

import pytest

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def said(in_ranks):
    return in_ranks(
        """
        import time, urllib.request
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel
        import trimtab
        from trimtab.actions import ScaleLearningRate
        from trimtab.policies import Policy

        if rank == 0:
            with open(os.open("token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write("s3cret")
        dist.barrier()
        os.environ["TRIMTAB_WEBHOOK_TOKEN_FILE"] = "token"
        labels = {"alertname": "GpuHot", "run": "together"}
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        alert = {"status": "firing", "labels": labels, "startsAt": started, "fingerprint": "f"}
        body = json.dumps({"version": "4", "alerts": [alert]}).encode()

        torch.manual_seed(0)
        model = DistributedDataParallel(nn.Linear(4, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        policies = [Policy(on="alert:GpuHot", ladder=[ScaleLearningRate(0.5)])]
        with trimtab.watch(run="together", backends=["prometheus"], port=0, linger=0, act="alerts", policies=policies,
                           gradients_every=1) as run:
            for step in range(200):
                if step == 20 and rank == 0:
                    address = run.addresses["prometheus"].replace("/metrics", "/api/v1/alerts")
                    request = urllib.request.Request(address, body, {"Authorization": "Bearer s3cret"})
                    urllib.request.urlopen(request, timeout=20).close()
                optimizer.zero_grad()
                model(torch.randn(8, 4) + rank).square().mean().backward()
                optimizer.step()
        say(
            made=[[a.rule, a.outcome, a.step] for a in run.adjustments if a.rule],
            weights=[p.tolist() for p in model.parameters()],
        )
        """
    )


def test_every_rank_is_adjusted_at_the_same_step(said):
    ((rule, outcome, step),) = said[0]["made"]
    assert (rule, outcome) == ("alert:GpuHot", "applied")
    assert 20 <= step < 200
    assert said[1]["made"] == said[0]["made"]
    assert said[1]["weights"] == said[0]["weights"]
