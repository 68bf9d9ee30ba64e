"""Training over RPC cannot be seen, and a run says so where it is, not that it may be elsewhere."""

import pytest

pytestmark = pytest.mark.ranks


def test_training_over_rpc_is_told_so_on_every_worker(in_ranks):
    ranks = in_ranks(
        """
        import torch.distributed.autograd as dist_autograd
        import torch.distributed.rpc as rpc
        import trimtab
        from torch.distributed.optim import DistributedOptimizer
        from trimtab.testing import RecordingBackend
        from trimtab.types import Notice

        backend = RecordingBackend()
        with trimtab.watch(run="a", backends=[backend]):
            rpc.init_rpc(f"worker-{rank}", rank=rank, world_size=2)
            weight = torch.ones(2, requires_grad=True)
            if rank == 0:
                optimizer = DistributedOptimizer(torch.optim.SGD, [rpc.RRef(weight)], lr=0.1)
                with dist_autograd.context() as context:
                    dist_autograd.backward(context, [rpc.rpc_sync("worker-1", torch.mul, args=(weight, 2.0)).sum()])
                    optimizer.step(context)
            rpc.shutdown()
        say(weight=weight.tolist(), notices=[notice.text for notice in backend.of(Notice)])
        """
    )
    assert [rank["weight"] for rank in ranks] == [pytest.approx([0.8, 0.8]), [1.0, 1.0]]
    for (text,) in (rank["notices"] for rank in ranks):
        assert "dist_autograd" in text
        assert "other processes" not in text
