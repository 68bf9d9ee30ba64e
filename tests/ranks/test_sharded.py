"""Where ranks hold parts of each parameter every one has its losses, and nothing is adjusted."""

import pytest

pytestmark = pytest.mark.ranks


KINDS = ["flat", "views of flat", "per parameter", "per parameter, accumulated", "per parameter, reduced each time"]


@pytest.fixture(scope="module", params=KINDS)
def said(request, in_ranks):
    return in_ranks(
        f"""
        import trimtab
        from torch import nn
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
        from trimtab.testing import RecordingBackend
        from trimtab.types import Notice, Step

        torch.manual_seed(0)
        kind = {request.param!r}
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 17), nn.Tanh(), nn.Linear(17, 3))
        parts = 1 + ("," in kind)
        if kind.startswith("per parameter"):
            fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        else:
            device = torch.device("cpu")
            model = FullyShardedDataParallel(model, use_orig_params=kind == "views of flat", device_id=device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        backend, losses = RecordingBackend(), []
        with trimtab.watch(run="sharded", backends=[backend], act="process", gradients_every=1, linger=0):
            for step in range(100):  # more than graphs are walked
                optimizer.zero_grad(set_to_none=step % 5 > 0)
                for part in range(parts):
                    if kind.endswith("accumulated"):
                        model.set_requires_gradient_sync(part == parts - 1)
                    loss = nn.functional.cross_entropy(model(torch.randn(8, 6) + rank), torch.arange(8) % 3)
                    loss.backward()
                    losses.append(loss.item())
                optimizer.step()
        steps = backend.of(Step)
        say(
            known=sum(step.loss * step.steps for step in steps if step.loss is not None),
            own=sum(losses),
            notices=[notice.text for notice in backend.of(Notice)],
        )
        """
    )


def test_every_rank_has_the_losses_of_all_its_steps(said):
    assert [each["known"] for each in said] == pytest.approx([each["own"] for each in said])


def test_nothing_is_adjusted(said):
    assert all("needs whole parameters on every rank" in " ".join(each["notices"]) for each in said)
